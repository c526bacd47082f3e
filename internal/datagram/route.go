package datagram

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// QUIC sends replies to the Addr that a connection was accepted from, as long as the client's
// datagrams have an Addr with the same text. Their header names the client, so the text stays
// the same when the load balancer restarts, or forgets a client, and sends its datagrams through
// another port. Routes make replies follow.
//
// A route belongs to a port of a peer where a connection began, and moves with the connection:
// it leads to the sender of the last datagram with the connection's ID. It never leads to another
// IP address than the one that it began with. A forged datagram with the address of a trusted
// peer and that of a client redirects replies to another port of that peer, until the client's
// next datagram, and never to another host.

// returnPath is how a reply gets to a peer. It does not change.
type returnPath struct {
	to  netip.AddrPort
	via net.Addr // the same address if the socket is not a UDP socket, else nil
	oob []byte   // the out-of-band data of the reply
}

// equals reports whether this is a return path of a UDP socket to this address, with this
// out-of-band data.
func (p *returnPath) equals(to netip.AddrPort, oob []byte) bool {
	return p.via == nil && p.to == to && string(p.oob) == string(oob)
}

// route leads the replies to a client through a port of a peer.
type route struct {
	// path is the return path of the last datagram. WriteTo reads it while ReadFrom stores it.
	path atomic.Pointer[returnPath]
	// began reports whether a connection began at the port of the peer. It is guarded by readMu
	// of the packetConn.
	began bool
}

// routeKey is the key of a route: that of a port of a peer if connection is noConnection and the
// peer has a port, else that of a connection.
type routeKey struct {
	client     netip.AddrPort // the client's address in the header
	peer       netip.AddrPort // the peer, with port 0 in the key of a connection
	connection connectionID
}

// connectionID is the beginning of the ID that a client uses for its connection. QUIC chooses
// the ID. It has four bytes by default, which Caddy does not change.
type connectionID [4]byte

// noConnection stands for no connection. One ID in 2^32 is equal to it.
var noConnection connectionID

// connectionOf returns the ID of a datagram's connection, if the datagram begins with a packet
// that has a short header. All packets have one once a connection is established.
func connectionOf(payload []byte) (id connectionID, ok bool) {
	const longHeader = 0x80
	if len(payload) <= len(id) || payload[0]&longHeader != 0 {
		return id, false
	}
	return connectionID(payload[1:]), true
}

// routeKey returns the key of the route of the peer's port.
func (a *Addr) routeKey() routeKey {
	return routeKey{client: unmapped(a.info.Header.Source()), peer: unmapped(a.from)}
}

// connectionKey returns the key of the route of a connection, or with noConnection that of the
// client's last connection. The key of a marked client has no port: QUIC does not see the port
// of such a client, nor when it changes.
func (a *Addr) connectionKey(id connectionID) routeKey {
	client := unmapped(a.info.Header.Source())
	if a.info.Marked() {
		client = netip.AddrPortFrom(client.Addr(), 0)
	}
	return routeKey{client, netip.AddrPortFrom(a.from.Addr().Unmap(), 0), id}
}

// follow makes the replies of a datagram's connection take the datagram's path back. The caller
// holds readMu.
func (c *packetConn) follow(a *Addr, payload []byte) {
	moved := a.route
	if id, ok := connectionOf(payload); ok {
		if a.connRoute == nil || a.connection != id || a.turn != c.routes.turn {
			a.connection, a.connRoute = id, c.connectionRoute(a, id)
			a.turn = c.routes.turn
		}
		moved = a.connRoute
	} else if !moved.began {
		moved.began = true
		c.routes.put(a.connectionKey(noConnection), moved)
	}
	if moved.path.Load() != a.path {
		moved.path.Store(a.path)
	}
}

// portIsReused reports whether a datagram begins a connection at a port whose route has moved
// elsewhere with another connection.
func (a *Addr) portIsReused(d *datagram) bool {
	if a.route == nil {
		return false
	}
	_, established := connectionOf(d.payload)
	path := a.route.path.Load()
	return !established && path != nil && path.to != d.from
}

// connectionRoute returns the route of a connection. A client may change the ID of its connection
// at any time. So a new ID gets the route of the connection that began at this port of the peer.
// If none did, it gets the route of the last connection that came through this port, or else of
// the client's last connection.
func (c *packetConn) connectionRoute(a *Addr, id connectionID) *route {
	c.routes.keep(a.routeKey(), a.route)
	last := c.routes.keep(a.connectionKey(noConnection), a.route)
	switch {
	case a.connRoute != nil && a.connection == id: // the table may have forgotten the connection
		last = a.connRoute
	case a.route.began:
		last = a.route
	case a.connRoute != nil:
		last = a.connRoute
	}
	return c.routes.keep(a.connectionKey(id), last)
}

// routes is a table of routes. All Addrs of a client at a port of a peer find the same route
// here, and so do all datagrams of a connection. An Addr keeps its route when the table forgets
// it.
type routes struct {
	// young has the routes that were used since the last turn, old those used before. At a
	// turn, the old ones are forgotten and the young ones become old.
	young, old map[routeKey]*route
	turn       uint32
	turnedAt   monotime.Time
}

const (
	// routesKept is the largest size of young, and so of old.
	routesKept = 1 << 15
	// routeKept is how long an unused route is kept at least, unless there are too many. QUIC
	// keeps a silent connection for 30 seconds.
	routeKept = time.Minute
)

// age begins a new turn if the last one is over.
func (r *routes) age(now monotime.Time) {
	if now.Sub(r.turnedAt) >= routeKept {
		r.next()
		r.turnedAt = now
	}
}

// next begins a new turn.
func (r *routes) next() {
	r.young, r.old = make(map[routeKey]*route), r.young
	r.turn++
}

// keep returns the route with this key, and keeps the table from forgetting it at the next turn.
// If there is none, it puts the given one.
func (r *routes) keep(key routeKey, otherwise *route) *route {
	found := r.young[key]
	if found != nil {
		return found
	}
	if found = r.old[key]; found == nil {
		found = otherwise
	}
	r.put(key, found)
	return found
}

// put puts a route under a key, in place of the one that is there.
func (r *routes) put(key routeKey, put *route) {
	if r.young == nil || len(r.young) >= routesKept {
		r.next()
	}
	r.young[key] = put
}
