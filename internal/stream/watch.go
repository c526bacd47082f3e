package stream

import (
	"fmt"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// This file has the parts of Read that come after the first header: the check for a second header,
// and the return of buffered bytes.

// readGuarded is Read in the states that need readMu: a header could follow, or bytes are
// buffered. It reports done if it has read; otherwise the caller must read from the socket, without
// readMu.
func (c *conn) readGuarded(p []byte) (n int, done bool, err error) {
	c.readMu.Lock()
	defer func() {
		c.readMu.Unlock()
		if c.closed.Load() {
			c.countClosed()
		}
	}()
	switch c.state.Load() {
	case stateWatching:
		n, err = c.watch(p)
		return n, true, err
	case stateBuffered:
		return c.copyBuffered(p), true, nil
	case stateRefused:
		return 0, true, record.RefusedError("read", c.info.Peer)
	default:
		return 0, false, nil
	}
}

// watch is Read in stateWatching. It holds back bytes that may be the beginning of a header's
// signature, and refuses the connection when a signature is complete. The caller holds readMu.
func (c *conn) watch(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.refuse(record.IO, fmt.Errorf("panic: %v", r))
			n, err = 0, record.RefusedError("read", c.info.Peer)
		}
	}()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		into, kept := p, c.buffered()
		if len(into) <= len(kept) {
			into = make([]byte, len(kept)+1)
		}
		copy(into, kept)
		free := into[len(kept):len(into):len(into)]
		n, err := c.Conn.Read(free)
		got := into[:len(kept)+len(free[:n])] // panics if n is out of range; recovered above
		switch state, _ := wire.Signature(got); {
		case state == wire.Partial:
			c.setBuffered(got)
			c.refuse(c.reasonToWatch(), nil)
			return 0, record.RefusedError("read", c.info.Peer)
		case state == wire.Absent, isEOF(err) && len(got) > 0:
			return c.deliver(p, got), nil // the next read returns an error again
		default:
			c.setBuffered(got)
			if n == 0 || err != nil {
				return 0, err
			}
		}
	}
}

// deliver copies bytes that begin no header to p, and buffers those that p has no room for. No
// header can follow them: the state becomes stateBuffered or stateOpen. The caller holds readMu.
func (c *conn) deliver(p, got []byte) int {
	n := copy(p, got)
	c.setBuffered(got[n:])
	c.countServed()
	if c.info.HasHeader() {
		c.checkPayload(got)
	}
	if n < len(got) {
		c.state.Store(stateBuffered)
	} else {
		c.state.Store(stateOpen)
	}
	return n
}

// copyBuffered is Read in stateBuffered. It copies buffered bytes to p, and changes the state to
// stateOpen when none are left. The caller holds readMu.
func (c *conn) copyBuffered(p []byte) int {
	b := c.buffer
	n := copy(p, b.data())
	b.start += n
	if b.start == b.end {
		c.releaseBuffer()
		c.state.Store(stateOpen)
	}
	return n
}

// reasonToWatch returns the reason for which a header in stateWatching is refused.
func (c *conn) reasonToWatch() record.Outcome {
	switch {
	case c.info.Mode == policy.Off:
		return record.Forbidden
	case c.info.HasHeader():
		return record.Duplicate
	default:
		return record.Timeout
	}
}
