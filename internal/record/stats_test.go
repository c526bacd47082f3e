package record

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStats_RemembersTheLastRefusalsAndSomePeers(t *testing.T) {
	s := NewStats()
	assert.Empty(t, s.LastRefusals())
	for i := range 3*RefusalsKept + 5 {
		peer := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: i}
		s.addRefusal(peer, Missing, []byte(strings.Repeat("x", i)))
	}
	last := s.LastRefusals()
	require.Len(t, last, RefusalsKept)
	for i, r := range last {
		assert.Equal(t, fmt.Sprintf("10.0.0.1:%d", 3*RefusalsKept+4-i), r.Peer.String())
		assert.Equal(t, strings.Repeat("78", BytesKept), r.Hex())
	}

	addr := netip.MustParseAddr("10.0.0.0")
	for range PeersKept {
		s.SawPeer(addr)
		s.SawPeer(addr)
		addr = addr.Next()
	}
	s.SawPeer(netip.Addr{})
	peers, more := s.SeenPeers()
	assert.Len(t, peers, PeersKept)
	assert.False(t, more)
	s.SawPeer(addr)
	peers, more = s.SeenPeers()
	assert.Len(t, peers, PeersKept)
	assert.True(t, more)
}

func TestStats_PeersAreInOrder(t *testing.T) {
	s := NewStats()
	peers, _ := s.SeenPeers()
	assert.NotNil(t, peers, "an empty list in JSON")
	assert.Empty(t, peers)
	var want []netip.Addr
	for i := range 100 {
		s.SawPeer(netip.AddrFrom4([4]byte{10, 0, 0, byte(99 - i)}))
		want = append(want, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
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
