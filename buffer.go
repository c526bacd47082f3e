package proxyprotocol

import (
	"bytes"
	"net"
	"sync"
)

// inbox has what a connection received and has not handed on: a header and, where they
// come together, what follows it. A connection has one only while there is something.
type inbox struct {
	room       []byte
	start, end int  // of what is in it; a slice would cost more while garbage is collected
	shared     bool // it is the pool's
}

const inboxSize = 4096 // of the pool's

var inboxes = sync.Pool{New: func() any { return &inbox{room: make([]byte, inboxSize), shared: true} }}

// data returns what is in the inbox.
func (in *inbox) data() []byte { return in.room[in.start:in.end] }

// received returns what is in the inbox.
func (c *conn) received() []byte {
	if c.inbox == nil {
		return nil
	}
	return c.inbox.data()
}

// receive reads more of the first header into the inbox. While nothing has come it holds
// none if it can help it; while a header is not complete, one that grows with the bytes
// that have come.
func (c *conn) receive() (err error) {
	in := c.inbox
	if in == nil {
		c.inbox, err = readFirst(c.Conn, c)
		return err
	}
	if err := c.mayWait(); err != nil {
		return err
	}
	if in.shared || in.end == len(in.room) {
		// What is valid so far and not complete is shorter than maxHeaderSize.
		grown := &inbox{room: make([]byte, min(2*in.end, c.rules.maxHeaderSize))}
		grown.end = copy(grown.room, in.data())
		c.release()
		c.inbox, in = grown, grown
	}
	free := in.room[in.end:]
	n, err := c.Conn.Read(free)
	in.end += len(free[:n]) // where an impossible n panics before it does harm
	return err
}

// keep keeps b, and nothing else that was received. It copies b, which may lie in what it
// gives up.
func (c *conn) keep(b []byte) {
	var kept *inbox
	if len(b) > 0 {
		kept = &inbox{room: bytes.Clone(b), end: len(b)}
	}
	c.release()
	c.inbox = kept
}

// release gives up what was received, and gives the inbox back if it is the pool's.
func (c *conn) release() {
	in := c.inbox
	c.inbox = nil
	if in != nil && in.shared {
		inboxes.Put(in)
	}
}

// waiter is told before a read.
type waiter interface {
	mayRead() error // what is there
	mayWait() error // until something is there
}

// readWaiting is readFirst for a connection that does not say when bytes are there.
func readWaiting(c net.Conn, w waiter) (*inbox, error) {
	if err := w.mayWait(); err != nil {
		return nil, err
	}
	in := inboxes.Get().(*inbox)
	n, err := c.Read(in.room)
	if n == 0 {
		inboxes.Put(in)
		return nil, err
	}
	in.start, in.end = 0, len(in.room[:n])
	return in, err
}
