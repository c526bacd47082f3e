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
	for i := range l.Refusals {
		at, err := time.Parse(time.RFC3339Nano, l.Refusals[i].Time)
		assert.NoError(t, err)
		assert.WithinDuration(t, time.Now(), at, time.Minute)
		l.Refusals[i].Time = l.Refusals[0].Time
	}
	assert.Equal(t, statusapi.Listener{
		Server: "web", Address: fmt.Sprintf("[::]:%d", port), Mode: "on", TrustedProxies: "static",
		Ranges:   []statusapi.Ranges{{Mode: "off", Ranges: []string{"127.0.0.3"}}},
		Outcomes: map[string]uint64{"client": 1, "missing": 1, "untrusted": 1},
		Peers:    statusapi.Peers{Count: 2, Addresses: []string{"127.0.0.1", "127.0.0.2"}},
		Refusals: []statusapi.Refusal{
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
	assert.Equal(t, uint64(1), caddytest.CurrentStatus(t).Listeners[0].Outcomes["client"])
	require.NoError(t, c.Load("", ""))
	assert.Empty(t, caddytest.CurrentStatus(t).Listeners)
}
