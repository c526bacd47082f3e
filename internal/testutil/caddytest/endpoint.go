package caddytest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/freeport"
)

// FreePort returns a port that no socket is bound to, of TCP or UDP.
func FreePort(t testing.TB) int {
	t.Helper()
	return freeport.Get(t)
}

// Loopbacks returns the loopback addresses of this machine, which may have no IPv6.
func Loopbacks() []string { return freeport.Loopbacks() }

// NeedIPv6 skips the test on a machine without IPv6.
func NeedIPv6(t testing.TB) {
	t.Helper()
	if len(Loopbacks()) < 2 {
		t.Skip("no IPv6 here")
	}
}

// SocketPath returns a path for a Unix socket. Those of t.TempDir may be too long.
func SocketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// Endpoint is an address to connect to.
type Endpoint struct{ Network, Address string }

// TCP4 returns a port at the loopback address of IPv4.
func TCP4(port int) Endpoint { return Endpoint{"tcp", fmt.Sprintf("127.0.0.1:%d", port)} }

// TCP6 returns a port at the loopback address of IPv6.
func TCP6(port int) Endpoint { return Endpoint{"tcp", fmt.Sprintf("[::1]:%d", port)} }

// Unix returns a Unix socket.
func Unix(path string) Endpoint { return Endpoint{"unix", path} }

// Open connects. The client's end of a Unix socket has a name in dir, unless dir is empty.
func (e Endpoint) Open(ctx context.Context, dir string) (net.Conn, error) {
	var dialer net.Dialer
	if e.Network == "unix" && dir != "" {
		path := filepath.Join(dir, strconv.FormatUint(clients.Add(1), 36))
		dialer.LocalAddr = &net.UnixAddr{Name: path, Net: "unix"}
		defer os.Remove(path)
	}
	return dialer.DialContext(ctx, e.Network, e.Address)
}

// clients counts the clients of Unix sockets, for their names.
var clients atomic.Uint64

// ListensOnUDP reports whether a socket is bound to this port of UDP.
func ListensOnUDP(t testing.TB, port int) bool {
	t.Helper()
	l, err := net.ListenPacket("udp", TCP4(port).Address)
	if err != nil {
		return true
	}
	l.Close()
	return false
}
