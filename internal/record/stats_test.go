package record

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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
