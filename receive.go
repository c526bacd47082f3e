package proxyprotocol

import (
	"bytes"
	"net"
	"sync"
)

// inbox has what a connection received and has not handed on: a header and, where they
// come together, what follows it. A connection has one only while there is something.
type inbox struct {
	data []byte
	room *[4096]byte // what data lies in, if the inbox is the pool's
}

var inboxes = sync.Pool{New: func() any { return &inbox{room: new([4096]byte)} }}

// received returns what is in the inbox.
func (c *conn) received() []byte {
	if c.inbox == nil {
		return nil
	}
	return c.inbox.data
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
	if in.room != nil || len(in.data) == cap(in.data) {
		// What is valid so far and not complete is shorter than maxHeaderSize.
		size := min(2*len(in.data), c.rules.maxHeaderSize)
		in = &inbox{data: append(make([]byte, 0, size), in.data...)}
		c.release()
		c.inbox = in
	}
	n, err := c.Conn.Read(in.data[len(in.data):cap(in.data)])
	in.data = in.data[:len(in.data)+n]
	return err
}

// keep keeps b, and nothing else that was received. It copies b, which may lie in what it
// gives up.
func (c *conn) keep(b []byte) {
	var kept *inbox
	if len(b) > 0 {
		kept = &inbox{data: bytes.Clone(b)}
	}
	c.release()
	c.inbox = kept
}

// release gives up what was received, and gives the inbox back if it is the pool's.
func (c *conn) release() {
	in := c.inbox
	c.inbox = nil
	if in != nil && in.room != nil {
		in.data = nil
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
	n, err := c.Read(in.room[:])
	if n == 0 {
		inboxes.Put(in)
		return nil, err
	}
	in.data = in.room[:n]
	return in, err
}
