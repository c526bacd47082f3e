package proxyprotocol

import (
	"encoding/hex"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of what is remembered of a listener's connections.
const (
	refusalsKept = 20
	bytesKept    = 16 // of a refused connection; what follows may be a request with secrets
	peersKept    = 256
)

// stats count what became of a listener's connections. They outlive reloads.
type stats struct {
	server        string
	counters      *prometheus.CounterVec
	cells         [len(modeNames)][len(versionNames)][outcomes]cell
	headerSeconds prometheus.Observer

	mu        sync.Mutex
	refusals  [refusalsKept]refusal // a ring
	refusedN  int
	peers     map[netip.Addr]struct{}
	peersMore bool // there was no room for others
}

// cell counts connections of one kind, for the status and for metrics.
type cell struct {
	n       atomic.Uint64
	counter atomic.Pointer[prometheus.Counter] // made when first needed
}

// versionNames are the labels of header versions; 0 is no header.
var versionNames = [...]string{"none", "v1", "v2"}

// refusal is what is remembered of a refused connection.
type refusal struct {
	time  time.Time
	peer  string
	why   outcome
	bytes [bytesKept]byte
	size  int
}

func newStats(server string) *stats { return newStatsOf(server, connections) }

// newDatagramStats are stats that count datagrams.
func newDatagramStats(server string) *stats { return newStatsOf(server, datagrams) }

func newStatsOf(server string, counters *prometheus.CounterVec) *stats {
	return &stats{
		server:        server,
		counters:      counters,
		headerSeconds: headerSeconds.WithLabelValues(server),
		peers:         make(map[netip.Addr]struct{}),
	}
}

// count counts a connection. It allocates only for the first of a kind.
func (s *stats) count(mode Mode, version uint8, o outcome) {
	cell := &s.cells[mode][version][o]
	cell.n.Add(1)
	counter := cell.counter.Load()
	if counter == nil {
		c := s.counters.WithLabelValues(s.server, mode.String(), versionNames[version], o.String())
		counter = &c
		cell.counter.Store(counter)
	}
	(*counter).Inc()
}

// total returns how many connections there were of an outcome.
func (s *stats) total(o outcome) (n uint64) {
	for mode := range s.cells {
		for version := range s.cells[mode] {
			n += s.cells[mode][version][o].n.Load()
		}
	}
	return n
}

// refused remembers a refused connection and its first bytes.
func (s *stats) refused(peer net.Addr, why outcome, received []byte) {
	r := refusal{time: time.Now(), peer: addrString(peer), why: why}
	r.size = copy(r.bytes[:], received)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[s.refusedN%refusalsKept] = r
	s.refusedN++
}

// sawPeer remembers a peer, if it has an IP address.
func (s *stats) sawPeer(peer netip.Addr) {
	if !peer.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.peers[peer]; ok {
		return
	}
	if len(s.peers) == peersKept {
		s.peersMore = true
		return
	}
	s.peers[peer] = struct{}{}
}

// lastRefusals returns the refusals remembered, the latest first.
func (s *stats) lastRefusals() []refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last []refusal
	for i := s.refusedN - 1; i >= max(0, s.refusedN-refusalsKept); i-- {
		last = append(last, s.refusals[i%refusalsKept])
	}
	return last
}

// hex returns the first bytes of the connection.
func (r *refusal) hex() string { return hex.EncodeToString(r.bytes[:r.size]) }
