package proxyprotocol

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Bounds of what is remembered of a listener's connections.
const (
	refusalsKept = 20
	bytesKept    = 16 // of a refused connection; what follows may be a request with secrets
	peersKept    = 256
)

// stats are what is known of a listener's connections. They outlive reloads.
type stats struct {
	tally

	mu        sync.Mutex
	refusals  [refusalsKept]refusal // a ring
	refusedN  int
	peers     map[netip.Addr]struct{}
	peersMore bool // there was no room for others
}

// refusal is what is remembered of a refused connection.
type refusal struct {
	time  time.Time
	peer  net.Addr
	why   outcome
	bytes [bytesKept]byte
	size  int
}

func newStats() *stats { return &stats{peers: make(map[netip.Addr]struct{})} }

// refused remembers a refused connection and its first bytes.
func (s *stats) refused(peer net.Addr, why outcome, received []byte) {
	r := refusal{time: time.Now(), peer: peer, why: why}
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

// seenPeers returns the peers remembered, in order, and whether there were more.
func (s *stats) seenPeers() (peers []netip.Addr, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = make([]netip.Addr, 0, len(s.peers))
	for peer := range s.peers {
		peers = append(peers, peer)
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	return peers, s.peersMore
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
