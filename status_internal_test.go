package proxyprotocol

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStatus_RemembersTheLastRefusalsAndSomePeers(t *testing.T) {
	s := newStats()
	assert.Empty(t, s.lastRefusals())
	for i := range 3*refusalsKept + 5 {
		peer := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: i}
		s.refused(peer, reasonMissing, []byte(strings.Repeat("x", i)))
	}
	last := s.lastRefusals()
	require.Len(t, last, refusalsKept)
	for i, r := range last {
		assert.Equal(t, fmt.Sprintf("10.0.0.1:%d", 3*refusalsKept+4-i), r.peer.String())
		assert.Equal(t, strings.Repeat("78", bytesKept), r.hex())
	}

	addr := netip.MustParseAddr("10.0.0.0")
	for range peersKept {
		s.sawPeer(addr)
		s.sawPeer(addr)
		addr = addr.Next()
	}
	s.sawPeer(netip.Addr{})
	peers, more := s.seenPeers()
	assert.Len(t, peers, peersKept)
	assert.False(t, more)
	s.sawPeer(addr)
	peers, more = s.seenPeers()
	assert.Len(t, peers, peersKept)
	assert.True(t, more)
}

func TestStatus_Hints(t *testing.T) {
	private, public := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("203.0.113.5")
	const (
		onlyHealth    = "only headers without a client"
		headersInOff  = "headers arrive under mode 'off'"
		noHeaders     = "every connection comes from one private address without a header"
		onlyUntrusted = "only untrusted peers"
	)
	tests := []struct {
		name     string
		outcomes map[string]uint64
		peers    []netip.Addr
		more     bool
		want     []string
	}{
		{"nothing yet", nil, nil, false, nil},
		{"all is well", map[string]uint64{"client": 9, "local": 3, "missing": 1}, []netip.Addr{private}, false, nil},
		{"only health checks", map[string]uint64{"local": 3}, []netip.Addr{private}, false, []string{onlyHealth}},
		{"headers under off", map[string]uint64{"direct": 9, "forbidden": 1}, []netip.Addr{private, public}, false, []string{headersInOff}},
		{"a load balancer without headers under off", map[string]uint64{"direct": 9}, []netip.Addr{private}, false, []string{noHeaders}},
		{"a load balancer without headers under on", map[string]uint64{"missing": 9}, []netip.Addr{private}, false, []string{noHeaders}},
		{"clients that come directly", map[string]uint64{"direct": 9}, []netip.Addr{public}, false, nil},
		{"many private clients", map[string]uint64{"direct": 9}, []netip.Addr{private}, true, nil},
		{"wrong trusted_proxies", map[string]uint64{"untrusted": 9}, []netip.Addr{private}, false, []string{onlyUntrusted}},
		{"somebody untrusted", map[string]uint64{"untrusted": 9, "client": 1}, []netip.Addr{private}, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := hints(&listenerStatus{Outcomes: tt.outcomes, Peers: peersStatus{Count: len(tt.peers), More: tt.more, Addresses: tt.peers}})
			require.Len(t, got, len(tt.want), "%q", got)
			for i := range got {
				assert.Contains(t, got[i], tt.want[i])
			}
		})
	}
}
