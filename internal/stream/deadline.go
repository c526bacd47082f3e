package stream

import (
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// This file sets the read deadline of the socket. The caller's deadline goes straight to the
// socket, except while a goroutine waits for the header: then that goroutine holds the deadline,
// and restores the caller's before it changes the state.

// noDeadline is the value of readDeadline if the caller has set no deadline.
const noDeadline monotime.Time = 0

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn. It can shorten the wait for a header, but cannot lengthen
// it.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.state.Load() != statePending {
		return c.Conn.SetReadDeadline(t)
	}
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.readDeadline = noDeadline
	if !t.IsZero() {
		if c.readDeadline = monotime.Of(t); c.readDeadline == noDeadline {
			c.readDeadline--
		}
	}
	switch {
	case !c.holding:
		return c.Conn.SetReadDeadline(t)
	case c.op == opRead:
		return c.Conn.SetReadDeadline(c.opDeadline())
	default:
		return nil // restoreDeadline will set it
	}
}

// headerDeadline returns the time when the first header must be complete.
func (c *conn) headerDeadline() time.Time { return c.acceptedAt.Add(c.config.Timeout).ToTime() }

// opDeadline returns the deadline of the operation that reads the header. opRead ends at the
// caller's deadline, too, if that is earlier. opAddr and opWrite do not: the peer's address would
// be returned, and a header could still follow. The caller holds deadlineMu.
func (c *conn) opDeadline() time.Time {
	t := c.headerDeadline()
	if c.op == opRead && c.readDeadline != noDeadline {
		if caller := c.readDeadline.ToTime(); caller.Before(t) {
			return caller
		}
	}
	return t
}

// beforeRead implements waiter. Data that is already there needs no deadline, unless the timeout
// has passed: then the read must fail. The caller holds headerMu.
func (c *conn) beforeRead() error {
	c.overdue = monotime.Now() >= c.acceptedAt.Add(c.config.Timeout)
	if c.overdue {
		return c.beforeWait()
	}
	return nil
}

// beforeWait implements waiter. It holds the deadline, and sets that of the operation. The caller
// holds headerMu.
func (c *conn) beforeWait() error {
	if c.holding {
		return nil
	}
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.holding = true
	return c.Conn.SetReadDeadline(c.opDeadline())
}

// restoreDeadline sets the caller's deadline on the socket, if another one is held. The caller
// holds headerMu. Errors are ignored: only a closed connection returns one, and then the next read
// does, too.
func (c *conn) restoreDeadline() {
	if !c.holding {
		return
	}
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.holding = false
	var t time.Time
	if c.readDeadline != noDeadline {
		t = c.readDeadline.ToTime()
	}
	_ = c.Conn.SetReadDeadline(t)
}
