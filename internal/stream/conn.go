package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// conn is an accepted connection that must, may or must not begin with a header. The goroutine
// that first asks for an address, reads or writes reads the header; under Off, only reads check
// for one. All methods are safe for concurrent use.
//
// conn must not have a method ConnectionState: net/http would take it for a TLS connection.
type conn struct {
	// Conn is the accepted connection. Every method through which a caller could skip the
	// header is overridden below.
	net.Conn

	config     *Config
	acceptedAt monotime.Time

	// state is how far the beginning of the connection has been read. It is written only by the
	// holder of headerMu in statePending, and only by the holder of readMu afterwards.
	state atomic.Uint32
	// closed says that Close has closed the socket.
	closed atomic.Bool
	// op is the operation that reads the header. It is guarded by headerMu, and does not change
	// while holding is set.
	op op
	// holding says that the socket has the deadline of op, not the caller's. It is written with
	// headerMu and deadlineMu held, so that either mutex guards reads.
	holding bool
	// overdue says that the timeout was over before the first read; guarded by headerMu.
	overdue bool
	// counted says that the connection has been counted. It is guarded as buffer is.
	counted bool

	// info is what is known of the connection. info and client are written in statePending, by
	// the holder of headerMu, and only read afterwards.
	info conninfo.Info
	// client is the client's address, if the header named one. Its IP is a slice of
	// info.Header, so that setting it allocates nothing.
	client net.TCPAddr

	// headerMu is held while the header is read (statePending), readMu while a read is checked
	// for a second header (stateWatching) or copies from the buffer (stateBuffered). A
	// goroutine that needs both deadlineMu and one of these must lock deadlineMu last.
	headerMu, readMu sync.Mutex
	// buffer has the bytes that Read has yet to return, or nil if there are none. It is guarded
	// by headerMu until the state is no longer statePending, and by readMu afterwards. A
	// refusal keeps the mutex that it began with.
	buffer *buffer

	// deadlineMu guards the socket's read deadline in statePending.
	deadlineMu sync.Mutex
	// readDeadline is the caller's read deadline in statePending, or noDeadline; guarded by
	// deadlineMu.
	readDeadline monotime.Time

	// cache has the placeholders' lookup that the connection's requests share.
	cache conninfo.LookupCache
	// stopAsking cancels a call of the source of trusted peers; nil if there was none.
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
//	pending, watching -> refused: the connection broke the policy, or failed
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

// localAddr is the local address of a connection. Listener wrappers such as TLS pass it through,
// and net/http keeps it in the context of each request. So it leads from a request to its
// connection.
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
		if to := c.info.Destination(); to.IsValid() {
			return to.String()
		}
	}
	return conninfo.AddrString(c.Conn.LocalAddr())
}

// FromLocalAddr returns the connection whose LocalAddr method returned addr, and reports whether
// addr, of whatever type, came from one. The connection is nil as long as its header has not been
// read, because nothing is known of it then.
func FromLocalAddr(addr any) (c conninfo.Conn, ok bool) {
	local, ok := addr.(*localAddr)
	if !ok || (*conn)(local).state.Load() == statePending {
		return nil, ok
	}
	return (*conn)(local), true
}

// Info implements conninfo.Conn.
func (c *conn) Info() *conninfo.Info { return &c.info }

// Lookups implements conninfo.Conn.
func (c *conn) Lookups() *conninfo.LookupCache { return &c.cache }

// newConn wraps a connection that was accepted at acceptedAt, and whose peer has this mode and trust.
func newConn(c net.Conn, config *Config, mode policy.Mode, trust policy.Trust, acceptedAt monotime.Time) *conn {
	wrapped := &conn{Conn: c, config: config, acceptedAt: acceptedAt}
	wrapped.info.Mode, wrapped.info.Trust, wrapped.info.Peer = mode, trust, policy.PeerAddr(c.RemoteAddr())
	if mode == policy.Off {
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

// RemoteAddr returns the client's address, with port 0 if the connection is marked. It returns the
// peer's address if no header named a client, or if the connection was refused.
func (c *conn) RemoteAddr() net.Addr {
	_ = c.ensureHeader(opAddr)
	if !c.served() || c.client.IP == nil {
		return c.info.Peer
	}
	return &c.client
}

// LocalAddr returns the header's destination. It returns the socket's own address if there is no
// destination, if the destination is unspecified, or if the connection is marked, because Caddy
// selects TLS policies and certificates by this address.
func (c *conn) LocalAddr() net.Addr {
	_ = c.ensureHeader(opAddr)
	return (*localAddr)(c)
}

// Read reads the bytes that follow the header.
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

// ReadFrom implements io.ReaderFrom. It calls the ReadFrom method of the socket, which may use
// sendfile.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if err := c.checkWritable(); err != nil {
		return 0, err
	}
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

// checkWritable reads the header, and returns an error if the connection is refused.
func (c *conn) checkWritable() error {
	_ = c.ensureHeader(opWrite) // an error has refused the connection
	if c.state.Load() == stateRefused {
		return record.RefusedError("write", c.info.Peer)
	}
	return nil
}

// Close closes the connection at once. A read of the header that is in progress fails.
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

// countClosed counts a closed connection that has not been counted. It does nothing while another
// goroutine holds headerMu or readMu: that goroutine must call countClosed after unlocking, if
// closed is set.
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
	// A refused connection is counted by refuse, which may be in progress without readMu.
	if c.state.Load() == stateRefused || !c.readMu.TryLock() {
		return
	}
	defer c.readMu.Unlock()
	if c.info.HasHeader() || len(c.buffered()) > 0 {
		c.countServed()
		return
	}
	c.countSilent()
}

// CloseRead shuts down the reading half of the socket, if the socket supports that.
func (c *conn) CloseRead() error {
	if half, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return half.CloseRead()
	}
	return errors.ErrUnsupported
}

// CloseWrite shuts down the writing half of the socket, if the socket supports that.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the accepted connection. Reads from that connection bypass the check for a header.
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
	// Hide the method PollFD: with it, os.File would use splice and bypass Read and Write.
	return struct{ syscall.RawConn }{raw}, nil
}

// Interface guards
var (
	_ conninfo.Conn = (*conn)(nil)
	_ net.Conn      = (*conn)(nil)
	_ io.ReaderFrom = (*conn)(nil)
	_ syscall.Conn  = (*conn)(nil)
)
