package proxyprotocol

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// conn is a connection whose beginning is judged by a mode. Its header is read in the
// goroutine that first asks for an address, reads or writes; under Off, only reads look.
//
// It has no method ConnectionState: net/http would take it for a TLS connection.
type conn struct {
	net.Conn // the accepted connection; every method that could pass it by is below

	rules    *rules
	accepted monotime.Time

	// phase is how far the beginning has been judged. The facts and addresses below
	// are written before it leaves pending, and read after.
	phase atomic.Uint32

	// These belong to whoever judges.
	aim     purpose // what he judges for
	limited bool    // the socket has the deadline of the header
	overdue bool    // the timeout was over before the socket was asked for its first byte

	facts
	client net.TCPAddr // if the header named one; its IP address lies in there

	// judging serializes whoever judges the beginning while pending, reading whoever
	// reads while watching. The inbox belongs to the one, then to the other, and from
	// draining on to the Read that makes the phase handing.
	judging, reading sync.Mutex
	inbox            *inbox

	extras atomic.Pointer[extras]
}

// extras are what a connection has no room for before somebody needs it.
type extras struct {
	// cache has the lookup of the connection's requests, once there is one.
	cache lookupCache

	// deadlines guards the user's read deadline while pending.
	deadlines    sync.Mutex
	readDeadline monotime.Time // or none
	awaited      bool          // it ends a wait that goes on

	// stopAsking ends a request to the source of trusted peers.
	stopAsking atomic.Pointer[context.CancelFunc]
}

func (c *conn) extra() *extras {
	if c.extras.Load() == nil {
		c.extras.CompareAndSwap(nil, new(extras))
	}
	return c.extras.Load()
}

// none is no deadline.
const none monotime.Time = 0

// The phases of a connection. They only ever go forward, but that draining and handing take
// turns.
const (
	// pending: whether there is a header is not known yet.
	pending uint32 = iota
	// timed is pending, and the user has set a read deadline.
	timed
	// silent is watching, and the socket has not said anything yet.
	silent
	// watching: the addresses are final. What the socket says next is held back as
	// long as it may be the signature of a header, which would be refused.
	watching
	// draining: no header can come. Read hands on what was received.
	draining
	// handing is draining, while one Read does it.
	handing
	// open: reads go straight to the socket.
	open
	// refused: the connection is closed, reads and writes fail.
	refused

	// closed comes on top of the phase in which the connection was closed, if no header had
	// been ruled out then. On top of watching the connection has been counted. On top of the
	// phases before, it is counted once nobody judges or reads any more.
	closed = 1 << 7
)

// localAddr is the local address of a connection. Every listener wrapper passes it
// through and net/http keeps it in each request's context, so that it leads from the
// request to the connection whatever lies between.
type localAddr conn

// Network implements net.Addr.
func (a *localAddr) Network() string {
	if addr := (*conn)(a).Conn.LocalAddr(); addr != nil {
		return addr.Network()
	}
	return "tcp"
}

// String implements net.Addr.
func (a *localAddr) String() string {
	c := (*conn)(a)
	if c.accepts() {
		if to := c.destination(); to.IsValid() {
			return to.String()
		}
	}
	return addrString(c.Conn.LocalAddr())
}

func newConn(c net.Conn, rules *rules, mode Mode, trust trust, accepted monotime.Time) *conn {
	wrapped := &conn{Conn: c, rules: rules, accepted: accepted}
	wrapped.mode, wrapped.trust, wrapped.peer = mode, trust, peerAddr(c.RemoteAddr())
	if mode == Off {
		wrapped.phase.Store(silent)
	}
	return wrapped
}

// RemoteAddr returns the client's address, with port 0 if it is marked, or the peer's
// if no header named a client or the connection was refused.
func (c *conn) RemoteAddr() net.Addr {
	_ = c.settle(forAddr)
	if !c.accepts() || c.client.IP == nil {
		return c.peer
	}
	return &c.client
}

// isPending reports whether the beginning has yet to be judged.
func (c *conn) isPending() bool { return c.phase.Load()&^closed <= timed }

// accepts reports whether the beginning has been judged, and not refused.
func (c *conn) accepts() bool {
	phase := c.phase.Load() &^ closed
	return phase > timed && phase != refused
}

// LocalAddr returns the header's destination, or the socket's own address if there is
// none, it is unspecified, or the connection is marked: it chooses TLS policies and
// certificates.
func (c *conn) LocalAddr() net.Addr {
	_ = c.settle(forAddr)
	return (*localAddr)(c)
}

// Read reads what follows the header.
func (c *conn) Read(p []byte) (int, error) {
	switch c.phase.Load() {
	case open:
		return c.Conn.Read(p)
	case draining:
		return c.drain(p)
	default:
		n, err := c.readBeginning(p)
		if c.phase.Load() == silent|closed {
			c.endSilence() // Close has come meanwhile, and found it being read
		}
		return n, err
	}
}

// Write writes to the socket, not before the beginning is judged.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.mayWrite(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// ReadFrom implements io.ReaderFrom: the socket's own may use sendfile.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if err := c.mayWrite(); err != nil {
		return 0, err
	}
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

func (c *conn) mayWrite() error {
	_ = c.settle(forWrite) // what fails before a header is complete is refused
	if c.phase.Load() == refused {
		return refusedError("write", c.peer)
	}
	return nil
}

// Close closes the connection at once, and with it ends a read of the header.
func (c *conn) Close() error {
	err := c.Conn.Close()
	for phase := c.phase.Load(); phase <= watching; phase = c.phase.Load() {
		if !c.phase.CompareAndSwap(phase, phase|closed) {
			continue
		}
		switch phase {
		case silent:
			c.endSilence()
		case watching:
			c.count()
		default:
			c.giveUp()
		}
		break
	}
	return err
}

// endSilence counts a connection that was closed while silent. If it is being read, that ends
// now, and Read calls endSilence again, unless the last read was not silent.
func (c *conn) endSilence() {
	if !c.reading.TryLock() {
		return
	}
	defer c.reading.Unlock()
	if c.phase.CompareAndSwap(silent|closed, watching|closed) {
		c.countSilent()
	}
}

var errClosedBefore = errors.New("closed before its header was complete")

// giveUp refuses a connection that was closed while pending. If its beginning is being
// judged, that ends now, and settle calls giveUp again.
func (c *conn) giveUp() {
	if x := c.extras.Load(); x != nil {
		if stop := x.stopAsking.Load(); stop != nil {
			(*stop)()
		}
	}
	if !c.judging.TryLock() {
		return
	}
	defer c.judging.Unlock()
	if c.isPending() {
		c.refuseEnded(errClosedBefore)
	}
}

// CloseRead and CloseWrite shut down one half of the connection, if it can do that.
func (c *conn) CloseRead() error {
	if half, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return half.CloseRead()
	}
	return errors.ErrUnsupported
}

func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the accepted connection. What is read from it passes the header by.
func (c *conn) NetConn() net.Conn { return c.Conn }

// SyscallConn implements syscall.Conn.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Hide PollFD, by which os.File would splice past Read and Write.
	return struct{ syscall.RawConn }{raw}, nil
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn. It can shorten the wait for a header, not
// lengthen it.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.phase.Load() > timed { // or closed, which is an error
		return c.Conn.SetReadDeadline(t)
	}
	x := c.extra()
	x.deadlines.Lock()
	defer x.deadlines.Unlock()
	c.phase.CompareAndSwap(pending, timed) // from here on leave waits
	if c.phase.Load() > timed {
		return c.Conn.SetReadDeadline(t)
	}
	x.readDeadline = none
	if !t.IsZero() {
		x.readDeadline = cmp.Or(monotime.Of(t), none-1)
	}
	if !x.awaited {
		return nil // leave hands it to the socket
	}
	return c.applyDeadline(x)
}

// mayRead implements waiter. A deadline is not needed if something is there, unless one has
// passed: what is there came too late, or the user is to be told.
func (c *conn) mayRead() error {
	c.overdue = monotime.Now() >= c.accepted.Add(c.rules.timeout)
	if c.overdue || c.aim == forRead && c.phase.Load() == timed {
		return c.mayWait()
	}
	return nil
}

// mayWait implements waiter. It makes the header's timeout the socket's read deadline, or
// the user's deadline, if that is earlier and he reads. If only an address is asked for, the
// timeout is all that counts: an answer before it would be the peer's address, and a header
// could still follow.
func (c *conn) mayWait() error {
	if c.limited {
		return nil
	}
	c.limited = true
	if c.aim != forRead {
		return c.Conn.SetReadDeadline(c.deadline())
	}
	x := c.extra()
	x.deadlines.Lock()
	defer x.deadlines.Unlock()
	x.awaited = true
	return c.applyDeadline(x)
}

func (c *conn) applyDeadline(x *extras) error {
	t := c.deadline()
	if x.readDeadline != none {
		if user := x.readDeadline.ToTime(); user.Before(t) {
			t = user
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// unlimit undoes mayWait. What fails here fails on a closed connection only, as will what
// comes next.
func (c *conn) unlimit() {
	if !c.limited {
		return
	}
	c.limited = false
	if x := c.extras.Load(); x != nil && x.awaited { // which nobody else writes
		x.deadlines.Lock()
		x.awaited = false
		x.deadlines.Unlock()
	}
	_ = c.Conn.SetReadDeadline(time.Time{})
}

// leave moves on from pending, with the read deadline that the user wants.
func (c *conn) leave(next uint32) {
	c.unlimit()
	if c.advance(pending, next) {
		return
	}
	x := c.extra()
	x.deadlines.Lock()
	defer x.deadlines.Unlock()
	if x.readDeadline != none {
		_ = c.Conn.SetReadDeadline(x.readDeadline.ToTime())
	}
	if from := c.phase.Load(); from >= closed || !c.advance(from, next) {
		// Close left it to the goroutine that judges to count the connection.
		if next == silent {
			c.phase.Store(watching | closed)
			c.countSilent()
			return
		}
		c.phase.Store(next | closed)
		c.count()
	}
}

// deadline is when the first header must be complete.
func (c *conn) deadline() time.Time { return c.accepted.Add(c.rules.timeout).ToTime() }
