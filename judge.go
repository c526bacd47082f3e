package proxyprotocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// This file judges the beginning of a connection: it holds the decision table that
// README.md shows.

// purpose is what the beginning is judged for.
type purpose uint8

const (
	// An address is final once it is given out. If the socket fails before that is known,
	// the peer's is given out, and a header is too late.
	forAddr purpose = iota
	// A read ends at the user's deadline too.
	forRead
	forWrite
)

// settle judges the beginning, if nobody has. It returns an error if the socket failed, or if
// the user's deadline passed first; then it can be tried again.
func (c *conn) settle(aim purpose) error {
	if !c.isPending() {
		return nil
	}
	err := c.judge(aim)
	if phase := c.phase.Load(); phase == pending|closed || phase == timed|closed {
		c.giveUp() // Close has come meanwhile, and found it being judged
	}
	return err
}

// readBeginning reads before it is known that no header can come, and hands on what was
// received until then.
func (c *conn) readBeginning(p []byte) (n int, err error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if err := c.settle(forRead); err != nil {
		return 0, err
	}
	switch c.phase.Load() &^ closed {
	case silent, watching:
		return c.watch(p)
	case draining, handing:
		return c.drain(p)
	case refused:
		return 0, refusedError("read", c.peer)
	default:
		return c.Conn.Read(p)
	}
}

// judge reads the first header, or finds that there is none, and moves on from pending,
// unless somebody did so before.
func (c *conn) judge(aim purpose) (err error) {
	c.judging.Lock()
	defer c.judging.Unlock()
	if !c.isPending() {
		return nil
	}
	// net/http asks for the address before it can recover a panic, and a panic there
	// ends the process. The listener below and the source of ranges are anyone's code.
	defer func() {
		if r := recover(); r != nil {
			c.refuse(reasonIO, fmt.Errorf("panic: %v", r))
			err = nil
		}
	}()
	if c.mode == On && c.refuseUntrusted() {
		return nil
	}
	c.aim = aim
	next, err := c.readHeader()
	switch next {
	case pending:
		c.unlimit()
		return err
	case refused:
		return err
	default:
		c.leave(next)
		return nil
	}
}

// advance moves on from a phase, and counts the connection once no header can come any
// more. It fails if that is not the phase: the connection may be closed.
func (c *conn) advance(from, to uint32) bool {
	if !c.phase.CompareAndSwap(from, to) {
		return false
	}
	if to == draining || to == open {
		c.count()
	}
	return true
}

// countSilent counts a connection that was not refused and ended before its first byte.
func (c *conn) countSilent() {
	c.rules.stats.count(c.mode, 0, reasonSilent)
	c.rules.refuse(c.peer, localOf(c.Conn), c.mode, reasonSilent, nil, nil)
}

// count counts a connection that is not refused.
func (c *conn) count() {
	c.rules.count(c.mode, c.header.Version(), acceptedAs(&c.header, c.Marked()))
}

// refuseUntrusted refuses the connection if its peer may not send a header, and reports
// whether it did. It asks the source if that is not known yet, no longer than a header may
// take.
func (c *conn) refuseUntrusted() bool {
	var err error
	if c.trust == unasked {
		ctx, stop := context.WithDeadline(context.Background(), c.deadline())
		defer stop()
		c.extra().stopAsking.Store(&stop)
		if c.phase.Load() >= closed {
			stop()
		}
		c.trust, err = c.rules.ask(ctx, c.peer)
		if c.trust == trusted {
			c.rules.stats.sawPeer(peerIP(c.peer))
		}
	}
	switch {
	case c.trust == trusted:
		return false
	case c.phase.Load() >= closed:
		c.refuseEnded(net.ErrClosed)
	case errors.Is(err, errSourceLate):
		c.refuse(reasonTimeout, err)
	default:
		c.refuse(reasonUntrusted, err)
	}
	return true
}

// readHeader reads until it is known which phase comes after pending.
func (c *conn) readHeader() (next uint32, err error) {
	before := len(c.received())
	for empty := 0; empty < maxEmptyReads; {
		err := c.receive()
		if got := c.received(); len(got) > before {
			before, empty = len(got), 0
			r := wire.Options{MaxSize: c.rules.maxHeaderSize, MismatchedDestination: c.rules.mismatchedDestination}.Decode(got)
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
	return c.refuse(reasonIO, io.ErrNoProgress), io.ErrNoProgress
}

// maxEmptyReads is how often a socket may return neither bytes nor an error in a row.
const maxEmptyReads = 100

// decide answers the phase that follows from what was received, or pending if more is
// needed.
func (c *conn) decide(r *wire.Result) (next uint32) {
	if r.Version != 0 {
		if allowed := c.rules.version; allowed != 0 && allowed != r.Version {
			return c.refuse(reasonVersion, fmt.Errorf("version %d, and only %d is allowed", r.Version, allowed))
		}
		if c.refuseUntrusted() {
			return refused
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

// interrupted answers the phase that follows when the socket ends, fails, or has said
// too little until a deadline.
func (c *conn) interrupted(err error) (next uint32, _ error) {
	got := c.received()
	state, _ := wire.Signature(got)
	switch {
	case isEOF(err) && state == wire.Partial:
		return c.refuse(reasonMalformed, errCutOff), nil
	case isEOF(err) && c.mode == On && len(got) > 0:
		return c.refuse(reasonMissing, errCutOff), nil
	case isEOF(err) && c.mode == On:
		return c.refuseEnded(nil), nil
	case isEOF(err) && len(got) > 0:
		return draining, nil
	case isEOF(err):
		return silent, nil
	case isTimeout(err) && !time.Now().Before(c.deadline()):
		switch {
		case c.mode == On && len(got) == 0 && !c.overdue:
			return c.refuseEnded(nil), nil
		case c.mode == On || state == wire.Partial:
			return c.refuse(reasonTimeout, nil), nil
		case len(got) == 0:
			return silent, nil
		}
		// The peer's address is final, so a header that is completed later is too late.
		c.keep(got)
		return watching, nil
	case isTimeout(err) && c.aim == forRead:
		return pending, err // the user's deadline
	default:
		// No real socket recovers. An address that is given out now is final, and a header
		// must not change it later.
		return c.refuseEnded(err), err
	}
}

// refuseEnded refuses a connection that ended before its header was complete.
func (c *conn) refuseEnded(err error) (next uint32) {
	if len(c.received()) == 0 {
		return c.refuse(reasonSilent, err)
	}
	return c.refuse(reasonIO, err)
}

var errCutOff = errors.New("cut off by the end of the connection")

// accept takes over what the header says and looks at what came with it.
func (c *conn) accept(r *wire.Result) (next uint32) {
	c.setHeader(r.Header, r.TLVs)
	if ip := c.header.SourceIP(); ip != nil {
		c.client.IP = ip
		if !c.Marked() {
			c.client.Port = c.header.SourcePort()
		}
	}
	c.inbox.start += r.Size
	rest := c.inbox.data()
	if c.rules.timed {
		c.rules.stats.headers.observe(monotime.Now().Sub(c.accepted))
	}
	c.rules.accepted(c.peer, c.Conn, c.mode, &c.header, c.Marked())
	switch state, _ := wire.Signature(rest); state {
	case wire.Partial:
		return c.refuse(reasonDuplicate, nil)
	case wire.Absent:
		return draining
	default:
		c.keep(rest)
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
		into, kept := p, c.received()
		if len(into) <= len(kept) {
			into = make([]byte, len(kept)+1)
		}
		copy(into, kept)
		free := into[len(kept):len(into):len(into)]
		n, err := c.Conn.Read(free)
		got := into[:len(kept)+len(free[:n])] // where an impossible n panics before it does harm
		switch state, _ := wire.Signature(got); {
		case state == wire.Partial:
			c.keep(got)
			c.refuse(c.reasonToWatch(), nil)
			return 0, refusedError("read", c.peer)
		case state == wire.Absent, isEOF(err) && len(got) > 0:
			return c.handOn(p, got), nil // an error will be back with the next read
		default:
			c.keep(got)
			if len(got) > 0 {
				c.breakSilence(watching)
			}
			if n == 0 || err != nil {
				return 0, err
			}
		}
	}
}

// drain hands on what was received. Reads at the same time take turns, each for a copy.
func (c *conn) drain(p []byte) (int, error) {
	for {
		switch phase := c.phase.Load(); phase &^ closed {
		case draining:
			if c.phase.CompareAndSwap(phase, handing) {
				return c.hand(p), nil
			}
		case handing:
			runtime.Gosched()
		default: // somebody else got all there was
			return c.Conn.Read(p)
		}
	}
}

// hand hands on what was received. Nobody else changes the phase while it is handing, and no
// code but ours runs until it is another, for which others wait.
func (c *conn) hand(p []byte) int {
	in := c.inbox
	n := copy(p, in.data())
	in.start += n
	if in.start < in.end {
		c.phase.Store(draining)
	} else {
		c.release()
		c.phase.Store(open)
	}
	return n
}

// handOn hands on what was watched, and keeps what p has no room for.
func (c *conn) handOn(p, watched []byte) int {
	n := copy(p, watched)
	c.keep(watched[n:])
	next := open
	if n < len(watched) {
		next = draining
	}
	if !c.breakSilence(next) && !c.advance(watching, next) {
		c.phase.Store(next) // it is closed, and counted
	}
	return n
}

// breakSilence moves on from silent, because a byte has come. If the connection is closed, it is
// counted: Close left that to the goroutine that reads.
func (c *conn) breakSilence(next uint32) bool {
	if c.advance(silent, next) {
		return true
	}
	if !c.phase.CompareAndSwap(silent|closed, next|closed) {
		return false
	}
	c.count()
	return true
}

// reasonToWatch is why a header is refused that comes while watching.
func (c *conn) reasonToWatch() outcome {
	switch {
	case c.mode == Off:
		return reasonForbidden
	case c.present():
		return reasonDuplicate
	default:
		return reasonTimeout
	}
}

// refuse closes the connection without a word to it. err tells the log more.
func (c *conn) refuse(why outcome, err error) (next uint32) {
	before := c.phase.Swap(refused)
	closeSafely(c.Conn)
	got := c.received()
	// A connection that was closed while watching has been counted, as something else.
	if before <= watching || before&^closed <= silent {
		_, version := wire.Signature(got)
		c.rules.stats.count(c.mode, version, why)
		c.rules.refuse(c.peer, localOf(c.Conn), c.mode, why, got, err)
	}
	c.release()
	return refused
}

// localOf and closeSafely are for connections that may have panicked before, and may panic
// again.

func localOf(c net.Conn) (local net.Addr) {
	defer func() { _ = recover() }()
	return c.LocalAddr()
}

func closeSafely(c net.Conn) {
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
