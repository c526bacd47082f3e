package policy

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/cputime"
)

// BenchmarkPolicy finds the mode of peers: its time must not depend on how many ranges there are.
func BenchmarkPolicy(b *testing.B) {
	prefix := func(i int) string {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String()
	}
	trusted := func(n int) Policy {
		var all []string
		for i := range n {
			all = append(all, prefix(i))
		}
		return Policy{Mode: On, Trusted: newSet(b, all...)}
	}
	modes := func(n int) Policy {
		all := make(map[string]Mode)
		for i := range n {
			all[prefix(i)] = Off
		}
		return Policy{Mode: On, Ranges: newTable(b, all)}
	}
	inTheLast := func(n int) net.Addr {
		return &net.TCPAddr{IP: net.IPv4(10, byte((n-1)>>8), byte(n-1), 7), Port: 4711}
	}
	inNone := func(int) net.Addr { return tcpAddr("192.0.2.1:4711") }
	local := tcpAddr("192.0.2.2:443")
	for _, bb := range []struct {
		name   string
		policy func(n int) Policy
		peer   func(n int) net.Addr
	}{
		{"trusted, in the last range", trusted, inTheLast},
		{"trusted, in no range", trusted, inNone},
		{"modes, in the last range", modes, inTheLast},
		{"modes, in no range", modes, inNone},
	} {
		for _, n := range []int{1, 10, 100, 1000, 10_000} {
			policy, peer := bb.policy(n), bb.peer(n)
			b.Run(fmt.Sprintf("%s/%d", bb.name, n), func(b *testing.B) {
				b.ReportAllocs()
				defer cputime.Report(b)()
				for b.Loop() {
					policy.For(peer, local)
				}
			})
		}
	}
}
