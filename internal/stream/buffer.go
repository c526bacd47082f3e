package proxyprotocol

import (
	"bytes"
	"net"
	"sync"
)

// buffer has the bytes that a connection received and has not returned to the caller: a
// header and, where they come together, the bytes behind it. A connection has one only while
// there are such bytes.
type buffer struct {
	buf        []byte
	start, end int  // of the bytes in buf; a slice would cost more while garbage is collected
	pooled     bool // it came from the pool
}

const bufferSize = 4096 // of the pool's

var buffers = sync.Pool{New: func() any { return &buffer{buf: make([]byte, bufferSize), pooled: true} }}

// data returns the bytes in the buffer.
func (b *buffer) data() []byte { return b.buf[b.start:b.end] }

// buffered returns the bytes in the connection's buffer.
func (c *conn) buffered() []byte {
	if c.buffer == nil {
		return nil
	}
	return c.buffer.data()
}

// receive reads more of the first header into the buffer. A silent connection holds no buffer
// where the platform allows that. The buffer of an incomplete header grows with the bytes
// received, never with the announced length.
func (c *conn) receive() (err error) {
	b := c.buffer
	if b == nil {
		c.buffer, err = readFirst(c.Conn, c)
		return err
	}
	if err := c.beforeWait(); err != nil {
		return err
	}
	if b.pooled || b.end == len(b.buf) {
		// A valid and incomplete header is shorter than maxHeaderSize.
		grown := &buffer{buf: make([]byte, min(2*b.end, c.rules.maxHeaderSize))}
		grown.end = copy(grown.buf, b.data())
		c.releaseBuffer()
		c.buffer, b = grown, grown
	}
	free := b.buf[b.end:]
	n, err := c.Conn.Read(free)
	b.end += len(free[:n]) // where an impossible n panics before it does harm
	return err
}

// setBuffered makes a copy of data all that is buffered. data may be part of the old buffer.
func (c *conn) setBuffered(data []byte) {
	var kept *buffer
	if len(data) > 0 {
		kept = &buffer{buf: bytes.Clone(data), end: len(data)}
	}
	c.releaseBuffer()
	c.buffer = kept
}

// releaseBuffer gives up the buffer, and returns it to the pool if it came from there.
func (c *conn) releaseBuffer() {
	b := c.buffer
	c.buffer = nil
	if b != nil && b.pooled {
		buffers.Put(b)
	}
}

// waiter sets deadlines for a first read.
type waiter interface {
	beforeRead() error // before a read of data that may be there
	beforeWait() error // before a read that may block
}

// readBlocking is readFirst for a connection that does not say when data is there.
func readBlocking(c net.Conn, w waiter) (*buffer, error) {
	if err := w.beforeWait(); err != nil {
		return nil, err
	}
	b := buffers.Get().(*buffer)
	n, err := c.Read(b.buf)
	if n == 0 {
		buffers.Put(b)
		return nil, err
	}
	b.start, b.end = 0, len(b.buf[:n])
	return b, err
}
