package command_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const statusAnswer = `{"listeners":[
	{"server":"srv0","address":"127.0.0.1:8080","mode":"on","trusted_proxies":"static","trusted_ranges":["10.0.0.1/32","2001:db8::1/128"],"require":["tlv 0xe1","signature in tlv 0xe5, max_age 30s"],"http3":"disabled","warnings":["HTTP/3 is disabled: this wrapper cannot check UDP"],
		"ranges":[{"mode":"off","ranges":["127.0.0.0/8","::1/128"]},{"mode":"unspecified","ranges":["10.0.0.0/8"]}],
		"outcomes":{"client":12,"missing":3,"untrusted":3,"local":0},"checks":{"missing":1,"client":2},"wrong_payloads":{"tls":2},
		"peers":{"count":2,"more":false,"addresses":["10.0.0.1","2001:db8::1"]},
		"accepted":[
			{"time":"2026-01-02T03:04:07Z","peer":"10.0.0.1:1","version":"v2","source":"","destination":""},
			{"time":"2026-01-02T03:04:07Z","peer":"10.0.0.1:2","version":"v1","source":"203.0.113.7:51234","destination":"10.0.0.1:80","marked":true}],
		"refusals":[
			{"time":"2026-01-02T03:04:10Z","peer":"192.0.2.1:51234","reason":"missing","received":"http","hint":"make it send a header","bytes":"474554202f20485454502f312e310d0a","text":"GET / HTTP/1.1\\x0d\\x0a"},
			{"time":"2026-01-02T03:04:09Z","peer":"192.0.2.1:51234","reason":"missing","received":"\\\\\\x0a","bytes":"5c0a","text":"\\\\\\x0a"},
			{"time":"2026-01-02T03:04:08Z","peer":"10.0.0.1:3","reason":"duplicate","received":"v1","source":"203.0.113.7:51234","bytes":"50524f5859"},
			{"time":"2026-01-02T03:04:07Z","peer":"10.0.0.1:4","reason":"checksum","received":"v2","error":"byte 55: wrong CRC32C","bytes":"0d0a0d0a000d0a515549540a21110013"},
			{"time":"2026-01-02T03:04:06Z","peer":"[2001:db8::7]:51234","reason":"untrusted","bytes":""}],
		"hints":["every connection comes from one private address without a header: if it is a load balancer, make it send PROXY protocol headers, or all clients have its address"]},
	{"server":"srv1","address":"unix//run/caddy.sock","mode":"off","trusted_proxies":"any","outcomes":{},
		"peers":{"count":10,"more":true,"addresses":["10.0.0.1","10.0.0.2","10.0.0.3","10.0.0.4","10.0.0.5","10.0.0.6","10.0.0.7","10.0.0.8","10.0.0.9","10.0.0.10"]},
		"refusals":[],"added_later":{"a":[1,2.50,null]}},
	{"server":"srv2","address":"udp/127.0.0.1:443","mode":"on","trusted_proxies":"any","outcomes":{"client":7},
		"peers":{"count":0,"more":false,"addresses":[]},"refusals":[]}
]}`

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		golden string
		code   int
		answer string
		fails  bool
	}{
		{"listeners", http.StatusOK, statusAnswer, false},
		{"no_listener", http.StatusOK, `{"listeners":[]}`, false},
		{"hostile", http.StatusOK, "{\"listeners\":[{\"server\":\"\\u001b[2J\\n\u009b\xff\U000e0001\",\"mode\":\"\x7f\",\"outcomes\":{\"\\t\":1}," +
			"\"peers\":{\"addresses\":[\"\\u001b\"]},\"accepted\":[{\"source\":\"\\u0007\"}],\"trusted_ranges\":[\"\\u0007\"],\"require\":[\"\\u0007\"],\"http3\":\"\\u0007\",\"warnings\":[\"\\u0007\"],\"checks\":{\"\\u0007\":1}," +
			"\"refusals\":[{\"peer\":\"\\u0007\",\"text\":\"\\u0007\",\"bytes\":\"\\u0007\",\"error\":\"\\u0007\",\"received\":\"\\u0007\",\"source\":\"\\u0007\"}],\"hints\":[\"\\u001b]0;owned\\u0007\"]}]}", false},
		{"no_module", http.StatusNotFound, "", true},
		{"no_json", http.StatusOK, "<html>\x1b[2J", true},
		{"wrong_json", http.StatusOK, `{"listeners":{}}`, true},
		{"error", http.StatusForbidden, `{"error":"host not allowed: \x1b[2J"}` + "\n\x1b[2J", true},
	} {
		t.Run(test.golden, func(t *testing.T) {
			admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, "GET /proxy_protocol/status", r.Method+" "+r.URL.Path)
				w.WriteHeader(test.code)
				_, _ = w.Write([]byte(test.answer))
			}))
			defer admin.Close()
			var text string
			for _, flags := range [][]string{nil, {"--json"}} {
				args := append([]string{"proxy-protocol", "status"}, append(flags, "--address", admin.Listener.Addr().String())...)
				output, err := caddy(t, "", args...)
				assert.Equal(t, test.fails, err != nil)
				requireHarmless(t, output)
				text += transcript(output, err, args...)
			}
			requireGolden(t, "status_"+test.golden, text)
		})
	}
}

func TestStatusBadInput(t *testing.T) {
	dead := deadAddress(t)
	silent := serve(t, func(conn net.Conn) { do(conn, hangs) })
	slow := serve(t, func(conn net.Conn) {
		var request [1024]byte
		_, _ = conn.Read(request[:])
		do(conn, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"+hangs)
	})
	for _, test := range []struct {
		args []string
		err  string
	}{
		{[]string{"--address", dead}, "connection refused"},
		{[]string{"--address", silent, "--timeout", impatience}, "no answer from the admin API at " + silent + " within 1s"},
		{[]string{"--address", slow, "--timeout", impatience}, "no answer from the admin API at " + slow + " within 1s"},
		{[]string{"--address", "localhost:1-2"}, "invalid admin address localhost:1-2"},
		{[]string{"--address", dead, "--timeout", "0s"}, "--timeout must be longer than 0"},
		{[]string{"--address", dead, "--config", "Caddyfile"}, "[address config] were all set"},
		{[]string{"--config", filepath.Join(t.TempDir(), "missing.json")}, "couldn't determine admin API address"},
		{[]string{"srv0"}, "status takes no arguments: remove 'srv0'"},
	} {
		output, err := proxyProtocol(t, "", append([]string{"status"}, test.args...)...)
		require.ErrorContains(t, err, test.err)
		assert.Empty(t, output)
	}
}

func TestStatusConfig(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"listeners":[]}`))
	}))
	defer admin.Close()
	config := filepath.Join(t.TempDir(), "caddy.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"admin":{"listen":"`+admin.Listener.Addr().String()+`"}}`), 0o600))
	output, err := proxyProtocol(t, "", "status", "--config", config)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(output, "No listener uses"), output)
}
