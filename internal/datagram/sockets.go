package datagram

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// Sockets holds the wrapped sockets that are open. Caddy keeps a socket of QUIC and its wrapper
// across reloads, and does not report when it closes the socket. A socket is removed when a read
// returns that it is closed, or when Caddy opens another one by the same key.
var Sockets = sockets{conns: make(map[*packetConn]struct{})}

type sockets struct {
	mu    sync.Mutex
	conns map[*packetConn]struct{} // guarded by mu
}

// Owner is a configuration that governs sockets. It must be comparable.
type Owner interface {
	// Owns reports whether a socket that was opened by this key belongs to the configuration.
	Owns(key string) bool
	// ConfigOf returns the config of a socket with this address.
	ConfigOf(addr netip.AddrPort) *Config
}

// claim is a configuration's claim to a socket.
type claim struct {
	by     Owner
	config *Config
}

// Wrap wraps a new socket of a configuration. The key is empty if it is not known. If unwrap is
// set, the wrapper uses the socket below Caddy's own wrapper.
func (s *sockets) Wrap(inner net.PacketConn, key string, unwrap bool, by Owner) net.PacketConn {
	c := newPacketConn(inner, unwrap)
	c.key = key
	s.add(c, by)
	return c.forQUIC()
}

// add adds a new socket of a configuration.
func (s *sockets) add(c *packetConn, by Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.conns {
		if c.key != "" && other.key == c.key {
			delete(s.conns, other) // Caddy has one socket of a key at a time
		}
	}
	s.conns[c] = struct{}{}
	c.claim(by)
}

// forget removes a socket that is closed.
func (s *sockets) forget(c *packetConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Claim puts the config of a configuration in force on the sockets that it took over: those that
// Caddy opened by a key of its server. Other sockets may have the same address.
func (s *sockets) Claim(by Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if by.Owns(c.key) {
			c.claim(by)
		}
	}
}

// Release gives up all sockets of a configuration.
func (s *sockets) Release(by Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.release(by)
		if c.key == "" && len(c.claims) == 0 {
			delete(s.conns, c) // no configuration can find it again
		}
	}
}

// claim puts the config of a configuration in force. The caller holds mu of Sockets.
func (c *packetConn) claim(by Owner) {
	if n := len(c.claims); n > 0 && c.claims[n-1].by == by {
		return
	}
	config := by.ConfigOf(c.addr)
	c.claims = append(c.claims, claim{by, config})
	c.config.Store(config)
}

// release removes the claims of a configuration. The config of the configuration before is in
// force again, if that still has a claim, as when a reload fails. The caller holds mu of Sockets.
func (c *packetConn) release(by Owner) {
	c.claims = slices.DeleteFunc(c.claims, func(other claim) bool { return other.by == by })
	if len(c.claims) == 0 {
		// Without a key, no other configuration can claim the socket. Its last config stays in
		// force if it has mode On: there may be no server behind it that refuses other requests.
		if last := c.config.Load(); c.key != "" || last == nil || !last.Uses(policy.On) {
			c.config.Store(nil)
		}
		return
	}
	c.config.Store(c.claims[len(c.claims)-1].config)
}
