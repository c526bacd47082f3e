package proxyprotocol

import (
	"net"
	"net/netip"

	"github.com/gaissmai/bart"
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
	// config judged the datagram. It is nil if the datagram passed as it was.
	config *packetConfig
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

	cache lookupCache
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

// lookups implements connection.
func (a *quicAddr) lookups() *lookupCache { return &a.cache }

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
	cache     lookupCache
}

// RemoteAddr returns the address that the client has now.
func (m *migratedAddr) RemoteAddr() net.Addr { return m.client }

// lookups implements connection.
func (m *migratedAddr) lookups() *lookupCache { return &m.cache }

// judged reports whether the datagrams of this address were judged, and did not pass as they
// were.
func (a *quicAddr) judged() bool { return a.config != nil }

// connOf returns the connection that was accepted from this address, of a request whose client
// has the address remote now. It returns nil if the datagram passed as it was, or if the client
// migrated and is marked where it was not, or the other way round: a mark lasts as long as its
// connection.
func (a *quicAddr) connOf(remote string) connection {
	if !a.judged() {
		return nil
	}
	if remote == a.text {
		return a
	}
	now, err := netip.ParseAddrPort(remote)
	if err != nil || (now.Port() == 0) != a.Marked() {
		return nil
	}
	return &migratedAddr{quicAddr: a, client: net.UDPAddrFromAddrPort(now)}
}
