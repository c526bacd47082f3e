package proxyprotocol

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func newListenerPool() *listenerPool {
	return &listenerPool{entries: make(map[listenerKey]*listenerEntry), gone: make(tallies)}
}

// A counter must not go down.
func TestCountsOfAListenerOutliveItAsLongAsItsServer(t *testing.T) {
	pool := newListenerPool()
	const first, second = "first", "second"
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
			pool.acquire(key, "user")
		}
	}
	pool.each(func(key listenerKey, _ *stats, _ any) { got = append(got, key) })
	assert.Equal(t, want, got)
}
