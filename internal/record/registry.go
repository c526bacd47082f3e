package proxyprotocol

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
)

// listeners are those in use, of the running configuration and, during a reload, of the
// one before.
var listeners = listenerPool{
	entries: make(map[listenerKey]*listenerEntry),
	gone:    make(tallies),
}

type listenerKey struct{ server, address string }

// tallyKey is what counts are summed up by: connections and datagrams are not.
type tallyKey struct {
	server    string
	datagrams bool
}

// packetAddress is what the addresses of sockets for datagrams begin with.
const packetAddress = "udp/"

func (k listenerKey) tally() tallyKey {
	return tallyKey{k.server, strings.HasPrefix(k.address, packetAddress)}
}

type listenerEntry struct {
	stats *stats
	// users are the modules that listen there, in the order of their configurations.
	users []any
}

type listenerPool struct {
	mu      sync.Mutex
	entries map[listenerKey]*listenerEntry
	// gone are the counts of listeners that are gone, by server, while it has others:
	// a counter must not go down. What their last connections do is not in there.
	gone tallies
}

// tallies are sums of counts.
type tallies map[tallyKey]*tally

func (t tallies) add(key tallyKey, counts *tally) {
	if t[key] == nil {
		t[key] = new(tally)
	}
	t[key].add(counts)
}

// acquire returns the stats of a listener: those it had, if it has been there before the
// reload. The user must be comparable.
func (p *listenerPool) acquire(key listenerKey, user any) *stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry := p.entries[key]
	if entry == nil {
		entry = &listenerEntry{stats: newStats()}
		p.entries[key] = entry
	}
	entry.users = append(entry.users, user)
	return entry.stats
}

// release gives up all listeners of a user.
func (p *listenerPool) release(user any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := make(map[tallyKey]bool) // servers that are still there
	for key, entry := range p.entries {
		entry.users = slices.DeleteFunc(entry.users, func(u any) bool { return u == user })
		if len(entry.users) > 0 {
			left[key.tally()] = true
			continue
		}
		delete(p.entries, key)
		p.gone.add(key.tally(), &entry.stats.tally)
	}
	maps.DeleteFunc(p.gone, func(key tallyKey, _ *tally) bool { return !left[key] })
}

// tallies returns what all listeners of each server have counted.
func (p *listenerPool) tallies() tallies {
	p.mu.Lock()
	defer p.mu.Unlock()
	sums := make(tallies)
	for key, entry := range p.entries {
		sums.add(key.tally(), &entry.stats.tally)
	}
	for key, counts := range p.gone {
		sums.add(key, counts)
	}
	return sums
}

// each calls f for every listener, in order, with the user that was configured last.
func (p *listenerPool) each(f func(key listenerKey, stats *stats, user any)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := make([]listenerKey, 0, len(p.entries))
	for key := range p.entries {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b listenerKey) int {
		return cmp.Or(cmp.Compare(a.server, b.server), cmp.Compare(a.address, b.address))
	})
	for _, key := range keys {
		entry := p.entries[key]
		f(key, entry.stats, entry.users[len(entry.users)-1])
	}
}
