package record

import (
	"testing"
	"time"

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

// During a reload two configurations have the listener.
func TestRegistry_ListenerOutlivesOneOfItsUsers(t *testing.T) {
	registry := newRegistry()
	key := Key{"srv0", "a"}
	stats := registry.Acquire(key, "before")
	assert.Same(t, stats, registry.Acquire(key, "after"))
	user := func() (latest any) {
		registry.Each(func(_ Key, of *Stats, u any) {
			assert.Same(t, stats, of)
			latest = u
		})
		return latest
	}
	assert.Equal(t, "after", user(), "the latest")
	registry.Release("before")
	assert.Equal(t, "after", user())
	registry.Acquire(key, "failed")
	registry.Release("failed") // it did not load
	assert.Equal(t, "after", user())
	registry.Release("after")
	assert.Nil(t, user())
	assert.NotSame(t, stats, registry.Acquire(key, "new"))
}

func TestRegistry_KeepsTheTimesOfClosedListeners(t *testing.T) {
	registry := newRegistry()
	registry.Acquire(Key{"srv0", "a"}, "closed").ObserveHeader(time.Second)
	registry.Acquire(Key{"srv0", "b"}, "open").ObserveHeader(time.Minute)
	registry.Release("closed")
	n, sum, buckets := registry.Totals()[TotalsKey{Server: "srv0"}].HeaderTimes()
	assert.EqualValues(t, 2, n)
	assert.Equal(t, time.Minute+time.Second, sum)
	assert.EqualValues(t, 1, buckets[1])
}

func TestRegistry_CountsDatagramsApart(t *testing.T) {
	registry := newRegistry()
	registry.Acquire(Key{"srv0", ":443"}, "user").Count(policy.On, 1, Client)
	registry.Acquire(Key{"srv0", DatagramPrefix + ":443"}, "user").Count(policy.On, 2, Missing)
	totals := registry.Totals()
	assert.Len(t, totals, 2)
	assert.EqualValues(t, 1, totals[TotalsKey{Server: "srv0"}].Total(Client))
	assert.EqualValues(t, 1, totals[TotalsKey{Server: "srv0", Datagrams: true}].Total(Missing))
}
