package proxyprotocol

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// conn is a connection that begins with a header, or must not. The header is read in the
// goroutine that first asks for an address, reads or writes; under Off, only reads check for
// one.
//
// It has no method ConnectionState: net/http would take it for a TLS connection.
type conn struct {
	// Conn is the accepted connection. Every method through which a caller could skip the
	// header is overridden below.
	net.Conn

	rules      *rules
	acceptedAt monotime.Time

	// state says how far the beginning of the connection has been read. It is written by the
	// holder of headerMu in statePending, and by the holder of readMu afterwards. The facts
	// and the client's address are written in statePending and only read afterwards.
	state atomic.Uint32
	// closed says that the socket is closed.
	closed atomic.Bool
	// counted says that the connection has been counted. The goroutine that sets it counts,
	// so that each connection is counted once.
	counted atomic.Bool

	// The holder of headerMu writes these with deadlineMu held.
	op            op   // the operation that reads the header
	readingHeader bool // op is in progress
	deadlineSet   bool // the socket's read deadline is that of op
	// overdue says that the timeout was over before the first read; guarded by headerMu.
	overdue bool

	facts
	// client is the client's address, if the header named one. Its IP is a slice of header,
	// so that setting it allocates nothing.
	client net.TCPAddr

	// headerMu is held while the header is read (statePending), readMu while a read is checked
	// for a second header (stateWatching) or copies from the buffer (stateBuffered). They
	// guard buffer in these states.
	headerMu, readMu sync.Mutex
	buffer           *buffer

	// deadlineMu guards the socket's read deadline in statePending.
	deadlineMu sync.Mutex
	// readDeadline is the caller's read deadline in statePending, or noDeadline; guarded by
	// deadlineMu.
	readDeadline monotime.Time

	// cache has the lookup of the connection's requests, once there is one.
	cache lookupCache
	// stopAsking ends a request to the source of trusted peers; nil if there was none.
	stopAsking atomic.Pointer[context.CancelFunc]
}

// The states of a connection, which only go forward:
//
//	pending ──▶ watching ──▶ buffered ──▶ open
//
//	pending -> watching:  the header was read, or none is needed; a header could still come
//	pending -> buffered:  the same, and the bytes that came with it begin no header
//	watching -> buffered: bytes came that begin no header, more than the Read had room for
//	watching -> open:     bytes came that begin no header, and the Read returned them all
//	buffered -> open:     a Read returned the last buffered byte
//	pending, watching -> refused: the connection broke a rule, or failed
//
// Under Off a connection begins in stateWatching.
const (
	// statePending: it is not known yet whether there is a header.
	statePending uint32 = iota
	// stateWatching: the addresses are final. Bytes are held back as long as they may be the
	// signature of a header, which is refused.
	stateWatching
	// stateBuffered: no header can follow. Read returns buffered bytes first.
	stateBuffered
	// stateOpen: reads go straight to the socket.
	stateOpen
	// stateRefused: the connection is closed, and reads and writes fail.
	stateRefused
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
	if c.served() {
		if to := c.destination(); to.IsValid() {
			return to.String()
		}
	}
	return addrString(c.Conn.LocalAddr())
}

// fromLocalAddr returns the connection whose LocalAddr returned addr, which may be anything,
// and whether there is one. The connection is nil while its beginning has yet to be judged:
// nothing is known of it then.
func fromLocalAddr(addr any) (c connection, ok bool) {
	local, ok := addr.(*localAddr)
	if !ok || (*conn)(local).state.Load() == statePending {
		return nil, ok
	}
	return (*conn)(local), true
}

// lookups implements connection.
func (c *conn) lookups() *lookupCache { return &c.cache }

func newConn(c net.Conn, rules *rules, mode Mode, trust trust, acceptedAt monotime.Time) *conn {
	wrapped := &conn{Conn: c, rules: rules, acceptedAt: acceptedAt}
	wrapped.mode, wrapped.trust, wrapped.peer = mode, trust, peerAddr(c.RemoteAddr())
	if mode == Off {
		wrapped.state.Store(stateWatching)
	}
	return wrapped
}

// served reports whether the header has been read, or is not needed, and the connection was
// not refused.
func (c *conn) served() bool {
	state := c.state.Load()
	return state != statePending && state != stateRefused
}

// RemoteAddr returns the client's address, with port 0 if it is marked, or the peer's
// if no header named a client or the connection was refused.
func (c *conn) RemoteAddr() net.Addr {
	_ = c.ensureHeader(opAddr)
	if !c.served() || c.client.IP == nil {
		return c.peer
	}
	return &c.client
}

// LocalAddr returns the header's destination, or the socket's own address if there is
// none, it is unspecified, or the connection is marked: it chooses TLS policies and
// certificates.
func (c *conn) LocalAddr() net.Addr {
	_ = c.ensureHeader(opAddr)
	return (*localAddr)(c)
}

// Read reads what follows the header.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.ensureHeader(opRead); err != nil {
		return 0, err
	}
	if c.state.Load() != stateOpen {
		if n, done, err := c.readGuarded(p); done {
			return n, err
		}
	}
	return c.Conn.Read(p)
}

// Write writes to the socket once the header has been read.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.checkWritable(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// ReadFrom implements io.ReaderFrom: the socket's own may use sendfile.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if err := c.checkWritable(); err != nil {
		return 0, err
	}
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

func (c *conn) checkWritable() error {
	_ = c.ensureHeader(opWrite) // an error has refused the connection
	if c.state.Load() == stateRefused {
		return refusedError("write", c.peer)
	}
	return nil
}

// Close closes the connection at once, and with it ends a read of the header.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closed.Store(true)
	if stop := c.stopAsking.Load(); stop != nil {
		(*stop)()
	}
	c.countClosed()
	return err
}

var errClosedBefore = errors.New("closed before its header was complete")

// countClosed counts a closed connection that has not been counted. It does nothing while a
// goroutine reads the beginning of the connection: that goroutine calls countClosed when it
// has given up its mutex.
func (c *conn) countClosed() {
	if c.state.Load() == statePending {
		if !c.headerMu.TryLock() {
			return
		}
		if c.state.Load() == statePending {
			c.refuseEnded(errClosedBefore)
		}
		c.headerMu.Unlock()
	}
	// refuse counts a refused connection, and does not hold readMu if it was pending.
	if c.counted.Load() || c.state.Load() == stateRefused || !c.readMu.TryLock() {
		return
	}
	defer c.readMu.Unlock()
	if c.present() || len(c.buffered()) > 0 {
		c.countServed()
		return
	}
	c.countSilent()
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

// NetConn returns the accepted connection. Reading from it skips the header.
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

// Interface guards
var (
	_ connection    = (*conn)(nil)
	_ net.Conn      = (*conn)(nil)
	_ io.ReaderFrom = (*conn)(nil)
	_ syscall.Conn  = (*conn)(nil)
)
