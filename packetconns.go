package proxyprotocol

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"weak"
)

// packetConns are the wrapped sockets. Caddy keeps a socket of QUIC and what wraps it across
// reloads and never says when it closes it, so they are known for as long as QUIC keeps them.
var packetConns = packetConnPool{conns: make(map[weak.Pointer[packetConn]]struct{})}

type packetConnPool struct {
	mu    sync.Mutex
	conns map[weak.Pointer[packetConn]]struct{}
}

// adoption is a configuration's claim to a socket.
type adoption struct {
	by    *PacketConnWrapper
	rules *rules
}

// add adds a new socket of a configuration.
func (p *packetConnPool) add(c *packetConn, by *PacketConnWrapper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := weak.Make(c)
	p.conns[key] = struct{}{}
	runtime.AddCleanup(c, p.forget, key)
	c.adopt(by)
}

func (p *packetConnPool) forget(key weak.Pointer[packetConn]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, key)
}

// adopt puts the sockets that a configuration took over under its rules.
func (p *packetConnPool) adopt(by *PacketConnWrapper) {
	p.each(func(c *packetConn) {
		if by.listensOn(c.addr) {
			c.adopt(by)
		}
	})
}

// release gives up all sockets of a configuration.
func (p *packetConnPool) release(by *PacketConnWrapper) {
	p.each(func(c *packetConn) { c.release(by) })
}

func (p *packetConnPool) each(f func(c *packetConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.conns {
		if c := key.Value(); c != nil {
			f(c)
		}
	}
}

// adopt puts the socket under the rules of a configuration.
func (c *packetConn) adopt(by *PacketConnWrapper) {
	if n := len(c.adopted); n > 0 && c.adopted[n-1].by == by {
		return
	}
	adopted := adoption{by, by.rulesOf(c.addr)}
	c.adopted = append(c.adopted, adopted)
	c.rules.Store(adopted.rules)
}

// release takes the rules of a configuration from the socket. Those of the one before
// remain if it is there, as when a reload fails.
func (c *packetConn) release(by *PacketConnWrapper) {
	c.adopted = slices.DeleteFunc(c.adopted, func(a adoption) bool { return a.by == by })
	if len(c.adopted) == 0 {
		c.rules.Store(nil)
		return
	}
	c.rules.Store(c.adopted[len(c.adopted)-1].rules)
}

// listenAddrs are the addresses that a server listens on, for comparison with those of
// sockets.
type listenAddrs []listenAddr

type listenAddr struct {
	any      bool // address
	ips      []netip.Addr
	min, max uint
}

func (l listenAddrs) contain(addr netip.AddrPort) bool {
	return slices.ContainsFunc(l, func(a listenAddr) bool {
		port := uint(addr.Port())
		return a.min <= port && port <= a.max &&
			(a.any && addr.Addr().IsUnspecified() || slices.Contains(a.ips, addr.Addr().WithZone("")))
	})
}
