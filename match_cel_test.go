package proxyprotocol_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// A client may choose the value of a placeholder. One that makes no sense must not be its way
// to an error 500, or to lines in the log.
func TestMatchCEL_UnusableValueDoesNotMatch(t *testing.T) {
	// Of each expression: values with which it matches the connection, values with which it does
	// not, and values that are unusable, with what the log says of them.
	expressions := []struct {
		cel        string
		match, not []string
		unusable   map[string]string
	}{
		{
			"proxy_protocol({http.request.header.X})",
			[]string{"present", "version:v2", "peer:127.0.0.1", "peer:private_ranges", "tlv:authority", "tlv:authority=a.test", "tlv:0xea=017670"},
			[]string{"absent", "local", "port_zero", "version:v1", "peer:10.0.0.1", "tlv:netns", "tlv:authority=b.test", "tlv:0xea=00"},
			map[string]string{
				"":                   "the placeholder has no value",
				"Present":            "unknown word 'Present'",
				"present local":      "unknown word 'present local'",
				"peers:127.0.0.1":    "unknown word 'peers:127.0.0.1'",
				"{http.request.uri}": "unknown word '{http.request.uri}'",
				"version:v3":         "version: unknown version 'v3'",
				"version:":           "version: unknown version ''",
				"peer:":              "peer: '' is not an IP address",
				"peer:x":             "peer: 'x' is not an IP address",
				"tlv:":               "tlv: unknown TLV name ''",
				"tlv:nonsense":       "tlv: unknown TLV name 'nonsense'",
				"tlv:0xea=vp":        "tlv: value 1 of 0xea is not hexadecimal: use pairs of digits such as 0aff",
			},
		},
		{
			"proxy_protocol('version:' + {http.request.header.X})",
			[]string{"v2"}, []string{"v1"},
			map[string]string{"": "the placeholder has no value", "2": "unknown version '2'", "V2": "unknown version 'V2'", "v1,v2": "unknown version 'v1,v2'"},
		},
		{
			"proxy_protocol('version:v' + {http.request.header.X})",
			[]string{"2"}, []string{"1"},
			map[string]string{"": "the placeholder has no value", "3": "unknown version 'v3'", "{http.proxy_protocol.version}": "unknown version 'v{http.proxy_protocol.version}'"},
		},
		{
			"proxy_protocol('peer:' + {http.request.header.X})",
			[]string{"127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.1", "private_ranges"}, []string{"10.0.0.1", "::/0"},
			map[string]string{
				"": "the placeholder has no value", "127.0.0.1:80": "peer: '127.0.0.1:80'", "127.0.0.1/33": "peer: '127.0.0.1/33'", "fe80::1%lo": "has a zone", "localhost": "peer: 'localhost'",
				"127.0.0.1,10.0.0.1": "peer: '127.0.0.1,10.0.0.1'", "{http.proxy_protocol.peer_ip}": "peer: '{http.proxy_protocol.peer_ip}'", `\{http.proxy_protocol.peer_ip\}`: `peer: '\\{http`,
			},
		},
		{
			"proxy_protocol('peer:' + {http.request.header.X} + '/8')",
			[]string{"127.0.0.0"}, []string{"10.0.0.0"},
			map[string]string{"": "the placeholder has no value", "127.0.0.0/8": "peer: '127.0.0.0/8/8'"},
		},
		{
			"proxy_protocol('tlv:' + {http.request.header.X})",
			[]string{"authority", "0xea", "0xEA", "authority=a.test"}, []string{"netns", "0xeb", "authority=b.test"},
			map[string]string{"": "the placeholder has no value", "sni": "unknown TLV name 'sni'", "0x": "unknown TLV name '0x'", "0x100": "unknown TLV name '0x100'", "=": "unknown TLV name ''"},
		},
		{
			"proxy_protocol('tlv:authority=' + {http.request.header.X})",
			[]string{"a.test"}, []string{"b.test", "a.test=", "{http.request.header.Authority}", "A.test"},
			map[string]string{"": "the placeholder has no value"},
		},
		{
			"proxy_protocol('tlv:0xea=' + {http.request.header.X})",
			[]string{"017670"}, []string{"00", "0176"},
			map[string]string{"": "the placeholder has no value", "0": "not hexadecimal", "zz": "not hexadecimal", "0x01": "not hexadecimal"},
		},
		{
			"proxy_protocol('present', 'peer:127.0.0.1', 'tlv:0xea=' + {http.request.header.X})",
			[]string{"017670"}, []string{"00"},
			map[string]string{"": "the placeholder has no value", "g0": "not hexadecimal"},
		},
		{
			"proxy_protocol('present', {http.request.header.X})",
			[]string{"present", "version:v2"}, []string{"version:v1", "local", "port_zero"},
			map[string]string{"absent": "'absent' cannot be combined", "": "the placeholder has no value"},
		},
		{
			// Placeholders that are not of text.
			"proxy_protocol('version:v' + {http.proxy_protocol.version}, 'peer:' + {http.proxy_protocol.peer_ip}, 'tlv:authority=' + {http.request.header.X})",
			[]string{"a.test"}, []string{"b.test"}, map[string]string{"": "the placeholder has no value"},
		},
		{"proxy_protocol('peer:' + {http.vars.nothing})", nil, nil, map[string]string{"any": "the placeholder has no value"}},
		{"proxy_protocol('peer:' + {http.nonsense})", nil, nil, map[string]string{"any": "the placeholder has no value"}},
		{"proxy_protocol('peer:' + {http.request.header})", nil, nil, map[string]string{"any": "the placeholder has no value"}},
		{"proxy_protocol('peer:' + {http.request.remote.port})", nil, nil, map[string]string{"any": "peer: '51234'"}},
		{"proxy_protocol('peer:' + {http.proxy_protocol})", nil, nil, map[string]string{"any": "peer: '{"}},
	}
	var site strings.Builder
	for i, e := range expressions {
		fmt.Fprintf(&site, "@%d expression %s\nheader @%[1]d +Matched %[1]d\n", i, quoted(e.cel))
		fmt.Fprintf(&site, "@not%d expression %s\nheader @not%[1]d +Not %[1]d\n", i, quoted("!"+e.cel))
	}
	site.WriteString("respond ok\n")
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, caddytest.ServerOptions(port, "proxy_protocol_mode on"), fmt.Sprintf("http://:%d {\n%s\n}\n", port, site.String()))
	s := caddytest.NewSession(t, caddytest.HTTP1, caddytest.TCP4(port), headertest.WithTLVs(headertest.TextTLV(0x02, "a.test"), headertest.TextTLV(0xea, "\x01vp")))
	defer s.Close()

	for i, e := range expressions {
		ask := func(t *testing.T, value string) (matched bool, lines []caddytest.Fields) {
			log := c.Logs.Tail()
			response, body := s.Get("/", "X", value, "Authority", "a.test")
			require.Equal(t, http.StatusOK, response.StatusCode)
			require.Equal(t, "ok", body)
			number := strconv.Itoa(i)
			matched = slices.Contains(response.Header["Matched"], number)
			assert.Equal(t, !matched, slices.Contains(response.Header["Not"], number), "in front of it, ! turns it around")
			for _, level := range []string{"warn", "error"} {
				assert.Empty(t, log.Find(caddytest.Fields{"level": level}))
			}
			args := strings.NewReplacer("proxy_protocol(", "", ")", "", "'", "", " + ", "").Replace(e.cel)
			return matched, log.Find(caddytest.Fields{"level": "debug", "msg": "proxy_protocol cannot use the value of a placeholder", "proxy_protocol": args})
		}
		t.Run(e.cel, func(t *testing.T) {
			for _, value := range e.match {
				matched, lines := ask(t, value)
				assert.True(t, matched, value)
				assert.Empty(t, lines, value)
			}
			for _, value := range e.not {
				matched, lines := ask(t, value)
				assert.False(t, matched, value)
				assert.Empty(t, lines, value)
			}
			for value, reason := range e.unusable {
				matched, lines := ask(t, value)
				assert.False(t, matched, value)
				if assert.NotEmpty(t, lines, value) {
					assert.Contains(t, lines[0].Str("error"), reason, value)
				}
			}
		})
	}
}

func TestMatchCEL_WrongConstantDoesNotLoad(t *testing.T) {
	tests := []struct{ cel, want string }{
		{"proxy_protocol('presnt', {query.x})", "unknown word 'presnt'"},
		{"proxy_protocol({query.x}, 'version:v3')", "version: unknown version 'v3'"},
		{"proxy_protocol('peer:' + {query.x}, 'peer:10.0.0.0/33')", "peer: '10.0.0.0/33'"},
		{"proxy_protocol('tlv:authority=' + {query.x}, 'tlv:sni')", "tlv: unknown TLV name 'sni'"},
		{"proxy_protocol('absent', 'present', {query.x})", "'absent' cannot be combined"},
		{"proxy_protocol('peers:' + {query.x})", "unknown word 'peers:{http.request.uri.query.x}'"},
		{"proxy_protocol('tlv:sni=' + {query.x})", "tlv: unknown TLV name 'sni'"},
		{"proxy_protocol('tlv:=' + {query.x})", "tlv: unknown TLV name ''"},
		{"proxy_protocol(ph('x'))", "matcher arguments must be string constants"},
		{"proxy_protocol(ph(req, 1))", "matcher arguments must be string constants"},
		{"proxy_protocol(ph(req, {query.x}))", "matcher arguments must be string constants"},
		{"proxy_protocol('peer:' + string(1))", "matcher arguments must be string constants"},
		{"proxy_protocol(['present'])", "matcher arguments must be string constants"},
		{"proxy_protocol(req)", "matcher arguments must be string constants"},
		// In text, escaped placeholders are the text that they are.
		{`proxy_protocol('\{query.x}')`, "unknown word '{http.request.uri.query.x}'"},
		{`proxy_protocol('peer:\{query.x}')`, "peer: '{http.request.uri.query.x}' is not an IP address"},
	}
	c := caddytest.New(t)
	for _, tt := range tests {
		err := c.Load(caddytest.ServerOptions(1, "proxy_protocol_mode on"), fmt.Sprintf("http://:%d {\n@m expression %s\nrespond @m ok\n}", caddytest.FreePort(t), quoted(tt.cel)))
		assert.ErrorContains(t, err, tt.want, tt.cel)
	}
}

func TestMatchCEL_PlaceholdersNeedARequestOfCaddys(t *testing.T) {
	m, err := proxyprotocol.NewCELMatcher("", "word", "")
	require.NoError(t, err)
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	assert.False(t, caddytest.Matches(t, m, r), "no value")
	repl.Set("word", "present")
	assert.True(t, caddytest.Matches(t, m, r))
	assert.False(t, caddytest.Matches(t, m, r.WithContext(t.Context())), "no replacer")

	r.TLS = new(tls.ConnectionState)
	repl.Set("word", "nonsense")
	_, err = m.MatchWithError(r)
	assert.ErrorContains(t, err, "TLS handshake not complete", "an address may be spoofed")
}
