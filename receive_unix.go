//go:build unix

package proxyprotocol

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// readFirst reads from a connection into a buffer that it takes from the pool when
// there is something to read, and returns it unless that was nothing.
func readFirst(c net.Conn) (*buffer, int, error) {
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
		return readIntoBuffer(c)
	}
	if err != nil {
		return nil, 0, err
	}
	r := firstReaders.Get().(*firstReader)
	defer r.recycle()
	if err := raw.Read(r.readable); err != nil {
		// net/http keeps silent on an error of a "read".
		if opErr, ok := err.(*net.OpError); ok {
			opErr.Op = "read"
		}
		return nil, 0, err
	}
	if r.err != nil {
		return nil, 0, &net.OpError{Op: "read", Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: r.err}
	}
	if r.n == 0 {
		return nil, 0, io.EOF
	}
	return r.buffer, r.n, nil
}

// firstReader is the state of one readFirst. It is pooled with its callback, which
// would otherwise be allocated for every connection.
type firstReader struct {
	readable func(fd uintptr) (done bool)
	buffer   *buffer
	n        int
	err      error
}

var firstReaders = sync.Pool{New: func() any {
	r := new(firstReader)
	r.readable = r.read
	return r
}}

func (r *firstReader) recycle() {
	r.buffer, r.n, r.err = nil, 0, nil
	firstReaders.Put(r)
}

// read reads from a non-blocking socket. If there is nothing to read it gives the
// buffer back and asks to be called again when there is.
func (r *firstReader) read(fd uintptr) (done bool) {
	b := buffers.Get().(*buffer)
	for {
		n, err := syscall.Read(int(fd), b[:])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			r.buffer, r.n = b, n
			return true
		}
		buffers.Put(b)
		if err == syscall.EAGAIN {
			return false
		}
		r.err = os.NewSyscallError("read", err)
		return true
	}
}
