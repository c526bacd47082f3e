package datagram

import (
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// busySender is a sender that looks as if the kernel was busy: what waits for it waits until
// the test calls sendWaiting.
func busySender(udp *net.UDPConn) *sender {
	s := newSender(udp)
	s.sending = true
	return s
}

// replyTo is the address of a client, and of no other one, whatever it is equal to.
func replyTo(client *net.UDPConn) *returnPath {
	return &returnPath{to: client.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// numbered is a datagram of this size, which begins with a number.
func numbered(n, size int) []byte {
	p := make([]byte, size)
	p[0] = byte(n)
	return p
}

// requireReplies checks that these are the next datagrams that a client gets: numbered ones of
// these sizes, in order.
func requireReplies(t *testing.T, client *net.UDPConn, first int, sizes ...int) {
	t.Helper()
	require.NoError(t, client.SetReadDeadline(time.Now().Add(patience)))
	var p [1 << 16]byte
	for i, size := range sizes {
		n, _, err := client.ReadFromUDPAddrPort(p[:])
		require.NoError(t, err)
		require.Equal(t, numbered(first+i, size), p[:n])
	}
}

// waiting are the sizes of the datagrams that wait, by batch.
func (s *sender) sizesWaiting() (all [][]int) {
	for _, b := range s.waiting {
		var sizes []int
		for rest := len(b.bytes); rest > 0; rest -= b.size {
			sizes = append(sizes, min(b.size, rest))
		}
		all = append(all, sizes)
	}
	return all
}

// listenUDPLite is a UDP-Lite socket. The kernel does not segment for one.
func listenUDPLite(t *testing.T) *net.UDPConn {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDPLITE)
	if err != nil {
		t.Skipf("this kernel has no UDP-Lite: %v", err)
	}
	file := os.NewFile(uintptr(fd), "udplite")
	defer file.Close()
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	conn, err := net.FilePacketConn(file)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

// listenWithoutChecksums is a socket that segments in general, and cannot now.
func listenWithoutChecksums(t *testing.T) *net.UDPConn {
	t.Helper()
	udp := listenUDP(t, "127.0.0.1")
	raw, err := udp.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }))
	require.NoError(t, err)
	return udp
}

// The kernel refuses to segment for now, or for good: with EIO, where a driver or the path to
// the client cannot.
func TestSender_RepliesLeaveOneByOneIfABatchIsRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		listen func(t *testing.T) *net.UDPConn
		err    error
		good   bool
	}{
		{"for now", listenWithoutChecksums, unix.EINVAL, false},
		{"for good", listenUDPLite, unix.EIO, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := busySender(test.listen(t))
			require.False(t, s.noSegmentation)
			first, second, third := test.listen(t), test.listen(t), test.listen(t)
			to := []*returnPath{replyTo(first), replyTo(second), replyTo(third)}
			write := func(n, size int, to *returnPath) {
				t.Helper()
				written, err := s.write(numbered(n, size), to)
				require.NoError(t, err)
				require.Equal(t, size, written)
			}
			for n, size := range []int{1200, 1200, 1} {
				write(n, size, to[0])
				write(n, size, to[1])
			}
			write(0, 1200, to[2])
			require.Equal(t, [][]int{{1200, 1200, 1}, {1200, 1200, 1}, {1200}}, s.sizesWaiting())
			require.ErrorIs(t, s.waiting[0].send(s), test.err) // or this tests nothing
			requireReplies(t, first, 0, 1200, 1200, 1)
			require.False(t, s.noSegmentation)

			s.sendWaiting()
			requireReplies(t, first, 0, 1200, 1200, 1)
			requireReplies(t, second, 0, 1200, 1200, 1)
			requireReplies(t, third, 0, 1200)
			assert.Equal(t, test.good, s.noSegmentation)

			// None came twice, and from now on none waits if that is of no use.
			s.sending = true
			write(3, 1200, to[0])
			write(4, 1200, to[0])
			assert.Equal(t, test.good, len(s.waiting) == 0)
			if !test.good {
				s.sendWaiting()
			}
			requireReplies(t, first, 3, 1200, 1200)
			write(3, 8, to[1])
			requireReplies(t, second, 3, 8)
		})
	}
}

// That a datagram cannot be sent for its size says nothing of the others.
func TestSender_SingleReplyIsNotSegmented(t *testing.T) {
	s, client := busySender(listenUDPLite(t)), listenUDPLite(t)
	_, err := s.write(numbered(1, 1200), replyTo(client))
	require.NoError(t, err)
	s.sendWaiting()
	requireReplies(t, client, 1, 1200)
	assert.False(t, s.noSegmentation)
}

func TestSender_KnowsASocketThatCannotSegment(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	assert.False(t, newSender(udp).noSegmentation)
	require.NoError(t, udp.Close())
	s := newSender(udp)
	assert.True(t, s.noSegmentation)
	_, err := s.write(numbered(1, smallReply), replyTo(listenUDP(t, "127.0.0.1")))
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestSender_RepliesOfOneSizeToOneClientLeaveTogether(t *testing.T) {
	const large = batchSize / 2
	many := func(n, size int) []int {
		sizes := make([]int, n)
		for i := range sizes {
			sizes[i] = size
		}
		return sizes
	}
	for _, test := range []struct {
		name  string
		sizes []int
		want  [][]int
	}{
		{"equal", []int{1200, 1200, 1200}, [][]int{{1200, 1200, 1200}}},
		{"the last is shorter", []int{1200, 1199, 1199, 1200}, [][]int{{1200, 1199}, {1199}, {1200}}},
		{"the last is much shorter", []int{1200, 7, 7, 7}, [][]int{{1200, 7}, {7, 7}}},
		{"one is larger", []int{1200, 1201, 1201}, [][]int{{1200}, {1201, 1201}}},
		{"one is much larger", []int{1200, 1400, 1400}, [][]int{{1200}, {1400, 1400}}},
		{"as many as the kernel takes", many(batchSegments+2, 1000), [][]int{many(batchSegments, 1000), many(2, 1000)}},
		{"as much as the kernel takes", many(3, large), [][]int{many(2, large), many(1, large)}},
		{"a byte too many", many(3, large+1), [][]int{{large + 1}, {large + 1}, {large + 1}}},
		{"all that fits", []int{batchSize - 1, 1, 1}, [][]int{{batchSize - 1, 1}, {1}}},
		{"as large as a batch", []int{batchSize, 1}, [][]int{{batchSize}, {1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, other := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
			require.NoError(t, client.SetReadBuffer(1<<20))
			s := busySender(listenUDP(t, "127.0.0.1"))
			to, between := replyTo(client), replyTo(other)
			for n, size := range test.sizes {
				_, err := s.write(numbered(n, size), to)
				require.NoError(t, err)
			}
			require.Equal(t, test.want, s.sizesWaiting())
			_, err := s.write(numbered(1, 1200), between)
			require.NoError(t, err)
			require.Equal(t, append(test.want, []int{1200}), s.sizesWaiting(), "another client")

			s.sendWaiting()
			assert.False(t, s.sending)
			assert.False(t, s.noSegmentation)
			requireReplies(t, client, 0, test.sizes...)
			requireReplies(t, other, 1, 1200)
		})
	}
}

// What waits for one client goes on behind what waits for another.
func TestSender_ClientsHaveBatchesOfTheirOwn(t *testing.T) {
	first, second := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	s := busySender(listenUDP(t, "127.0.0.1"))
	to := []*returnPath{replyTo(first), replyTo(second)}
	for n := range 4 {
		for _, to := range to {
			_, err := s.write(numbered(n, 1200), to)
			require.NoError(t, err)
		}
	}
	require.Equal(t, [][]int{{1200, 1200, 1200, 1200}, {1200, 1200, 1200, 1200}}, s.sizesWaiting())
	s.sendWaiting()
	requireReplies(t, first, 0, 1200, 1200, 1200, 1200)
	requireReplies(t, second, 0, 1200, 1200, 1200, 1200)
}

func TestSender_OnlyWhatIsWorthItWaits(t *testing.T) {
	for _, test := range []struct {
		name    string
		size    int
		sending bool
		waits   bool
	}{
		{"small", smallReply - 1, false, false},
		{"small, behind others", smallReply - 1, true, true},
		{"not small", smallReply, false, true},
		{"larger than a batch", batchSize + 1, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := listenUDP(t, "127.0.0.1")
			s := newSender(listenUDP(t, "127.0.0.1"))
			began := make(chan bool, 1)
			s.sending, s.sendFn = test.sending, func() { began <- true }
			written, err := s.write(numbered(1, test.size), replyTo(client))
			require.NoError(t, err)
			require.Equal(t, test.size, written)
			require.Equal(t, test.waits, len(s.waiting) > 0)
			if test.waits && !test.sending {
				<-began
				require.True(t, s.sending)
			}
			s.sendWaiting()
			requireReplies(t, client, 1, test.size)
		})
	}
}

// Writers wait if too much does, and then join what others wrote meanwhile.
func TestSender_WritersWaitForRoom(t *testing.T) {
	udp, client := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	require.NoError(t, client.SetReadBuffer(1<<20))
	synctest.Test(t, func(t *testing.T) {
		s := busySender(udp)
		for n := range batchesWaiting {
			_, err := s.write(numbered(n, 1200), replyTo(client))
			require.NoError(t, err)
		}
		late := replyTo(client)
		write := func() {
			_, err := s.write(numbered(batchesWaiting, 1200), late)
			assert.NoError(t, err)
		}
		go write()
		go write()
		synctest.Wait()
		require.Len(t, s.waiting, batchesWaiting)

		// Both of them have room.
		s.mu.Lock()
		s.waiting = s.waiting[1:]
		s.notFull.Broadcast()
		s.mu.Unlock()
		synctest.Wait()
		require.Len(t, s.waiting, batchesWaiting)
		require.Equal(t, 2, s.waiting[batchesWaiting-1].n)

		go func() { _, _ = s.write(numbered(batchesWaiting+1, 1200), replyTo(client)) }()
		synctest.Wait()
		require.Len(t, s.waiting, batchesWaiting)
		s.sendWaiting()
		synctest.Wait() // or the writer is left behind
	})
	sizes := make([]int, batchesWaiting)
	for i := range sizes {
		sizes[i] = 1200
	}
	requireReplies(t, client, 1, sizes...)
	requireReplies(t, client, batchesWaiting, 1200, 1200)
}

// What was written before the socket is closed has left.
func TestSender_LastReplyLeavesBeforeTheSocketIsClosed(t *testing.T) {
	for range 20 {
		udp, client := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
		_, err := newSender(udp).write([]byte("bye"), replyTo(client))
		require.NoError(t, err)
		require.NoError(t, udp.Close())
		var p [10]byte
		require.NoError(t, client.SetReadDeadline(time.Now().Add(patience)))
		n, _, err := client.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, "bye", string(p[:n]))
	}
}
