package command

import (
	"encoding/json"
	"net"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		":443": "127.0.0.1:443", "0.0.0.0:443": "127.0.0.1:443", "[::]:443": "[::1]:443", "tcp4/:443": "127.0.0.1:443", "tcp6/:443": "[::1]:443",
		"tcp4/[::]:443": "127.0.0.1:443", "192.0.2.1:443": "192.0.2.1:443", "localhost:443": "localhost:443", "[::1]:443": "[::1]:443",
		"unix//run/caddy.sock": "unix//run/caddy.sock",
	} {
		addr, err := caddy.ParseNetworkAddress(listen)
		require.NoError(t, err)
		assert.Equal(t, want, reachable(addr, 0), listen)
	}
	ports, err := caddy.ParseNetworkAddress(":8080-8082")
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:8082", reachable(ports, 2))
}

func TestLint_ExpectsOfThisMachine(t *testing.T) {
	for wrapper, want := range map[string][]string{
		`{"mode":"on"}`: {"on"},
		`{"mode":"on","trusted_proxies":{"source":"static","ranges":["127.0.0.0/8"]}}`:                                                      {"on"},
		`{"mode":"on","trusted_proxies":{"source":"static","ranges":["10.0.0.10"]}}`:                                                        {"refused"},
		`{"mode":"on","trusted_proxies":{"source":"static"}}`:                                                                               {"refused"},
		`{"mode":"on","trusted_proxies":{"source":"static","ranges":["x"]}}`:                                                                {"refused"},
		`{"mode":"on","trusted_proxies":{"source":"other"}}`:                                                                                {"on", "refused"},
		`{"mode":"on","trusted_proxies":{"source":"static","ranges":["10.0.0.10"]},"ranges":[{"mode":"off","ranges":["::1","127.0.0.1"]}]}`: {"off"},
		`{"mode":"off","ranges":[{"mode":"on","ranges":["127.0.0.1"]},{"mode":"x","ranges":["127.0.0.1"]}]}`:                                {"on"},
		`{"mode":"off"}`: {"off"},
		`{"mode":""}`:    {"unspecified"},
		`{"trusted_proxies":{"source":"static","ranges":["10.0.0.10"]}}`:                                        {"off"},
		`{"trusted_proxies":{"source":"other"}}`:                                                                {"unspecified", "off"},
		`{"mode":"on","require":{"signature":{}}}`:                                                              {"on", "refused"},
		`{"mode":"on","require":{"tlvs":{}},"trusted_proxies":{"source":"static","ranges":["10.0.0.10"]}}`:      {"refused"},
		`{"mode":"on","require":{"signature":{}},"trusted_proxies":{"source":"static","ranges":["10.0.0.10"]}}`: {"refused"},
	} {
		l := new(lintListener)
		l.describe(wrapperIn([]json.RawMessage{json.RawMessage(`{"wrapper":"proxy_protocol_mode",` + wrapper[1:])}))
		assert.Equal(t, want, l.expected(target{network: "tcp", address: "127.0.0.1:1"}), wrapper)
	}
	assert.Equal(t, []string{"off"}, new(lintListener).expected(target{network: "tcp", address: "127.0.0.1:1"}))
	socket := &lintListener{wrapper: &wrapperConfig{Mode: "on", TrustedProxies: &trustedProxies{"static", []string{"10.0.0.10"}}}}
	assert.Equal(t, []string{"on"}, socket.expected(target{network: "unix", address: "/run/caddy.sock"}))
	assert.Equal(t, []string{"refused"}, socket.expected(target{network: "unix", address: "@caddy"}))
	noAddress := &lintListener{wrapper: &wrapperConfig{Mode: "on", TrustedProxies: &trustedProxies{"static", []string{"::/0", "0.0.0.0/0"}}}}
	assert.Equal(t, []string{"refused"}, noAddress.expected(target{network: "tcp", address: "nonsense"}))
}

// TestLint_LiveWithoutVerdict asserts that a listener that answers nothing that check understands is a
// finding, with what check says about it.
func TestLint_LiveWithoutVerdict(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 mail\r\n"))
			go c.Close()
		}
	}()
	r := &lintReport{Config: "Caddyfile", Listeners: []*lintListener{{Server: "a", Address: listener.Addr().String(), server: &lintServer{loaded: new(loadedServer)}}}}
	r.checkLive("127.0.0.1:1", 10*time.Second)
	require.Len(t, r.Findings, 1)
	assert.Contains(t, r.Findings[0].Problem, "check got no verdict: ")
	assert.Contains(t, r.Findings[0].Fix, "the verdict from this machine is 'off'")
	assert.EqualError(t, r.result(), "Caddyfile: 1 finding")
}

func TestHostOf(t *testing.T) {
	hosts := func(names ...string) caddyhttp.RouteList {
		return caddyhttp.RouteList{{MatcherSets: caddyhttp.MatcherSets{{new(caddyhttp.MatchHost(names))}}}}
	}
	policies := caddytls.ConnectionPolicies{{}, {FallbackSNI: "fallback.example"}, {DefaultSNI: "default.example"}}
	for _, tt := range []struct {
		name   string
		server *caddyhttp.Server
		want   string
	}{
		{"the first name", &caddyhttp.Server{Routes: hosts("a.example", "b.example"), TLSConnPolicies: policies}, "a.example"},
		{"a wildcard", &caddyhttp.Server{Routes: hosts("*.example.com")}, "any.example.com"},
		{"a policy", &caddyhttp.Server{TLSConnPolicies: policies}, "fallback.example"},
		{"nothing", &caddyhttp.Server{Routes: hosts()}, ""},
	} {
		assert.Equal(t, tt.want, hostOf(tt.server), tt.name)
	}
}
