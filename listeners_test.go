package proxyprotocol

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
)

func newListenerPool() *listenerPool {
	return &listenerPool{entries: make(map[listenerKey]*listenerEntry), gone: make(tallies)}
}

// A counter must not go down.
func TestCountsOfAListenerOutliveItAsLongAsItsServer(t *testing.T) {
	pool := newListenerPool()
	first, second := new(ListenerWrapper), new(ListenerWrapper)
	pool.acquire(listenerKey{"srv0", "a"}, first).count(On, 1, outcomeClient)
	pool.acquire(listenerKey{"srv0", "b"}, second).count(On, 1, outcomeClient)
	of := tallyKey{server: "srv0"}
	assert.EqualValues(t, 2, pool.tallies()[of].total(outcomeClient))
	pool.release(first)
	assert.EqualValues(t, 2, pool.tallies()[of].total(outcomeClient), "one is gone")
	pool.release(second)
	assert.Empty(t, pool.tallies(), "the server is gone")
	pool.acquire(listenerKey{"srv0", "a"}, first)
	assert.Zero(t, pool.tallies()[of].total(outcomeClient), "a new server")
}

func TestListenersComeInOrder(t *testing.T) {
	pool := newListenerPool()
	var want, got []listenerKey
	for _, server := range []string{"a", "b", "c"} {
		for _, address := range []string{"1", "2", "3"} {
			key := listenerKey{server, address}
			want = append(want, key)
			pool.acquire(key, new(ListenerWrapper))
		}
	}
	pool.each(func(key listenerKey, _ *stats, _ wrapper) { got = append(got, key) })
	assert.Equal(t, want, got)
}

func TestListenAddressIsWrittenAsCaddyWritesIt(t *testing.T) {
	assert.Empty(t, listenAddress(nil))
	assert.Equal(t, "127.0.0.1:80", listenAddress(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}))
	assert.Equal(t, "unix//run/socket", listenAddress(&net.UnixAddr{Name: "/run/socket", Net: "unix"}))
}
