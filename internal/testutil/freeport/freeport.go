// Package freeport returns free ports for tests to listen at.
package freeport

import (
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// Ports are taken from a range below the ports that systems give to clients. The range is divided
// into blocks. A process owns a block while it listens at the block's first port. It is not enough
// that a port is free: Caddy shares ports between listeners, even of two processes, so another test
// process could listen at the same one.
const (
	firstPort = 10000
	lastPort  = 32000
	blockSize = 1000
)

// block returns the listener at the first port of this process's block.
var block = sync.OnceValue(func() net.Listener {
	for _, i := range mathrand.Perm((lastPort - firstPort) / blockSize) {
		first := firstPort + i*blockSize
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first))); err == nil {
			return l
		}
	}
	panic("no ports are left")
})

// given counts the ports that were tried.
var given atomic.Int64

// Get returns a port of this process's block that is free for TCP and UDP, on IPv4 and IPv6.
func Get(t testing.TB) int {
	t.Helper()
	first := block().Addr().(*net.TCPAddr).Port
	for range blockSize {
		port := first + 1 + int(given.Add(1))%(blockSize-1)
		if isFree(port) {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// isFree reports whether a port is free for TCP and UDP on all loopback addresses.
func isFree(port int) bool {
	for _, host := range Loopbacks() {
		address := net.JoinHostPort(host, strconv.Itoa(port))
		l, err := net.Listen("tcp", address)
		if err != nil {
			return false
		}
		l.Close()
		p, err := net.ListenPacket("udp", address)
		if err != nil {
			return false
		}
		p.Close()
	}
	return true
}

// Loopbacks returns the loopback addresses of this machine: 127.0.0.1, and ::1 if the machine has
// IPv6.
var Loopbacks = sync.OnceValue(func() []string {
	hosts := []string{"127.0.0.1"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		hosts = append(hosts, "::1")
	}
	return hosts
})
