package proxyprotocol

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The kernel may refuse to segment (EINVAL here, for it cannot without checksums).
func TestRepliesLeaveOneByOneIfTheKernelRefusesABatch(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	raw, err := udp.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }))
	require.NoError(t, err)
	client := listenUDP(t, "127.0.0.1")
	to := &quicAddr{from: client.LocalAddr().(*net.UDPAddr).AddrPort()}
	b := &replyBatch{to: to, size: 1200, n: 3, bytes: make([]byte, 2*1200+7)}
	b.bytes[0], b.bytes[1200], b.bytes[2400] = 1, 2, 3
	s := newPacketSender(udp)
	require.False(t, s.single)
	require.ErrorIs(t, b.send(s), unix.EINVAL) // or this tests nothing
	var p [2000]byte
	for i, size := range []int{1200, 1200, 7} {
		require.NoError(t, client.SetReadDeadline(time.Now().Add(patience)))
		n, _, err := client.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, size, n)
		assert.EqualValues(t, i+1, p[0])
	}
}

// What was written before the socket is closed has left.
func TestLastReplyLeavesBeforeTheSocketIsClosed(t *testing.T) {
	for range 20 {
		udp, client := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
		to := &quicAddr{from: client.LocalAddr().(*net.UDPAddr).AddrPort()}
		_, err := newPacketSender(udp).write([]byte("bye"), to)
		require.NoError(t, err)
		require.NoError(t, udp.Close())
		var p [10]byte
		require.NoError(t, client.SetReadDeadline(time.Now().Add(patience)))
		n, _, err := client.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, "bye", string(p[:n]))
	}
}
