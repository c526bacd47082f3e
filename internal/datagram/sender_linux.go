package proxyprotocol

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// packetSender sends replies. QUIC gives a wrapped socket one datagram after the other,
// where it would hand many at once to the kernel (UDP_SEGMENT) on a socket of its own. That
// is what makes downloads fast, so it is made good here: what is written while the kernel is
// busy waits, and leaves together.
type packetSender struct {
	udp *net.UDPConn

	mu      sync.Mutex
	room    sync.Cond     // there is room in waiting
	waiting []*replyBatch // the oldest first
	sending bool          // somebody runs send
	single  bool          // the kernel cannot segment
	send    func()        // kept, because a new one would be allocated
}

const (
	// batchesWaiting bounds the memory, as the buffer of a socket does.
	batchesWaiting = 16
	// The kernel takes so much in one call.
	batchSegments = 64
	batchSize     = 65000
	// smallReply is less than what is worth waiting for others. The last words of a connection
	// are smaller, and the socket may be closed right behind them.
	smallReply = 1000
)

// replyBatch has datagrams of one size for one client. The last may be shorter.
type replyBatch struct {
	to      *wayBack
	size    int // of each
	n       int
	full    bool
	bytes   []byte
	control []byte
}

var replyBatches = sync.Pool{New: func() any { return &replyBatch{bytes: make([]byte, 0, batchSize)} }}

func newPacketSender(udp *net.UDPConn) *packetSender {
	s := &packetSender{udp: udp}
	s.room.L = &s.mu
	s.send = s.sendWaiting
	// The kernel may be older than the option.
	raw, err := udp.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) {
			_, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		})
		err = errors.Join(err, controlErr)
	}
	s.single = err != nil
	return s
}

// write sends a datagram soon. It waits while too many do.
func (s *packetSender) write(p []byte, to *wayBack) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.single || len(p) > batchSize || len(p) < smallReply && !s.sending {
		return s.sendNow(p, to.oob, to)
	}
	batch := s.batchFor(p, to)
	for batch == nil && len(s.waiting) == batchesWaiting {
		s.room.Wait()
		batch = s.batchFor(p, to)
	}
	if batch == nil {
		batch = replyBatches.Get().(*replyBatch)
		batch.to, batch.size = to, len(p)
		s.waiting = append(s.waiting, batch)
	}
	batch.bytes = append(batch.bytes, p...)
	batch.n++
	batch.full = len(p) < batch.size
	if !s.sending {
		s.sending = true
		go s.send()
	}
	return len(p), nil
}

// batchFor returns the batch that a datagram can join without passing another one to the
// same client, or nil.
func (s *packetSender) batchFor(p []byte, to *wayBack) *replyBatch {
	for _, b := range slices.Backward(s.waiting) {
		if b.to == to {
			if b.full || len(p) > b.size || b.n == batchSegments || len(b.bytes)+len(p) > batchSize {
				return nil
			}
			return b
		}
	}
	return nil
}

// sendWaiting sends all that waits.
func (s *packetSender) sendWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) > 0 {
		batch := s.waiting[0]
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.room.Signal()
		s.mu.Unlock()
		err := batch.send(s)
		s.mu.Lock()
		// The driver lacks what segmenting needs.
		s.single = s.single || errors.Is(err, syscall.EIO)
		batch.to, batch.n, batch.bytes = nil, 0, batch.bytes[:0]
		replyBatches.Put(batch)
	}
	s.sending = false
}

// send sends the datagrams of a batch, and returns why the kernel does not take them
// together. Like those that are lost on their way, one that cannot be sent is for QUIC to find
// missing: it may be a probe for the path's MTU.
func (b *replyBatch) send(s *packetSender) error {
	if b.n == 1 {
		_, _ = s.sendNow(b.bytes, b.to.oob, b.to)
		return nil
	}
	b.control = appendSegmentSize(append(b.control[:0], b.to.oob...), b.size)
	_, err := s.sendNow(b.bytes, b.control, b.to)
	if err == nil {
		return nil
	}
	for rest := b.bytes; len(rest) > 0; {
		n := min(b.size, len(rest))
		_, _ = s.sendNow(rest[:n], b.to.oob, b.to)
		rest = rest[n:]
	}
	return err
}

func (s *packetSender) sendNow(p, control []byte, to *wayBack) (int, error) {
	n, _, err := s.udp.WriteMsgUDPAddrPort(p, control, to.to)
	return n, err
}

// appendSegmentSize appends the control message that tells the kernel the size of each
// datagram.
func appendSegmentSize(control []byte, size int) []byte {
	start := len(control)
	control = append(control, make([]byte, unix.CmsgSpace(2))...)
	header := control[start:]
	// Cmsghdr has the length in the size of a word, the level and the type.
	if unix.SizeofCmsghdr == 16 {
		binary.NativeEndian.PutUint64(header, uint64(unix.CmsgLen(2)))
	} else {
		binary.NativeEndian.PutUint32(header, uint32(unix.CmsgLen(2)))
	}
	binary.NativeEndian.PutUint32(header[unix.SizeofCmsghdr-8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(header[unix.SizeofCmsghdr-4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(header[unix.CmsgLen(0):], uint16(size))
	return control
}
