package proxyprotocol

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/gaissmai/bart"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// packetConn takes the header from each datagram and gives QUIC the client's address. What
// does not fit its config is dropped, and never surfaces as an error: that would end QUIC.
type packetConn struct {
	net.PacketConn
	udp    *net.UDPConn // the same, if it is a UDP socket
	sender *packetSender
	addr   netip.AddrPort
	// key is the key by which Caddy opened the socket, or empty if that is not known.
	key string

	// config is that of the running configuration, or nil if it has none: then datagrams
	// pass as they are.
	config atomic.Pointer[packetConfig]
	// adopted are the configurations that want to have a say, in order. packetConns.mu guards
	// it.
	adopted []adoption

	// reading guards the fields below.
	reading sync.Mutex
	buffer  [maxDatagram]byte
	oob     [oobSize]byte
	seed    maphash.Seed
	// lastConfig is the config of the datagram before.
	lastConfig *packetConfig
	// recent has addresses that came lately, each where its hash says. An address that is not
	// there costs a few allocations and nothing else. It has addresses of lastConfig only.
	recent [1 << 11]*quicAddr
	routes routes
}

const (
	// maxDatagram is more than any UDP datagram has: none is cut off, however large its
	// header is.
	maxDatagram = 1 << 16
	oobSize     = 128
	// recentHeader is the size of the largest header that is kept in recent.
	recentHeader = wire.MinMaxSize
)

// packetConfig is what a configuration wants of the datagrams of a socket. It does not change
// once it is built.
type packetConfig struct {
	policy
	// maxHeaderSize is the size of the largest header, in bytes.
	maxHeaderSize int
	// list has what the policy's source answered last: datagrams cannot wait for it. It is nil
	// if there is no source.
	list *trustedList
	recorder
}

// fits reports whether a connection that was accepted from this address, perhaps under another
// config, may be served under this one: during a reload, the configuration before still judges
// datagrams of connections that the new one serves.
func (c *packetConfig) fits(a *quicAddr) bool {
	mode, trust := c.judge(a.peer, nil)
	switch {
	case !a.present():
		return mode != On
	case a.mode != mode:
		return false // the mode says who vouches for the header
	case trust != unasked:
		return trust == trusted
	case a.config.list == c.list:
		return true // trust is decided datagram by datagram
	}
	ranges, err := c.list.ranges()
	return err == nil && ranges.Contains(peerIP(a.peer))
}

// newPacketConn wraps a socket. If it may be unwrapped, what lies below Caddy's own
// wrapper is used, as Caddy does for QUIC.
func newPacketConn(inner net.PacketConn, unwrap bool) *packetConn {
	c := &packetConn{PacketConn: inner, seed: maphash.MakeSeed()}
	below := inner
	for unwrap {
		wrapped, ok := below.(interface{ Unwrap() net.PacketConn })
		if !ok {
			break
		}
		below = wrapped.Unwrap()
	}
	local, _ := inner.LocalAddr().(*net.UDPAddr)
	c.addr = unmapped(local.AddrPort()) // that of no address is invalid
	udp, ok := below.(*net.UDPConn)
	if !ok {
		return c
	}
	c.udp, c.sender = udp, newPacketSender(udp)
	if c.addr.Addr().IsUnspecified() {
		// Replies must come from the address that the peer sent to. One of these fails.
		_ = ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
		_ = ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	return c
}

// forQUIC returns the socket as QUIC gets it.
func (c *packetConn) forQUIC() net.PacketConn {
	if c.udp == nil {
		return c
	}
	return udpPacketConn{c}
}

// udpPacketConn is a packetConn with what QUIC wants of a UDP socket to set its buffers and
// discover the path's MTU. It has no ReadMsgUDP, by which QUIC would read past ReadFrom.
type udpPacketConn struct{ *packetConn }

func (c udpPacketConn) SyscallConn() (syscall.RawConn, error) { return c.udp.SyscallConn() }
func (c udpPacketConn) SetReadBuffer(bytes int) error         { return c.udp.SetReadBuffer(bytes) }
func (c udpPacketConn) SetWriteBuffer(bytes int) error        { return c.udp.SetWriteBuffer(bytes) }

// datagram is one as it came from the socket.
type datagram struct {
	bytes []byte // all of it
	// header and payload are its parts. A header that is not all there is the whole datagram.
	header, payload []byte
	oob             []byte
	from            netip.AddrPort // the peer as the socket has it
	via             net.Addr       // the same, if the socket is not a UDP socket
}

// ReadFrom reads what follows the header of the next datagram that is not dropped.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		d, err := c.receive()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				packetConns.forget(c)
			}
			return 0, nil, err
		}
		if a := c.accept(&d); a != nil && len(d.payload) > 0 {
			return copy(p, d.payload), a, nil
		}
	}
}

func (c *packetConn) receive() (d datagram, err error) {
	var n, oobN int
	if c.udp != nil {
		n, oobN, _, d.from, err = c.udp.ReadMsgUDPAddrPort(c.buffer[:], c.oob[:])
	} else {
		n, d.via, err = c.PacketConn.ReadFrom(c.buffer[:])
	}
	if err != nil {
		return datagram{}, err
	}
	d.bytes, d.oob = c.buffer[:n], c.oob[:oobN]
	return d, nil
}

// WriteTo sends a reply to the peer through which the client's last datagram came.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	a, ok := addr.(*quicAddr)
	if !ok || a.back == nil {
		return 0, errNotOurs
	}
	switch back := a.replyBy(); {
	case back.via != nil:
		return c.PacketConn.WriteTo(p, back.via)
	case c.udp == nil:
		return 0, errNotOurs
	default:
		return c.sender.write(p, back)
	}
}

var errNotOurs = errors.New("no datagram came from this address")

// accept returns the address to give to QUIC with the payload of a datagram, or nil if it
// dropped the datagram.
func (c *packetConn) accept(d *datagram) (a *quicAddr) {
	config := c.config.Load()
	// A panic here ends the process. The address of a peer may be another module's.
	defer func() {
		if r := recover(); r != nil {
			a = nil
			if config != nil {
				c.drop(config, d, &facts{mode: config.mode}, reasonIO, fmt.Errorf("panic: %v", r))
			}
		}
	}()
	d.parse(config != nil)
	if config != c.lastConfig {
		clear(c.recent[:]) // or it would keep a configuration that is gone
		c.lastConfig = config
	}
	slot := c.slot(d)
	if a = *slot; a == nil || !a.is(d) || a.portIsReused(d) {
		if a = c.learn(config, d); a == nil {
			return nil
		}
		if len(d.header) <= recentHeader && d.via == nil {
			*slot = a
		}
	}
	if a.route != nil {
		c.follow(a, d.payload)
	}
	if config != nil && len(d.payload) > 0 {
		config.count(a.mode, a.header.Version(), acceptedAs(&a.header, a.Marked()))
	}
	return a
}

// parse finds the parts of the datagram. If nobody judges it, it has no header.
func (d *datagram) parse(judged bool) {
	size := 0
	if judged {
		size = headerSize(d.bytes)
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

// is reports whether a datagram says the same as those before that had this address, and is
// to be accepted as they were.
func (a *quicAddr) is(d *datagram) bool {
	if a.from != d.from || a.raw != string(d.header) || a.oob != string(d.oob) || d.wrongPayload() {
		return false
	}
	if a.trustedBy == nil {
		return true
	}
	ranges, _ := a.config.list.ranges() // nil if there is an error
	return ranges == a.trustedBy
}

// wrongPayload reports whether what follows the header is another one, or nothing.
func (d *datagram) wrongPayload() bool {
	return len(d.header) > 0 && (len(d.payload) == 0 || hasHeader(d.payload))
}

// slot is where the address of a datagram is in recent, if it is there.
func (c *packetConn) slot(d *datagram) **quicAddr {
	hash := maphash.Comparable(c.seed, d.from) ^ maphash.Bytes(c.seed, d.header)
	return &c.recent[hash%uint64(len(c.recent))]
}

func hasHeader(b []byte) bool {
	return len(b) >= len(wire.SignatureV2) && string(b[:len(wire.SignatureV2)]) == wire.SignatureV2
}

// headerSize returns the size of the header at the beginning of a datagram, 0 if there is
// none, or that of the datagram if it has not all of it.
func headerSize(b []byte) int {
	const fixed = len(wire.SignatureV2) + 4
	switch {
	case !hasHeader(b):
		return 0
	case len(b) < fixed:
		return len(b)
	default:
		return min(len(b), fixed+int(b[fixed-2])<<8+int(b[fixed-1]))
	}
}

// learn judges a datagram and returns a new address for it, or nil if it dropped it. One that
// is dropped allocates nothing before it is known that it must be logged or remembered.
func (c *packetConn) learn(config *packetConfig, d *datagram) *quicAddr {
	var f facts
	var trustedBy *bart.Lite
	if config != nil {
		ip := d.from.Addr().Unmap().WithZone("")
		why, err := c.judge(config, d, ip, &f, &trustedBy)
		// Under On anyone could fill the list with forged addresses.
		if f.mode != On || f.trust == trusted {
			config.sawPeer(ip)
		}
		if why.refused() {
			c.drop(config, d, &f, why, err)
			return nil
		}
	}
	f.peer = peerOf(d)
	a := &quicAddr{facts: f, config: config, trustedBy: trustedBy, from: d.from, raw: string(d.header), oob: string(d.oob)}
	local, replyOOB := c.replyWith(d.oob)
	a.local = local
	switch client := unmapped(a.header.Source()); {
	case a.Marked():
		a.text = netip.AddrPortFrom(client.Addr(), 0).String()
		config.marked(a.peer, c, &a.header)
	case a.header.HasAddrs():
		a.text = client.String()
	default:
		a.text = strings.Clone(a.peer.String()) // another's type may give out the same string again
	}
	if a.header.HasAddrs() && d.from.IsValid() {
		c.routes.age(monotime.Now())
		a.route = c.routes.keep(a.routeKey(), new(route))
		if a.portIsReused(d) {
			a.route = new(route)
			c.routes.put(a.routeKey(), a.route)
		}
		if last := a.route.back.Load(); last != nil && last.leadsTo(d.from, replyOOB) {
			a.back = last
			return a
		}
	}
	a.back = &wayBack{to: d.from, via: d.via, oob: replyOOB}
	if a.route != nil {
		a.route.back.CompareAndSwap(nil, a.back)
	}
	return a
}

// follow makes the replies of a datagram's connection go where the datagram came from.
func (c *packetConn) follow(a *quicAddr, payload []byte) {
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
	if moved.back.Load() != a.back {
		moved.back.Store(a.back)
	}
}

// portIsReused reports whether a datagram begins a connection at a port whose route has moved
// on with another connection.
func (a *quicAddr) portIsReused(d *datagram) bool {
	if a.route == nil {
		return false
	}
	_, established := connectionOf(d.payload)
	back := a.route.back.Load()
	return !established && back != nil && back.to != d.from
}

// connectionRoute returns the route of a connection. That of an ID that is new, because the
// client may change it at any time, is the route of the connection that began at this port of
// the peer; or, where none did, that of the one that came here before, or of the client's last.
func (c *packetConn) connectionRoute(a *quicAddr, id connectionID) *route {
	c.routes.keep(a.routeKey(), a.route)
	last := c.routes.keep(a.connectionKey(noConnection), a.route)
	switch {
	case a.connRoute != nil && a.connection == id: // the table has been flooded
		last = a.connRoute
	case a.route.began:
		last = a.route
	case a.connRoute != nil:
		last = a.connRoute
	}
	return c.routes.keep(a.connectionKey(id), last)
}

// routeKey is the key of the route of the peer's port.
func (a *quicAddr) routeKey() routeKey {
	return routeKey{client: unmapped(a.header.Source()), peer: unmapped(a.from)}
}

// connectionKey is the key of the route of a connection, or of the client's last with
// noConnection. A marked client shows no port to QUIC, which notices nothing when it gets
// another one.
func (a *quicAddr) connectionKey(id connectionID) routeKey {
	client := unmapped(a.header.Source())
	if a.Marked() {
		client = netip.AddrPortFrom(client.Addr(), 0)
	}
	return routeKey{client, netip.AddrPortFrom(a.from.Addr().Unmap(), 0), id}
}

// judge finds out the facts of a datagram but its peer, or why it must be dropped. What can
// be told from its bytes alone comes before the source of trusted peers is asked.
func (c *packetConn) judge(config *packetConfig, d *datagram, ip netip.Addr, f *facts, trustedBy **bart.Lite) (why outcome, err error) {
	f.mode, f.trust = config.judgeIP(ip, c.LocalAddr())
	switch {
	case f.mode == On && f.trust == untrusted:
		return reasonUntrusted, nil
	case f.mode == On && len(d.header) == 0:
		return reasonMissing, nil
	case len(d.header) == 0:
		return outcomeDirect, nil
	case f.mode == Off:
		return reasonForbidden, nil
	case f.trust == untrusted:
		return reasonUntrusted, nil
	}
	r := wire.Decode(d.header, config.maxHeaderSize)
	switch {
	case r.State == wire.Invalid:
		return reasonOf(r.Err), r.Err
	case r.State != wire.Complete:
		return reasonMalformed, errDatagramCutOff
	case r.Header.Command() != wire.Local && !(r.Header.HasAddrs() && r.Header.Transport() == wire.Dgram):
		return reasonMalformed, errNotDatagrams
	case len(d.payload) == 0:
		return reasonMalformed, errNoPayload
	case hasHeader(d.payload):
		return reasonDuplicate, nil
	}
	if f.trust == unasked {
		ranges, err := config.list.ranges()
		if err != nil {
			return reasonIO, err
		}
		if !ranges.Contains(ip) {
			f.trust = untrusted
			if ranges.Size() == 0 {
				err = errAnswerEmpty
			}
			return reasonUntrusted, err
		}
		f.trust, *trustedBy = trusted, ranges
	}
	f.setHeader(r.Header, r.TLVs)
	return acceptedAs(&f.header, f.Marked()), nil
}

var (
	errDatagramCutOff = errors.New("cut off by the end of the datagram")
	errNotDatagrams   = errors.New("the header's transport is not DGRAM over IPv4 or IPv6")
	errNoPayload      = errors.New("nothing follows the header: the load balancer must put it in front of each datagram's data, not into a datagram of its own")
)

// drop counts, logs and remembers a datagram that is dropped.
func (c *packetConn) drop(config *packetConfig, d *datagram, f *facts, why outcome, err error) {
	defer func() { _ = recover() }() // what panicked may do it again
	var version uint8
	if hasHeader(d.bytes) {
		version = 2
	}
	config.count(f.mode, version, why)
	config.refuse(peerOf(d), c.LocalAddr(), f.mode, why, d.bytes, err)
}

// peerOf returns the address of the peer that sent a datagram.
func peerOf(d *datagram) net.Addr {
	if !d.from.IsValid() {
		return peerAddr(d.via)
	}
	return net.UDPAddrFromAddrPort(unmapped(d.from))
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// replyWith makes of the control message of a datagram what it was sent to, and the control
// message by which a reply comes from there. A socket of one address needs none.
func (c *packetConn) replyWith(oob []byte) (local netip.AddrPort, reply []byte) {
	if len(oob) == 0 {
		return c.addr, nil
	}
	v6, v4 := new(ipv6.ControlMessage), new(ipv4.ControlMessage)
	_, _ = v6.Parse(oob), v4.Parse(oob) // what is not there stays empty
	to, index := v6.Dst, v6.IfIndex
	if v4.Dst != nil {
		to, index = v4.Dst, v4.IfIndex
	}
	ip, ok := netip.AddrFromSlice(to)
	if !ok {
		return c.addr, nil
	}
	ip = ip.Unmap()
	if !ip.IsLinkLocalUnicast() {
		// A reply must take the route to the peer, not the interface through which a datagram
		// came that may be forged.
		index = 0
	}
	if ip.Is4() {
		reply = (&ipv4.ControlMessage{Src: ip.AsSlice(), IfIndex: index}).Marshal()
	} else {
		reply = (&ipv6.ControlMessage{Src: ip.AsSlice(), IfIndex: index}).Marshal()
	}
	return netip.AddrPortFrom(ip, c.addr.Port()), reply
}
