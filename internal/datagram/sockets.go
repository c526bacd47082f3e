package proxyprotocol

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// packetConns are the wrapped sockets that are open. Caddy keeps a socket of QUIC and what
// wraps it across reloads, and never says when it closes it: a socket is removed when a read
// says that it is closed, or when Caddy opens another one by the same key.
var packetConns = packetConnPool{conns: make(map[*packetConn]struct{})}

type packetConnPool struct {
	mu    sync.Mutex
	conns map[*packetConn]struct{}
}

// packetOwner is a configuration that has sockets. It must be comparable.
type packetOwner interface {
	// owns reports whether a socket that was opened by this key is one of the configuration.
	owns(key string) bool
	// configOf returns what the configuration wants of the datagrams of a socket with this
	// address.
	configOf(addr netip.AddrPort) *packetConfig
}

// adoption is a configuration's claim to a socket.
type adoption struct {
	by     packetOwner
	config *packetConfig
}

// wrap wraps a new socket of a configuration. The key is empty if it is not known. If the socket
// may be unwrapped, what lies below Caddy's own wrapper is used.
func (p *packetConnPool) wrap(inner net.PacketConn, key string, unwrap bool, by packetOwner) net.PacketConn {
	c := newPacketConn(inner, unwrap)
	c.key = key
	p.add(c, by)
	return c.forQUIC()
}

// add adds a new socket of a configuration.
func (p *packetConnPool) add(c *packetConn, by packetOwner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other := range p.conns {
		if c.key != "" && other.key == c.key {
			delete(p.conns, other) // Caddy has one socket of a key at a time
		}
	}
	p.conns[c] = struct{}{}
	c.adopt(by)
}

// forget removes a socket that is closed.
func (p *packetConnPool) forget(c *packetConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// adopt puts the sockets that a configuration took over under its config: those that Caddy
// opened by a key of its server. Other sockets may have the same address.
func (p *packetConnPool) adopt(by packetOwner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if by.owns(c.key) {
			c.adopt(by)
		}
	}
}

// release gives up all sockets of a configuration.
func (p *packetConnPool) release(by packetOwner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.release(by)
		if c.key == "" && len(c.adopted) == 0 {
			delete(p.conns, c) // no configuration can find it again
		}
	}
}

// adopt puts the socket under the config of a configuration.
func (c *packetConn) adopt(by packetOwner) {
	if n := len(c.adopted); n > 0 && c.adopted[n-1].by == by {
		return
	}
	adopted := adoption{by, by.configOf(c.addr)}
	c.adopted = append(c.adopted, adopted)
	c.config.Store(adopted.config)
}

// release takes the config of a configuration from the socket. That of the one before
// remains if it is there, as when a reload fails.
func (c *packetConn) release(by packetOwner) {
	c.adopted = slices.DeleteFunc(c.adopted, func(a adoption) bool { return a.by == by })
	if len(c.adopted) == 0 {
		// Without a key no other configuration can take over, and perhaps nothing stands behind
		// the socket that would refuse what passes.
		if last := c.config.Load(); c.key != "" || last == nil || !last.uses(On) {
			c.config.Store(nil)
		}
		return
	}
	c.config.Store(c.adopted[len(c.adopted)-1].config)
}
