// Package datagramtest makes requests over HTTP/3 whose connection came through package datagram,
// without a socket or QUIC. It links no Caddy.
package datagramtest

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
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
)

// Config returns the config of datagrams under a mode. It trusts all peers.
func Config(mode policy.Mode) *datagram.Config {
	return &datagram.Config{
		Policy:        policy.Policy{Mode: mode},
		MaxHeaderSize: 4096,
		Recorder:      record.Recorder{Log: record.NewLog(zap.NewNop(), true), Stats: record.NewStats()},
	}
}

// owner is the Owner of a socket. Its config may be nil.
type owner struct{ config *datagram.Config }

func (*owner) Owns(string) bool                           { return false }
func (o *owner) ConfigOf(netip.AddrPort) *datagram.Config { return o.config }

// Accepted returns the address that QUIC gets with a datagram of a peer, which begins with a
// header, if that is not empty. The config may be nil.
func Accepted(t *testing.T, config *datagram.Config, peer, header string) *datagram.Addr {
	t.Helper()
	socket := &listenertest.OneDatagram{From: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(peer)), Data: header + "x"}
	c := datagram.Sockets.Wrap(socket, "", false, &owner{config})
	var p [10]byte
	_, addr, err := c.ReadFrom(p[:])
	require.NoError(t, err)
	_, _, err = c.ReadFrom(p[:])
	require.ErrorIs(t, err, net.ErrClosed) // the socket is forgotten
	return addr.(*datagram.Addr)
}

// Request returns a request over HTTP/3 of a connection that was accepted from an address, and whose
// client has the address remote now.
func Request(accepted *datagram.Addr, remote string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.ProtoMajor = 3
	r.RemoteAddr = remote
	return r.WithContext(context.WithValue(r.Context(), http3.RemoteAddrContextKey, accepted))
}
