package proxyprotocol_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// matchTest is one matcher in the forms it has, and the connections it matches.
type matchTest struct {
	caddyfile string
	// cel is the same matcher as an expression, if that can say it.
	cel string
	// json is what the Caddyfile adapts to.
	json  string
	match []string
}

// runMatchTests sends a request over each connection, and asks which matchers match it.
func runMatchTests(t *testing.T, matcher string, connections []beginning, tests []matchTest) {
	var site strings.Builder
	for i, tt := range tests {
		fmt.Fprintf(&site, "@%d %s %s\nheader @%[1]d +Matched %[1]d\n", i, matcher, tt.caddyfile)
		if tt.cel != "" {
			fmt.Fprintf(&site, "@cel%d expression %s\nheader @cel%[1]d +Cel %[1]d\n", i, quoted(tt.cel))
		}
	}
	site.WriteString("respond ok\n")
	modes := make(map[string]bool)
	for _, c := range connections {
		modes[c.mode] = true
	}
	f := caddytest.StartFarm(t, slices.Sorted(maps.Keys(modes)), "", site.String())

	for _, c := range connections {
		// The transports differ in how a request finds its connection, not in matchers.
		for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.HTTPS2} {
			t.Run(c.name+"/"+string(tr), func(t *testing.T) {
				response, _ := caddytest.Get(t, tr, f.At(c.mode, tr), c.preamble, "/")
				require.Equal(t, http.StatusOK, response.StatusCode)
				for i, tt := range tests {
					want := slices.Contains(tt.match, c.name)
					assert.Equal(t, want, slices.Contains(response.Header["Matched"], strconv.Itoa(i)), "%s %s", matcher, tt.caddyfile)
					if tt.cel != "" {
						assert.Equal(t, want, slices.Contains(response.Header["Cel"], strconv.Itoa(i)), tt.cel)
					}
				}
			})
		}
	}
	t.Run("JSON", func(t *testing.T) {
		for _, tt := range tests {
			assert.JSONEq(t, tt.json, adaptedMatcher(t, matcher, tt.caddyfile), tt.caddyfile)
		}
	})
}

// quoted is text as one argument in a Caddyfile.
func quoted(s string) string { return "`" + s + "`" }

// adaptedMatcher is the JSON that a matcher in a Caddyfile adapts to.
func adaptedMatcher(t *testing.T, matcher, text string) string {
	t.Helper()
	config, err := caddytest.Adapt("http:// {\n@m " + matcher + " " + text + "\nrespond @m ok\n}")
	require.NoError(t, err)
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Match []map[string]json.RawMessage
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(config, &parsed))
	return string(parsed.Apps.HTTP.Servers["srv0"].Routes[0].Match[0][matcher])
}

// beginning is how a connection of a test begins.
type beginning struct{ name, mode, preamble string }

func names(of []beginning) []string {
	var names []string
	for _, b := range of {
		names = append(names, b.name)
	}
	return names
}

// The connections of the tests of matchers.
var (
	matchTLVs = headertest.WithTLVs(headertest.TextTLV(0x02, "a.test"), headertest.TextTLV(0x01, "h2"), headertest.TextTLV(0x05, "a\r\n\xff"), headertest.TextTLV(0xea, "\x01vpce-1"), headertest.TextTLV(0xf1, "\x00\xff"), headertest.SSLTLV(headertest.SSLUsed, 0, headertest.TextTLV(0x21, "TLSv1.3")))

	withoutHeader = []beginning{
		{"no header under off", "off", ""},
		{"no header under unspecified", "unspecified", ""},
	}
	withClient = []beginning{
		{"v1", "on", headertest.V1(headertest.Client4, headertest.Server4)},
		{"v2", "on", headertest.V2(headertest.Client4, headertest.Server4)},
		{"TLVs", "on", matchTLVs},
		{"an earlier hop's port 0", "on", "PROXY TCP4 203.0.113.7 192.0.2.1 0 443\r\n"},
	}
	withLocal = []beginning{
		{"LOCAL", "on", headertest.Local()},
		{"LOCAL under unspecified", "unspecified", headertest.Local()},
	}
	withUnknown = []beginning{
		{"UNKNOWN v1", "on", headertest.Unknown(1)},
		{"UNKNOWN v2", "on", headertest.Unknown(2)},
	}
	// Nobody vouched for these headers, and there is no address to mark.
	withClaim = []beginning{
		{"UNKNOWN v1 under unspecified", "unspecified", headertest.Unknown(1)},
	}
	withMark = []beginning{
		{"marked v1", "unspecified", headertest.V1(headertest.Client4, headertest.Server4)},
		{"marked v2", "unspecified", headertest.V2(headertest.Client4, headertest.Server4)},
		{"marked TLVs", "unspecified", matchTLVs},
		{"marked with port 0", "unspecified", "PROXY TCP4 203.0.113.7 192.0.2.1 0 443\r\n"},
	}
	wrappedConnections = slices.Concat(withoutHeader, withClient, withLocal, withUnknown, withClaim, withMark)
	allConnections     = append(slices.Clone(wrappedConnections), beginning{"unwrapped", caddytest.Unwrapped, ""})
)

func TestMatchProxyProtocol(t *testing.T) {
	vouched := slices.Concat(names(withClient), []string{"LOCAL"}, names(withUnknown)) // of those with a header
	runMatchTests(t, "proxy_protocol", allConnections, []matchTest{
		{"present", "proxy_protocol('present')", `{"is":["present"]}`, vouched},
		{"absent", "proxy_protocol('absent')", `{"is":["absent"]}`, names(withoutHeader)},
		{"port_zero", "proxy_protocol('port_zero')", `{"is":["port_zero"]}`, names(withMark)},
		{"local", "proxy_protocol('local')", `{"is":["local"]}`, names(withLocal)},
		{"present local", "proxy_protocol('present', 'local')", `{"is":["present","local"]}`, names(withLocal)},
		{"present port_zero", "proxy_protocol('present', 'port_zero')", `{"is":["present","port_zero"]}`, names(withMark)},
		{"present present", "proxy_protocol('present', 'present')", `{"is":["present","present"]}`, vouched},

		{"{\nversion v1\n}", "proxy_protocol('version:v1')", `{"version":["v1"]}`, []string{"v1", "an earlier hop's port 0", "UNKNOWN v1"}},
		{"{\nversion v2\n}", "proxy_protocol('version:v2')", `{"version":["v2"]}`, []string{"LOCAL", "v2", "TLVs", "UNKNOWN v2"}},
		{"{\nversion v1 v2\n}", "proxy_protocol('version:v1', 'version:v2')", `{"version":["v1","v2"]}`, vouched},
		{"{\nversion v1\nversion v2\n}", "", `{"version":["v1","v2"]}`, vouched},
		{"port_zero {\nversion v1\n}", "proxy_protocol('port_zero', 'version:v1')", `{"is":["port_zero"],"version":["v1"]}`, []string{"marked v1", "marked with port 0"}},
		{"port_zero {\nversion v2\n}", "proxy_protocol('version:v2', 'port_zero')", `{"is":["port_zero"],"version":["v2"]}`, []string{"marked v2", "marked TLVs"}},
		{"local {\nversion v1\n}", "proxy_protocol('local', 'version:v1')", `{"is":["local"],"version":["v1"]}`, nil},

		{"{\npeer 127.0.0.1\n}", "proxy_protocol('peer:127.0.0.1')", `{"peer":["127.0.0.1"]}`, names(wrappedConnections)},
		{"{\npeer 10.0.0.0/8 127.0.0.0/8\n}", "proxy_protocol('peer:10.0.0.0/8', 'peer:127.0.0.0/8')", `{"peer":["10.0.0.0/8","127.0.0.0/8"]}`, names(wrappedConnections)},
		{"{\npeer ::ffff:127.0.0.1\n}", "proxy_protocol('peer:::ffff:127.0.0.1')", `{"peer":["::ffff:127.0.0.1"]}`, names(wrappedConnections)},
		{"{\npeer private_ranges\n}", "proxy_protocol('peer:private_ranges')", `{"peer":["192.168.0.0/16","172.16.0.0/12","10.0.0.0/8","127.0.0.1/8","fd00::/8","::1"]}`, names(wrappedConnections)},
		{"{\npeer 203.0.113.7\n}", "proxy_protocol('peer:203.0.113.7')", `{"peer":["203.0.113.7"]}`, nil}, // the client is no peer
		{"{\npeer ::/0\n}", "proxy_protocol('peer:::/0')", `{"peer":["::/0"]}`, nil},
		{"absent {\npeer 127.0.0.0/8\n}", "proxy_protocol('absent', 'peer:127.0.0.0/8')", `{"is":["absent"],"peer":["127.0.0.0/8"]}`, names(withoutHeader)},
		{"present {\npeer 10.0.0.0/8\n}", "proxy_protocol('present', 'peer:10.0.0.0/8')", `{"is":["present"],"peer":["10.0.0.0/8"]}`, nil},

		{"{\ntlv authority\n}", "proxy_protocol('tlv:authority')", `{"tlv":{"authority":null}}`, []string{"TLVs"}},
		{"{\ntlv authority a.test\n}", "proxy_protocol('tlv:authority=a.test')", `{"tlv":{"authority":["a.test"]}}`, []string{"TLVs"}},
		{"{\ntlv authority A.TEST\n}", "proxy_protocol('tlv:authority=A.TEST')", `{"tlv":{"authority":["A.TEST"]}}`, nil},
		{"{\ntlv authority b.test a.test\n}", "proxy_protocol('tlv:authority=b.test', 'tlv:authority=a.test')", `{"tlv":{"authority":["b.test","a.test"]}}`, []string{"TLVs"}},
		{"{\ntlv authority b.test\n}", "proxy_protocol('tlv:authority=b.test')", `{"tlv":{"authority":["b.test"]}}`, nil},
		{"{\ntlv authority a.test\ntlv alpn h2\n}", "proxy_protocol('tlv:authority=a.test', 'tlv:alpn=h2')", `{"tlv":{"authority":["a.test"],"alpn":["h2"]}}`, []string{"TLVs"}},
		{"{\ntlv authority a.test\ntlv alpn http/1.1\n}", "proxy_protocol('tlv:authority=a.test', 'tlv:alpn=http/1.1')", `{"tlv":{"authority":["a.test"],"alpn":["http/1.1"]}}`, nil},
		{"{\ntlv netns\n}", "proxy_protocol('tlv:netns')", `{"tlv":{"netns":null}}`, nil},
		{"{\ntlv aws_vpce_id vpce-1\n}", "proxy_protocol('tlv:aws_vpce_id=vpce-1')", `{"tlv":{"aws_vpce_id":["vpce-1"]}}`, []string{"TLVs"}},
		{"{\ntlv ssl.version TLSv1.3\ntlv ssl.verified false\n}", "proxy_protocol('tlv:ssl.version=TLSv1.3', 'tlv:ssl.verified=false')", `{"tlv":{"ssl.version":["TLSv1.3"],"ssl.verified":["false"]}}`, []string{"TLVs"}},
		{"{\ntlv ssl.verified true\n}", "proxy_protocol('tlv:ssl.verified=true')", `{"tlv":{"ssl.verified":["true"]}}`, nil},
		{"{\ntlv 0xf1\n}", "proxy_protocol('tlv:0xf1')", `{"tlv":{"0xf1":null}}`, []string{"TLVs"}},
		{"{\ntlv 0xF1 00FF\n}", "proxy_protocol('tlv:0xF1=00FF')", `{"tlv":{"0xF1":["00FF"]}}`, []string{"TLVs"}},
		{"{\ntlv 0xf1 00\n}", "proxy_protocol('tlv:0xf1=00')", `{"tlv":{"0xf1":["00"]}}`, nil},
		{"{\ntlv 0xea 01767063652d31\n}", "proxy_protocol('tlv:0xea=01767063652d31')", `{"tlv":{"0xea":["01767063652d31"]}}`, []string{"TLVs"}},
		{"{\ntlv 0xf1 00\ntlv 0xF1 00ff\n}", "proxy_protocol('tlv:0xf1=00', 'tlv:0xF1=00ff')", `{"tlv":{"0xf1":["00"],"0xF1":["00ff"]}}`, []string{"TLVs"}},
		// What is shown as \x0d is matched as the byte it is.
		{"{\ntlv unique_id `a\\x0d\\x0a\\xff`\n}", `proxy_protocol('tlv:unique_id=a\\x0d\\x0a\\xff')`, `{"tlv":{"unique_id":["a\\x0d\\x0a\\xff"]}}`, nil},
		{"present {\ntlv authority\n}", "proxy_protocol('present', 'tlv:authority')", `{"is":["present"],"tlv":{"authority":null}}`, []string{"TLVs"}},
		{"port_zero {\ntlv authority a.test\n}", "proxy_protocol('port_zero', 'tlv:authority=a.test')", `{"is":["port_zero"],"tlv":{"authority":["a.test"]}}`, []string{"marked TLVs"}},
		{"port_zero {\ntlv authority b.test\n}", "proxy_protocol('port_zero', 'tlv:authority=b.test')", `{"is":["port_zero"],"tlv":{"authority":["b.test"]}}`, nil},

		{"present port_zero {\nversion v2\npeer 127.0.0.1\ntlv alpn h2\n}", "proxy_protocol('present', 'port_zero', 'version:v2', 'peer:127.0.0.1', 'tlv:alpn=h2')",
			`{"is":["present","port_zero"],"version":["v2"],"peer":["127.0.0.1"],"tlv":{"alpn":["h2"]}}`, []string{"marked TLVs"}},
	})
}

func TestMatchProxyProtocol_ComparesBytes(t *testing.T) {
	c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.TextTLV(0x02, "a\r\n\xff"), headertest.TextTLV(0xf1, "=a:b=")))
	tests := []struct {
		tlv  map[string][]string
		want bool
	}{
		{map[string][]string{"authority": {"a\r\n\xff"}}, true},
		{map[string][]string{"authority": {`a\x0d\x0a\xff`}}, false},
		{map[string][]string{"authority": {"a\r\n"}}, false},
		{map[string][]string{"authority": {""}}, false},
		{map[string][]string{"0xf1": {"3d613a623d"}}, true},
	}
	for _, tt := range tests {
		m := &proxyprotocol.MatchProxyProtocol{TLV: tt.tlv}
		require.NoError(t, provision(m))
		assert.Equal(t, tt.want, caddytest.Matches(t, m, caddytest.RequestOn(c)), "%q", tt.tlv)
	}
}

func TestMatchProxyProtocol_OfOneNameTwiceIsOneMatcher(t *testing.T) {
	m := new(proxyprotocol.MatchProxyProtocol)
	require.NoError(t, m.UnmarshalCaddyfile(caddyfile.NewTestDispenser("proxy_protocol present {\ntlv alpn h2\npeer 10.0.0.0/8\n}\nproxy_protocol port_zero {\ntlv alpn http/1.1\n}")))
	b, err := json.Marshal(m)
	require.NoError(t, err)
	assert.JSONEq(t, `{"is":["present","port_zero"],"peer":["10.0.0.0/8"],"tlv":{"alpn":["h2","http/1.1"]}}`, string(b))

	_, err = caddytest.Adapt("http:// {\n@m {\nproxy_protocol present\nproxy_protocol absent\n}\nrespond @m ok\n}")
	assert.EqualError(t, err, "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header, at Caddyfile:4")
}

func TestMatchProxyProtocol_ErrorsInACaddyfile(t *testing.T) {
	const tlvNames = "alpn, authority, unique_id, netns, ssl.version, ssl.cn, ssl.cipher, ssl.sig_alg, ssl.key_alg, ssl.group, ssl.sig_scheme, ssl.client_cert, ssl.verified, ssl.verify_result, ssl.cert_conn, ssl.cert_sess, aws_vpce_id, azure_private_endpoint_link_id, gcp_psc_connection_id, alibaba_vpc_id, alibaba_endpoint_id, alibaba_endpoint_service_id, " +
		"ssl.client_cert.fingerprint, ssl.client_cert.subject, ssl.client_cert.issuer, ssl.client_cert.serial, ssl.client_cert.san.dns_names, ssl.client_cert.san.emails, ssl.client_cert.san.ips, ssl.client_cert.san.uris, or 0xNN for any type"
	tests := []struct{ name, text, want string }{
		{"nothing", "", "the proxy_protocol matcher needs at least one of present, absent, port_zero, local, version, peer, tlv, at Caddyfile:2"},
		{"empty block", "{\n}", "the proxy_protocol matcher needs at least one of present, absent, port_zero, local, version, peer, tlv, at Caddyfile:2"},
		{"unknown word", "presnt", "unknown word 'presnt': use present, absent, port_zero, local, at Caddyfile:2"},
		{"word of another case", "Present", "unknown word 'Present': use present, absent, port_zero, local, at Caddyfile:2"},
		{"second word", "present 10.0.0.0/8", "unknown word '10.0.0.0/8': use present, absent, port_zero, local, at Caddyfile:2"},
		{"unknown option", "{\npeers 10.0.0.0/8\n}", "unrecognized option 'peers': use version, peer, tlv, at Caddyfile:3"},
		{"word in the block", "{\npresent\n}", "unrecognized option 'present': use version, peer, tlv, at Caddyfile:3"},
		{"version without one", "{\nversion\n}", "version needs an argument, at Caddyfile:3"},
		{"peer without one", "present {\npeer\n}", "peer needs an argument, at Caddyfile:3"},
		{"tlv without a name", "{\nversion v2\ntlv\n}", "tlv needs an argument, at Caddyfile:4"},
		{"unknown version", "{\nversion 2\n}", "version: unknown version '2': use v1 or v2, at Caddyfile:3"},
		{"empty version", "{\nversion \"\"\n}", "version: unknown version '': use v1 or v2, at Caddyfile:3"},
		{"range that does not parse", "{\npeer 10.0.0.0/33\n}", "peer: '10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1, at Caddyfile:3"},
		{"host name", "{\npeer 10.0.0.1 lb.test\n}", "peer: 'lb.test' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1, at Caddyfile:3"},
		{"zone", "{\npeer fe80::1%eth0\n}", "peer: 'fe80::1%eth0' has a zone: use an IP address or CIDR range without one, at Caddyfile:3"},
		{"unknown TLV", "{\ntlv sni a.test\n}", "tlv: unknown TLV name 'sni': use " + tlvNames + ", at Caddyfile:3"},
		{"TLV number out of range", "{\ntlv 0x100\n}", "tlv: unknown TLV name '0x100': use " + tlvNames + ", at Caddyfile:3"},
		{"value that is not hexadecimal", "{\ntlv 0xea vpce\n}", "tlv: value 1 of 0xea is not hexadecimal: use pairs of digits such as 0aff, at Caddyfile:3"},
		{"absent and present", "absent present", "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header, at Caddyfile:2"},
		{"absent and a version", "absent {\nversion v1\n}", "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header, at Caddyfile:3"},
		{"absent and port_zero", "port_zero absent", "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header, at Caddyfile:2"},
		{"local and port_zero", "local port_zero", "'local' cannot be combined with 'port_zero' or 'tlv': a LOCAL header has no addresses and no TLVs, at Caddyfile:2"},
		{"local and a TLV", "local {\npeer 10.0.0.0/8\ntlv alpn h2\n}", "'local' cannot be combined with 'port_zero' or 'tlv': a LOCAL header has no addresses and no TLVs, at Caddyfile:4"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := caddytest.Adapt("http:// {\n@m proxy_protocol " + tt.text + "\nrespond @m ok\n}")
			assert.EqualError(t, err, tt.want)
		})
	}
}

func TestMatchProxyProtocol_ErrorsInJSON(t *testing.T) {
	tests := []struct{ name, json, want string }{
		{"nothing", `{}`, "the proxy_protocol matcher needs at least one of present, absent, port_zero, local, version, peer, tlv"},
		{"empty lists", `{"is":[],"version":[],"peer":[],"tlv":{}}`, "the proxy_protocol matcher needs at least one of present, absent, port_zero, local, version, peer, tlv"},
		{"unknown word", `{"is":["trusted"]}`, "unknown word 'trusted': use present, absent, port_zero, local"},
		{"unknown version", `{"version":["v3"]}`, "version: unknown version 'v3': use v1 or v2"},
		{"range", `{"peer":["private_ranges"]}`, "peer: 'private_ranges' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
		{"TLV value", `{"tlv":{"0xea":["0"]}}`, "tlv: value 1 of 0xea is not hexadecimal: use pairs of digits such as 0aff"},
		{"contradiction", `{"is":["absent"],"tlv":{"alpn":null}}`, "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := new(proxyprotocol.MatchProxyProtocol)
			require.NoError(t, caddy.StrictUnmarshalJSON([]byte(tt.json), m))
			assert.EqualError(t, provision(m), tt.want)
		})
	}
	t.Run("unknown field", func(t *testing.T) {
		assert.ErrorContains(t, caddy.StrictUnmarshalJSON([]byte(`{"present":true}`), new(proxyprotocol.MatchProxyProtocol)), "present")
	})
}

func TestMatchCEL_ErrorsNameTheRoute(t *testing.T) {
	tests := []struct{ expression, want string }{
		{"proxy_protocol('presnt')", "unknown word 'presnt': use present, absent, port_zero, local"},
		{"proxy_protocol('version:v3')", "version: unknown version 'v3': use v1 or v2"},
		{"proxy_protocol('peers:10.0.0.0/8')", "unknown word 'peers:10.0.0.0/8': use present, absent, port_zero, local"},
		{"proxy_protocol('peer:')", "peer: '' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
		{"proxy_protocol('tlv:')", "tlv: unknown TLV name ''"},
		{"proxy_protocol('tlv:sni=a.test')", "tlv: unknown TLV name 'sni'"},
		{"proxy_protocol('absent', 'present')", "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header"},
		{"proxy_protocol()", "matcher requires at least one argument"},
		{"proxy_protocol(1)", "matcher arguments must be string constants"},
		{"pinned_ip('10.0.0.0/33')", "pinned_ip: '10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
		{"pinned_ip('')", "pinned_ip: '' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
		{"pinned_ip()", "at least one"},
		{"pinned_ip(1)", "matcher arguments must be string constants"},
		{"pinned_ip({client_ip} == '203.0.113.7')", "matcher arguments must be string constants"},
		{"pinned_ip('10.0.0.0/33', {client_ip})", "pinned_ip: '10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	}
	c := caddytest.New(t)
	for _, tt := range tests {
		err := c.Load("", fmt.Sprintf("http://:%d {\n@m expression %s\nrespond @m ok\n}", caddytest.FreePort(t), quoted(tt.expression)))
		assert.ErrorContains(t, err, tt.want, tt.expression)
		assert.ErrorContains(t, err, "server srv0: setting up route matchers: route 0: loading matcher modules: module name 'expression': ", tt.expression)
	}
}

func TestMatchCEL_MatchesAsTheMatchers(t *testing.T) {
	client := []string{"v1", "v2", "TLVs"}
	tests := []struct {
		expression string
		match      []string
	}{
		{"!proxy_protocol('port_zero')", slices.Concat(names(withoutHeader), names(withClient), names(withLocal), names(withUnknown), names(withClaim), []string{"unwrapped"})},
		{"!proxy_protocol('present')", slices.Concat(names(withoutHeader), []string{"LOCAL under unspecified"}, names(withClaim), names(withMark), []string{"unwrapped"})},
		{"proxy_protocol('present') && !proxy_protocol('local')", slices.Concat(names(withClient), names(withUnknown))},
		{"proxy_protocol('absent') || proxy_protocol('local')", slices.Concat(names(withoutHeader), names(withLocal))},
		{"proxy_protocol('absent') || proxy_protocol('port_zero', 'version:v1')", slices.Concat(names(withoutHeader), []string{"marked v1", "marked with port 0"})},
		{"proxy_protocol('port_zero') && {http.proxy_protocol.version} == 2", []string{"marked v2", "marked TLVs"}},
		{"proxy_protocol('version:v2') && method('GET') && {http.proxy_protocol.tlv.alpn} == 'h2'", []string{"TLVs"}},
		{"proxy_protocol('tlv:alpn=' + 'h2')", []string{"TLVs"}},
		{"proxy_protocol('tlv:alpn=' + {http.request.header.Alpn})", []string{"TLVs"}},
		{"proxy_protocol({http.request.header.Word})", slices.Concat(names(withClient), []string{"LOCAL"}, names(withUnknown))},

		{"pinned_ip('203.0.113.7')", client},
		{"pinned_ip('198.51.100.1', '203.0.113.0/24')", client},
		{"pinned_ip('127.0.0.1')", names(withoutHeader)},
		{"!pinned_ip('203.0.113.7')", slices.DeleteFunc(names(allConnections), func(name string) bool { return slices.Contains(client, name) })},
		{"pinned_ip('203.0.113.7') && proxy_protocol('version:v1')", []string{"v1"}},
		{"pinned_ip('203.0.113.7') || proxy_protocol('local')", append(names(withLocal), client...)},
		{"pinned_ip('203.0.113.7') || client_ip('127.0.0.1')", slices.Concat(client, names(withoutHeader), names(withLocal), names(withUnknown), names(withClaim), []string{"unwrapped"})},
		{"pinned_ip({http.request.header.Pin})", client},
		{`pinned_ip('\{http.request.header.Pin}')`, client},
		{`pinned_ip('198.51.100.1', '\{http.request.header.Pin}')`, client},
		{"pinned_ip('198.51.100.1', {http.request.header.Pin})", client},
		{"pinned_ip({http.request.header.Net} + '.7')", client},
		{`pinned_ip('\{http.request.header.Net}.0/24')`, client},
		{`pinned_ip('\{http.request.header.Several}')`, client},
		{`pinned_ip('\{http.request.header.Pin}', {http.request.header.Nothing})`, client},
		{`pinned_ip({http.request.header.Nothing}, '\{http.request.header.Pin}')`, client},
		{"pinned_ip({http.request.remote.port} + '', {http.request.header.Pin})", client},
		{"pinned_ip('' + {http.vars.nothing}, {http.request.header.Pin})", client},
	}
	var site strings.Builder
	for i, tt := range tests {
		fmt.Fprintf(&site, "@%d expression %s\nheader @%[1]d +Matched %[1]d\n", i, quoted(tt.expression))
	}
	site.WriteString("respond ok\n")
	f := caddytest.StartFarm(t, []string{"on", "off", "unspecified", caddytest.Unwrapped}, "", site.String())
	for _, c := range allConnections {
		t.Run(c.name, func(t *testing.T) {
			s := caddytest.NewSession(t, caddytest.HTTP1, f.At(c.mode, caddytest.HTTP1), c.preamble)
			defer s.Close()
			response, _ := s.Get("/", "Pin", "203.0.113.7", "Net", "203.0.113", "Several", "10.0.0.0/8, 203.0.113.7", "Alpn", "h2", "Word", "present")
			require.Equal(t, http.StatusOK, response.StatusCode)
			for i, tt := range tests {
				assert.Equal(t, slices.Contains(tt.match, c.name), slices.Contains(response.Header["Matched"], strconv.Itoa(i)), tt.expression)
			}
		})
	}
}

// Before the handshake is complete an address may be spoofed: the request must be retried.
func TestMatchers_RefuseRequestsBeforeTheHandshakeIsComplete(t *testing.T) {
	proxyProtocol := &proxyprotocol.MatchProxyProtocol{Peer: []string{"0.0.0.0/0"}}
	require.NoError(t, provision(proxyProtocol))
	pinnedIP := &proxyprotocol.MatchPinnedIP{Ranges: []string{"203.0.113.7"}}
	require.NoError(t, provision(pinnedIP))
	for _, m := range []caddyhttp.RequestMatcherWithError{proxyProtocol, pinnedIP} {
		t.Run(fmt.Sprintf("%T", m), func(t *testing.T) {
			early := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
			early.TLS = new(tls.ConnectionState)
			match, err := m.MatchWithError(early)
			assert.False(t, match)
			var handlerErr caddyhttp.HandlerError
			require.ErrorAs(t, err, &handlerErr)
			assert.Equal(t, http.StatusTooEarly, handlerErr.StatusCode)
			assert.EqualError(t, handlerErr.Err, "TLS handshake not complete, remote IP cannot be verified")

			complete := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
			complete.TLS = &tls.ConnectionState{HandshakeComplete: true}
			match, err = m.MatchWithError(complete)
			assert.NoError(t, err)
			assert.True(t, match)
		})
	}
}

// The matcher reads what it wrote.
func TestMatchProxyProtocol_SurvivesJSON(t *testing.T) {
	m := new(proxyprotocol.MatchProxyProtocol)
	require.NoError(t, m.UnmarshalCaddyfile(caddyfile.NewTestDispenser("proxy_protocol present {\nversion v2\npeer 10.0.0.0/8\ntlv alpn h2\n}")))
	b, err := json.Marshal(m)
	require.NoError(t, err)
	again := new(proxyprotocol.MatchProxyProtocol)
	require.NoError(t, caddy.StrictUnmarshalJSON(b, again))
	require.NoError(t, provision(again))
	assert.Equal(t, m, again)
}

// JSON goes past the Caddyfile's checks.
func TestMatchProxyProtocol_WrongJSONIsRefused(t *testing.T) {
	c := caddytest.New(t)
	for _, tt := range []struct{ json, want string }{
		{`{}`, "the proxy_protocol matcher needs at least one of present"},
		{`{"is":["presnt"]}`, "unknown word 'presnt'"},
		{`{"version":["v3"]}`, "version: unknown version 'v3'"},
		{`{"peer":["10.0.0.0/33"]}`, "peer: "},
		{`{"tlv":{"athority":[]}}`, "tlv: "},
		{`{"is":["absent","present"]}`, "'absent' cannot be combined with"},
	} {
		err := c.LoadJSON(fmt.Sprintf(`{"http":{"servers":{"web":{"listen":[":%d"],"routes":[{"match":[{"proxy_protocol":%s}]}]}}}}`, caddytest.FreePort(t), tt.json))
		assert.ErrorContains(t, err, tt.want, tt.json)
	}
}
