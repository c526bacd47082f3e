package statusapi

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

func TestListenerOf_StrangersDisplaceNoHint(t *testing.T) {
	r := record.Recorder{Log: record.NewLog(zap.NewNop(), false), Stats: record.NewStats()}
	refuse := func(peer net.IP, reason record.Outcome) {
		addr := &net.TCPAddr{IP: peer, Port: 4711}
		r.Count(policy.On, 0, reason)
		r.SawPeer(policy.PeerIP(addr), policy.On)
		r.Refuse(record.Refusal{Peer: addr, Mode: policy.On, Reason: reason}, nil)
	}
	refuse(net.IPv4(10, 0, 0, 5), record.Version)
	for range record.RefusalsKept {
		refuse(net.IPv4(198, 51, 100, 9), record.Untrusted)
	}
	l := ListenerOf(record.Key{Server: "srv0", Address: ":443"}, Settings{Mode: "on", TrustedProxies: "static"}, r.Stats)
	require.Len(t, l.Refusals, record.RefusalsKept)
	for _, refusal := range l.Refusals {
		assert.Equal(t, "untrusted", refusal.Reason)
	}
	assert.Contains(t, l.Hints, "10.0.0.5:4711 was refused as version: if this is your load balancer, set it to the other version, or remove the option 'version'")
}
