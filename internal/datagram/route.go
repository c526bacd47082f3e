package proxyprotocol

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// QUIC sends replies to the address that a connection was accepted from, as long as the
// client's datagrams have an address with the same text. Their header names the client, so
// the text stays the same when the load balancer restarts, or forgets a client, and sends
// its datagrams through another port. Routes make replies follow.
//
// A route belongs to a port of a peer where a connection began, and moves with it: it goes where
// the last datagram with the connection's ID came from. It never leads to another IP address than
// the one that it began with. A forged datagram with the address of a trusted peer and that of a
// client turns replies to another port of that peer, until the client's next datagram, and never
// to another host.

// wayBack is how a reply gets to a peer. It does not change.
type wayBack struct {
	to  netip.AddrPort
	via net.Addr // the same, if the socket is not a UDP socket
	oob []byte   // the control message
}

// leadsTo reports whether replies go the same way as this one.
func (w *wayBack) leadsTo(to netip.AddrPort, oob []byte) bool {
	return w.via == nil && w.to == to && string(w.oob) == string(oob)
}

// route is how replies get to a client through a port of a peer.
type route struct {
	// back is the way that the last datagram came. QUIC reads it while it writes.
	back atomic.Pointer[wayBack]
	// began says that a connection began at the port of the peer. The reading mutex of the
	// packetConn guards it.
	began bool
}

// routeKey is what a route is found by.
type routeKey struct {
	// client is as the header has it.
	client netip.AddrPort
	// peer is the peer. Its port is 0 if the route is that of a connection.
	peer netip.AddrPort
	// connection is the ID of the connection.
	connection connectionID
}

// connectionID is the beginning of the ID by which a client calls its connection. QUIC gives
// it out, in four bytes by default, as Caddy leaves it.
type connectionID [4]byte

// noConnection is not the ID of a connection, but for one in 2^32.
var noConnection connectionID

// connectionOf returns the ID of a datagram's connection, if it begins with a packet that has a
// short header, as all have once a connection is established.
func connectionOf(payload []byte) (id connectionID, ok bool) {
	const longHeader = 0x80
	if len(payload) <= len(id) || payload[0]&longHeader != 0 {
		return id, false
	}
	return connectionID(payload[1:]), true
}

// routes finds routes: by a port of a peer, so that all addresses of a client there share one,
// and by a connection. An address keeps its route whatever is forgotten here.
type routes struct {
	// young has the routes that were in use since the last turn, old those before. At a turn
	// the old ones are forgotten and the young ones get old.
	young, old map[routeKey]*route
	turn       uint32
	turnedAt   monotime.Time
}

const (
	// routesKept bounds young, and so old.
	routesKept = 1 << 15
	// routeKept is for how long a route without datagrams is kept at least, unless there are
	// too many. QUIC keeps a silent connection for 30 seconds.
	routeKept = time.Minute
)

// age begins a new turn if the last is over.
func (r *routes) age(now monotime.Time) {
	if now.Sub(r.turnedAt) >= routeKept {
		r.next()
		r.turnedAt = now
	}
}

func (r *routes) next() {
	r.young, r.old = make(map[routeKey]*route), r.young
	r.turn++
}

// keep keeps the route with this key from being forgotten at the next turn, and returns it.
// If there is none, it is the one given.
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
