package proxyprotocol

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// This file judges the beginning of a connection: it holds the decision table that
// README.md shows.

// settle judges the beginning, if nobody has. It returns an error if the socket failed or
// the user's deadline passed first; then it can be tried again. reading says whether that
// deadline counts.
func (c *conn) settle(reading bool) error {
	if c.phase.Load() != pending {
		return nil
	}
	c.judging.Lock()
	defer c.judging.Unlock()
	if c.phase.Load() != pending {
		return nil
	}
	return c.judge(reading)
}

// settleAddrs makes the addresses final, unless the socket fails before. Then the peer's
// address is given out, and a header is too late.
func (c *conn) settleAddrs() {
	if c.phase.Load() != pending {
		return
	}
	c.judging.Lock()
	defer c.judging.Unlock()
	if c.phase.Load() == pending && c.judge(false) != nil {
		c.answered = true
	}
}

// readBeginning reads before it is known that no header can come, and hands on what was
// received until then.
func (c *conn) readBeginning(p []byte) (n int, err error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if err := c.settle(true); err != nil {
		return 0, err
	}
	switch c.phase.Load() {
	case watching:
		return c.watch(p)
	case draining:
		return c.drain(p), nil
	case refused:
		return 0, refusedError("read", c.peer)
	default:
		return c.Conn.Read(p)
	}
}

// judge reads the first header, or finds that there is none, and moves on from pending.
func (c *conn) judge(reading bool) (err error) {
	// net/http asks for the address before it can recover a panic, and a panic there
	// ends the process. The listener below and the source of ranges are anyone's code.
	defer func() {
		if r := recover(); r != nil {
			c.refuse(reasonIO, fmt.Errorf("panic: %v", r))
			err = nil
		}
	}()
	if c.mode == On && !c.mayAnnounce() {
		c.refuse(reasonUntrusted, nil)
		return nil
	}
	if err := c.limit(reading); err != nil {
		return err
	}
	next, err := c.readHeader()
	c.unlimit()
	c.enter(next)
	return err
}

// enter moves on to a phase. Once no header can come any more, what became of the
// connection is known.
func (c *conn) enter(phase uint32) {
	if phase == draining || phase == open {
		c.count(c.header.Version(), c.outcome())
	}
	c.phase.Store(phase)
}

// count counts the connection, unless it has been counted.
func (c *conn) count(version uint8, o outcome) {
	if c.counted.CompareAndSwap(false, true) {
		c.rules.stats.count(c.mode, version, o)
	}
}

// mayAnnounce reports whether the peer may send a header, and asks the source if that
// is not known yet.
func (c *conn) mayAnnounce() bool {
	if c.trust == unasked {
		c.trust = c.rules.ask(c.peer)
	}
	return c.trust == trusted
}

// readHeader reads until it is known which phase comes after pending.
func (c *conn) readHeader() (next uint32, err error) {
	for empty := 0; empty < maxEmptyReads; {
		before := len(c.received)
		err := c.receive()
		if len(c.received) > before {
			empty = 0
			r := wire.Decode(c.received, c.rules.maxHeaderSize)
			if next := c.decide(&r); next != pending {
				return next, nil
			}
		} else {
			empty++
		}
		if err != nil {
			return c.interrupted(err)
		}
	}
	return pending, io.ErrNoProgress
}

// maxEmptyReads is how often a socket may return neither bytes nor an error in a row.
const maxEmptyReads = 100

// decide answers the phase that follows from what was received, or pending if more is
// needed.
func (c *conn) decide(r *wire.Result) (next uint32) {
	c.version = r.Version
	if r.Version != 0 {
		if c.answered {
			return c.refuse(reasonIO, errAnswered)
		}
		if allowed := c.rules.version; allowed != 0 && allowed != r.Version {
			return c.refuse(reasonVersion, fmt.Errorf("version %d, and only %d is allowed", r.Version, allowed))
		}
		if !c.mayAnnounce() {
			return c.refuse(reasonUntrusted, nil)
		}
	}
	switch r.State {
	case wire.Complete:
		return c.accept(r)
	case wire.Invalid:
		return c.refuse(reasonOf(r.Err), r.Err)
	case wire.Absent:
		if c.mode == On {
			return c.refuse(reasonMissing, nil)
		}
		return draining
	default:
		return pending
	}
}

var errAnswered = errors.New("the connection failed for a while, and its address was asked for before its header came")

// interrupted answers the phase that follows when the socket ends, fails, or has said
// too little until a deadline.
func (c *conn) interrupted(err error) (next uint32, _ error) {
	state, _ := wire.Signature(c.received)
	switch {
	case isEOF(err) && state == wire.Partial:
		return c.refuse(reasonMalformed, errCutOff), nil
	case isEOF(err) && c.mode == On && len(c.received) > 0:
		return c.refuse(reasonMissing, errCutOff), nil
	case isEOF(err) && c.mode == On:
		return c.refuse(reasonIO, err), nil
	case isEOF(err) && len(c.received) > 0:
		return draining, nil
	case isEOF(err):
		return open, nil
	case isTimeout(err) && !time.Now().Before(c.deadline()):
		if c.mode == On || state == wire.Partial {
			return c.refuse(reasonTimeout, nil), nil
		}
		// The peer's address is final, so a header that is completed later is too late.
		c.hold(c.received)
		c.watchFor = reasonTimeout
		return watching, nil
	default:
		return pending, err
	}
}

var errCutOff = errors.New("cut off by the end of the connection")

// accept takes over what the header says and looks at what came with it.
func (c *conn) accept(r *wire.Result) (next uint32) {
	c.header = r.Header
	if len(r.TLVs) > 0 {
		c.tlvs = slices.Clone(r.TLVs) // the buffer goes back to the pool
	}
	if r.Header.HasAddrs() {
		c.marked = c.mode == Unspecified
		c.client.set(r.Header.Source())
		if c.marked {
			c.client.Port = 0
		}
	}
	c.received = c.received[r.Size:]
	c.watchFor = reasonDuplicate
	now := time.Since(start)
	c.rules.stats.headerSeconds.Observe((now - c.accepted).Seconds())
	c.rules.log.accepted(c, now)
	switch state, version := wire.Signature(c.received); state {
	case wire.Partial:
		return c.refuseHeader(version)
	case wire.Absent:
		return draining
	default:
		c.hold(c.received)
		return watching
	}
}

// watch reads while a header would be refused. What may be the beginning of a signature
// is held back; the whole of one is enough to refuse.
func (c *conn) watch(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.refuse(reasonIO, fmt.Errorf("panic: %v", r))
			n, err = 0, refusedError("read", c.peer)
		}
	}()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		into := p
		if len(into) <= len(c.received) {
			into = c.held[:]
		}
		held := copy(into, c.received)
		n, err := c.Conn.Read(into[held:])
		got := into[:held+n]
		switch state, version := wire.Signature(got); {
		case state == wire.Partial:
			c.received = got
			c.refuseHeader(version)
			return 0, refusedError("read", c.peer)
		case state == wire.Absent, isEOF(err) && len(got) > 0:
			c.received = got
			c.enter(draining)
			return c.drain(p), nil // an error will be back with the next read
		default:
			c.hold(got)
			if n == 0 || err != nil {
				return 0, err
			}
		}
	}
}

// drain hands on what was received.
func (c *conn) drain(p []byte) int {
	n := copy(p, c.received)
	c.received = c.received[n:]
	if len(c.received) == 0 {
		c.release()
		c.enter(open)
	}
	return n
}

// hold keeps what may be the beginning of a signature, and no buffer.
func (c *conn) hold(b []byte) {
	n := copy(c.held[:], b)
	c.release()
	c.received = c.held[:n]
}

// refuseHeader refuses a header that came while watching.
func (c *conn) refuseHeader(version uint8) (next uint32) {
	c.version = version
	return c.refuse(c.watchFor, nil)
}

// refuse closes the connection without a word to it. err tells the log more.
func (c *conn) refuse(why outcome, err error) (next uint32) {
	c.phase.Store(refused)
	closeSafely(c.Conn)
	c.count(c.version, why)
	c.rules.refused(c.peer, c.Conn.LocalAddr(), c.mode, why, c.received, err)
	c.release()
	return refused
}

// closeSafely closes a connection that may have panicked before, and may panic again.
func closeSafely(c net.Conn) {
	defer func() { _ = recover() }()
	_ = c.Close()
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}
