package record

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

func TestStats_RemembersTheLastRefusalsAndSomePeers(t *testing.T) {
	r := Recorder{NewLog(zap.NewNop(), false), NewStats()}
	assert.Empty(t, r.Stats.LastRefusals())
	for i := range 3*RefusalsKept + 5 {
		peer := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: i}
		r.Refuse(Refusal{Peer: peer, Reason: Missing}, []byte(strings.Repeat("x", i)))
	}
	last := r.Stats.LastRefusals()
	require.Len(t, last, RefusalsKept)
	for i, refusal := range last {
		assert.Equal(t, fmt.Sprintf("10.0.0.1:%d", 3*RefusalsKept+4-i), refusal.Peer.String())
		assert.Equal(t, strings.Repeat("78", BytesKept), refusal.Hex())
		assert.Equal(t, strings.Repeat("x", BytesKept), refusal.Text())
	}

	addr := netip.MustParseAddr("10.0.0.0")
	for range PeersKept {
		r.SawPeer(addr, policy.On)
		r.SawPeer(addr, policy.On)
		addr = addr.Next()
	}
	r.SawPeer(netip.Addr{}, policy.On)
	peers, more := r.Stats.SeenPeers()
	assert.Len(t, peers, PeersKept)
	assert.EqualValues(t, 2, peers[0].Connections)
	assert.False(t, more)
	r.SawPeer(addr, policy.On)
	peers, more = r.Stats.SeenPeers()
	assert.Len(t, peers, PeersKept)
	assert.True(t, more)
}

// Strangers must not hide a load balancer: neither one that was there before, nor one that comes late.
func TestStats_RemembersLoadBalancersAmongStrangers(t *testing.T) {
	s := NewStats()
	early, late := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")
	stranger := netip.MustParseAddr("2001:db8::")
	strangers := func(n int) {
		for range n {
			s.SawPeer(stranger, policy.On)
			stranger = stranger.Next()
		}
	}
	known := func() map[netip.Addr]uint64 {
		connections := make(map[netip.Addr]uint64)
		peers, _ := s.SeenPeers()
		require.LessOrEqual(t, len(peers), PeersKept)
		for _, p := range peers {
			connections[p.Addr] = p.Connections
		}
		return connections
	}
	for range 9 {
		s.SawPeer(early, policy.On)
	}
	strangers(100 * PeersKept)
	assert.EqualValues(t, 9, known()[early])
	for range 9 {
		s.SawPeer(late, policy.On)
	}
	strangers(100 * PeersKept)
	assert.EqualValues(t, 9, known()[early])
	assert.EqualValues(t, 9, known()[late])
	assert.Zero(t, testing.AllocsPerRun(1000, func() { strangers(1) }), "a flood allocates nothing")
}

func BenchmarkStats_SawPeer(b *testing.B) {
	for name, distinct := range map[string]bool{"known": false, "stranger": true} {
		b.Run(name, func(b *testing.B) {
			s := NewStats()
			addr := netip.MustParseAddr("2001:db8::")
			for range b.N {
				if distinct {
					addr = addr.Next()
				}
				s.SawPeer(addr, policy.On)
			}
		})
	}
}

func TestStats_RemembersTheLastHeaders(t *testing.T) {
	r := Recorder{NewLog(zap.NewNop(), false), NewStats()}
	assert.Empty(t, r.Stats.LastHeaders())
	for i := range 2*HeadersKept + 3 {
		r.RememberHeader(&Accepted{Peer: &net.TCPAddr{Port: i}, Header: *testHeader()})
		assert.Len(t, r.Stats.LastHeaders(), min(i+1, HeadersKept))
	}
	for i, a := range r.Stats.LastHeaders() {
		assert.Equal(t, 2*HeadersKept+2-i, a.Peer.(*net.TCPAddr).Port)
		assert.Equal(t, *testHeader(), a.Header)
	}
}

// The peers are what hints are made of.
func TestStats_CountWhatEachPeerDid(t *testing.T) {
	r := Recorder{NewLog(zap.NewNop(), false), NewStats()}
	ip := func(addr net.Addr) netip.Addr { return addr.(*net.TCPAddr).AddrPort().Addr() }
	stranger := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.1:1"))
	for range 3 {
		r.SawPeer(ip(testPeer), policy.On)
	}
	r.Refuse(Refusal{Peer: testPeer, Reason: Missing}, []byte("GET "))
	r.RememberHeader(&Accepted{Peer: testPeer, Header: *testHeader()})
	r.Refuse(Refusal{Peer: testPeer, Reason: Missing}, []byte("GET "))
	r.Refuse(Refusal{Peer: testPeer, Reason: Silent}, nil)
	// Peers that were not seen are not remembered: those of datagrams may be forged.
	r.Refuse(Refusal{Peer: stranger, Reason: Untrusted}, nil)
	r.RememberHeader(&Accepted{Peer: stranger, Header: *testHeader()})

	peers, _ := r.Stats.SeenPeers()
	want := Peer{Addr: ip(testPeer), Mode: policy.On, Connections: 3, Headers: 1}
	want.Refusals[Missing] = 2
	assert.Equal(t, []Peer{want}, peers)
	last := r.Stats.LastRefusals()
	require.Len(t, last, 3)
	assert.NotContains(t, last[2].Hint(), "at other times", "the first refusal was before the header")
	assert.Contains(t, last[1].Hint(), "at other times")
}

func TestStats_PeersAreInOrder(t *testing.T) {
	s := NewStats()
	peers, _ := s.SeenPeers()
	assert.NotNil(t, peers, "an empty list in JSON")
	assert.Empty(t, peers)
	var want []Peer
	for i := range 100 {
		s.SawPeer(netip.AddrFrom4([4]byte{10, 0, 0, byte(99 - i)}), policy.Off)
		want = append(want, Peer{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Mode: policy.Off, Connections: 1})
	}
	peers, _ = s.SeenPeers()
	assert.Equal(t, want, peers)
}

func TestCounters_DurationsFallIntoTheirBuckets(t *testing.T) {
	for i, bound := range durationBounds {
		var d durations
		d.observe(bound)
		d.observe(bound + 1)
		assert.EqualValues(t, 1, d.counts[i].Load(), "bounds are inclusive: %s", bound)
		assert.EqualValues(t, 1, d.counts[i+1].Load(), bound)
	}
}

// What the operator has set right is no longer recent.
func TestStats_KnowsRecentRefusals(t *testing.T) {
	type step func(r *Recorder)
	peer := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}
	refused := func(r *Recorder) { r.Refuse(Refusal{Peer: peer, Reason: Missing}, nil) }
	header := func(r *Recorder) {
		r.RememberHeader(&Accepted{At: monotime.Now(), Peer: peer, Header: *testHeader()})
	}
	loaded := func(r *Recorder) { r.Stats.TakeOver() }
	after := func(d time.Duration) step { return func(*Recorder) { time.Sleep(d) } }
	for _, tt := range []struct {
		name               string
		steps              []step
		recent, peerRecent bool
	}{
		{"never", nil, false, false},
		{"now", []step{refused}, true, true},
		{"within the hour", []step{refused, after(59 * time.Minute)}, true, true},
		{"an hour before", []step{refused, after(time.Hour)}, false, false},
		{"before the configuration was loaded", []step{refused, after(1), loaded}, false, false},
		{"before and after", []step{refused, after(1), loaded, after(1), refused}, true, true},
		{"a header since then", []step{refused, after(1), header, after(time.Minute)}, true, true},
		{"a header since then, for long", []step{refused, after(1), header, after(2 * time.Minute)}, true, false},
		{"a header before", []step{header, after(1), refused, after(2 * time.Minute)}, true, true},
		{"sometimes", []step{refused, after(1), header, after(time.Minute), refused, after(1), header, after(time.Minute)}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Nanosecond) // 0 is never
				r := Recorder{NewLog(zap.NewNop(), false), NewStats()}
				r.SawPeer(policy.PeerIP(peer), policy.On)
				for _, do := range tt.steps {
					do(&r)
				}
				assert.Equal(t, tt.recent, r.Stats.WasRefused(Missing))
				assert.Equal(t, tt.peerRecent, r.Stats.WasPeerRefused(policy.PeerIP(peer), Missing))
				assert.False(t, r.Stats.WasRefused(Duplicate))
				assert.False(t, r.Stats.WasPeerRefused(netip.MustParseAddr("10.0.0.2"), Missing))
			})
		})
	}
}

func TestStats_KnowsAPeerThatSendsHeaders(t *testing.T) {
	for reason := Missing; reason < Outcomes; reason++ {
		p := new(Peer)
		p.Refusals[reason]++
		assert.Equal(t, reason.HasHeader(), p.sendsHeaders(), reason)
		p.Headers++
		assert.True(t, p.sendsHeaders())
	}
	for o := Client; o < Missing; o++ {
		assert.False(t, o.HasHeader(), o)
	}
	assert.True(t, Version.HasHeader())
	assert.False(t, Untrusted.HasHeader(), "nothing is read")
}
