package proxyprotocol_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// headerRow is one row of the decision table: a beginning of a connection, and what a header
// says there.
type headerRow struct {
	name, preamble string
	version        int  // 0 without a header
	local          bool // command LOCAL
	addrs, port    bool // an IP address of a client, and a port other than 0 with it
	tlv            bool // aws_vpce_id vpce-1
}

// headerRows are all kinds of beginnings that the listener can accept.
func headerRows() []headerRow {
	tlvs := "\xea\x00\x07\x01vpce-1"
	ipv4 := strings.TrimPrefix(headertest.V2(headertest.Client4, headertest.Server4), wire.SignatureV2)[4:]
	paths := strings.Repeat("/run/web.sock\x00\x00\x00", 216/16+1)[:216]
	return []headerRow{
		{name: "no header"},
		{name: "v1", preamble: headertest.V1(headertest.Client4, headertest.Server4), version: 1, addrs: true, port: true},
		{name: "v1 with port 0", preamble: "PROXY TCP4 203.0.113.7 192.0.2.1 0 443\r\n", version: 1, addrs: true},
		{name: "v1 UNKNOWN", preamble: headertest.Unknown(1), version: 1},
		{name: "v1 UNKNOWN with addresses", preamble: "PROXY UNKNOWN 203.0.113.7 192.0.2.1 51234 443\r\n", version: 1},
		{name: "v2", preamble: headertest.V2(headertest.Client4, headertest.Server4), version: 2, addrs: true, port: true},
		{name: "v2 with TLVs", preamble: headertest.Raw(proxy, 0x11, ipv4+tlvs), version: 2, addrs: true, port: true, tlv: true},
		{name: "v2 IPv4-mapped", preamble: headertest.V2(mappedOf(headertest.Client4), mappedOf(headertest.Server4)), version: 2, addrs: true, port: true},
		{name: "v2 of datagrams", preamble: headertest.Raw(proxy, 0x12, ipv4+tlvs), version: 2, addrs: true, port: true, tlv: true},
		{name: "v2 LOCAL", preamble: headertest.Local(), version: 2, local: true},
		{name: "v2 LOCAL with addresses and TLVs", preamble: headertest.Raw(0x20, 0x11, ipv4+tlvs), version: 2, local: true},
		{name: "v2 LOCAL of AF_UNIX", preamble: headertest.Raw(0x20, 0x31, paths+tlvs), version: 2, local: true},
		{name: "v2 unspecified", preamble: headertest.Raw(proxy, 0x00, tlvs), version: 2},
		{name: "v2 unspecified transport", preamble: headertest.Raw(proxy, 0x10, ipv4+tlvs), version: 2},
		{name: "v2 unspecified family", preamble: headertest.Raw(proxy, 0x01, ipv4+tlvs), version: 2},
		{name: "v2 AF_UNIX", preamble: headertest.Raw(proxy, 0x31, paths), version: 2},
		{name: "v2 AF_UNIX with TLVs", preamble: headertest.Raw(proxy, 0x31, paths+tlvs), version: 2, tlv: true},
		{name: "v2 AF_UNIX of datagrams with TLVs", preamble: headertest.Raw(proxy, 0x32, paths+tlvs), version: 2, tlv: true},
	}
}

// believed is a matcher, and the contract for it: which rows it matches under a mode.
type believed struct {
	caddyfile, cel string
	want           func(mode proxyprotocol.Mode, r headerRow) bool
}

func believedMatchers() []believed {
	vouched := func(mode proxyprotocol.Mode, r headerRow) bool { return r.version != 0 && mode == proxyprotocol.On }
	marked := func(mode proxyprotocol.Mode, r headerRow) bool { return r.addrs && mode == proxyprotocol.Unspecified }
	reliable := func(mode proxyprotocol.Mode, r headerRow) bool {
		return !marked(mode, r) && (r.version == 0 || r.addrs && r.port)
	}
	return []believed{
		{"proxy_protocol present", "proxy_protocol('present')", vouched},
		{"proxy_protocol absent", "proxy_protocol('absent')", func(_ proxyprotocol.Mode, r headerRow) bool { return r.version == 0 }},
		{"proxy_protocol port_zero", "proxy_protocol('port_zero')", marked},
		{"proxy_protocol local", "proxy_protocol('local')", func(_ proxyprotocol.Mode, r headerRow) bool { return r.local }},
		{"proxy_protocol present local", "proxy_protocol('present', 'local')", func(_ proxyprotocol.Mode, r headerRow) bool { return r.local }},
		{"proxy_protocol present port_zero", "proxy_protocol('present', 'port_zero')", marked},
		{"proxy_protocol {\nversion v1\n}", "proxy_protocol('version:v1')", func(mode proxyprotocol.Mode, r headerRow) bool { return vouched(mode, r) && r.version == 1 }},
		{"proxy_protocol {\nversion v2\n}", "proxy_protocol('version:v2')", func(mode proxyprotocol.Mode, r headerRow) bool { return vouched(mode, r) && r.version == 2 }},
		{"proxy_protocol {\nversion v1 v2\n}", "proxy_protocol('version:v1', 'version:v2')", vouched},
		{"proxy_protocol local {\nversion v2\n}", "proxy_protocol('local', 'version:v2')", func(_ proxyprotocol.Mode, r headerRow) bool { return r.local }},
		{"proxy_protocol port_zero {\nversion v2\n}", "proxy_protocol('port_zero', 'version:v2')", func(mode proxyprotocol.Mode, r headerRow) bool { return marked(mode, r) && r.version == 2 }},
		{"proxy_protocol {\ntlv aws_vpce_id\n}", "proxy_protocol('tlv:aws_vpce_id')", func(mode proxyprotocol.Mode, r headerRow) bool { return vouched(mode, r) && r.tlv }},
		{"proxy_protocol {\ntlv aws_vpce_id vpce-1\n}", "proxy_protocol('tlv:aws_vpce_id=vpce-1')", func(mode proxyprotocol.Mode, r headerRow) bool { return vouched(mode, r) && r.tlv }},
		{"proxy_protocol {\ntlv 0xea\n}", "proxy_protocol('tlv:0xea')", func(mode proxyprotocol.Mode, r headerRow) bool { return vouched(mode, r) && r.tlv }},
		{"proxy_protocol port_zero {\ntlv aws_vpce_id vpce-1\n}", "proxy_protocol('port_zero', 'tlv:aws_vpce_id=vpce-1')", func(mode proxyprotocol.Mode, r headerRow) bool { return marked(mode, r) && r.tlv }},
		{"proxy_protocol {\npeer 127.0.0.1\n}", "proxy_protocol('peer:127.0.0.1')", func(proxyprotocol.Mode, headerRow) bool { return true }},
		{"proxy_protocol present {\npeer 127.0.0.1\n}", "proxy_protocol('present', 'peer:127.0.0.1')", vouched},
		{"pinned_ip 203.0.113.7", "pinned_ip('203.0.113.7')", func(mode proxyprotocol.Mode, r headerRow) bool { return reliable(mode, r) && r.addrs }},
		{"pinned_ip 127.0.0.1", "pinned_ip('127.0.0.1')", func(_ proxyprotocol.Mode, r headerRow) bool { return r.version == 0 }},
		{"pinned_ip 0.0.0.0/0 ::/0", "pinned_ip('0.0.0.0/0', '::/0')", reliable},
	}
}

// believedSite tells in header fields which matchers match, and asks the site directive.
func believedSite(matchers []believed) string {
	var site strings.Builder
	for i, m := range matchers {
		fmt.Fprintf(&site, "@%d %s\nheader @%[1]d +Matched %[1]d\n", i, m.caddyfile)
		fmt.Fprintf(&site, "@cel%d expression %s\nheader @cel%[1]d +Cel %[1]d\n", i, quoted(m.cel))
	}
	for _, mode := range []string{"on", "off", "unspecified"} {
		fmt.Fprintf(&site, "proxy_protocol /%s %[1]s\n", mode)
	}
	site.WriteString("respond ok\n")
	return site.String()
}

// requireBelieved asks for the paths of a believedSite over one connection.
func requireBelieved(t *testing.T, matchers []believed, mode proxyprotocol.Mode, row headerRow, get func(path string) *http.Response) {
	t.Helper()
	response := get("/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	for i, m := range matchers {
		want := m.want(mode, row)
		number := fmt.Sprint(i)
		assert.Equal(t, want, slices.Contains(response.Header["Matched"], number), m.caddyfile)
		assert.Equal(t, want, slices.Contains(response.Header["Cel"], number), m.cel)
	}
	for path, served := range map[string]bool{"/on": row.version != 0 && mode == proxyprotocol.On, "/off": row.version == 0, "/unspecified": true} {
		want := http.StatusForbidden
		if served {
			want = http.StatusOK
		}
		assert.Equal(t, want, get(path).StatusCode, "proxy_protocol %s", path[1:])
	}
}

// A header under a mode other than On is anyone's claim, whether the connection is marked or
// not. The mode is the one in force for the peer.
func TestMatchers_BelieveOnlyHeadersUnderOn(t *testing.T) {
	matchers := believedMatchers()
	modes := []struct {
		wrapper string
		mode    proxyprotocol.Mode
		without bool // a connection without a header is served
	}{
		{"on", proxyprotocol.On, false},
		{"off", proxyprotocol.Off, true},
		{"unspecified", proxyprotocol.Unspecified, true},
		{"on {\nunspecified 127.0.0.0/8\n}", proxyprotocol.Unspecified, true},
		{"off {\nunspecified 127.0.0.0/8\n}", proxyprotocol.Unspecified, true},
		{"unspecified {\non 127.0.0.0/8\n}", proxyprotocol.On, false},
		{"off {\non 127.0.0.0/8\n}", proxyprotocol.On, false},
		{"unspecified {\ntrusted_proxies static 127.0.0.1\n}", proxyprotocol.Unspecified, true},
	}
	var wrappers []string
	for _, m := range modes {
		wrappers = append(wrappers, m.wrapper)
	}
	f := caddytest.StartFarm(t, wrappers, "", believedSite(matchers))
	for _, m := range modes {
		for _, row := range headerRows() {
			if row.version == 0 && !m.without || row.version != 0 && m.mode == proxyprotocol.Off {
				continue // refused by the listener
			}
			for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.HTTPS2} {
				t.Run(strings.ReplaceAll(m.wrapper, "\n", " ")+"/"+row.name+"/"+string(tr), func(t *testing.T) {
					s := caddytest.NewSession(t, tr, f.At(m.wrapper, tr), row.preamble)
					defer s.Close()
					requireBelieved(t, matchers, m.mode, row, func(path string) *http.Response {
						response, _ := s.Get(path)
						return response
					})
				})
			}
		}
	}
}

func TestMatchers_BelieveOnlyHeadersUnderOnWithHTTP3(t *testing.T) {
	matchers := believedMatchers()
	rows := []headerRow{
		{name: "no header"},
		{name: "header", preamble: headertest.UDP(headertest.Client4, headertest.Server4), version: 2, addrs: true, port: true},
		{name: "TLVs", preamble: headertest.UDP(headertest.Client4, headertest.Server4, headertest.TextTLV(0xea, "\x01vpce-1")), version: 2, addrs: true, port: true, tlv: true},
		{name: "LOCAL", preamble: headertest.Local(), version: 2, local: true},
	}
	for _, m := range []struct {
		packet string
		mode   proxyprotocol.Mode
	}{
		{"on {\ntrusted_proxies static 127.0.0.1\n}", proxyprotocol.On},
		{"off", proxyprotocol.Off},
		{"unspecified", proxyprotocol.Unspecified},
		{"on {\ntrusted_proxies static 127.0.0.1\nunspecified 127.0.0.1\n}", proxyprotocol.Unspecified},
	} {
		port := caddytest.FreePort(t)
		caddytest.Start(t, caddytest.Packets("", m.packet), caddytest.HTTP3Site(t, port, believedSite(matchers)))
		for _, row := range rows {
			if row.version == 0 && m.mode == proxyprotocol.On || row.version != 0 && m.mode == proxyprotocol.Off {
				continue // dropped by the packet wrapper
			}
			t.Run(strings.ReplaceAll(m.packet, "\n", " ")+"/"+row.name, func(t *testing.T) {
				client := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.1", caddytest.TCP4(port), row.preamble).Address())
				requireBelieved(t, matchers, m.mode, row, func(path string) *http.Response {
					response, _ := client.Get(path)
					return response
				})
			})
		}
	}
}

// Without facts, no matcher matches and only the directive that checks nothing serves.
func TestMatchers_BelieveNothingOfUnknownConnections(t *testing.T) {
	matchers := believedMatchers()
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("on {\nhttp3 allow\n}", ""), caddytest.HTTP3Site(t, port, believedSite(matchers)))
	client := caddytest.NewHTTP3Client(t, caddytest.TCP4(port).Address)
	response, _ := client.Get("/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	assert.Empty(t, response.Header["Matched"])
	assert.Empty(t, response.Header["Cel"])
	for path, status := range map[string]int{"/on": 403, "/off": 403, "/unspecified": 200} {
		response, _ := client.Get(path)
		assert.Equal(t, status, response.StatusCode, path)
	}
}
