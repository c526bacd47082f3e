package proxyprotocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// This file reads the first header. It holds the decision table that README.md shows.

// op is an operation of the caller that reads the header.
type op uint8

const (
	// opAddr: RemoteAddr or LocalAddr, which must return an address even if the socket fails
	// first. Then it is the peer's, and the connection is refused, because a header could
	// change it.
	opAddr op = iota
	// opRead: Read, which ends at the caller's deadline, too.
	opRead
	// opWrite: Write or ReadFrom.
	opWrite
)

// ensureHeader reads the header in statePending. It returns an error if the socket failed, or
// if the caller's deadline passed first; then it can be called again.
func (c *conn) ensureHeader(op op) error {
	if c.state.Load() != statePending {
		return nil
	}
	err := c.readHeader(op)
	if c.closed.Load() {
		c.countClosed()
	}
	return err
}

// readHeader reads the first header, or finds that there is none, and leaves statePending,
// unless another goroutine has.
func (c *conn) readHeader(op op) (err error) {
	c.headerMu.Lock()
	defer c.headerMu.Unlock()
	if c.state.Load() != statePending {
		return nil
	}
	// net/http asks for the address before it can recover a panic, and a panic there ends the
	// process. The listener below and the source of ranges are code of other modules.
	defer func() {
		if r := recover(); r != nil {
			c.refuse(reasonIO, fmt.Errorf("panic: %v", r))
			err = nil
		}
	}()
	if c.mode == On && c.refuseUntrusted() {
		return nil
	}
	if err := c.holdDeadline(op); err != nil {
		c.refuseEnded(err)
		return err
	}
	next, err := c.receiveHeader()
	if next == stateRefused {
		return err
	}
	c.restoreDeadline()
	if next == stateBuffered {
		c.countServed()
	}
	c.state.Store(next)
	return err
}

// countServed counts a connection that is not refused.
func (c *conn) countServed() {
	if c.counted.CompareAndSwap(false, true) {
		c.rules.count(c.mode, c.header.Version(), acceptedAs(&c.header, c.Marked()))
	}
}

// countSilent counts a connection that is not refused and ended before its first byte.
func (c *conn) countSilent() {
	if c.counted.CompareAndSwap(false, true) {
		c.rules.count(c.mode, 0, reasonSilent)
		c.rules.refuse(c.peer, localAddrIgnoringPanic(c.Conn), c.mode, reasonSilent, nil, nil)
	}
}

// refuseUntrusted refuses the connection if its peer may not send a header, and reports
// whether it did. It asks the source if that is not known yet, no longer than a header may
// take.
func (c *conn) refuseUntrusted() bool {
	var err error
	if c.trust == unasked {
		ctx, stop := context.WithDeadline(context.Background(), c.headerDeadline())
		defer stop()
		c.stopAsking.Store(&stop)
		if c.closed.Load() {
			stop()
		}
		c.trust, err = c.rules.ask(ctx, c.peer)
		if c.trust == trusted {
			c.rules.sawPeer(peerIP(c.peer))
		}
	}
	switch {
	case c.trust == trusted:
		return false
	case c.closed.Load():
		c.refuseEnded(net.ErrClosed)
	case errors.Is(err, errSourceLate):
		c.refuse(reasonTimeout, err)
	default:
		c.refuse(reasonUntrusted, err)
	}
	return true
}

// receiveHeader reads until it is known which state comes after statePending. It returns
// statePending with an error after which it can be called again.
func (c *conn) receiveHeader() (next uint32, err error) {
	before := len(c.buffered())
	for empty := 0; empty < maxEmptyReads; {
		err := c.receive()
		if got := c.buffered(); len(got) > before {
			before, empty = len(got), 0
			r := wire.Options{MaxSize: c.rules.maxHeaderSize, MismatchedDestination: c.rules.mismatchedDestination}.Decode(got)
			if next := c.onBytes(&r); next != statePending {
				return next, nil
			}
		} else {
			empty++
		}
		if err != nil {
			return c.onReadError(err)
		}
	}
	return c.refuse(reasonIO, io.ErrNoProgress), io.ErrNoProgress
}

// maxEmptyReads is how often a socket may return neither bytes nor an error in a row.
const maxEmptyReads = 100

// onBytes returns the state that follows from the bytes received, or statePending if more of
// them are needed.
func (c *conn) onBytes(r *wire.Result) (next uint32) {
	if r.Version != 0 {
		if allowed := c.rules.version; allowed != 0 && allowed != r.Version {
			return c.refuse(reasonVersion, fmt.Errorf("the header has version %d, but only version %d is allowed", r.Version, allowed))
		}
		if c.refuseUntrusted() {
			return stateRefused
		}
	}
	switch r.State {
	case wire.Complete:
		return c.acceptHeader(r)
	case wire.Invalid:
		return c.refuse(reasonOf(r.Err), r.Err)
	case wire.Absent:
		if c.mode == On {
			return c.refuse(reasonMissing, nil)
		}
		return stateBuffered
	default:
		return statePending
	}
}

// onReadError returns the state that follows when the socket ends, fails, or has sent too few
// bytes before a deadline.
func (c *conn) onReadError(err error) (next uint32, _ error) {
	got := c.buffered()
	state, _ := wire.Signature(got)
	switch {
	case isEOF(err) && state == wire.Partial:
		return c.refuse(reasonMalformed, errCutOff), nil
	case isEOF(err) && c.mode == On && len(got) > 0:
		return c.refuse(reasonMissing, errCutOff), nil
	case isEOF(err) && c.mode == On:
		return c.refuseEnded(nil), nil
	case isEOF(err) && len(got) > 0:
		return stateBuffered, nil
	case isEOF(err):
		return stateWatching, nil
	case isTimeout(err) && !time.Now().Before(c.headerDeadline()):
		switch {
		case c.mode == On && len(got) == 0 && !c.overdue:
			return c.refuseEnded(nil), nil
		case c.mode == On || state == wire.Partial:
			return c.refuse(reasonTimeout, nil), nil
		}
		// The peer's address is final, so a header that is completed later is too late.
		c.setBuffered(got)
		return stateWatching, nil
	case isTimeout(err) && c.op == opRead:
		return statePending, err // the caller's deadline
	default:
		// No real socket recovers. An address that is returned now is final, and a header
		// must not change it later.
		return c.refuseEnded(err), err
	}
}

// refuseEnded refuses a connection that ended before its header was complete.
func (c *conn) refuseEnded(err error) (next uint32) {
	if len(c.buffered()) == 0 {
		return c.refuse(reasonSilent, err)
	}
	return c.refuse(reasonIO, err)
}

var errCutOff = errors.New("cut off by the end of the connection")

// acceptHeader keeps the header, and checks the bytes that came with it for a second one.
func (c *conn) acceptHeader(r *wire.Result) (next uint32) {
	c.setHeader(r.Header, r.TLVs)
	if ip := c.header.SourceIP(); ip != nil {
		c.client.IP = ip
		if !c.Marked() {
			c.client.Port = c.header.SourcePort()
		}
	}
	c.buffer.start += r.Size
	rest := c.buffer.data()
	if c.rules.timed {
		c.rules.observeHeader(monotime.Now().Sub(c.acceptedAt))
	}
	c.rules.accepted(c.peer, c.Conn, c.mode, &c.header, c.Marked())
	switch state, _ := wire.Signature(rest); state {
	case wire.Partial:
		return c.refuse(reasonDuplicate, nil)
	case wire.Absent:
		return stateBuffered
	default:
		c.setBuffered(rest)
		return stateWatching
	}
}

// refuse closes the connection without writing a byte to it. err is what the log says more.
// The caller holds headerMu in statePending, and readMu afterwards.
func (c *conn) refuse(reason outcome, err error) (next uint32) {
	c.state.Store(stateRefused)
	closeIgnoringPanic(c.Conn)
	got := c.buffered()
	// A connection that was closed while watching has been counted, with another outcome.
	if c.counted.CompareAndSwap(false, true) {
		_, version := wire.Signature(got)
		c.rules.count(c.mode, version, reason)
		c.rules.refuse(c.peer, localAddrIgnoringPanic(c.Conn), c.mode, reason, got, err)
	}
	c.releaseBuffer()
	return stateRefused
}

// localAddrIgnoringPanic and closeIgnoringPanic are for connections that may have panicked
// before, and may panic again.

func localAddrIgnoringPanic(c net.Conn) (local net.Addr) {
	defer func() { _ = recover() }()
	return c.LocalAddr()
}

func closeIgnoringPanic(c net.Conn) {
	defer func() { _ = recover() }()
	_ = c.Close()
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// isTimeout reports whether a deadline has passed. ETIMEDOUT is something else: the peer no
// longer answers, and the connection is at its end.
func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
