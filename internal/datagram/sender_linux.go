package datagram

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sender sends replies in batches. QUIC writes to a wrapped socket one datagram at a time. On a
// socket of its own it would hand many to the kernel at once (UDP_SEGMENT), which makes downloads
// fast. The sender makes up for that: datagrams written while the kernel is busy wait, and leave
// together.
type sender struct {
	udp *net.UDPConn

	mu             sync.Mutex
	notFull        sync.Cond     // signaled when a batch leaves waiting; its L is mu
	waiting        []*replyBatch // guarded by mu; the oldest first, at most batchesWaiting
	sending        bool          // guarded by mu; sendFn runs, or is about to
	noSegmentation bool          // guarded by mu; the kernel cannot segment
	sendFn         func()        // sendWaiting; a method value would be allocated on each use
}

const (
	// batchesWaiting bounds the memory for replies, as the buffer of a socket does.
	batchesWaiting = 16
	// batchSegments and batchSize are the limits of the kernel for one call.
	batchSegments = 64
	batchSize     = 65000
	// smallReply is the size below which a reply is sent at once if no other one waits. The last
	// replies of a connection are smaller, and the socket may be closed right after them.
	smallReply = 1000
)

// replyBatch has datagrams of one size with one return path. The last may be shorter.
type replyBatch struct {
	path  *returnPath
	size  int    // of each datagram
	n     int    // number of datagrams
	full  bool   // the last is shorter: no other may follow
	bytes []byte // the datagrams
	oob   []byte // a buffer for send
}

var replyBatches = sync.Pool{New: func() any { return &replyBatch{bytes: make([]byte, 0, batchSize)} }}

func newSender(udp *net.UDPConn) *sender {
	s := &sender{udp: udp}
	s.notFull.L = &s.mu
	s.sendFn = s.sendWaiting
	// The kernel may be older than the option.
	raw, err := udp.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) {
			_, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		})
		err = errors.Join(err, controlErr)
	}
	s.noSegmentation = err != nil
	return s
}

// write sends a datagram, now or soon. It blocks while too many batches wait.
func (s *sender) write(p []byte, path *returnPath) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noSegmentation || len(p) > batchSize || len(p) < smallReply && !s.sending {
		return s.sendNow(p, path.oob, path)
	}
	batch := s.batchFor(p, path)
	for batch == nil && len(s.waiting) == batchesWaiting {
		s.notFull.Wait()
		batch = s.batchFor(p, path)
	}
	if batch == nil {
		batch = replyBatches.Get().(*replyBatch)
		batch.path, batch.size = path, len(p)
		s.waiting = append(s.waiting, batch)
	}
	batch.bytes = append(batch.bytes, p...)
	batch.n++
	batch.full = len(p) < batch.size
	if !s.sending {
		s.sending = true
		go s.sendFn()
	}
	return len(p), nil
}

// batchFor returns the batch that a datagram can join without overtaking another one to the same
// client, or nil. The caller holds mu.
func (s *sender) batchFor(p []byte, path *returnPath) *replyBatch {
	for _, b := range slices.Backward(s.waiting) {
		if b.path == path {
			if b.full || len(p) > b.size || b.n == batchSegments || len(b.bytes)+len(p) > batchSize {
				return nil
			}
			return b
		}
	}
	return nil
}

// sendWaiting sends all batches that wait.
func (s *sender) sendWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) > 0 {
		batch := s.waiting[0]
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.notFull.Signal()
		s.mu.Unlock()
		err := batch.send(s)
		s.mu.Lock()
		// EIO: the driver cannot do what segmentation needs.
		s.noSegmentation = s.noSegmentation || errors.Is(err, syscall.EIO)
		batch.path, batch.n, batch.bytes = nil, 0, batch.bytes[:0]
		replyBatches.Put(batch)
	}
	s.sending = false
}

// send sends the datagrams of a batch, and returns the error if the kernel refuses to send them
// together. The error of a single datagram is ignored. QUIC finds out that the datagram is
// missing, as if it was lost on the way: it may be a probe for the path's MTU.
func (b *replyBatch) send(s *sender) error {
	if b.n == 1 {
		_, _ = s.sendNow(b.bytes, b.path.oob, b.path)
		return nil
	}
	b.oob = appendSegmentSize(append(b.oob[:0], b.path.oob...), b.size)
	_, err := s.sendNow(b.bytes, b.oob, b.path)
	if err == nil {
		return nil
	}
	for rest := b.bytes; len(rest) > 0; {
		n := min(b.size, len(rest))
		_, _ = s.sendNow(rest[:n], b.path.oob, b.path)
		rest = rest[n:]
	}
	return err
}

func (s *sender) sendNow(p, oob []byte, path *returnPath) (int, error) {
	n, _, err := s.udp.WriteMsgUDPAddrPort(p, oob, path.to)
	return n, err
}

// appendSegmentSize appends the control message that tells the kernel the size of each datagram.
func appendSegmentSize(oob []byte, size int) []byte {
	start := len(oob)
	oob = append(oob, make([]byte, unix.CmsgSpace(2))...)
	header := oob[start:]
	// Cmsghdr has the length in the size of a word, the level and the type.
	if unix.SizeofCmsghdr == 16 {
		binary.NativeEndian.PutUint64(header, uint64(unix.CmsgLen(2)))
	} else {
		binary.NativeEndian.PutUint32(header, uint32(unix.CmsgLen(2)))
	}
	binary.NativeEndian.PutUint32(header[unix.SizeofCmsghdr-8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(header[unix.SizeofCmsghdr-4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(header[unix.CmsgLen(0):], uint16(size))
	return oob
}
