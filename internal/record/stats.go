package record

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

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
	// PeersKept is the number of peers. Those with few connections are forgotten for others.
	PeersKept = 256
)

// Times after which a refusal is no longer recent.
const (
	recentTime = time.Hour
	// settledTime is that of a peer whose header was accepted after the refusal.
	settledTime = 2 * time.Minute
)

// Stats has the counters of a listener, its last refusals, the last headers it accepted, and its
// peers. It outlives reloads, and is safe for concurrent use.
type Stats struct {
	Counters
	payloads payloads
	// checks are the stats of announced peers, which Counters and the fields below leave out. It
	// is nil in checks itself.
	checks *Stats

	mu sync.Mutex
	// loaded is when the running configuration took over the listener; guarded by mu.
	loaded   monotime.Time
	refusals ring[Refusal] // guarded by mu
	// lastOf has the last refusal for each reason; guarded by mu.
	lastOf  [Outcomes]*Refusal
	headers ring[Accepted]            // guarded by mu
	peers   map[netip.Addr]*knownPeer // guarded by mu, the peers included
	// last is the peer that was looked up last: many connections in a row come from one load
	// balancer. It may be nil; guarded by mu.
	last *knownPeer
	// peersMore says that there were more than PeersKept peers, so that some were forgotten; guarded by mu.
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

// knownPeer is a peer with the times that decide what is recent.
type knownPeer struct {
	Peer
	// refused has the time of its last refusal for each reason, and header that of its last connection
	// with an accepted header. They are 0 if there is none.
	refused [Outcomes]monotime.Time
	header  monotime.Time
}

// sendsHeaders reports whether a connection of the peer began with a header.
func (p *Peer) sendsHeaders() bool {
	for reason, n := range p.Refusals {
		if n > 0 && Outcome(reason).HasHeader() {
			return true
		}
	}
	return p.Headers > 0
}

// NewStats returns the stats of a new listener.
func NewStats() *Stats {
	stats := func(checks *Stats) *Stats {
		return &Stats{
			checks:   checks,
			loaded:   monotime.Now(),
			refusals: ring[Refusal]{size: RefusalsKept},
			headers:  ring[Accepted]{size: HeadersKept},
			peers:    make(map[netip.Addr]*knownPeer),
		}
	}
	return stats(stats(nil))
}

// Checks returns the counters of announced peers.
func (s *Stats) Checks() *Counters { return &s.checks.Counters }

// addRefusal remembers a refusal. It sets what the refusal says of the peer.
func (s *Stats) addRefusal(r *Refusal) {
	ip := ipOf(r.Peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if peer := s.peer(ip); peer != nil {
		r.sendsHeaders = peer.sendsHeaders()
		peer.Refusals[r.Reason]++
		peer.refused[r.Reason] = monotime.At(r.Time)
	}
	s.refusals.add(*r)
	s.lastOf[r.Reason] = r
}

// addHeader remembers an accepted header.
func (s *Stats) addHeader(a *Accepted) {
	ip := policy.PeerIP(a.Peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if peer := s.peer(ip); peer != nil {
		peer.Headers++
		peer.header = a.At
	}
	s.headers.add(*a)
}

// peer returns the peer with an address, or nil if it is not remembered. The caller holds mu.
func (s *Stats) peer(addr netip.Addr) *knownPeer {
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
	if peer == nil {
		peer = s.freePeer()
		*peer = knownPeer{Peer: Peer{Addr: addr}}
		s.peers[addr] = peer
	}
	peer.Mode = mode
	peer.Connections++
}

// freePeer returns memory for a peer. If there are PeersKept, it forgets one: of a few, which differ
// each time, the one with the fewest connections. So a load balancer is kept, and one that comes late
// finds room, however many strangers there were. The caller holds mu.
func (s *Stats) freePeer() *knownPeer {
	if len(s.peers) < PeersKept {
		return new(knownPeer)
	}
	s.peersMore = true
	const few = 8
	var fewest *knownPeer
	looked := 0
	for _, peer := range s.peers {
		if fewest == nil || peer.Connections < fewest.Connections {
			fewest = peer
		}
		if looked++; looked == few {
			break
		}
	}
	delete(s.peers, fewest.Addr)
	return fewest
}

// TakeOver says that a new configuration takes over the listener.
func (s *Stats) TakeOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = monotime.Now()
}

// WasRefused reports whether there was a recent refusal for a reason: one under the running
// configuration, and within recentTime.
func (s *Stats) WasRefused(reason Outcome) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.lastOf[reason]
	return last != nil && s.isRecent(monotime.At(last.Time))
}

// WasPeerRefused is WasRefused for a peer. A refusal is no longer recent if the peer has sent a
// header since that was accepted, and was not refused again within settledTime.
func (s *Stats) WasPeerRefused(addr netip.Addr, reason Outcome) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	peer := s.peer(addr)
	if peer == nil || !s.isRecent(peer.refused[reason]) {
		return false
	}
	at := peer.refused[reason]
	return peer.header == 0 || peer.header < at || monotime.Now().Sub(at) < settledTime
}

// isRecent reports whether what happened at a time, which is 0 for never, is recent. The caller
// holds mu.
func (s *Stats) isRecent(at monotime.Time) bool {
	return at != 0 && at >= s.loaded && monotime.Now().Sub(at) < recentTime
}

// SeenPeers returns the peers remembered, in order, and whether there were more.
func (s *Stats) SeenPeers() (peers []Peer, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = make([]Peer, 0, len(s.peers))
	for _, peer := range s.peers {
		peers = append(peers, peer.Peer)
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

// LastRefusalsByReason returns the last refusal for each reason. Refusals for other reasons do not
// displace them.
func (s *Stats) LastRefusalsByReason() (refusals []Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.lastOf {
		if r != nil {
			refusals = append(refusals, *r)
		}
	}
	return refusals
}

// LastHeaders returns the accepted headers remembered, the latest first.
func (s *Stats) LastHeaders() []Accepted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headers.latest()
}
