//go:build unix

package stream

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// readFirst reads the first bytes of a connection. It takes a buffer from the pool only when there
// are bytes to read. If there are bytes already it does not call w.beforeWait, because setting a
// deadline costs more than reading the header. The buffer is nil if there is an error.
func readFirst(c net.Conn, w waiter) (*buffer, error) {
	// Only these types are read through their descriptors. Another type may embed one of them,
	// and have its own Read, which must not be bypassed.
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
		// net/http does not log errors of the operation "read".
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

// firstReader is the state of one call of readFirst. It is pooled together with its callback,
// which would otherwise be allocated for every connection.
type firstReader struct {
	readable func(fd uintptr) (done bool) // the method read
	waiter   waiter
	buffer   *buffer // the result, or nil
	err      error   // the result of waiter, or of the system call
}

var firstReaders = sync.Pool{New: func() any {
	r := new(firstReader)
	r.readable = r.read
	return r
}}

// recycle returns the firstReader to the pool. It must not be used afterwards.
func (r *firstReader) recycle() {
	r.waiter, r.buffer, r.err = nil, nil, nil
	firstReaders.Put(r)
}

// read is the callback of syscall.RawConn.Read. It reads from a non-blocking socket. If there are
// no bytes to read, it returns the buffer to the pool and reports false, which makes RawConn.Read
// wait and call it again.
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
			// The wait that follows ends at a deadline that is set now.
			r.err = r.waiter.beforeWait()
			return r.err != nil
		}
		r.err = err
		return true
	}
}
