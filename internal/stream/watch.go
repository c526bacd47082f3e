package proxyprotocol

import (
	"fmt"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// This file is what Read does behind the first header: it checks for a second one, and
// returns buffered bytes.

// readGuarded is Read while a header could follow, or bytes are buffered. It is not done if
// neither is the case: then the caller reads from the socket, without readMu.
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
		return 0, true, refusedError("read", c.peer)
	default:
		return 0, false, nil
	}
}

// watch reads while a header would be refused. Bytes that may be the beginning of a signature
// are held back; the whole of one is enough to refuse.
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
		into, kept := p, c.buffered()
		if len(into) <= len(kept) {
			into = make([]byte, len(kept)+1)
		}
		copy(into, kept)
		free := into[len(kept):len(into):len(into)]
		n, err := c.Conn.Read(free)
		got := into[:len(kept)+len(free[:n])] // where an impossible n panics before it does harm
		switch state, _ := wire.Signature(got); {
		case state == wire.Partial:
			c.setBuffered(got)
			c.refuse(c.reasonToWatch(), nil)
			return 0, refusedError("read", c.peer)
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

// deliver copies bytes that begin no header to p, and keeps those that p has no room for.
func (c *conn) deliver(p, got []byte) int {
	n := copy(p, got)
	c.setBuffered(got[n:])
	c.countServed()
	if n < len(got) {
		c.state.Store(stateBuffered)
	} else {
		c.state.Store(stateOpen)
	}
	return n
}

// copyBuffered copies buffered bytes to p, and opens the connection when none are left.
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

// reasonToWatch is the reason for refusing a header that comes in stateWatching.
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
