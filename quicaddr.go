package proxyprotocol

import (
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/gaissmai/bart"
	"github.com/quic-go/quic-go/http3"
)

// quicAddr is where a datagram came from, as QUIC gets it: the client to all that ask for
// its text, and the peer to WriteTo when QUIC hands it back with a reply. What is known of a
// client travels in it, so that no table of clients decides anything. It does not change, but
// for what follows the routes of its datagrams.
//
// QUIC keeps the one that a connection was accepted from. It takes a datagram from an
// address with another text for a migration, which the client must confirm through the new
// path, and keeps the address of that path from then on.
type quicAddr struct {
	facts
	// rules judged the datagram. They are nil if it passed as it was.
	rules *rules
	// trustedBy has the peer, if the source of trusted peers was asked.
	trustedBy *bart.Lite
	// text is the client's address with port, which is 0 if it is marked.
	text string

	// What the datagrams looked like that have this address.
	from netip.AddrPort // the peer as the socket has it
	raw  string         // the header
	oob  string         // the control message

	// local is what the peer sent to, if it is known.
	local netip.AddrPort
	// back is how a reply gets to where these datagrams came from.
	back *wayBack
	// route is that of the peer's port, where connections that begin here have their replies
	// go; nil if the text is that of the peer itself, which has one way.
	route *route

	// connRoute is the route of the connection that the last datagram belonged to, found in
	// this turn of the table. The reading mutex of the packetConn guards these three.
	connRoute  *route
	connection connectionID
	turn       uint32

	mapping atomic.Pointer[caddy.ReplacerFunc]
}

// Network implements net.Addr.
func (a *quicAddr) Network() string { return "udp" }

// String implements net.Addr.
func (a *quicAddr) String() string { return a.text }

// RemoteAddr returns the client's address.
func (a *quicAddr) RemoteAddr() net.Addr { return a }

// LocalAddr returns the header's destination, or what the peer sent to if there is none,
// it is unspecified, or the client is marked.
func (a *quicAddr) LocalAddr() net.Addr {
	if to := a.destination(); to.IsValid() {
		return net.UDPAddrFromAddrPort(to)
	}
	return net.UDPAddrFromAddrPort(a.local)
}

func (a *quicAddr) placeholders() caddy.ReplacerFunc { return mappingOf(a, &a.mapping) }

// replyBy returns how a reply gets to the client now.
func (a *quicAddr) replyBy() *wayBack {
	if a.route == nil {
		return a.back
	}
	return a.route.back.Load()
}

// migratedAddr is a connection whose client has another address than when the connection was
// accepted. All else that is known of it is what was known then.
type migratedAddr struct {
	*quicAddr // from which it was accepted
	client    net.Addr
	mapping   atomic.Pointer[caddy.ReplacerFunc]
}

// RemoteAddr returns the address that the client has now.
func (m *migratedAddr) RemoteAddr() net.Addr { return m.client }

func (m *migratedAddr) placeholders() caddy.ReplacerFunc { return mappingOf(m, &m.mapping) }

// requestQUICConn returns the connection of a request over HTTP/3, or nil if it did not come
// through the packet wrapper, or migrated and is marked where it was not, or the other way
// round: a mark lasts as long as its connection.
func requestQUICConn(r *http.Request) connection {
	accepted := acceptedFrom(r)
	if accepted == nil || accepted.rules == nil {
		return nil
	}
	if r.RemoteAddr == accepted.text {
		return accepted
	}
	now, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || (now.Port() == 0) != accepted.marked {
		return nil
	}
	return &migratedAddr{quicAddr: accepted, client: net.UDPAddrFromAddrPort(now)}
}

// acceptedFrom returns the address from which a request's connection was accepted, or nil
// if that is not one of the packet wrapper.
func acceptedFrom(r *http.Request) *quicAddr {
	a, _ := r.Context().Value(http3.RemoteAddrContextKey).(*quicAddr)
	return a
}
