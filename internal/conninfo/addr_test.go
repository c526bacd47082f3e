package conninfo

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

// badAddr is an address that cannot be shown.
type badAddr struct{ net.Addr }

func (badAddr) String() string { panic("no address") }

func TestAddrString_IsEmptyWithoutAnAddress(t *testing.T) {
	assert.Equal(t, "192.0.2.1:80", AddrString(net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80"))))
	assert.Empty(t, AddrString(nil))
	assert.Empty(t, AddrString(badAddr{}))
}

func TestAddrPortString_IsEmptyWithoutAnAddress(t *testing.T) {
	assert.Equal(t, "192.0.2.1:80", AddrPortString(netip.MustParseAddrPort("192.0.2.1:80")))
	assert.Empty(t, AddrPortString(netip.AddrPort{}))
}
