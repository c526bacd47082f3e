package statusapi

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestListener_FindHints(t *testing.T) {
	private, public := "10.0.0.5", "203.0.113.5"
	const (
		onlyHealth    = "only headers without a client"
		headersInOff  = "headers arrive under mode 'off'"
		noHeaders     = "every connection comes from one private address without a header"
		onlyUntrusted = "only untrusted peers"
	)
	tests := []struct {
		name     string
		outcomes map[string]uint64
		peers    []string
		more     bool
		want     []string
	}{
		{"nothing yet", nil, nil, false, nil},
		{"all is well", map[string]uint64{"client": 9, "local": 3, "missing": 1}, []string{private}, false, nil},
		{"only health checks", map[string]uint64{"local": 3}, []string{private}, false, []string{onlyHealth}},
		{"headers under off", map[string]uint64{"direct": 9, "forbidden": 1}, []string{private, public}, false, []string{headersInOff}},
		{"a load balancer without headers under off", map[string]uint64{"direct": 9}, []string{private}, false, []string{noHeaders}},
		{"a load balancer without headers under on", map[string]uint64{"missing": 9}, []string{private}, false, []string{noHeaders}},
		{"clients that come directly", map[string]uint64{"direct": 9}, []string{public}, false, nil},
		{"many private clients", map[string]uint64{"direct": 9}, []string{private}, true, nil},
		{"wrong trusted_proxies", map[string]uint64{"untrusted": 9}, []string{private}, false, []string{onlyUntrusted}},
		{"only one health check", map[string]uint64{"local": 1}, []string{private}, false, []string{onlyHealth}},
		{"health checks, and clients that are marked", map[string]uint64{"local": 3, "marked": 1, "client": 1}, []string{private}, false, nil},
		{"one connection without a header under off, one under on", map[string]uint64{"direct": 1, "missing": 1}, []string{private}, false, []string{noHeaders}},
		{"one connection without a header under off", map[string]uint64{"direct": 1}, []string{private}, false, []string{noHeaders}},
		{"one connection without a header under on", map[string]uint64{"missing": 1}, []string{private}, false, []string{noHeaders}},
		{"clients with and without a header", map[string]uint64{"direct": 9, "marked": 9}, []string{private}, false, nil},
		{"a peer without an IP address", map[string]uint64{"direct": 9}, []string{"@"}, false, nil},
		{"two private clients", map[string]uint64{"direct": 9}, []string{private, "10.0.0.6"}, false, nil},
		{"one untrusted peer, once", map[string]uint64{"untrusted": 1}, []string{private}, false, []string{onlyUntrusted}},
		{"somebody untrusted", map[string]uint64{"untrusted": 9, "client": 1}, []string{private}, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := (&Listener{Outcomes: tt.outcomes, Peers: Peers{Count: len(tt.peers), More: tt.more, Addresses: tt.peers}}).FindHints()
			require.Len(t, got, len(tt.want), "%q", got)
			for i := range got {
				assert.Contains(t, got[i], tt.want[i])
			}
		})
	}
}
