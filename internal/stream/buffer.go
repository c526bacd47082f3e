package stream

import (
	"bytes"
	"net"
	"sync"
)

// buffer has the bytes that a connection has received and Read has not returned: a header and, if
// they arrived together, the bytes behind the header. A connection has a buffer only while there
// are such bytes.
type buffer struct {
	buf []byte
	// The bytes are buf[start:end]. A second slice would be one more pointer for the garbage
	// collector to follow.
	start, end int
	pooled     bool // the buffer came from buffers
}

// bufferSize is the size of pooled buffers.
const bufferSize = 4096

// buffers are shared by all connections. A connection must not keep one while it waits for bytes.
var buffers = sync.Pool{New: func() any { return &buffer{buf: make([]byte, bufferSize), pooled: true} }}

// data returns the bytes in the buffer.
func (b *buffer) data() []byte { return b.buf[b.start:b.end] }

// buffered returns the bytes in the connection's buffer. The slice is valid until the buffer
// changes.
func (c *conn) buffered() []byte {
	if c.buffer == nil {
		return nil
	}
	return c.buffer.data()
}

// receive reads more bytes of the first header into the buffer. A silent connection holds no
// buffer if the platform allows that. The buffer of an incomplete header grows with the bytes
// received, never with the announced length. The caller holds headerMu.
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
		// A valid and incomplete header is shorter than MaxHeaderSize.
		grown := &buffer{buf: make([]byte, min(2*b.end, c.config.MaxHeaderSize))}
		grown.end = copy(grown.buf, b.data())
		c.releaseBuffer()
		c.buffer, b = grown, grown
	}
	free := b.buf[b.end:]
	n, err := c.Conn.Read(free)
	b.end += len(free[:n]) // panics if n is out of range; readHeader recovers
	return err
}

// setBuffered replaces the buffer by a copy of data, and releases the old buffer, which data may be
// part of.
func (c *conn) setBuffered(data []byte) {
	var kept *buffer
	if len(data) > 0 {
		kept = &buffer{buf: bytes.Clone(data), end: len(data)}
	}
	c.releaseBuffer()
	c.buffer = kept
}

// releaseBuffer removes the buffer from the connection, and returns a pooled one to the pool.
func (c *conn) releaseBuffer() {
	b := c.buffer
	c.buffer = nil
	if b != nil && b.pooled {
		buffers.Put(b)
	}
}

// waiter sets the deadline of a first read.
type waiter interface {
	// beforeRead is called before a read that returns at once, whether there is data or not.
	beforeRead() error
	// beforeWait is called before a read that may block.
	beforeWait() error
}

// readBlocking is readFirst for connections of types that cannot report when data is there. It
// holds a buffer while it waits.
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
