package proxyprotocol_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
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

func TestMatchPinnedIP(t *testing.T) {
	client := []string{"v1", "v2", "TLVs"}
	direct := names(withoutHeader)
	runMatchTests(t, "pinned_ip", allConnections, []matchTest{
		{"203.0.113.7", "pinned_ip('203.0.113.7')", `{"ranges":["203.0.113.7"]}`, client},
		{"203.0.113.0/24", "pinned_ip('203.0.113.0/24')", `{"ranges":["203.0.113.0/24"]}`, client},
		{"::ffff:203.0.113.7", "pinned_ip('::ffff:203.0.113.7')", `{"ranges":["::ffff:203.0.113.7"]}`, client},
		{"::ffff:203.0.113.0/120", "pinned_ip('::ffff:203.0.113.0/120')", `{"ranges":["::ffff:203.0.113.0/120"]}`, client},
		{"203.0.113.8", "pinned_ip('203.0.113.8')", `{"ranges":["203.0.113.8"]}`, nil},
		{"::/0", "pinned_ip('::/0')", `{"ranges":["::/0"]}`, nil},
		{"127.0.0.1", "pinned_ip('127.0.0.1')", `{"ranges":["127.0.0.1"]}`, direct},
		{"private_ranges", "", `{"ranges":["192.168.0.0/16","172.16.0.0/12","10.0.0.0/8","127.0.0.1/8","fd00::/8","::1"]}`, direct},
		{"10.0.0.0/8 203.0.113.7", "pinned_ip('10.0.0.0/8', '203.0.113.7')", `{"ranges":["10.0.0.0/8","203.0.113.7"]}`, client},
		{"0.0.0.0/0", "pinned_ip('0.0.0.0/0')", `{"ranges":["0.0.0.0/0"]}`, slices.Concat(client, direct)},
		{"{client_ip}", `pinned_ip('\{http.vars.client_ip}')`, `{"ranges":["{http.vars.client_ip}"]}`, slices.Concat(client, direct)},
		{"10.0.0.0/8 {http.proxy_protocol.client_ip}/24", `pinned_ip('10.0.0.0/8', '\{http.proxy_protocol.client_ip}/24')`, `{"ranges":["10.0.0.0/8","{http.proxy_protocol.client_ip}/24"]}`, slices.Concat(client, direct)},
		{"{http.proxy_protocol.peer_ip}", `pinned_ip('\{http.proxy_protocol.peer_ip}')`, `{"ranges":["{http.proxy_protocol.peer_ip}"]}`, direct},
		{"{http.request.header.Nothing}", `pinned_ip('\{http.request.header.Nothing}')`, `{"ranges":["{http.request.header.Nothing}"]}`, nil},
		{"{http.nonsense}", `pinned_ip('\{http.nonsense}')`, `{"ranges":["{http.nonsense}"]}`, nil},
	})
}

func TestMatchPinnedIP_OfIPv6Clients(t *testing.T) {
	mapped := []beginning{
		{"IPv6", "on", headertest.V2(headertest.Client6, headertest.Server6)},
		{"IPv4-mapped IPv6", "on", headertest.V2(mappedOf(headertest.Client4), mappedOf(headertest.Server4))},
		{"IPv4-mapped IPv6 in v1", "on", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 51234 443\r\n"},
		{"datagrams", "on", v2UDP(headertest.Client4, headertest.Server4)},
		{"Unix socket", "on", headertest.Raw(proxy, 0x31, strings.Repeat("\x00", 216))},
	}
	v4 := []string{"IPv4-mapped IPv6", "IPv4-mapped IPv6 in v1", "datagrams"}
	runMatchTests(t, "pinned_ip", mapped, []matchTest{
		{"2001:db8::7", "pinned_ip('2001:db8::7')", `{"ranges":["2001:db8::7"]}`, []string{"IPv6"}},
		{"2001:db8::/32", "pinned_ip('2001:db8::/32')", `{"ranges":["2001:db8::/32"]}`, []string{"IPv6"}},
		{"203.0.113.7", "pinned_ip('203.0.113.7')", `{"ranges":["203.0.113.7"]}`, v4},
		{"::/0", "pinned_ip('::/0')", `{"ranges":["::/0"]}`, []string{"IPv6"}},
		{"0.0.0.0/0", "pinned_ip('0.0.0.0/0')", `{"ranges":["0.0.0.0/0"]}`, v4},
	})
}

// pinValues are what a placeholder may hold, and whether 203.0.113.7 is in it. If the
// placeholder cannot be used, there is an error.
var pinValues = []struct {
	name, value string
	match       bool
	err         string
}{
	{"the address", "203.0.113.7", true, ""},
	{"another address", "203.0.113.8", false, ""},
	{"a range", "203.0.113.0/24", true, ""},
	{"a range that is not masked", "203.0.113.9/24", true, ""},
	{"an IPv4-mapped address", "::ffff:203.0.113.7", true, ""},
	{"several with commas", "10.0.0.0/8,203.0.113.7", true, ""},
	{"several with spaces", "10.0.0.0/8 203.0.113.7", true, ""},
	{"several with both", " , 10.0.0.0/8 , , 203.0.113.7 , ", true, ""},
	{"several others", "10.0.0.0/8, 198.51.100.1", false, ""},
	{"nothing", "", false, "the placeholder has no value"},
	{"only separators", " , ,", false, "the placeholder has no value"},
	{"garbage", "garbage", false, "'garbage' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	{"garbage behind the address", "203.0.113.7, garbage", false, "'garbage' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	{"a range that does not parse", "203.0.113.7/33", false, "'203.0.113.7/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	{"a port", "203.0.113.7:51234", false, "'203.0.113.7:51234' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	{"a zone", "fe80::1%eth0", false, "'fe80::1%eth0' has a zone: use an IP address or CIDR range without one"},
	{"a word of the Caddyfile", "private_ranges", false, "'private_ranges' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	{"another placeholder", "{http.request.remote.host}", false, "'{http.request.remote.host}' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	{"another placeholder, escaped", `\{http.request.remote.host\}`, false, `'\\{http.request.remote.host\\}' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1`},
}

func TestMatchPinnedIP_TakesPlaceholdersForAddressesOnly(t *testing.T) {
	tests := []struct{ name, matcher string }{
		{"Caddyfile", "pinned_ip {http.request.header.Pin}"},
		{"CEL, escaped", `expression ` + quoted(`pinned_ip('\{http.request.header.Pin}')`)},
		{"CEL", "expression " + quoted("pinned_ip({http.request.header.Pin})")},
		{"CEL, concatenated", "expression " + quoted("pinned_ip('' + {http.request.header.Pin})")},
	}
	options, sites := "", ""
	var ports []int
	for _, tt := range tests {
		port := caddytest.FreePort(t)
		ports = append(ports, port)
		options += caddytest.ServerOptions(port, "proxy_protocol_mode on")
		sites += fmt.Sprintf("http://:%d {\n@pinned %s\nrespond @pinned pinned\nrespond elsewhere\n}\n", port, tt.matcher)
	}
	c := caddytest.Start(t, options, sites)
	logged := 0
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, pin := range pinValues {
				t.Run(pin.name, func(t *testing.T) {
					s := caddytest.NewSession(t, caddytest.HTTP1, caddytest.TCP4(ports[i]), headertest.V1(headertest.Client4, headertest.Server4))
					defer s.Close()
					response, body := s.Get("/", "Pin", pin.value)
					assert.Equal(t, http.StatusOK, response.StatusCode)
					assert.Equal(t, map[bool]string{true: "pinned", false: "elsewhere"}[pin.match], body)
					entries := c.Logs.Find(caddytest.Fields{"msg": "pinned_ip cannot use the value of a placeholder"})[logged:]
					logged += len(entries)
					if pin.err == "" {
						assert.Empty(t, entries)
					} else if assert.Len(t, entries, 1) {
						assert.Equal(t, "debug", entries[0].Str("level"))
						assert.Contains(t, entries[0].Str("pinned_ip"), "{http.request.header.Pin}")
						assert.Equal(t, pin.err, entries[0].Str("error"))
					}
				})
			}
		})
	}
}

// This is IP pinning: a client's certificate is good from the addresses in it only.
func TestMatchPinnedIP_BindsACertificateToItsAddresses(t *testing.T) {
	other := netip.MustParseAddrPort("198.51.100.1:51234")
	withPortZero := headertest.V2(netip.AddrPortFrom(headertest.Client4.Addr(), 0), headertest.Server4)
	tests := []struct {
		name       string
		ips        []string
		mode       string
		preamble   string
		first, any bool // matched by the first address, by any of them
	}{
		{"right address", []string{"203.0.113.7"}, "on", headertest.V1(headertest.Client4, headertest.Server4), true, true},
		{"right address, v2", []string{"203.0.113.7"}, "on", headertest.V2(headertest.Client4, headertest.Server4), true, true},
		{"right address, IPv4-mapped", []string{"203.0.113.7"}, "on", headertest.V2(mappedOf(headertest.Client4), mappedOf(headertest.Server4)), true, true},
		{"right IPv6 address", []string{"2001:db8::7"}, "on", headertest.V2(headertest.Client6, headertest.Server6), true, true},
		{"wrong address", []string{"203.0.113.7"}, "on", headertest.V1(other, headertest.Server4), false, false},
		{"right address but marked", []string{"203.0.113.7"}, "unspecified", headertest.V1(headertest.Client4, headertest.Server4), false, false},
		{"right address with port 0 from an earlier hop", []string{"203.0.113.7"}, "on", withPortZero, false, false},
		{"right address with port 0 from an earlier hop, and marked", []string{"203.0.113.7"}, "unspecified", withPortZero, false, false},
		{"LOCAL from the right address", []string{"127.0.0.1"}, "on", headertest.Local(), false, false},
		{"LOCAL from the right address under unspecified", []string{"127.0.0.1"}, "unspecified", headertest.Local(), false, false},
		{"UNKNOWN from the right address", []string{"127.0.0.1"}, "on", headertest.Unknown(1), false, false},
		{"UNKNOWN v2 from the right address", []string{"127.0.0.1"}, "on", headertest.Unknown(2), false, false},
		{"no header from the right address under off", []string{"127.0.0.1"}, "off", "", true, true},
		{"no header from the right address under unspecified", []string{"127.0.0.1"}, "unspecified", "", true, true},
		{"no header from the wrong address", []string{"203.0.113.7"}, "off", "", false, false},
		{"a load balancer's address", []string{"127.0.0.1"}, "on", headertest.V1(headertest.Client4, headertest.Server4), false, false},
		{"second of several addresses", []string{"198.51.100.1", "203.0.113.7"}, "on", headertest.V1(headertest.Client4, headertest.Server4), false, true},
		{"first of several addresses", []string{"203.0.113.7", "198.51.100.1"}, "on", headertest.V1(headertest.Client4, headertest.Server4), true, true},
		{"none of several addresses", []string{"198.51.100.2", "2001:db8::7"}, "on", headertest.V1(headertest.Client4, headertest.Server4), false, false},
		{"several addresses but marked", []string{"198.51.100.1", "203.0.113.7"}, "unspecified", headertest.V1(headertest.Client4, headertest.Server4), false, false},
		{"certificate without an address", nil, "on", headertest.V1(headertest.Client4, headertest.Server4), false, false},
	}
	matchers := []struct {
		name, matcher string
		any           bool
	}{
		{"Caddyfile", "pinned_ip {http.request.tls.client.san.ips.0}", false},
		{"Caddyfile, all addresses", "pinned_ip {http.request.tls.client.san.ips}", true},
		{"Caddyfile, two addresses", "pinned_ip {http.request.tls.client.san.ips.0} {http.request.tls.client.san.ips.1}", true},
		{"CEL, escaped", `expression ` + quoted(`pinned_ip('\{http.request.tls.client.san.ips.0}')`), false},
		{"CEL, escaped, all addresses", `expression ` + quoted(`pinned_ip('\{http.request.tls.client.san.ips}')`), true},
		{"CEL", `expression ` + quoted("pinned_ip({http.request.tls.client.san.ips.0})"), false},
		{"CEL, all addresses", `expression ` + quoted("pinned_ip({http.request.tls.client.san.ips})"), true},
	}
	site := fmt.Sprintf("tls %s {\nclient_auth {\nmode require_and_verify\ntrust_pool inline {\ntrust_der %s\n}\n}\n}\n",
		caddytest.CertificateFiles(t), base64.StdEncoding.EncodeToString(caddytest.ClientCA().Certificate.Raw))
	for i, m := range matchers {
		// Each in a path of its own: one that fails must not hide the others.
		site += fmt.Sprintf("@%d %s\nhandle /%[1]d {\nrespond @%[1]d pinned\nrespond elsewhere\n}\n", i, m.matcher)
	}
	modes := []string{"on", "off", "unspecified"}
	ports := make(map[string]int)
	site += "@names pinned_ip {http.request.tls.client.san.dns_names} {http.request.tls.client.subject}\nhandle /names {\nrespond @names pinned\nrespond elsewhere\n}\n"
	options, sites := "auto_https disable_redirects\n", ""
	for _, mode := range modes {
		ports[mode] = caddytest.FreePort(t)
		options += caddytest.ServerOptions(ports[mode], "proxy_protocol_mode "+mode+"\ntls", "protocols h1 h2")
		sites += fmt.Sprintf("https://localhost:%d {\n%s\n}\n", ports[mode], site)
	}
	caddytest.Start(t, options, sites)

	for _, tt := range tests {
		certificate := caddytest.NewClientCertificate(t, tt.ips...)
		for _, tr := range []caddytest.Transport{caddytest.HTTPS1, caddytest.HTTPS2} {
			t.Run(tt.name+"/"+string(tr), func(t *testing.T) {
				s := caddytest.NewSession(t, tr, caddytest.TCP4(ports[tt.mode]), tt.preamble)
				defer s.Close()
				s.Present(certificate)
				for i, m := range matchers {
					response, body := s.Get(fmt.Sprintf("/%d", i))
					assert.Equal(t, http.StatusOK, response.StatusCode, m.name)
					want := map[bool]string{true: "pinned", false: "elsewhere"}[m.any && tt.any || tt.first]
					assert.Equal(t, want, body, m.name)
				}
				_, body := s.Get("/names")
				assert.Equal(t, "elsewhere", body, "names are no addresses")
			})
		}
	}
	t.Run("no certificate", func(t *testing.T) {
		_, _, err := caddytest.TryGet(t, caddytest.HTTPS1, caddytest.TCP4(ports["on"]), headertest.V1(headertest.Client4, headertest.Server4), "/0")
		assert.ErrorContains(t, err, "certificate required")
	})
}

func TestMatchPinnedIP_ErrorsInACaddyfile(t *testing.T) {
	const like = " is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"
	tests := []struct{ name, text, want string }{
		{"nothing", "pinned_ip", "pinned_ip needs at least one IP address, CIDR range or placeholder, at Caddyfile:2"},
		{"nothing the second time", "{\npinned_ip 203.0.113.7\npinned_ip\n}", "pinned_ip needs at least one IP address, CIDR range or placeholder, at Caddyfile:4"},
		{"range that does not parse", "pinned_ip 203.0.113.7 203.0.113.0/33", "pinned_ip: '203.0.113.0/33'" + like + ", at Caddyfile:2"},
		{"host name", "pinned_ip client.test", "pinned_ip: 'client.test'" + like + ", at Caddyfile:2"},
		{"empty", `pinned_ip ""`, "pinned_ip: ''" + like + ", at Caddyfile:2"},
		{"zone", "pinned_ip fe80::1%eth0", "pinned_ip: 'fe80::1%eth0' has a zone: use an IP address or CIDR range without one, at Caddyfile:2"},
		{"commas", "pinned_ip 203.0.113.7,203.0.113.8", "pinned_ip: '203.0.113.7,203.0.113.8'" + like + ", at Caddyfile:2"},
		{"block", "pinned_ip 203.0.113.7 {\n203.0.113.8\n}", "malformed pinned_ip matcher: blocks are not supported, at Caddyfile:3"},
		{"wrong range beside a placeholder", "pinned_ip {client_ip} nonsense", "pinned_ip: 'nonsense'" + like + ", at Caddyfile:2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := caddytest.Adapt("http:// {\n@m " + tt.text + "\nrespond @m ok\n}")
			assert.EqualError(t, err, tt.want)
		})
	}
}

func TestMatchPinnedIP_ErrorsInJSON(t *testing.T) {
	c := caddytest.New(t)
	tests := []struct{ name, json, want string }{
		{"nothing", `{}`, "pinned_ip needs at least one IP address, CIDR range or placeholder"},
		{"empty list", `{"ranges":[]}`, "pinned_ip needs at least one IP address, CIDR range or placeholder"},
		{"range", `{"ranges":["nonsense"]}`, "pinned_ip: 'nonsense' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := c.LoadJSON(fmt.Sprintf(`{"http":{"servers":{"web":{"listen":[":%d"],"routes":[{"match":[{"pinned_ip":%s}]}]}}}}`, caddytest.FreePort(t), tt.json))
			assert.EqualError(t, err, "loading new config: loading http app module: provision http: server web: setting up route matchers: route 0: loading matcher modules: module name 'pinned_ip': provision http.matchers.pinned_ip: "+tt.want)
		})
	}
	t.Run("unknown field", func(t *testing.T) {
		assert.ErrorContains(t, caddy.StrictUnmarshalJSON([]byte(`{"ips":[]}`), new(proxyprotocol.MatchPinnedIP)), "ips")
	})
}

func TestMatchPinnedIP_OfOneNameTwiceIsOneMatcher(t *testing.T) {
	m := new(proxyprotocol.MatchPinnedIP)
	require.NoError(t, m.UnmarshalCaddyfile(caddyfile.NewTestDispenser("pinned_ip 203.0.113.7\npinned_ip 10.0.0.0/8 {client_ip}")))
	assert.Equal(t, []string{"203.0.113.7", "10.0.0.0/8", "{client_ip}"}, m.Ranges)
}

func TestMatchPinnedIP_NeedsToKnowTheConnection(t *testing.T) {
	m := &proxyprotocol.MatchPinnedIP{Ranges: []string{"0.0.0.0/0", "::/0"}}
	require.NoError(t, provision(m))
	known := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
	assert.True(t, caddytest.Matches(t, m, known))

	elsewhere := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
	elsewhere = elsewhere.WithContext(withoutLocalAddr{elsewhere.Context()})
	match, err := m.MatchWithError(elsewhere)
	assert.NoError(t, err)
	assert.False(t, match)
}

func TestMatchPinnedIP_TakesAClientIPThatIsMapped(t *testing.T) {
	m := &proxyprotocol.MatchPinnedIP{Ranges: []string{"203.0.113.7", "2001:db8::/32"}}
	require.NoError(t, provision(m))
	for client, want := range map[string]bool{
		"203.0.113.7": true, "::ffff:203.0.113.7": true, "2001:db8::1%eth0": true, "203.0.113.8": false, "": false, "@": false,
	} {
		r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client)
		match, err := m.MatchWithError(r)
		require.NoError(t, err)
		assert.Equal(t, want, match, client)
	}
}

func TestMatchCEL_TextIsConstant(t *testing.T) {
	c := caddytest.New(t)
	for _, expression := range []string{
		"pinned_ip('192.0.2.' + string(1))",
		"pinned_ip(string(1) + '92.0.2.1')",
		"pinned_ip('192.0.2.1' - {client_ip})",
	} {
		err := c.Load("", "http://:1234 {\n@m expression "+quoted(expression)+"\nrespond @m ok\n}")
		assert.ErrorContains(t, err, "matcher arguments must be string constants", expression)
	}
}
