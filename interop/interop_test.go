//go:build interop

package interop

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSenders asserts that Caddy gets the client's address from each load balancer, in every
// protocol that the load balancer can forward, over IPv4 and IPv6 on either side.
func TestSenders(t *testing.T) {
	c := startCaddy(t, on)
	for _, s := range senders {
		t.Run(s.name, func(t *testing.T) {
			legs := s.legs(t, c.servers[on])
			s.start(t, c, true, legs)
			for _, l := range legs {
				t.Run(l.String(), func(t *testing.T) {
					certificate := c.client(t, clientName)
					clients := []*client{
						newClient(t, l.protocol, l.front, l.listen, c.authority, certificate),
						newClient(t, l.protocol, l.front, l.listen, c.authority, certificate),
					}
					if l.front == ipv4 {
						clients[1].ip = otherClientIP4
					}
					for range 2 {
						for _, client := range clients {
							got, logged, state := client.ask(t, c.logs)
							requireAnswer(t, s.expected(l, client, state), got, logged)
							assert.Equal(t, l.version(), logged.Request.Proto)
						}
					}
					for _, client := range clients {
						assert.Equal(t, 1, client.dials)
					}
					if !l.http2 {
						clients[0].websocket(t)
					}
					if l.front == ipv4 && l.back == ipv4 && !s.brief {
						clients[1].upload(t)
						clients[1].download(t)
					}
				})
			}
		})
	}
}

// requireAnswer asserts Caddy's answer to a request and the log entry of the request.
func requireAnswer(t testing.TB, want, got answer, logged entry) {
	t.Helper()
	// Of the peer only the port is not known before: the load balancer chooses it.
	peerIP, _, err := net.SplitHostPort(got.proxyProtocol.Peer)
	require.NoError(t, err)
	require.Equal(t, want.peerIP, peerIP)
	want.proxyProtocol.Peer = got.proxyProtocol.Peer
	require.Equal(t, want, got)
	require.Equal(t, want.proxyProtocol, logged.ProxyProtocol)
	require.Equal(t, want.remote, net.JoinHostPort(logged.Request.RemoteIP, logged.Request.RemotePort))
	require.Equal(t, want.clientIP, logged.Request.ClientIP)
}

// expected returns the answer that a client of the load balancer must get. state is that of the
// client's TLS connection, or nil.
func (s sender) expected(l leg, c *client, state *tls.ConnectionState) answer {
	a := answer{
		remote:       c.local,
		clientIP:     c.ip,
		headerClient: c.local,
		server:       l.listen,
		peerIP:       l.back.server(),
		proxyProtocol: facts{
			Mode:        "on",
			Present:     true,
			Version:     s.version,
			Transport:   l.front.transport(),
			Source:      c.local,
			Destination: l.listen,
		},
	}
	if s.version == 2 {
		a.proxyProtocol.Command = "PROXY"
	}
	if s.tells != nil {
		s.tells(&a, l, state)
	}
	return a
}

// TestSendersUnspecified asserts that addresses from headers are marked as unverified under mode
// unspecified, and that the load balancer is the client if there is no header.
func TestSendersUnspecified(t *testing.T) {
	c := startCaddy(t, unspecified)
	for _, headers := range []bool{true, false} {
		for _, s := range senders {
			t.Run(s.name+onlyIf(!headers, " without headers"), func(t *testing.T) {
				var legs []leg
				for i, p := range s.protocols {
					both := []family{ipv4, ipv6}[i%2]
					legs = append(legs, p.leg(t, both, both, c.servers[unspecified]))
				}
				s.start(t, c, headers, legs)
				for _, l := range legs {
					t.Run(l.String(), func(t *testing.T) {
						client := newClient(t, l.protocol, l.front, l.listen, c.authority, c.client(t, clientName))
						got, logged, state := client.ask(t, c.logs)
						want := s.expected(l, client, state)
						if headers {
							want.remote = net.JoinHostPort(want.clientIP, "0")
							want.headerClient = want.remote
							want.server = l.caddy
							want.proxyProtocol.PortZero = true
						} else {
							peer := got.proxyProtocol.Peer
							want = answer{
								remote:       peer,
								clientIP:     l.back.server(),
								headerClient: peer,
								server:       l.caddy,
								peerIP:       l.back.server(),
							}
						}
						want.proxyProtocol.Mode = "unspecified"
						requireAnswer(t, want, got, logged)
					})
				}
			})
		}
	}
}
