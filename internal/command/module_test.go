package command_test

// Tests of the commands with a running Caddy: with this module, and with Caddy's own wrapper.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/freeport"
)

// object is a JSON object of a configuration.
type object map[string]any

// freeAddress returns a loopback address with a port that no socket uses.
func freeAddress(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", freeport.Get(t))
}

// httpServer returns the configuration of a server that answers every request. wrapper may be nil.
func httpServer(address string, tls bool, wrapper object) object {
	server := object{
		"listen":          []string{address},
		"automatic_https": object{"disable": true},
		"routes":          []object{{"handle": []object{{"handler": "static_response", "status_code": 200}}}},
	}
	if tls {
		server["tls_connection_policies"] = []object{{}}
	}
	if wrapper != nil {
		server["listener_wrappers"] = []object{wrapper, {"wrapper": "tls"}}
	}
	return server
}

// run runs Caddy with these servers until the test ends.
func run(t testing.TB, admin string, servers object) {
	t.Helper()
	_, pem := certificate()
	adminConfig := object{"disabled": true, "config": object{"persist": false}}
	if admin != "" {
		adminConfig = object{"listen": admin, "config": object{"persist": false}}
	}
	config, err := json.Marshal(object{
		"admin":   adminConfig,
		"storage": object{"module": "file_system", "root": t.TempDir()},
		"logging": object{"logs": object{"default": object{"writer": object{"output": "discard"}}}},
		"apps": object{
			"http": object{"grace_period": int64(time.Second), "servers": servers},
			"tls":  object{"certificates": object{"load_pem": []object{{"certificate": string(pem), "key": string(pem)}}}},
		},
	})
	require.NoError(t, err)
	caddytest.New(t) // stops Caddy when the test ends
	require.NoError(t, caddyserver.Load(config, true))
}

func TestCheckCaddy(t *testing.T) {
	thisPeer := object{"source": "static", "ranges": []string{"127.0.0.0/8"}}
	others := object{"source": "static", "ranges": []string{"10.0.0.0/8"}}
	module := func(mode string, trusted any, more ...string) object {
		wrapper := object{"wrapper": "proxy_protocol_mode", "mode": mode}
		if trusted != nil {
			wrapper["trusted_proxies"] = trusted
		}
		for i := 0; i < len(more); i += 2 {
			wrapper[more[i]] = more[i+1]
		}
		return wrapper
	}
	builtin := func(policy string) object {
		return object{"wrapper": "proxy_protocol", "fallback_policy": policy, "timeout": "5s"}
	}
	tests := []struct {
		name    string
		tls     bool
		wrapper object
		packet  object // wrapper, for HTTP/3
		// did has one letter for the reaction to each probe: no header, v1, v2, LOCAL, two of
		// v1, two of v2, and a wrong checksum.
		did   string
		http3 string
		// closest is the mode that the verdict "other" is closest to.
		verdict, closest string
	}{
		{name: "on", wrapper: module("on", thisPeer), did: ".AAA...", verdict: "on"},
		{name: "on for all", wrapper: module("on", nil), did: ".AAA...", verdict: "on"},
		{name: "on v1", wrapper: module("on", thisPeer, "version", "v1"), did: ".A.....", verdict: "on"},
		{name: "on v2", wrapper: module("on", thisPeer, "version", "v2"), did: "..AA...", verdict: "on"},
		{name: "on for others", wrapper: module("on", others), did: ".......", http3: "x", verdict: "refused"},
		{name: "off", wrapper: module("off", nil), did: "A......", verdict: "off"},
		{name: "unspecified", wrapper: module("unspecified", nil), did: "AAAA...", verdict: "unspecified"},
		{name: "unspecified for others", wrapper: module("unspecified", others), did: "A......", verdict: "off"},
		{name: "on, TLS", tls: true, wrapper: module("on", thisPeer), did: ".AAA...", http3: "x", verdict: "on"},
		{name: "on for others, TLS", tls: true, wrapper: module("on", others), did: ".......", http3: "x", verdict: "refused"},
		{name: "on with HTTP/3, TLS", tls: true, wrapper: module("on", thisPeer, "http3", "allow"), did: ".AAA...", http3: "A", verdict: "other", closest: "on"},
		{name: "on with HTTP/3 behind headers, TLS", tls: true, wrapper: module("on", thisPeer), packet: module("on", thisPeer), did: ".AAA...", http3: "HA", verdict: "on"},
		{name: "on with HTTP/3 behind headers of others, TLS", tls: true, wrapper: module("on", thisPeer), packet: module("on", others), did: ".AAA...", http3: "H", verdict: "on"},
		{name: "on for others, with HTTP/3 behind headers, TLS", tls: true, wrapper: module("on", others), packet: module("on", thisPeer), did: ".......", http3: "HA", verdict: "other", closest: "refused"},
		{name: "off with HTTP/3 behind headers, TLS", tls: true, wrapper: module("off", nil), packet: module("on", thisPeer), did: "A......", http3: "HA", verdict: "other", closest: "off"},
		{name: "off, TLS", tls: true, wrapper: module("off", nil), did: "A......", http3: "A", verdict: "off"},
		{name: "unspecified, TLS", tls: true, wrapper: module("unspecified", nil), did: "AAAA...", http3: "A", verdict: "unspecified"},

		{name: "REQUIRE", wrapper: builtin("REQUIRE"), did: ".AAA44A", verdict: "other", closest: "on"},
		{name: "REJECT", wrapper: builtin("REJECT"), did: "A......", verdict: "off"},
		{name: "USE", wrapper: builtin("USE"), did: "AAAA44A", verdict: "other", closest: "unspecified"},
		{name: "IGNORE", wrapper: builtin("IGNORE"), did: "AAAA44A", verdict: "other", closest: "unspecified"},
		{name: "SKIP", wrapper: builtin("SKIP"), did: "A444444", verdict: "other", closest: "off"},
		{name: "no wrapper", did: "A444444", verdict: "other", closest: "off"},
		{name: "REQUIRE, TLS", tls: true, wrapper: builtin("REQUIRE"), did: ".AAA..A", http3: "A", verdict: "other", closest: "on"},
		{name: "REJECT, TLS", tls: true, wrapper: builtin("REJECT"), did: "A......", http3: "A", verdict: "off"},
		{name: "USE, TLS", tls: true, wrapper: builtin("USE"), did: "AAAA..A", http3: "A", verdict: "other", closest: "unspecified"},
		{name: "IGNORE, TLS", tls: true, wrapper: builtin("IGNORE"), did: "AAAA..A", http3: "A", verdict: "other", closest: "unspecified"},
		{name: "SKIP, TLS", tls: true, wrapper: builtin("SKIP"), did: "A......", http3: "A", verdict: "off"},
		{name: "no wrapper, TLS", tls: true, did: "A......", http3: "A", verdict: "off"},
	}
	servers, addresses := object{}, make([]string, len(tests))
	for i, test := range tests {
		addresses[i] = freeAddress(t)
		server := httpServer(addresses[i], test.tls, test.wrapper)
		if test.packet != nil {
			server["packet_conn_wrappers"] = []object{test.packet}
		}
		servers[fmt.Sprintf("srv%d", i)] = server
	}
	run(t, "", servers)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // some probes wait until they time out
			address := addresses[i]
			args, protocol := []string{address}, "HTTP"
			if test.tls {
				args, protocol = []string{"--tls", "--sni", "localhost", address}, "TLS"
			}
			if strings.HasPrefix(test.http3, "H") {
				args = append(args, "--timeout", "5s") // it is waited for to the end
			}
			c := check(t, args...)
			assert.Equal(t, test.did, c.did(protocol))
			assert.Equal(t, test.http3, c.did("HTTP/3"))
			assert.Equal(t, test.verdict, c.Verdict, c.Differences)
			assert.Equal(t, test.closest, c.Closest)
		})
	}
}

// TestCheckOfANameWithoutCertificate asserts that check sees the TLS error of a server without a
// certificate for the name, over TCP and QUIC, where the PROXY protocol allows the handshake.
func TestCheckOfANameWithoutCertificate(t *testing.T) {
	address := freeAddress(t)
	run(t, "", object{"srv0": httpServer(address, true, object{"wrapper": "proxy_protocol_mode", "mode": "off"})})
	c := check(t, "--tls", "--sni", "nobody.example", address)
	assert.Equal(t, "F......", c.did("TLS"))
	assert.Equal(t, "F", c.did("HTTP/3"))
	assert.Equal(t, "unknown", c.Verdict)
}

func TestSendToCaddy(t *testing.T) {
	address := freeAddress(t)
	server := httpServer(address, true, object{"wrapper": "proxy_protocol_mode", "mode": "on"})
	server["routes"] = []object{{"handle": []object{{
		"handler": "static_response",
		"body": "{http.request.remote} {http.proxy_protocol.version} {http.proxy_protocol.destination} " +
			"{http.proxy_protocol.tlv.authority} {http.proxy_protocol.tlv.ssl.cn}\n",
	}}}}
	run(t, "", object{"srv0": server})
	output, err := proxyProtocol(t, "", "send", "--insecure", "--source", "203.0.113.7:51234", "--destination", "192.0.2.1:443",
		"--checksum", "--tlv", "authority=example.com", "--tlv", "ssl.version=TLSv1.3", "--tlv", "ssl.cn=someone",
		"-H", "Host: localhost", "https://localhost:"+address[len("127.0.0.1:"):])
	require.NoError(t, err)
	assert.Contains(t, output, "HTTP/2.0 200 OK\n")
	assert.Contains(t, output, "\n203.0.113.7:51234 2 192.0.2.1:443 example.com someone\n")
}

func TestStatusOfCaddy(t *testing.T) {
	on, off, admin := freeAddress(t), freeAddress(t), freeAddress(t)
	run(t, admin, object{
		"srv0": httpServer(on, false, object{
			"wrapper": "proxy_protocol_mode", "mode": "on",
			"trusted_proxies": object{"source": "static", "ranges": []string{"127.0.0.0/8"}},
			"ranges":          []object{{"mode": "off", "ranges": []string{"10.0.0.0/8"}}},
		}),
		"srv1": httpServer(off, false, object{"wrapper": "proxy_protocol_mode", "mode": "off"}),
	})
	// The probes are counted, and their refusals are in the status.
	require.Equal(t, "on", check(t, on).Verdict)

	output, err := proxyProtocol(t, "", "status", "--address", admin)
	require.NoError(t, err)
	assert.Contains(t, output, "srv0 "+on+"\n")
	assert.Contains(t, output, "srv1 "+off+"\n")
	assert.Contains(t, output, "  mode             on\n")
	assert.Contains(t, output, "  trusted proxies  static: 127.0.0.0/8\n")
	assert.Contains(t, output, "  mode off         10.0.0.0/8\n")
	assert.Regexp(t, `connections +.*client 2`, output)
	assert.Regexp(t, `peers +1: 127\.0\.0\.1`, output)
	assert.Regexp(t, `127\.0\.0\.1:\d+ +missing +http +HEAD / HTTP/1\.1\\x0d\n`, output)
	assert.Regexp(t, `127\.0\.0\.1:\d+ +v1 +192\.0\.2\.1:51234\n`, output)
	assert.Regexp(t, `(?m)duplicate +v1 .*\n +the first header's client: 192\.0\.2\.1:51234$`, output)
	assert.Regexp(t, `127\.0\.0\.1:\d+ +checksum +v2 +0d0a0d0a000d0a515549540a2121002b\n +byte 55: wrong CRC32C\n`, output)

	output, err = proxyProtocol(t, "", "status", "--json", "--address", admin)
	require.NoError(t, err)
	var parsed struct {
		Listeners []struct {
			Server   string         `json:"server"`
			Outcomes map[string]int `json:"outcomes"`
		} `json:"listeners"`
	}
	require.NoError(t, json.Unmarshal([]byte(output), &parsed))
	require.Len(t, parsed.Listeners, 2)
	assert.Equal(t, 2, parsed.Listeners[0].Outcomes["client"])
}
