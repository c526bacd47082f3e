package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// This file reads the first header. It holds the decision table that docs/configuration.md shows.

// op is an operation of the caller that reads the header.
type op uint8

const (
	// opAddr is RemoteAddr or LocalAddr, which must return an address even if the socket fails
	// first. Then they return the peer's, and the connection is refused, because a header that
	// comes later would change the address.
	opAddr op = iota
	// opRead is Read, which ends at the caller's deadline, too.
	opRead
	// opWrite is Write or ReadFrom.
	opWrite
)

// ensureHeader reads the header in statePending, and returns at once in other states. It returns
// an error if the socket failed, or if the caller's deadline passed first. After the deadline,
// ensureHeader can be called again.
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

// readHeader locks headerMu, and reads the first header or finds that there is none. On return the
// state is no longer statePending, except after the caller's deadline.
func (c *conn) readHeader(op op) (err error) {
	c.headerMu.Lock()
	defer c.headerMu.Unlock()
	if c.state.Load() != statePending {
		return nil
	}
	// net/http asks for the address before it can recover a panic, so that a panic ends the
	// process. The socket and the source of trusted peers may be code of other modules.
	defer func() {
		if r := recover(); r != nil {
			c.refuse(record.IO, fmt.Errorf("panic: %v", r))
			err = nil
		}
	}()
	if c.info.Mode == policy.On && c.refuseUntrusted() {
		return nil
	}
	c.op = op
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

// markCounted marks the connection as counted, and reports whether the caller must count it.
func (c *conn) markCounted() bool {
	first := !c.counted
	c.counted = true
	return first
}

// countServed counts a connection that is not refused, under the header that it began with.
func (c *conn) countServed() {
	if c.markCounted() {
		c.config.Count(c.info.Mode, c.info.Header.Version(), record.AcceptedAs(&c.info.Header, c.info.Marked()))
	}
}

// countSilent counts a connection that was not refused and ended before its first byte.
func (c *conn) countSilent() {
	if c.markCounted() {
		c.config.Count(c.info.Mode, 0, record.Silent)
		c.recordRefusal(record.Silent, nil, nil)
	}
}

// refuseUntrusted refuses the connection if its peer may not send a header, and reports whether it
// did. If only the source of trusted peers can tell, refuseUntrusted asks it, and waits until the
// header's deadline. The caller holds headerMu.
func (c *conn) refuseUntrusted() bool {
	var err error
	if c.info.Trust == policy.AskSource {
		ctx, stop := context.WithDeadline(context.Background(), c.headerDeadline())
		defer stop()
		c.stopAsking.Store(&stop)
		if c.closed.Load() {
			stop()
		}
		c.info.Trust, err = c.config.Ask(ctx, c.info.Peer)
	}
	switch {
	case c.info.Trust == policy.Trusted:
		return false
	case c.closed.Load():
		c.refuseEnded(net.ErrClosed)
	case errors.Is(err, policy.ErrSourceLate):
		c.refuse(record.Timeout, err)
	default:
		c.refuse(record.Untrusted, err)
	}
	return true
}

// receiveHeader reads until it is known which state follows statePending, and returns that state.
// It returns statePending and an error if the caller's deadline passed first; then it can be called
// again. The caller holds headerMu.
func (c *conn) receiveHeader() (next uint32, err error) {
	before := len(c.buffered())
	for empty := 0; empty < maxEmptyReads; {
		err := c.receive()
		if got := c.buffered(); len(got) > before {
			before, empty = len(got), 0
			r := wire.Options{MaxSize: c.config.MaxHeaderSize, MismatchedDestination: c.config.MismatchedDestination}.Decode(got)
			if next := c.onBytes(&r); next != statePending {
				return next, nil
			}
		} else {
			empty++
		}
		if c.callersDeadline(err) {
			err = c.beforeWait() // with the header's deadline the read may succeed
		}
		if err != nil {
			return c.onReadError(err)
		}
	}
	return c.refuse(record.IO, io.ErrNoProgress), io.ErrNoProgress
}

// maxEmptyReads is how many reads of a socket in a row may return neither bytes nor an error.
const maxEmptyReads = 100

// onBytes returns the state that follows from the bytes received, or statePending if more bytes
// are needed.
func (c *conn) onBytes(r *wire.Result) (next uint32) {
	if r.Version != 0 {
		if allowed := c.config.Version; allowed != 0 && allowed != r.Version {
			return c.refuse(record.Version, fmt.Errorf("the header has version %d, but only version %d is allowed", r.Version, allowed))
		}
		if c.refuseUntrusted() {
			return stateRefused
		}
	}
	switch r.State {
	case wire.Complete:
		return c.acceptHeader(r)
	case wire.Invalid:
		return c.refuse(record.ReasonOf(r.Err), record.DetailOf(r.Err, c.buffered(), c.config.MaxHeaderSize))
	case wire.Absent:
		if c.info.Mode == policy.On {
			return c.refuse(record.Missing, nil)
		}
		return stateBuffered
	default:
		return statePending
	}
}

// onReadError returns the state that follows when the connection ends or fails, or when a deadline
// passes before the header is complete.
func (c *conn) onReadError(err error) (next uint32, _ error) {
	got := c.buffered()
	state, _ := wire.Signature(got)
	switch {
	case isEOF(err) && state == wire.Partial:
		return c.refuse(record.Malformed, errCutOff), nil
	case isEOF(err) && c.info.Mode == policy.On && len(got) > 0:
		return c.refuse(record.Missing, errCutOff), nil
	case isEOF(err) && c.info.Mode == policy.On:
		return c.refuseEnded(nil), nil
	case isEOF(err) && len(got) > 0:
		return stateBuffered, nil
	case isEOF(err):
		return stateWatching, nil
	case isTimeout(err) && !time.Now().Before(c.headerDeadline()):
		switch {
		case c.info.Mode == policy.On && len(got) == 0 && !c.overdue:
			return c.refuseEnded(nil), nil
		case c.info.Mode == policy.On || state == wire.Partial:
			return c.refuse(record.Timeout, nil), nil
		}
		// The peer's address is final from now on: a header that is completed later is refused.
		c.setBuffered(got)
		return stateWatching, nil
	case isTimeout(err) && c.op == opRead:
		return statePending, err // the caller's deadline
	default:
		// No real socket recovers from other errors. The address that is returned now is
		// final, so that a header must not be accepted later.
		return c.refuseEnded(err), err
	}
}

// callersDeadline reports whether a read failed because of the caller's deadline, by which an
// address or a write must not end. The caller holds headerMu.
func (c *conn) callersDeadline(err error) bool {
	return !c.holding && c.op != opRead && isTimeout(err)
}

// refuseEnded refuses a connection that ended before its header was complete.
func (c *conn) refuseEnded(err error) (next uint32) {
	if len(c.buffered()) == 0 {
		return c.refuse(record.Silent, err)
	}
	return c.refuse(record.IO, err)
}

var errCutOff = errors.New("cut off by the end of the connection")

// acceptHeader keeps the header if it proves what is required, and checks the bytes behind it for a
// second header.
func (c *conn) acceptHeader(r *wire.Result) (next uint32) {
	proof, err := c.authenticate(r)
	if err != nil {
		return c.refuse(record.Unauthenticated, err)
	}
	c.info.SetHeader(r.Header, r.TLVs, proof)
	if ip := c.info.Header.SourceIP(); ip != nil {
		c.client.IP = ip
		if !c.info.Marked() {
			c.client.Port = c.info.Header.SourcePort()
		}
	}
	c.buffer.start += r.Size
	rest := c.buffer.data()
	if c.config.MeasureHeaderTime {
		c.config.ObserveHeader(monotime.Now().Sub(c.acceptedAt))
	}
	accepted := record.Accepted{At: c.acceptedAt, Peer: c.info.Peer, Header: c.info.Header, Marked: c.info.Marked()}
	c.config.LogHeader(&accepted, c.Conn, c.info.Mode)
	state, _ := wire.Signature(rest)
	if state == wire.Partial {
		return c.refuse(record.Duplicate, nil)
	}
	c.config.RememberHeader(&accepted)
	switch state {
	case wire.Absent:
		c.checkPayload(rest)
		return stateBuffered
	default:
		c.setBuffered(rest)
		return stateWatching
	}
}

// checkPayload records that the first bytes behind the header are TLS on a listener for plain HTTP, or
// the reverse.
func (c *conn) checkPayload(first []byte) {
	c.config.CheckPayload(c.config.Payload, first, c.info.Peer, c.Conn, &c.info.Header)
}

// authenticate returns what a header proves, or an error if that is not what is required.
func (c *conn) authenticate(r *wire.Result) (auth.Proof, error) {
	if c.config.Require == nil {
		return auth.Proof{}, nil
	}
	listed := !auth.Claims(&r.Header) && c.config.Listed(policy.PeerIP(c.info.Peer), c.Conn.LocalAddr())
	return c.config.Require.Check(&r.Header, r.TLVs, listed, time.Now())
}

// refuse closes the connection without writing to it, counts it and logs it. err is the cause that
// is logged, or nil. The caller holds headerMu in statePending, and readMu afterwards.
func (c *conn) refuse(reason record.Outcome, err error) (next uint32) {
	c.state.Store(stateRefused)
	closeIgnoringPanic(c.Conn)
	got := c.buffered()
	// A connection that was closed in stateWatching has been counted, with another outcome.
	if c.markCounted() {
		_, version := wire.Signature(got)
		c.config.Count(c.info.Mode, version, reason)
		c.recordRefusal(reason, err, got)
	}
	c.releaseBuffer()
	return stateRefused
}

// recordRefusal remembers and logs a refusal, and what was received.
func (c *conn) recordRefusal(reason record.Outcome, err error, received []byte) {
	refusal := record.Refusal{Peer: c.info.Peer, Local: localAddrIgnoringPanic(c.Conn), Mode: c.info.Mode, Reason: reason, Err: err, SecretTLVs: c.config.Require.HasSecrets()}
	if reason == record.Duplicate {
		refusal.First = c.info.Header.Source()
	}
	c.config.Refuse(refusal, received)
}

// localAddrIgnoringPanic returns the local address of a connection, or nil if the connection
// panics, as it may have done before.
func localAddrIgnoringPanic(c net.Conn) (local net.Addr) {
	defer func() { _ = recover() }()
	return c.LocalAddr()
}

// closeIgnoringPanic closes a connection, which may panic.
func closeIgnoringPanic(c net.Conn) {
	defer func() { _ = recover() }()
	_ = c.Close()
}

// isEOF reports whether the peer has ended the connection.
func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// isTimeout reports whether err means that a deadline has passed. ETIMEDOUT does not: it means that
// the peer no longer answers, and ends the connection.
func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
