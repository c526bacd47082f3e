package proxyprotocol

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// packetConn takes the header from each datagram and gives QUIC the client's address. What
// does not fit the rules is dropped, and never surfaces as an error: that would end QUIC.
type packetConn struct {
	net.PacketConn
	udp    *net.UDPConn // the same, if it is a UDP socket
	sender *packetSender
	addr   netip.AddrPort

	// rules are those of the running configuration, or nil if it has none: then datagrams
	// pass as they are.
	rules atomic.Pointer[rules]
	// adopted are the configurations that want to have a say, in order.
	adopted []adoption

	// reading guards what is below.
	reading sync.Mutex
	buffer  [maxDatagram]byte
	control [controlSize]byte
	seed    maphash.Seed
	// before are the rules of the datagram before.
	before *rules
	// recent has addresses that came lately, each where its hash says. What is not there
	// costs an allocation and nothing else. It has those of the rules before alone, as asked.
	recent [1 << 11]*quicAddr
	// asked has what the source of trusted peers said lately, in the same way.
	asked [1 << 8]answer
}

// answer is whether a peer may send headers, for a while.
type answer struct {
	peer  netip.Addr
	trust trust
	until time.Duration
}

const (
	// maxDatagram is more than any UDP datagram has: none is cut off, however large its
	// header is.
	maxDatagram = 1 << 16
	controlSize = 128
	// recentHeader is the size of the largest header that is kept in recent.
	recentHeader = wire.MinMaxSize
	// trustedFor is how long the answer of a source of trusted peers holds.
	trustedFor = time.Second
)

// newPacketConn wraps a socket. If it may be unwrapped, what lies below Caddy's own
// wrapper is used, as Caddy does for QUIC.
func newPacketConn(inner net.PacketConn, unwrap bool) net.PacketConn {
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
	bytes, control []byte
	from           netip.AddrPort
	via            net.Addr // the same, if the socket is no UDP socket
}

// ReadFrom reads what follows the header of the next datagram that is not dropped.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		d, err := c.receive()
		if err != nil {
			return 0, nil, err
		}
		if payload, a := c.accept(&d); len(payload) > 0 {
			return copy(p, payload), a, nil
		}
	}
}

func (c *packetConn) receive() (d datagram, err error) {
	var n, controlN int
	if c.udp != nil {
		n, controlN, _, d.from, err = c.udp.ReadMsgUDPAddrPort(c.buffer[:], c.control[:])
	} else {
		n, d.via, err = c.PacketConn.ReadFrom(c.buffer[:])
	}
	if err != nil {
		return datagram{}, err
	}
	d.bytes, d.control = c.buffer[:n], c.control[:controlN]
	return d, nil
}

// WriteTo sends a reply to the peer through which the client's datagram came.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	a, ok := addr.(*quicAddr)
	switch {
	case !ok:
		return 0, errNotOurs
	case a.via != nil:
		return c.PacketConn.WriteTo(p, a.via)
	case c.udp == nil:
		return 0, errNotOurs
	default:
		return c.sender.write(p, a)
	}
}

var errNotOurs = errors.New("not an address that a datagram came from")

// accept returns what follows the header of a datagram and the address to give to QUIC, or
// no address if it dropped the datagram.
func (c *packetConn) accept(d *datagram) (payload []byte, a *quicAddr) {
	rules := c.rules.Load()
	// A panic here ends the process. The source of trusted peers is anyone's code.
	defer func() {
		if r := recover(); r != nil {
			c.drop(rules, d, &quicAddr{}, reasonIO, fmt.Errorf("panic: %v", r))
			payload, a = nil, nil
		}
	}()
	if d.via != nil {
		d.from, _ = netip.ParseAddrPort(d.via.String())
	}
	if rules != c.before {
		// What is remembered would keep a configuration that is gone.
		clear(c.recent[:])
		clear(c.asked[:])
		c.before = rules
	}
	size := 0
	if rules != nil {
		size = headerSize(d.bytes)
	}
	payload = d.bytes[size:]
	slot := c.slot(d.from, d.bytes[:size])
	a = *slot
	if a == nil || !a.is(d, size) {
		a = &quicAddr{rules: rules, from: d.from, via: d.via}
		if why, err := c.learn(a, d, size); why.refused() {
			c.drop(rules, d, a, why, err)
			return nil, nil
		}
		if size <= recentHeader && d.via == nil {
			*slot = a
		}
	}
	switch {
	case rules == nil:
	case hasHeader(payload):
		c.drop(rules, d, a, reasonDuplicate, nil)
		return nil, nil
	default:
		rules.stats.count(a.mode, a.header.Version(), a.outcome())
	}
	return payload, a
}

// is reports whether a datagram says the same as those before that had this address.
func (a *quicAddr) is(d *datagram, size int) bool {
	return a.from == d.from && a.raw == string(d.bytes[:size]) && a.received == string(d.control) &&
		(a.until == 0 || time.Since(start) < a.until)
}

// slot is where the address of a datagram is in recent, if it is there.
func (c *packetConn) slot(from netip.AddrPort, header []byte) **quicAddr {
	hash := maphash.Comparable(c.seed, from) ^ maphash.Bytes(c.seed, header)
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

// learn judges a datagram with a header of this size, and either makes its address complete
// or says why it must be dropped.
func (c *packetConn) learn(a *quicAddr, d *datagram, size int) (why outcome, err error) {
	a.peer = peerOf(d)
	if a.rules != nil {
		if why, err = c.judge(a, d.bytes[:size]); why.refused() {
			return why, err
		}
	}
	a.raw, a.received = string(d.bytes[:size]), string(d.control)
	a.local, a.reply = c.replyWith(d.control)
	switch client := unmapped(a.header.Source()); {
	case a.marked:
		a.text = netip.AddrPortFrom(client.Addr(), 0).String()
		a.rules.log.marked(&a.facts, c, time.Since(start))
	case a.header.HasAddrs():
		a.text = client.String()
	default:
		a.text = strings.Clone(a.peer.String()) // another's type may give out the same string again
	}
	return a.outcome(), nil
}

// judge finds out the facts of a datagram with this header, or why it must be dropped.
func (c *packetConn) judge(a *quicAddr, header []byte) (why outcome, err error) {
	a.rules.stats.sawPeer(peerIP(a.peer))
	a.mode, a.trust = a.rules.judge(a.peer, c.LocalAddr())
	if a.trust == unasked {
		a.trust, a.until = c.ask(a.rules, a.peer)
	}
	switch {
	case a.mode == On && a.trust != trusted:
		return reasonUntrusted, nil
	case len(header) == 0 && a.mode == On:
		return reasonMissing, nil
	case len(header) == 0:
		return outcomeDirect, nil
	case a.mode == Off:
		return reasonForbidden, nil
	case a.trust != trusted:
		return reasonUntrusted, nil
	}
	r := wire.Decode(header, a.rules.maxHeaderSize)
	switch {
	case r.State == wire.Invalid:
		return reasonOf(r.Err), r.Err
	case r.State != wire.Complete:
		return reasonMalformed, errDatagramCutOff
	case r.Header.Command() != wire.Local && !(r.Header.HasAddrs() && r.Header.Transport() == wire.Dgram):
		return reasonMalformed, errNotDatagrams
	}
	a.header = r.Header
	if len(r.TLVs) > 0 {
		a.tlvs = keepTLVs(r.TLVs)
	}
	a.marked = a.mode == Unspecified && a.header.HasAddrs()
	return a.outcome(), nil
}

var (
	errDatagramCutOff = errors.New("cut off by the end of the datagram")
	errNotDatagrams   = errors.New("the header is not one of datagrams (DGRAM) over IPv4 or IPv6")
)

// ask returns whether a peer may send headers, and until when that holds.
func (c *packetConn) ask(rules *rules, peer net.Addr) (trust, time.Duration) {
	ip, now := peerIP(peer), time.Since(start)
	a := &c.asked[maphash.Comparable(c.seed, ip)%uint64(len(c.asked))]
	if a.peer != ip || now >= a.until {
		trust, _ := rules.ask(context.Background(), peer)
		*a = answer{ip, trust, now + trustedFor}
	}
	return a.trust, a.until
}

// drop counts, logs and remembers a datagram that is dropped.
func (c *packetConn) drop(rules *rules, d *datagram, a *quicAddr, why outcome, err error) {
	if rules == nil {
		return
	}
	defer func() { _ = recover() }() // what panicked may do it again
	if a.peer == nil {
		a.peer = peerOf(d)
		a.mode, _ = rules.judge(a.peer, c.LocalAddr())
	}
	var version uint8
	if hasHeader(d.bytes) {
		version = 2
	}
	rules.stats.count(a.mode, version, why)
	rules.refused(a.peer, c.LocalAddr(), a.mode, why, d.bytes, err)
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
func (c *packetConn) replyWith(control []byte) (local netip.AddrPort, reply []byte) {
	if len(control) == 0 {
		return c.addr, nil
	}
	v6, v4 := new(ipv6.ControlMessage), new(ipv4.ControlMessage)
	_, _ = v6.Parse(control), v4.Parse(control) // what is not there stays empty
	to, index := v6.Dst, v6.IfIndex
	if v4.Dst != nil {
		to, index = v4.Dst, v4.IfIndex
	}
	ip, ok := netip.AddrFromSlice(to)
	if !ok {
		return c.addr, nil
	}
	ip = ip.Unmap()
	if ip.Is4() {
		reply = (&ipv4.ControlMessage{Src: ip.AsSlice(), IfIndex: index}).Marshal()
	} else {
		reply = (&ipv6.ControlMessage{Src: ip.AsSlice(), IfIndex: index}).Marshal()
	}
	return netip.AddrPortFrom(ip, c.addr.Port()), reply
}
