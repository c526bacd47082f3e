// Package freeport gives tests ports to listen at.
package freeport

import (
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// Ports are those below the ones that systems give to clients, which could take them first.
// A block of them belongs to this process as long as it listens at the block's first one:
// Caddy's listeners share their ports, with another process too, so that to find one free
// is not enough.
const (
	firstPort = 10000
	lastPort  = 32000
	blockSize = 1000
)

// block is a listener at its first port.
var block = sync.OnceValue(func() net.Listener {
	for _, i := range mathrand.Perm((lastPort - firstPort) / blockSize) {
		first := firstPort + i*blockSize
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first))); err == nil {
			return l
		}
	}
	panic("no ports are left")
})

var given atomic.Int64

// Get returns a port that nobody listens at, on TCP or UDP, of IPv4 or IPv6.
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

// Loopbacks are the loopback addresses of this machine; it may have no IPv6.
var Loopbacks = sync.OnceValue(func() []string {
	hosts := []string{"127.0.0.1"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		hosts = append(hosts, "::1")
	}
	return hosts
})
