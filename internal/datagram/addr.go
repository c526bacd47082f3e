package datagram

import (
	"net"
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
)

// Addr is the source of a datagram, as QUIC gets it from ReadFrom and hands it back to WriteTo
// with a reply. Its text is the client's address. What is known of a connection travels in it,
// so that no table of clients decides anything. Only route and the fields below change.
//
// QUIC keeps the Addr that a connection was accepted from. It takes a datagram from an Addr with
// another text for a migration, which the client must confirm through the new path, and keeps
// the Addr of that path from then on.
type Addr struct {
	info conninfo.Info
	// config is the config under which the datagram was checked, or nil if it was not.
	config *Config
	// trustedBy has the ranges of the peer, if the source of trusted peers was asked.
	trustedBy *bart.Lite
	// text is the client's address with its port, which is 0 if the address is marked.
	text string

	// All datagrams with this Addr have the same peer, header and out-of-band data.
	from   netip.AddrPort // as the socket has it
	header string
	oob    string

	// local is the address that the datagrams were sent to, if it is known.
	local netip.AddrPort
	// path is the return path of a reply to the sender of these datagrams.
	path *returnPath
	// route is the route of the peer's port, along which the connections that begin there get
	// their replies. It is nil if the text is the peer's own address, which has one path.
	route *route

	// connRoute is the route of the connection with the ID connection, to which the last
	// datagram belonged. It was found in this turn of the table of routes. The three fields are
	// guarded by readMu of the packetConn.
	connRoute  *route
	connection connectionID
	turn       uint32

	cache conninfo.LookupCache
}

// Network implements net.Addr.
func (a *Addr) Network() string { return "udp" }

// String implements net.Addr.
func (a *Addr) String() string { return a.text }

// Info implements conninfo.Conn.
func (a *Addr) Info() *conninfo.Info { return &a.info }

// Lookups implements conninfo.Conn.
func (a *Addr) Lookups() *conninfo.LookupCache { return &a.cache }

// RemoteAddr implements conninfo.Conn. It returns the client's address.
func (a *Addr) RemoteAddr() net.Addr { return a }

// LocalAddr implements conninfo.Conn. It returns the header's destination. If the header has
// none, or an unspecified one, or the client is marked, it returns the address that the datagram
// was sent to.
func (a *Addr) LocalAddr() net.Addr {
	if to := a.info.Destination(); to.IsValid() {
		return net.UDPAddrFromAddrPort(to)
	}
	return net.UDPAddrFromAddrPort(a.local)
}

// Checked reports whether the datagrams of this Addr were checked. Others passed as they were.
func (a *Addr) Checked() bool { return a.config != nil }

// ConnOf returns the connection that was accepted from this Addr, for a request whose client has
// the address remote now. It returns nil if the datagram was not checked, or if the client has
// migrated and is marked where it was not, or the reverse: a mark lasts as long as its
// connection.
func (a *Addr) ConnOf(remote string) conninfo.Conn {
	if !a.Checked() {
		return nil
	}
	if remote == a.text {
		return a
	}
	now, err := netip.ParseAddrPort(remote)
	if err != nil || (now.Port() == 0) != a.info.Marked() {
		return nil
	}
	return &migratedAddr{Addr: a, client: net.UDPAddrFromAddrPort(now)}
}

// replyPath returns the return path of a reply to the client now.
func (a *Addr) replyPath() *returnPath {
	if a.route == nil {
		return a.path
	}
	return a.route.path.Load()
}

// migratedAddr is a connection whose client has another address than when the connection was
// accepted. All else that is known of it is what was known then.
type migratedAddr struct {
	*Addr  // from which the connection was accepted
	client net.Addr
	cache  conninfo.LookupCache
}

// RemoteAddr implements conninfo.Conn. It returns the address that the client has now.
func (m *migratedAddr) RemoteAddr() net.Addr { return m.client }

// Lookups implements conninfo.Conn.
func (m *migratedAddr) Lookups() *conninfo.LookupCache { return &m.cache }
