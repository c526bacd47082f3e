package proxyprotocol

import (
	"net"
	"sync"
)

// buffer is what the first bytes of a connection are read into: a header and, where
// they come together, what follows it.
type buffer [4096]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// receive reads more of the first header into c.received. While nothing has come it
// holds no buffer if it can help it; while a header is not complete, one that grows
// with the bytes that have come.
func (c *conn) receive() (err error) {
	if len(c.received) == 0 {
		var n int
		if c.pooled, n, err = readFirst(c.Conn); c.pooled != nil {
			c.received = c.pooled[:n]
		}
		return err
	}
	if c.pooled != nil || len(c.received) == cap(c.received) {
		// What is valid so far and not complete is shorter than maxHeaderSize.
		size := min(2*len(c.received), c.rules.maxHeaderSize)
		grown := append(make([]byte, 0, size), c.received...)
		c.release()
		c.received = grown
	}
	n, err := c.Conn.Read(c.received[len(c.received):cap(c.received)])
	c.received = c.received[:len(c.received)+n]
	return err
}

// release gives up what was received, and gives its buffer back if it is the pool's.
func (c *conn) release() {
	c.received = nil
	if c.pooled != nil {
		buffers.Put(c.pooled)
		c.pooled = nil
	}
}

// readIntoBuffer is readFirst for a connection that does not say when bytes are there.
func readIntoBuffer(c net.Conn) (*buffer, int, error) {
	b := buffers.Get().(*buffer)
	n, err := c.Read(b[:])
	if n == 0 {
		buffers.Put(b)
		return nil, 0, err
	}
	return b, n, err
}
