//go:build unix

package proxyprotocol

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// readFirst reads from a connection into a buffer that it takes from the pool when there is
// something to read, and returns it unless that was nothing. It does not tell w if
// something is there already: a deadline that is not needed costs more than the header.
func readFirst(c net.Conn, w waiter) (*buffer, error) {
	// Other types may have a SyscallConn by embedding, and a Read that must not be
	// passed by.
	var raw syscall.RawConn
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return readBlocking(c, w)
	}
	if err != nil {
		return nil, err
	}
	if err := w.beforeRead(); err != nil {
		return nil, err
	}
	r := firstReaders.Get().(*firstReader)
	r.waiter = w
	defer r.recycle()
	if err := raw.Read(r.readable); err != nil {
		// net/http keeps silent on an error of a "read".
		if opErr, ok := err.(*net.OpError); ok {
			opErr.Op = "read"
		}
		return nil, err
	}
	if errno, ok := r.err.(syscall.Errno); ok {
		err := os.NewSyscallError("read", errno)
		return nil, &net.OpError{Op: "read", Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.buffer == nil {
		return nil, io.EOF
	}
	return r.buffer, nil
}

// firstReader is the state of one readFirst. It is pooled with its callback, which
// would otherwise be allocated for every connection.
type firstReader struct {
	readable func(fd uintptr) (done bool)
	waiter   waiter
	buffer   *buffer
	err      error
}

var firstReaders = sync.Pool{New: func() any {
	r := new(firstReader)
	r.readable = r.read
	return r
}}

func (r *firstReader) recycle() {
	r.waiter, r.buffer, r.err = nil, nil, nil
	firstReaders.Put(r)
}

// read reads from a non-blocking socket. If there is nothing to read it gives the
// buffer back and asks to be called again when there is.
func (r *firstReader) read(fd uintptr) (done bool) {
	b := buffers.Get().(*buffer)
	for {
		n, err := syscall.Read(int(fd), b.buf)
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			b.start, b.end = 0, n
			r.buffer = b
			return true
		}
		buffers.Put(b)
		if err == syscall.EAGAIN {
			// A deadline that is set now ends the wait that follows.
			r.err = r.waiter.beforeWait()
			return r.err != nil
		}
		r.err = err
		return true
	}
}
