package datagram

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gaissmai/bart"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// packetConn is a socket that takes the header from each datagram and gives QUIC the client's
// address. It drops a datagram that its config does not accept, and never returns an error for
// it: that would end QUIC.
type packetConn struct {
	net.PacketConn
	udp    *net.UDPConn // the same socket, or nil if it is not a UDP socket
	sender *sender      // of udp
	addr   netip.AddrPort
	// key is the key by which Caddy opened the socket, or empty if it is not known.
	key string

	// config is the config in force. If it is nil, datagrams pass as they are.
	config atomic.Pointer[Config]
	// claims are the configurations that govern the socket, the one in force last. They are
	// guarded by mu of Sockets.
	claims []claim

	// readMu is held while a datagram is read. It guards the fields below.
	readMu sync.Mutex
	buffer [maxDatagram]byte
	oob    [oobSize]byte
	seed   maphash.Seed
	// lastConfig is the config of the last datagram.
	lastConfig *Config
	// addrCache is a direct-mapped cache of the Addrs of lastConfig; a miss costs a few
	// allocations. It is cleared when the config changes.
	addrCache [1 << 11]*Addr
	routes    routes
}

const (
	// maxDatagram is larger than any UDP datagram, so that none is truncated.
	maxDatagram = 1 << 16
	oobSize     = 128
	// maxCachedHeader is the size of the largest header whose Addr is cached.
	maxCachedHeader = wire.MinMaxSize
)

// newPacketConn wraps a socket. If unwrap is set, it uses the socket below Caddy's own wrapper,
// as Caddy does for QUIC.
func newPacketConn(inner net.PacketConn, unwrap bool) *packetConn {
	c := &packetConn{PacketConn: inner, seed: maphash.MakeSeed()}
	below := inner
	if unwrap {
		for next := inner; next != nil; next = socketBelow(next) {
			below = next
		}
	}
	local, _ := inner.LocalAddr().(*net.UDPAddr)
	c.addr = unmapped(local.AddrPort()) // invalid if local is nil
	udp, ok := below.(*net.UDPConn)
	if !ok {
		return c
	}
	c.udp, c.sender = udp, newSender(udp)
	if c.addr.Addr().IsUnspecified() {
		requestOOB(udp)
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

// udpPacketConn is a packetConn with the methods by which QUIC sets the buffers of a UDP socket
// and discovers the path's MTU. It has no ReadMsgUDP, by which QUIC would bypass ReadFrom.
type udpPacketConn struct{ *packetConn }

// SyscallConn implements syscall.Conn.
func (c udpPacketConn) SyscallConn() (syscall.RawConn, error) { return c.udp.SyscallConn() }

// SetReadBuffer sets the size of the kernel's receive buffer.
func (c udpPacketConn) SetReadBuffer(bytes int) error { return c.udp.SetReadBuffer(bytes) }

// SetWriteBuffer sets the size of the kernel's send buffer.
func (c udpPacketConn) SetWriteBuffer(bytes int) error { return c.udp.SetWriteBuffer(bytes) }

// ReadFrom implements net.PacketConn. It reads the payload of the next datagram that is
// accepted.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		d, err := c.receive()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				Sockets.forget(c)
			}
			return 0, nil, err
		}
		if a := c.accept(&d); a != nil && len(d.payload) > 0 {
			return copy(p, d.payload), a, nil
		}
	}
}

// receive reads a datagram from the socket.
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

// WriteTo implements net.PacketConn. It sends a reply to the peer through which the last datagram
// of the client came.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	a, ok := addr.(*Addr)
	if !ok || a.path == nil {
		return 0, errForeignAddr
	}
	switch path := a.replyPath(); {
	case path.via != nil:
		return c.PacketConn.WriteTo(p, path.via)
	case c.udp == nil:
		return 0, errForeignAddr
	default:
		return c.sender.write(p, path)
	}
}

var errForeignAddr = errors.New("no datagram came from this address")

// accept returns the Addr of a datagram, or nil if it dropped the datagram.
func (c *packetConn) accept(d *datagram) (a *Addr) {
	config := c.config.Load()
	// A panic here ends the process. The peer's address may be of another module's type, whose
	// methods panic.
	defer func() {
		if r := recover(); r != nil {
			a = nil
			if config != nil {
				c.drop(config, d, config.Mode, record.IO, fmt.Errorf("panic: %v", r))
			}
		}
	}()
	d.parse(config != nil)
	if config != c.lastConfig {
		clear(c.addrCache[:]) // or it would keep an old configuration in memory
		c.lastConfig = config
	}
	slot := c.slot(d)
	if a = *slot; a == nil || !a.matches(d) || a.portIsReused(d) {
		d.announced = record.Announced.Has(d.from)
		if a = c.resolve(config, d); a == nil {
			return nil
		}
		// That a peer was announced is not cached, because its port may soon be another's.
		if len(d.header) <= maxCachedHeader && d.via == nil && !d.announced {
			*slot = a
		}
	}
	if a.route != nil {
		c.follow(a, d.payload)
	}
	if config != nil && len(d.payload) > 0 {
		recorder := config.recorderOf(d)
		recorder.Count(a.info.Mode, a.info.Header.Version(), record.AcceptedAs(&a.info.Header, a.info.Marked()))
	}
	return a
}

// slot returns the place of a datagram's Addr in addrCache.
func (c *packetConn) slot(d *datagram) **Addr {
	hash := maphash.Comparable(c.seed, d.from) ^ maphash.Bytes(c.seed, d.header)
	return &c.addrCache[hash%uint64(len(c.addrCache))]
}

// matches reports whether this is the Addr of a datagram, which is then accepted as the ones
// before.
func (a *Addr) matches(d *datagram) bool {
	if a.from != d.from || a.header != string(d.header) || a.oob != string(d.oob) || d.wrongPayload() {
		return false
	}
	if a.trustedBy == nil {
		return true
	}
	ranges, _ := a.config.TrustedList.Ranges() // nil if there is an error
	return ranges == a.trustedBy
}

// resolve checks a datagram and returns a new Addr for it, or nil if it dropped the datagram. It
// allocates nothing for a dropped datagram but its record.
func (c *packetConn) resolve(config *Config, d *datagram) *Addr {
	var info conninfo.Info
	var trustedBy *bart.Lite
	if config != nil {
		reason, err := c.checkHeader(config, d, &info, &trustedBy)
		// Under mode On, datagrams with forged addresses could fill the list of peers.
		if info.Mode != policy.On || info.Trust == policy.Trusted {
			recorder := config.recorderOf(d)
			recorder.SawPeer(d.peerIP(), info.Mode)
		}
		if reason.IsRefusal() {
			c.drop(config, d, info.Mode, reason, err)
			return nil
		}
	}
	info.Peer = d.peer()
	a := &Addr{info: info, config: config, trustedBy: trustedBy, from: d.from, header: string(d.header), oob: string(d.oob)}
	local, replyOOB := c.parseOOB(d.oob)
	a.local = local
	switch client := unmapped(a.info.Header.Source()); {
	case a.info.Marked():
		a.text = netip.AddrPortFrom(client.Addr(), 0).String()
	case a.info.Header.HasAddrs():
		a.text = client.String()
	default:
		a.text = a.info.Peer.String()
	}
	if a.info.HasHeader() {
		accepted := record.Accepted{At: monotime.Now(), Peer: a.info.Peer, Header: a.info.Header, Marked: a.info.Marked()}
		recorder := config.recorderOf(d)
		recorder.LogHeader(&accepted, c, a.info.Mode)
		recorder.RememberHeader(&accepted)
	}
	c.setPath(a, d, replyOOB)
	return a
}

// setPath sets the return path of a new Addr, and its route, if the header names a client.
func (c *packetConn) setPath(a *Addr, d *datagram, replyOOB []byte) {
	if a.info.Header.HasAddrs() && d.from.IsValid() {
		c.routes.age(monotime.Now())
		a.route = c.routes.keep(a.routeKey(), new(route))
		if a.portIsReused(d) {
			a.route = new(route)
			c.routes.put(a.routeKey(), a.route)
		}
		if last := a.route.path.Load(); last != nil && last.equals(d.from, replyOOB) {
			a.path = last
			return
		}
	}
	a.path = &returnPath{to: d.from, via: d.via, oob: replyOOB}
	if a.route != nil {
		a.route.path.CompareAndSwap(nil, a.path)
	}
}

// checkHeader checks the header of a datagram and sets all of info but the peer. It returns the
// outcome, and why the datagram must be dropped, if it must. It sets trustedBy if it asked the
// source of trusted peers, which it does last: the bytes of a datagram alone decide most cases.
func (c *packetConn) checkHeader(config *Config, d *datagram, info *conninfo.Info, trustedBy **bart.Lite) (record.Outcome, error) {
	ip := d.peerIP()
	info.Mode, info.Trust = config.ForIP(ip, c.LocalAddr())
	switch {
	case info.Mode == policy.On && info.Trust == policy.Untrusted:
		return record.Untrusted, nil
	case info.Mode == policy.On && len(d.header) == 0:
		return record.Missing, nil
	case len(d.header) == 0:
		return record.Direct, nil
	case info.Mode == policy.Off:
		return record.Forbidden, nil
	case info.Trust == policy.Untrusted:
		return record.Untrusted, nil
	}
	r := wire.Decode(d.header, config.MaxHeaderSize)
	switch {
	case r.State == wire.Invalid:
		return record.ReasonOf(r.Err), record.DetailOf(r.Err, d.header, config.MaxHeaderSize)
	case r.State != wire.Complete:
		return record.Malformed, errTruncated
	case r.Header.Command() != wire.Local && !(r.Header.HasAddrs() && r.Header.Transport() == wire.Dgram):
		return record.Malformed, errNotDgram
	case len(d.payload) == 0:
		return record.Malformed, errNoPayload
	case hasHeader(d.payload):
		return record.Duplicate, nil
	}
	if info.Trust == policy.AskSource {
		ranges, err := config.TrustedList.Ranges()
		if err != nil {
			return record.IO, err
		}
		if !ranges.Contains(ip) {
			info.Trust = policy.Untrusted
			if ranges.Size() == 0 {
				err = policy.ErrSourceEmpty
			}
			return record.Untrusted, err
		}
		info.Trust, *trustedBy = policy.Trusted, ranges
	}
	proof, err := config.Require.Check(&r.Header, r.TLVs, config.Listed(ip, c.LocalAddr()), time.Time{})
	if err != nil {
		return record.Unauthenticated, err
	}
	info.SetHeader(r.Header, r.TLVs, proof)
	return record.AcceptedAs(&info.Header, info.Marked()), nil
}

var (
	errTruncated = errors.New("cut off by the end of the datagram")
	errNotDgram  = errors.New("the header's transport is not DGRAM over IPv4 or IPv6")
	errNoPayload = errors.New("nothing follows the header: the load balancer must put it in front of each datagram's data, not into a datagram of its own")
)

// drop counts, logs and remembers a dropped datagram.
func (c *packetConn) drop(config *Config, d *datagram, mode policy.Mode, reason record.Outcome, err error) {
	// The method of another module that panicked in accept may panic again.
	defer func() { _ = recover() }()
	var version uint8
	if hasHeader(d.bytes) {
		version = 2
	}
	recorder := config.recorderOf(d)
	recorder.Count(mode, version, reason)
	refusal := record.Refusal{Peer: d.peer(), Local: c.LocalAddr(), Mode: mode, Reason: reason, Err: err, SecretTLVs: config.Require.HasSecrets()}
	if reason == record.Duplicate {
		r := wire.Decode(d.header, config.MaxHeaderSize)
		refusal.First = r.Header.Source()
	}
	recorder.Refuse(refusal, d.bytes)
}
