package conninfo

import (
	"net"
	"net/netip"
)

// AddrString returns the text of an address, or an empty one if the address is nil or panics: it
// may be another module's, and where it is logged no caller recovers.
func AddrString(addr net.Addr) (text string) {
	defer func() { _ = recover() }()
	if addr == nil {
		return ""
	}
	return addr.String()
}

// AddrPortString returns the text of an address, or an empty one if the address is invalid.
func AddrPortString(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
