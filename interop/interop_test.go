//go:build interop

package interop

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestSenders asserts that Caddy learns from each load balancer who the client is, in
// every protocol that this can forward, over IPv4 and IPv6 on either side.
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
					for range 2 {
						for _, client := range clients {
							got, logged, state := client.ask(t, c.logs)
							want := s.expected(l, client, state)
							// A port of the load balancer that nobody knows.
							want.proxyProtocol.Peer = got.proxyProtocol.Peer
							assert.Equal(t, want, got)
							assert.Equal(t, got.proxyProtocol, logged.ProxyProtocol)
							assert.Equal(t, want.remote, net.JoinHostPort(logged.Request.RemoteIP, logged.Request.RemotePort))
							assert.Equal(t, want.clientIP, logged.Request.ClientIP)
							assert.Equal(t, l.version(), logged.Request.Proto)
						}
					}
					for _, client := range clients {
						assert.Equal(t, 1, client.dials)
					}
					if !l.http2 {
						clients[0].websocket(t, l.front.client())
					}
					if l.front == ipv4 && l.back == ipv4 {
						clients[1].upload(t, l.front.client())
						clients[1].download(t, l.front.client())
					}
				})
			}
		})
	}
}

// expected is what Caddy has to say of a client of the load balancer.
func (s sender) expected(l leg, c *client, state *tls.ConnectionState) answer {
	a := answer{
		remote:       c.local,
		clientIP:     l.front.client(),
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
