package record

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Bounds of what Stats remembers.
const (
	// RefusalsKept is the number of the last refusals.
	RefusalsKept = 20
	// BytesKept is the number of bytes of a refused connection. Those that follow may be a
	// request with secrets.
	BytesKept = 16
	// PeersKept is the number of peers.
	PeersKept = 256
)

// Stats has the counters of a listener, its last refusals and its peers. It outlives reloads,
// and is safe for concurrent use.
type Stats struct {
	Counters

	mu sync.Mutex
	// refusals is a ring, guarded by mu: that of number n is at n modulo its size.
	refusals [RefusalsKept]Refusal
	refusedN int                     // the number of all refusals; guarded by mu
	peers    map[netip.Addr]struct{} // guarded by mu
	// peersMore says that there were more than PeersKept peers; guarded by mu.
	peersMore bool
}

// Refusal is a refused connection or a dropped datagram.
type Refusal struct {
	Time   time.Time
	Peer   net.Addr
	Reason Outcome
	bytes  [BytesKept]byte
	size   int // of bytes
}

// NewStats returns the stats of a new listener.
func NewStats() *Stats { return &Stats{peers: make(map[netip.Addr]struct{})} }

// addRefusal remembers a refused connection and its first bytes.
func (s *Stats) addRefusal(peer net.Addr, reason Outcome, received []byte) {
	r := Refusal{Time: time.Now(), Peer: peer, Reason: reason}
	r.size = copy(r.bytes[:], received)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[s.refusedN%RefusalsKept] = r
	s.refusedN++
}

// SawPeer remembers a peer, unless its address is invalid.
func (s *Stats) SawPeer(peer netip.Addr) {
	if !peer.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.peers[peer]; ok {
		return
	}
	if len(s.peers) == PeersKept {
		s.peersMore = true
		return
	}
	s.peers[peer] = struct{}{}
}

// SeenPeers returns the peers remembered, in order, and whether there were more.
func (s *Stats) SeenPeers() (peers []netip.Addr, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = make([]netip.Addr, 0, len(s.peers))
	for peer := range s.peers {
		peers = append(peers, peer)
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	return peers, s.peersMore
}

// LastRefusals returns the refusals remembered, the latest first.
func (s *Stats) LastRefusals() []Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last []Refusal
	for i := s.refusedN - 1; i >= max(0, s.refusedN-RefusalsKept); i-- {
		last = append(last, s.refusals[i%RefusalsKept])
	}
	return last
}

// Hex returns the first bytes of the connection in hexadecimal.
func (r *Refusal) Hex() string { return hex.EncodeToString(r.bytes[:r.size]) }
