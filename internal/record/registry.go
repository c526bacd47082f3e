package record

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Listeners are the listeners of the running configuration and, during a reload, of the one
// before.
var Listeners = Registry{
	entries: make(map[Key]*listenerEntry),
	retired: make(Totals),
}

// Key identifies a listener: the name of its server, and its address.
type Key struct{ Server, Address string }

// TotalsKey identifies a sum of counts: that of the connections or of the datagrams of a server.
type TotalsKey struct {
	Server    string
	Datagrams bool
}

// DatagramPrefix is the beginning of the address in the Key of a socket for datagrams.
const DatagramPrefix = "udp/"

func (k Key) totals() TotalsKey {
	return TotalsKey{k.Server, strings.HasPrefix(k.Address, DatagramPrefix)}
}

// listenerEntry is a listener in a Registry.
type listenerEntry struct {
	stats *Stats
	// users are the modules that listen there, in the order of their configurations.
	users []any
}

// Registry has the listeners in use, and keeps their stats across reloads. It is safe for
// concurrent use.
type Registry struct {
	mu      sync.Mutex
	entries map[Key]*listenerEntry // guarded by mu
	// retired has the counts of closed listeners of servers that still have others, because a
	// Prometheus counter must not decrease. Connections that outlive their listener are no
	// longer counted. Guarded by mu.
	retired Totals
}

// Totals are sums of counters.
type Totals map[TotalsKey]*Counters

func (t Totals) add(key TotalsKey, counts *Counters) {
	if t[key] == nil {
		t[key] = new(Counters)
	}
	t[key].add(counts)
}

// Acquire returns the stats of a listener that user uses, which must be comparable. They are
// those of the configuration before, if it has the listener too.
func (r *Registry) Acquire(key Key, user any) *Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := r.entries[key]
	if entry == nil {
		entry = &listenerEntry{stats: NewStats()}
		r.entries[key] = entry
	}
	entry.users = append(entry.users, user)
	entry.stats.TakeOver()
	return entry.stats
}

// Release removes a user from all listeners, and listeners without users.
func (r *Registry) Release(user any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := make(map[TotalsKey]bool) // those with listeners in use
	for key, entry := range r.entries {
		entry.users = slices.DeleteFunc(entry.users, func(u any) bool { return u == user })
		if len(entry.users) > 0 {
			left[key.totals()] = true
			continue
		}
		delete(r.entries, key)
		r.retired.add(key.totals(), &entry.stats.Counters)
	}
	maps.DeleteFunc(r.retired, func(key TotalsKey, _ *Counters) bool { return !left[key] })
}

// Totals returns the counts of each server, over all its listeners.
func (r *Registry) Totals() Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	sums := make(Totals)
	for key, entry := range r.entries {
		sums.add(key.totals(), &entry.stats.Counters)
	}
	for key, counts := range r.retired {
		sums.add(key, counts)
	}
	return sums
}

// Each calls f for every listener, ordered by key, with its latest user.
func (r *Registry) Each(f func(key Key, stats *Stats, user any)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]Key, 0, len(r.entries))
	for key := range r.entries {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Address, b.Address))
	})
	for _, key := range keys {
		entry := r.entries[key]
		f(key, entry.stats, entry.users[len(entry.users)-1])
	}
}
