package proxyprotocol

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// QUIC sends replies to the address that a connection was accepted from, as long as the
// client's datagrams have an address with the same text. Their header names the client, so
// the text stays the same when the load balancer restarts, or forgets a client, and sends
// its datagrams through another port. Routes make replies follow.
//
// A route never leads to another peer's IP address than the one it began with. Any datagram
// that is accepted moves it within that address: whoever forges datagrams of a trusted peer
// can turn replies to another port of that peer, until the client's next datagram. He cannot
// turn them to another host.

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

// route is how replies get to a client through a peer.
type route struct {
	// back is the way that the client's last datagram came. QUIC reads it while it writes.
	back atomic.Pointer[wayBack]
	// turn is the turn of the table in which the route was last in use.
	turn uint32
}

// routeKey is a client as the headers of a peer call it.
type routeKey struct {
	client netip.AddrPort
	peer   netip.Addr
}

// routes finds the route of a client. It only serves to let a new address share the route of
// the addresses before: an address keeps its route whatever is forgotten here.
type routes struct {
	// young has the routes that were in use since the last turn, old those before. At a turn
	// the old ones are forgotten and the young ones get old.
	young, old map[routeKey]*route
	turn       uint32
	turnedAt   time.Duration // since start
}

const (
	// routesKept bounds young, and so old.
	routesKept = 1 << 15
	// routeKept is for how long a route without datagrams is kept at least, unless there are
	// too many. QUIC keeps a silent connection for 30 seconds.
	routeKept = time.Minute
)

// of returns the route of a client, a new one if there is none.
func (r *routes) of(key routeKey, now time.Duration) *route {
	if r.young == nil || len(r.young) >= routesKept || now-r.turnedAt >= routeKept {
		r.young, r.old = make(map[routeKey]*route), r.young
		r.turn++
		r.turnedAt = now
	}
	found := r.young[key]
	if found == nil {
		found = r.old[key]
	}
	if found == nil {
		found = new(route)
	}
	r.use(key, found)
	return found
}

// use keeps a route from being forgotten at the next turn.
func (r *routes) use(key routeKey, used *route) {
	used.turn = r.turn
	r.young[key] = used
}
