package proxyprotocol

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// admin asks the admin API.
func admin(t testing.TB, method, url, origin string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	require.NoError(t, err)
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestStatusAtTheAdminAPI(t *testing.T) {
	c := caddytest.New(t)
	port, adminPort := caddytest.FreePort(t), caddytest.FreePort(t)
	config, err := caddytest.Adapt(c.Caddyfile(
		caddytest.ServerOptions(port, "proxy_protocol_mode on {\ntrusted_proxies static 127.0.0.1\noff 127.0.0.3\n}\ntls", "name web"),
		fmt.Sprintf("http://:%d {\nrespond ok\n}\n", port)))
	require.NoError(t, err)
	var whole map[string]any
	require.NoError(t, json.Unmarshal(config, &whole))
	whole["admin"] = map[string]any{"listen": fmt.Sprintf("127.0.0.1:%d", adminPort), "enforce_origin": true, "config": map[string]any{"persist": false}}
	config, err = json.Marshal(whole)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(config, true))
	url := fmt.Sprintf("http://127.0.0.1:%d/proxy_protocol/status", adminPort)
	origin := fmt.Sprintf("http://127.0.0.1:%d", adminPort)

	accepted := caddytest.DialFrom(t, "", port)
	caddytest.Send(t, accepted, caddytest.HeaderV1(caddytest.Client4, caddytest.Server4)+caddytest.Request("/"))
	caddytest.ReadResponse(t, accepted)
	refused := caddytest.DialFrom(t, "", port)
	caddytest.Send(t, refused, "GET /?secret=of-a-request HTTP/1.1\r\n\r\n")
	caddytest.RequireRefused(t, refused)
	c.Logs.WaitForRefusal(t, caddytest.Fields{"reason": "missing"})
	untrusted := caddytest.DialFrom(t, "127.0.0.2", port)
	caddytest.RequireRefused(t, untrusted)
	c.Logs.WaitForRefusal(t, caddytest.Fields{"reason": "untrusted"})

	code, body := admin(t, http.MethodGet, url, origin)
	require.Equal(t, http.StatusOK, code, body)
	var got status
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	require.Len(t, got.Listeners, 1)
	l := got.Listeners[0]
	for i := range l.Refusals {
		assert.False(t, l.Refusals[i].Time.IsZero())
		l.Refusals[i].Time = l.Refusals[0].Time
	}
	off := Off
	assert.Equal(t, listenerStatus{
		Server: "web", Address: fmt.Sprintf("[::]:%d", port), Mode: On, TrustedProxies: "static",
		Ranges:   []ModeRanges{{Mode: &off, Ranges: []string{"127.0.0.3"}}},
		Outcomes: map[string]uint64{"client": 1, "missing": 1, "untrusted": 1},
		Peers:    peersStatus{Count: 2, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}},
		Refusals: []refusalStatus{
			{Time: l.Refusals[0].Time, Peer: untrusted.LocalAddr().String(), Reason: "untrusted"},
			{Time: l.Refusals[0].Time, Peer: refused.LocalAddr().String(), Reason: "missing", Bytes: fmt.Sprintf("%x", "GET /?secret=of-")},
		},
	}, l)

	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		code, _ = admin(t, method, url, origin)
		assert.Equal(t, http.StatusMethodNotAllowed, code, method)
	}
	code, _ = admin(t, http.MethodGet, url, "http://evil.example")
	assert.Equal(t, http.StatusForbidden, code, "Caddy's origin check")

	// A reload keeps the counts; what is gone from the config is gone from the status.
	require.NoError(t, caddy.Load(config, true))
	assert.Equal(t, uint64(1), currentStatus().Listeners[0].Outcomes["client"])
	require.NoError(t, c.Load("", ""))
	assert.Empty(t, currentStatus().Listeners)
}

func TestStatusRemembersTheLastRefusalsAndSomePeers(t *testing.T) {
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

func TestStatusHints(t *testing.T) {
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
