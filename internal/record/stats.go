package record

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Bounds of what Stats remembers.
const (
	// RefusalsKept is the number of the last refusals.
	RefusalsKept = 20
	// HeadersKept is the number of the last accepted headers.
	HeadersKept = 10
	// PeersKept is the number of peers.
	PeersKept = 256
)

// Stats has the counters of a listener, its last refusals, the last headers it accepted, and its
// peers. It outlives reloads, and is safe for concurrent use.
type Stats struct {
	Counters
	payloads payloads

	mu       sync.Mutex
	refusals ring[Refusal]        // guarded by mu
	headers  ring[Accepted]       // guarded by mu
	peers    map[netip.Addr]*Peer // guarded by mu, the peers included
	// last is the peer that was looked up last: many connections in a row come from one load
	// balancer. It may be nil; guarded by mu.
	last *Peer
	// peersMore says that there were more than PeersKept peers; guarded by mu.
	peersMore bool
}

// Accepted is an accepted header.
type Accepted struct {
	At monotime.Time
	// Peer is the address of the peer that sent the header.
	Peer   net.Addr
	Header wire.Header
	Marked bool
}

// Peer is a peer, and what it did. Of datagrams, Connections and Headers count those whose client or
// header was new.
type Peer struct {
	Addr netip.Addr
	// Mode is the mode in force for the peer when it connected last.
	Mode policy.Mode
	// Connections and Headers are the numbers of its connections, and of its accepted headers.
	Connections, Headers uint64
	// Refusals are the numbers of its refusals that are remembered, by reason.
	Refusals [Outcomes]uint64
}

// NewStats returns the stats of a new listener.
func NewStats() *Stats {
	return &Stats{
		refusals: ring[Refusal]{size: RefusalsKept},
		headers:  ring[Accepted]{size: HeadersKept},
		peers:    make(map[netip.Addr]*Peer),
	}
}

// addRefusal remembers a refusal. It sets what the refusal says of the peer.
func (s *Stats) addRefusal(r *Refusal) {
	ip := ipOf(r.Peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if peer := s.peer(ip); peer != nil {
		peer.Refusals[r.Reason]++
		r.sendsHeaders = peer.Headers > 0
	}
	s.refusals.add(*r)
}

// addHeader remembers an accepted header.
func (s *Stats) addHeader(a *Accepted) {
	ip := policy.PeerIP(a.Peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if peer := s.peer(ip); peer != nil {
		peer.Headers++
	}
	s.headers.add(*a)
}

// peer returns the peer with an address, or nil if it is not remembered. The caller holds mu.
func (s *Stats) peer(addr netip.Addr) *Peer {
	if s.last == nil || s.last.Addr != addr {
		s.last = s.peers[addr]
	}
	return s.last
}

// SawPeer remembers a peer and the mode in force for it, unless its address is invalid.
func (s *Stats) SawPeer(addr netip.Addr, mode policy.Mode) {
	if !addr.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	peer := s.peer(addr)
	switch {
	case peer != nil:
	case len(s.peers) == PeersKept:
		s.peersMore = true
		return
	default:
		peer = &Peer{Addr: addr}
		s.peers[addr] = peer
	}
	peer.Mode = mode
	peer.Connections++
}

// SeenPeers returns the peers remembered, in order, and whether there were more.
func (s *Stats) SeenPeers() (peers []Peer, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = make([]Peer, 0, len(s.peers))
	for _, peer := range s.peers {
		peers = append(peers, *peer)
	}
	slices.SortFunc(peers, func(a, b Peer) int { return a.Addr.Compare(b.Addr) })
	return peers, s.peersMore
}

// LastRefusals returns the refusals remembered, the latest first.
func (s *Stats) LastRefusals() []Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusals.latest()
}

// LastHeaders returns the accepted headers remembered, the latest first.
func (s *Stats) LastHeaders() []Accepted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headers.latest()
}
