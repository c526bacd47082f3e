package record

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

func newRegistry() *Registry {
	return &Registry{entries: make(map[Key]*listenerEntry), retired: make(Totals)}
}

// A counter must not go down.
func TestRegistry_CountsOutliveTheListenerNotTheServer(t *testing.T) {
	registry := newRegistry()
	const first, second = "first", "second"
	registry.Acquire(Key{"srv0", "a"}, first).Count(policy.On, 1, Client)
	registry.Acquire(Key{"srv0", "b"}, second).Count(policy.On, 1, Client)
	of := TotalsKey{Server: "srv0"}
	assert.EqualValues(t, 2, registry.Totals()[of].Total(Client))
	registry.Release(first)
	assert.EqualValues(t, 2, registry.Totals()[of].Total(Client), "one is gone")
	registry.Release(second)
	assert.Empty(t, registry.Totals(), "the server is gone")
	registry.Acquire(Key{"srv0", "a"}, first)
	assert.Zero(t, registry.Totals()[of].Total(Client), "a new server")
}

func TestRegistry_EachIsOrdered(t *testing.T) {
	registry := newRegistry()
	var want, got []Key
	for _, server := range []string{"a", "b", "c"} {
		for _, address := range []string{"1", "2", "3"} {
			key := Key{server, address}
			want = append(want, key)
			registry.Acquire(key, "user")
		}
	}
	registry.Each(func(key Key, _ *Stats, _ any) { got = append(got, key) })
	assert.Equal(t, want, got)
}
