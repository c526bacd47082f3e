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
	gone:    make(map[string]*tally),
}

type listenerKey struct{ server, address string }

type listenerEntry struct {
	stats *stats
	users []*ListenerWrapper // in the order of their configurations
}

type listenerPool struct {
	mu      sync.Mutex
	entries map[listenerKey]*listenerEntry
	// gone are the counts of listeners that are gone, by server, while it has others:
	// a counter must not go down.
	gone map[string]*tally
}

// acquire returns the stats of a listener: those it had, if it has been there before the
// reload.
func (p *listenerPool) acquire(key listenerKey, user *ListenerWrapper) *stats {
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
func (p *listenerPool) release(user *ListenerWrapper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := make(map[string]bool) // servers that are still there
	for key, entry := range p.entries {
		entry.users = slices.DeleteFunc(entry.users, func(u *ListenerWrapper) bool { return u == user })
		if len(entry.users) > 0 {
			left[key.server] = true
			continue
		}
		delete(p.entries, key)
		if p.gone[key.server] == nil {
			p.gone[key.server] = new(tally)
		}
		p.gone[key.server].add(&entry.stats.tally)
	}
	maps.DeleteFunc(p.gone, func(server string, _ *tally) bool { return !left[server] })
}

// tallies returns what all listeners of each server have counted.
func (p *listenerPool) tallies() map[string]*tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	sums := make(map[string]*tally)
	for key, entry := range p.entries {
		if sums[key.server] == nil {
			sums[key.server] = new(tally)
			if gone := p.gone[key.server]; gone != nil {
				sums[key.server].add(gone)
			}
		}
		sums[key.server].add(&entry.stats.tally)
	}
	return sums
}

// each calls f for every listener, in order, with the wrapper that was configured last.
func (p *listenerPool) each(f func(key listenerKey, stats *stats, lw *ListenerWrapper)) {
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
