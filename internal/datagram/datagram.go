// Package datagram reads the PROXY protocol header (v2) at the beginning of each datagram of a
// UDP socket, and gives QUIC the client's address.
//
// Sockets holds the wrapped sockets, each under the Config of the configuration that governs it
// (an Owner). A packetConn is one wrapped socket: it splits a datagram into its parts, checks its
// header, and gives QUIC the payload and an Addr. A route leads the replies of a connection to
// the peer through which its last datagram came; a sender sends them. A TrustedList has the
// trusted peers, if they come from a source that must be asked.
package datagram

import (
	"net"
	"net/netip"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// datagram is a datagram as it came from the socket, and its parts, which parse sets. It is only
// valid until the next one is read.
type datagram struct {
	bytes []byte // all of it
	oob   []byte // the out-of-band data
	// header is the PROXY protocol header. It is empty if there is none, and all of bytes if it
	// is incomplete.
	header  []byte
	payload []byte         // the bytes behind the header
	from    netip.AddrPort // the peer as the socket has it, invalid if it has no IP address
	via     net.Addr       // the peer's address if the socket is not a UDP socket, else nil
	// announced says that the peer was announced as a check, so that the datagram is recorded
	// apart.
	announced bool
}

// parse sets the parts of the datagram. An unchecked datagram has no header. It panics if the
// String method of via does.
func (d *datagram) parse(checked bool) {
	size := 0
	if checked {
		size = min(len(d.bytes), wire.AnnouncedSize(d.bytes))
	}
	d.header, d.payload = d.bytes[:size], d.bytes[size:]
	switch via := d.via.(type) {
	case nil:
	case *net.UDPAddr:
		d.from = via.AddrPort()
	default:
		d.from, _ = netip.ParseAddrPort(d.via.String())
	}
}

// hasHeader reports whether bytes begin like a header.
func hasHeader(b []byte) bool {
	return len(b) >= len(wire.SignatureV2) && string(b[:len(wire.SignatureV2)]) == wire.SignatureV2
}

// wrongPayload reports whether a header is followed by another one, or by nothing.
func (d *datagram) wrongPayload() bool {
	return len(d.header) > 0 && (len(d.payload) == 0 || hasHeader(d.payload))
}

// peer returns the address of the peer.
func (d *datagram) peer() net.Addr {
	if !d.from.IsValid() {
		return policy.PeerAddr(d.via)
	}
	return net.UDPAddrFromAddrPort(unmapped(d.from))
}

// peerIP returns the IP address of the peer without IPv4 mapping and zone, or the zero Addr.
func (d *datagram) peerIP() netip.Addr { return policy.NormalizeAddr(d.from.Addr()) }

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
