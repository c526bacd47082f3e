package proxyprotocol

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// packetConfig returns the config of datagrams under a mode. It trusts all peers.
func packetConfig(mode Mode) *datagram.Config {
	return &datagram.Config{
		Policy:        policy.Policy{Mode: mode},
		MaxHeaderSize: defaultMaxHeaderSize,
		Recorder:      record.Recorder{Log: record.NewLog(zap.NewNop(), true), Stats: record.NewStats()},
	}
}

// oneDatagram is a socket that gets one datagram and is then closed.
type oneDatagram struct {
	net.PacketConn
	from net.Addr
	data string
}

func (c *oneDatagram) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}
}

func (c *oneDatagram) ReadFrom(p []byte) (int, net.Addr, error) {
	if c.from == nil {
		return 0, nil, net.ErrClosed
	}
	from := c.from
	c.from = nil
	return copy(p, c.data), from, nil
}

// packetOwner is the Owner of a socket. Its config may be nil.
type packetOwner struct{ config *datagram.Config }

func (*packetOwner) Owns(string) bool                           { return false }
func (o *packetOwner) ConfigOf(netip.AddrPort) *datagram.Config { return o.config }

// acceptedAddr returns the address that QUIC gets with a datagram of a peer, which begins with a
// header, if that is not empty. The config may be nil.
func acceptedAddr(t *testing.T, config *datagram.Config, peer, header string) *datagram.Addr {
	t.Helper()
	socket := &oneDatagram{from: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(peer)), data: header + "x"}
	c := datagram.Sockets.Wrap(socket, "", false, &packetOwner{config})
	var p [10]byte
	_, addr, err := c.ReadFrom(p[:])
	require.NoError(t, err)
	_, _, err = c.ReadFrom(p[:])
	require.ErrorIs(t, err, net.ErrClosed) // the socket is forgotten
	return addr.(*datagram.Addr)
}

// requestFrom returns a request of a connection that was accepted from an address.
func requestFrom(accepted *datagram.Addr, remote string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = remote
	return r.WithContext(context.WithValue(r.Context(), http3.RemoteAddrContextKey, accepted))
}
