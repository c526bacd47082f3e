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

// FreePort returns a port to which no socket is bound, neither of TCP nor of UDP.
func FreePort(t testing.TB) int {
	t.Helper()
	return freeport.Get(t)
}

// Loopbacks returns the loopback addresses of this machine: 127.0.0.1, and ::1 if the machine has
// IPv6.
func Loopbacks() []string { return freeport.Loopbacks() }

// NeedIPv6 skips the test on a machine without IPv6.
func NeedIPv6(t testing.TB) {
	t.Helper()
	if len(Loopbacks()) < 2 {
		t.Skip("no IPv6 here")
	}
}

// SocketPath returns a path for a Unix socket. Paths in t.TempDir may be too long for one.
func SocketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// Endpoint is an address to connect to, with its network as in package net.
type Endpoint struct{ Network, Address string }

// TCP4 returns the endpoint of a port at the loopback address of IPv4.
func TCP4(port int) Endpoint { return Endpoint{"tcp", fmt.Sprintf("127.0.0.1:%d", port)} }

// TCP6 returns the endpoint of a port at the loopback address of IPv6.
func TCP6(port int) Endpoint { return Endpoint{"tcp", fmt.Sprintf("[::1]:%d", port)} }

// Unix returns the endpoint of a Unix socket.
func Unix(path string) Endpoint { return Endpoint{"unix", path} }

// Open returns a connection to the endpoint. If dir is not empty, the client's end of a Unix socket
// is bound to a name in dir, so that it has an address.
func (e Endpoint) Open(ctx context.Context, dir string) (net.Conn, error) {
	var dialer net.Dialer
	if e.Network == "unix" && dir != "" {
		path := filepath.Join(dir, strconv.FormatUint(clients.Add(1), 36))
		dialer.LocalAddr = &net.UnixAddr{Name: path, Net: "unix"}
		defer os.Remove(path)
	}
	return dialer.DialContext(ctx, e.Network, e.Address)
}

// clients counts the clients of Unix sockets, so that each gets a name of its own.
var clients atomic.Uint64

// ListensOnUDP reports whether a socket is bound to a UDP port of the IPv4 loopback address.
func ListensOnUDP(t testing.TB, port int) bool {
	t.Helper()
	l, err := net.ListenPacket("udp", TCP4(port).Address)
	if err != nil {
		return true
	}
	l.Close()
	return false
}
