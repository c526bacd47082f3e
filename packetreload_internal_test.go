package proxyprotocol

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/datagramtest"
)

// A wrapper of an app other than http has no server, and nothing behind it refuses requests.
func TestReload_SocketThatNoConfigurationCanAdoptStaysClosed(t *testing.T) {
	pw := &PacketConnWrapper{Mode: On, config: datagramtest.Config(policy.On), unwrap: true}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer socket.Close()
	wrapped := pw.WrapPacketConn(socket)
	require.NoError(t, pw.Cleanup()) // a reload: Caddy keeps the socket and its wrapper
	peer := caddytest.ListenUDP(t, "127.0.0.3")
	_, err = peer.WriteTo([]byte("no header"), socket.LocalAddr())
	require.NoError(t, err)
	require.NoError(t, wrapped.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	_, from, err := wrapped.ReadFrom(make([]byte, 100))
	assert.Error(t, err, "a datagram without a header passes, from %v", from)
}
