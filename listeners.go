package proxyprotocol

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// listeners are those in use, of the running configuration and, during a reload, of the
// one before.
var listeners = listenerPool{
	entries: make(map[listenerKey]*listenerEntry),
	gone:    make(map[tallyOf]*tally),
}

type listenerKey struct{ server, address string }

type listenerEntry struct {
	stats     *stats
	datagrams bool      // are what it counts, not connections
	users     []wrapper // in the order of their configurations
}

// tallyOf is what a tally counts.
type tallyOf struct {
	server    string
	datagrams bool
}

func (e *listenerEntry) of(key listenerKey) tallyOf { return tallyOf{key.server, e.datagrams} }

// wrapper is a ListenerWrapper or a PacketConnWrapper. describe returns what the status
// shows of its configuration.
type wrapper interface {
	describe() (mode Mode, trustedSource string, ranges []ModeRanges)
}

type listenerPool struct {
	mu      sync.Mutex
	entries map[listenerKey]*listenerEntry
	// gone are the counts of listeners that are gone, while their server has others: a
	// counter must not go down.
	gone map[tallyOf]*tally
}

// acquire returns the stats of a listener: those it had, if it has been there before the
// reload.
func (p *listenerPool) acquire(key listenerKey, user wrapper, datagrams bool) *stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry := p.entries[key]
	if entry == nil {
		entry = &listenerEntry{stats: newStats(), datagrams: datagrams}
		p.entries[key] = entry
	}
	entry.users = append(entry.users, user)
	return entry.stats
}

// release gives up all listeners of a user.
func (p *listenerPool) release(user wrapper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := make(map[string]bool) // servers that are still there
	for key, entry := range p.entries {
		entry.users = slices.DeleteFunc(entry.users, func(u wrapper) bool { return u == user })
		if len(entry.users) > 0 {
			left[key.server] = true
			continue
		}
		delete(p.entries, key)
		sumUp(p.gone, entry.of(key), &entry.stats.tally)
	}
	maps.DeleteFunc(p.gone, func(of tallyOf, _ *tally) bool { return !left[of.server] })
}

func sumUp(sums map[tallyOf]*tally, of tallyOf, t *tally) {
	if sums[of] == nil {
		sums[of] = new(tally)
	}
	sums[of].add(t)
}

// tallies returns what all listeners of each server have counted.
func (p *listenerPool) tallies() map[tallyOf]*tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	sums := make(map[tallyOf]*tally)
	for of, t := range p.gone {
		sumUp(sums, of, t)
	}
	for key, entry := range p.entries {
		sumUp(sums, entry.of(key), &entry.stats.tally)
	}
	return sums
}

// each calls f for every listener, in order, with the wrapper that was configured last.
func (p *listenerPool) each(f func(key listenerKey, stats *stats, user wrapper)) {
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

// listenAddress is the address of a listener as Caddy writes it.
func listenAddress(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	if caddy.IsUnixNetwork(addr.Network()) {
		return addr.Network() + "/" + addr.String()
	}
	return addr.String()
}
