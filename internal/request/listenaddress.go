package request

import (
	"net"

	"github.com/caddyserver/caddy/v2"
)

// ListenAddress returns the address of a listener as Caddy writes it.
func ListenAddress(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	if caddy.IsUnixNetwork(addr.Network()) {
		return addr.Network() + "/" + addr.String()
	}
	return addr.String()
}
