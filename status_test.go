package proxyprotocol_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
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

func TestStatus_AtTheAdminAPI(t *testing.T) {
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
	caddytest.Send(t, accepted, headertest.V1(headertest.Client4, headertest.Server4)+caddytest.Request("/"))
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
	var got statusapi.Status
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	require.Len(t, got.Listeners, 1)
	l := got.Listeners[0]
	require.Len(t, l.Accepted, 1)
	_, err = time.Parse(time.RFC3339, l.Accepted[0].Time)
	assert.NoError(t, err)
	for i := range l.Refusals {
		at, err := time.Parse(time.RFC3339, l.Refusals[i].Time)
		assert.NoError(t, err)
		assert.WithinDuration(t, time.Now(), at, time.Minute)
		l.Refusals[i].Time = l.Refusals[0].Time
	}
	assert.Equal(t, statusapi.Listener{
		Server: "web", Address: fmt.Sprintf("[::]:%d", port),
		Settings: statusapi.Settings{
			Mode: "on", TrustedProxies: "static", TrustedRanges: []string{"127.0.0.1/32"},
			Ranges: []statusapi.Ranges{{Mode: "off", Ranges: []string{"127.0.0.3"}}},
		},
		Outcomes: map[string]uint64{"client": 1, "missing": 1, "untrusted": 1},
		Peers: statusapi.Peers{Count: 2, Addresses: []string{"127.0.0.1", "127.0.0.2"}, Details: []statusapi.Peer{
			{Address: "127.0.0.1", Mode: "on", Connections: 2, Headers: 1, Refusals: map[string]uint64{"missing": 1}},
			{Address: "127.0.0.2", Mode: "on", Connections: 1, Refusals: map[string]uint64{"untrusted": 1}},
		}},
		Accepted: []statusapi.Accepted{{Time: l.Accepted[0].Time, Peer: accepted.LocalAddr().String(), Version: "v1", Source: headertest.Client4.String(), Destination: headertest.Server4.String()}},
		Refusals: []statusapi.Refusal{
			{Time: l.Refusals[0].Time, Peer: untrusted.LocalAddr().String(), Reason: "untrusted",
				Hint: "if this machine connects without a header, for example for health checks, add: off 127.0.0.2"},
			{Time: l.Refusals[0].Time, Peer: refused.LocalAddr().String(), Reason: "missing", Received: "http",
				Hint:  "this peer sends headers at other times: make it send a PROXY protocol header every time, for its health checks, too",
				Bytes: fmt.Sprintf("%x", "GET /?secret=of-"), Text: "GET /?secret=of-"},
		},
		Hints: []string{
			"127.0.0.1 sends headers, but not every time (refused: 1): make it send one every time, for its health checks, too",
			"127.0.0.2 is not in 'trusted_proxies' (refused: 1): if this machine connects without a header, for example for health checks, add: off 127.0.0.2",
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
	assert.Equal(t, uint64(1), caddytest.CurrentStatus(t).Listeners[0].Outcomes["client"])
	require.NoError(t, c.Load("", ""))
	assert.Empty(t, caddytest.CurrentStatus(t).Listeners)
}
