package proxyprotocol_test

import (
	"crypto/tls"
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
				Hint: "if your load balancer runs on this machine, add its address to 'trusted_proxies', such as: trusted_proxies static 127.0.0.2/32; or add to 'proxy_protocol_mode': on 127.0.0.2; if only this machine's own health checks connect from there, add to 'proxy_protocol_mode': off 127.0.0.2"},
			{Time: l.Refusals[0].Time, Peer: refused.LocalAddr().String(), Reason: "missing", Received: "http",
				Hint:  "this peer sends headers at other times: if it is your load balancer, make it send a PROXY protocol header every time, for its health checks, too",
				Bytes: fmt.Sprintf("%x", "GET /?secret=of-"), Text: "GET /?secret=of-"},
		},
		Hints: []string{
			"127.0.0.1 sends headers, but not every time (refused: 1): if it is your load balancer, make it send one every time, for its health checks, too",
			"127.0.0.2 is not in 'trusted_proxies' (refused: 1): if your load balancer runs on this machine, add its address there, such as: trusted_proxies static 127.0.0.2/32; or add to 'proxy_protocol_mode': on 127.0.0.2; if only this machine's own health checks connect from there, add to 'proxy_protocol_mode': off 127.0.0.2",
		},
	}, l)

	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		code, _ = admin(t, method, url, origin)
		assert.Equal(t, http.StatusMethodNotAllowed, code, method)
	}
	code, _ = admin(t, http.MethodGet, url, "http://evil.example")
	assert.Equal(t, http.StatusForbidden, code, "Caddy's origin check")

	// A reload keeps the counts, but hints are about the running configuration. What is gone from it
	// is gone from the status.
	require.NoError(t, caddy.Load(config, true))
	reloaded := caddytest.CurrentStatus(t).Listeners[0]
	assert.Equal(t, l.Outcomes, reloaded.Outcomes)
	assert.Equal(t, l.Peers, reloaded.Peers)
	assert.Empty(t, reloaded.Hints)
	require.NoError(t, c.Load("", ""))
	assert.Empty(t, caddytest.CurrentStatus(t).Listeners)
}

// A load balancer that sends to the wrong port, or ends TLS when it should not, is found in the log
// and in the status: the connection fails at the HTTP server, which does not say why.
func TestListenerWrapper_SaysThatTLSCameOnAPortForPlainHTTPAndTheReverse(t *testing.T) {
	const onPlain, onTLS = "received TLS behind a PROXY protocol header, but this port is for plain HTTP", "received plain HTTP behind a PROXY protocol header, but this port is for TLS"
	header := headertest.V2(headertest.Client4, headertest.Server4)
	for _, tt := range []struct {
		name     string
		wrappers string
		tls      bool // the port expects TLS
		sendTLS  bool // the client does TLS
		want     string
	}{
		{"TLS on plain", "proxy_protocol_mode on\ntls", false, true, onPlain},
		{"plain on TLS", "proxy_protocol_mode on\ntls", true, false, onTLS},
		{"TLS on plain, tls not listed", "proxy_protocol_mode on", false, true, onPlain},
		{"plain on plain", "proxy_protocol_mode on\ntls", false, false, ""},
		{"TLS on TLS", "proxy_protocol_mode on\ntls", true, true, ""},
		{"plain on TLS that is redirected", "proxy_protocol_mode on\nhttp_redirect\ntls", true, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plainPort, tlsPort := caddytest.FreePort(t), caddytest.FreePort(t)
			c := caddytest.New(t)
			global := fmt.Sprintf("http_port %d\nhttps_port %d\nauto_https disable_redirects\nservers {\nlistener_wrappers {\n%s\n}\n}\n", plainPort, tlsPort, tt.wrappers)
			certificate := caddytest.CertificateFiles(t)
			site, port := fmt.Sprintf("http://localhost:%d {\nrespond ok\n}\n", plainPort), plainPort
			if tt.tls {
				site, port = fmt.Sprintf("https://localhost:%d {\ntls %s\nrespond ok\n}\n", tlsPort, certificate), tlsPort
			}
			require.NoError(t, c.Load(global, site))
			for range 2 { // the second is not logged
				conn := caddytest.DialFrom(t, "", port)
				caddytest.Send(t, conn, header)
				if tt.sendTLS {
					_ = tls.Client(conn, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}).Handshake()
				} else {
					caddytest.Send(t, conn, caddytest.Request("/"))
					caddytest.ReadResponse(t, conn)
				}
				conn.Close()
			}
			status := func() statusapi.Listener { return caddytest.CurrentStatus(t).Listeners[0] }
			caddytest.Eventually(t, func() bool { return status().Outcomes["client"] == 2 }, "not counted")
			payload := caddytest.OfModule.With(caddytest.Fields{"level": "info", "source": headertest.Client4.String()})
			if tt.want != "" {
				c.Logs.WaitFor(t, payload)
			}
			logged := c.Logs.Find(payload)
			switch tt.want {
			case "":
				assert.Empty(t, logged)
				assert.Nil(t, status().WrongPayloads)
				assert.Empty(t, status().Hints)
				return
			case onPlain:
				assert.Equal(t, &statusapi.WrongPayloads{TLS: 2}, status().WrongPayloads)
				assert.Contains(t, status().Hints[0], "TLS arrives behind the header, but this port is for plain HTTP (connections: 2)")
			default:
				assert.Equal(t, &statusapi.WrongPayloads{HTTP: 2}, status().WrongPayloads)
				assert.Contains(t, status().Hints[0], "plain HTTP arrives behind the header, but this port is for TLS (connections: 2)")
			}
			require.Len(t, logged, 1)
			assert.Equal(t, tt.want, logged[0].Str("msg"))
			assert.Len(t, status().Hints, 1)
		})
	}
}

func TestStatus_SaysWhatBecameOfHTTP3(t *testing.T) {
	const packets = "\npacket_conn_wrappers {\nproxy_protocol_mode on {\ntrusted_proxies static 127.0.0.1\n}\n}"
	for _, tt := range []struct {
		name, wrapper, more, want string
		listeners                 int
	}{
		{"on", "proxy_protocol_mode on", "", "disabled", 1},
		{"on, allowed", "proxy_protocol_mode on {\nhttp3 allow\n}", "", "unchecked", 1},
		{"on, with the packet wrapper", "proxy_protocol_mode on", packets, "checked", 2},
		{"off", "proxy_protocol_mode off", "", "unchecked", 1},
		{"without HTTP/3", "proxy_protocol_mode on", "\nprotocols h1 h2", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, fmt.Sprintf("https_port %d\nauto_https disable_redirects\nservers {\nlistener_wrappers {\n%s\ntls\n}%s\n}\n", port, tt.wrapper, tt.more),
				fmt.Sprintf("https://localhost:%d {\ntls %s\nrespond ok\n}\n", port, caddytest.CertificateFiles(t)))
			opened := caddytest.Fields{"msg": "checking PROXY protocol headers"}
			caddytest.Eventually(t, func() bool { return len(c.Logs.Find(opened)) == tt.listeners }, "not logged")
			for _, l := range caddytest.CurrentStatus(t).Listeners {
				assert.Equal(t, tt.want, l.HTTP3, l.Address)
			}
			for _, entry := range c.Logs.Find(opened) {
				assert.Equal(t, tt.want, entry.Str("http3"))
			}
		})
	}
}

func TestStatus_HasTheWarningsOfTheLoad(t *testing.T) {
	port, plain := caddytest.FreePort(t), caddytest.FreePort(t)
	c := caddytest.Start(t, fmt.Sprintf("http_port %d\nhttps_port %d\n%s", plain, port, caddytest.Wrappers("proxy_protocol_mode on\ntls")),
		fmt.Sprintf("https://localhost:%d {\ntls %s\nrespond ok\n}\n", port, caddytest.CertificateFiles(t)))
	warnings := caddytest.CurrentStatus(t).Listeners[0].Warnings
	assert.Equal(t, c.Logs.Warnings(), warnings)
	require.Len(t, warnings, 3)
	assert.Contains(t, warnings[0], "HTTP/3 is disabled")
	assert.Contains(t, warnings[1], fmt.Sprintf("port %d has no 'proxy_protocol_mode'", plain))
	assert.Contains(t, warnings[2], "mode 'on' without 'trusted_proxies'")
}
