package proxyprotocol_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// documented are the placeholders that users are promised, but those of TLVs by number.
var documented = []string{
	"mode", "present", "version", "command", "transport", "client_ip", "client_port", "port_zero", "authenticated",
	"source", "destination", "server_ip", "server_port", "peer", "peer_ip", "peer_port",
	"tlv.alpn", "tlv.authority", "tlv.unique_id", "tlv.netns",
	"tlv.ssl.version", "tlv.ssl.cn", "tlv.ssl.cipher", "tlv.ssl.sig_alg", "tlv.ssl.key_alg", "tlv.ssl.group",
	"tlv.ssl.sig_scheme", "tlv.ssl.client_cert", "tlv.ssl.verified", "tlv.ssl.verify_result", "tlv.ssl.cert_conn", "tlv.ssl.cert_sess",
	"tlv.ssl.client_cert.fingerprint", "tlv.ssl.client_cert.subject", "tlv.ssl.client_cert.issuer", "tlv.ssl.client_cert.serial",
	"tlv.ssl.client_cert.san.dns_names", "tlv.ssl.client_cert.san.dns_names.0", "tlv.ssl.client_cert.san.emails",
	"tlv.ssl.client_cert.san.ips", "tlv.ssl.client_cert.san.ips.1", "tlv.ssl.client_cert.san.uris", "tlv.ssl.client_cert.san.uris.0",
	"tlv.aws_vpce_id", "tlv.azure_private_endpoint_link_id", "tlv.gcp_psc_connection_id",
	"tlv.alibaba_vpc_id", "tlv.alibaba_endpoint_id", "tlv.alibaba_endpoint_service_id",
	"tlv.0x01", "tlv.0x05", "tlv.0xea", "tlv.0xEE", "tlv.0xf1",
}

// tellAll is a directive that answers with the value of every placeholder on a line.
func tellAll() string {
	var b strings.Builder
	b.WriteString("respond `")
	for _, name := range documented {
		fmt.Fprintf(&b, "%s={http.proxy_protocol.%[1]s}\n", name)
	}
	b.WriteString("`\n")
	return b.String()
}

// values are placeholders that are not empty.
type values map[string]string

// told are the values in an answer of tellAll.
func told(t testing.TB, body string) values {
	t.Helper()
	got := make(values)
	var names []string
	for line := range strings.Lines(body) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		require.True(t, ok, "%q", body)
		names = append(names, name)
		if value != "" {
			got[name] = value
		}
	}
	require.Equal(t, documented, names)
	return got
}

func (v values) with(more values) values {
	all := maps.Clone(v)
	maps.Copy(all, more)
	return all
}

func v2UDP(src, dst netip.AddrPort) string {
	return headertest.Text(wire.NewProxy(2, wire.Dgram, src, dst))
}

var (
	// What there is to say of client4's header, of version 1 and 2.
	v1Values = values{
		"present": "true", "port_zero": "false", "version": "1", "transport": "TCP4",
		"source": "203.0.113.7:51234", "destination": "192.0.2.1:443",
		"client_ip": "203.0.113.7", "client_port": "51234", "server_ip": "192.0.2.1", "server_port": "443",
	}
	v2Values = v1Values.with(values{"version": "2", "command": "PROXY"})
	// The same of connections without an address of a client: its addresses are filled in.
	noHeader  = values{"present": "false", "port_zero": "false"}
	noAddress = values{"present": "true", "port_zero": "false"}
)

func TestPlaceholders_SayWhatTheConnectionBeganWith(t *testing.T) {
	cert := caddytest.NewClientCertificate(t, "203.0.113.7", "2001:db8::7")
	mapped := values{
		"source": "[::ffff:203.0.113.7]:51234", "destination": "[::ffff:192.0.2.1]:443", "transport": "TCP6",
	}
	tests := []struct {
		name     string
		mode     string
		preamble string
		want     values
	}{
		{"no header under off", "off", "", noHeader},
		{"no header under unspecified", "unspecified", "", noHeader},

		{"v1 TCP4", "on", headertest.V1(headertest.Client4, headertest.Server4), v1Values},
		{"v1 TCP6", "on", headertest.V1(headertest.Client6, headertest.Server6), v1Values.with(values{
			"transport": "TCP6", "source": "[2001:db8::7]:51234", "destination": "[2001:db8:1::1]:443",
			"client_ip": "2001:db8::7", "server_ip": "2001:db8:1::1",
		})},
		{"v1 TCP6 with IPv4-mapped addresses", "on", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 51234 443\r\n", v1Values.with(mapped)},
		{"v1 UNKNOWN", "on", headertest.Unknown(1), noAddress.with(values{"version": "1", "transport": "UNKNOWN"})},
		{"v1 UNKNOWN with something behind", "on", "PROXY UNKNOWN 203.0.113.7 192.0.2.1 1 2\r\n", noAddress.with(values{"version": "1", "transport": "UNKNOWN"})},

		{"v2 TCP over IPv4", "on", headertest.V2(headertest.Client4, headertest.Server4), v2Values},
		{"v2 UDP over IPv4", "on", v2UDP(headertest.Client4, headertest.Server4), v2Values.with(values{"transport": "UDP4"})},
		{"v2 TCP over IPv6", "on", headertest.V2(headertest.Client6, headertest.Server6), v2Values.with(values{
			"transport": "TCP6", "source": "[2001:db8::7]:51234", "destination": "[2001:db8:1::1]:443",
			"client_ip": "2001:db8::7", "server_ip": "2001:db8:1::1",
		})},
		{"v2 UDP over IPv6", "on", v2UDP(headertest.Client6, headertest.Server6), v2Values.with(values{
			"transport": "UDP6", "source": "[2001:db8::7]:51234", "destination": "[2001:db8:1::1]:443",
			"client_ip": "2001:db8::7", "server_ip": "2001:db8:1::1",
		})},
		{"v2 TCP over IPv6 with IPv4-mapped addresses", "on", headertest.V2(mappedOf(headertest.Client4), mappedOf(headertest.Server4)), v2Values.with(mapped)},
		{"v2 Unix stream", "on", headertest.Raw(proxy, 0x31, strings.Repeat("\x00", 216)), noAddress.with(values{"version": "2", "command": "PROXY", "transport": "UNIX_STREAM"})},
		{"v2 Unix datagram", "on", headertest.Raw(proxy, 0x32, strings.Repeat("/", 216)), noAddress.with(values{"version": "2", "command": "PROXY", "transport": "UNIX_DGRAM"})},
		{"v2 unspecified", "on", headertest.Unknown(2), noAddress.with(values{"version": "2", "command": "PROXY", "transport": "UNKNOWN"})},
		{"v2 unspecified transport of IPv4", "on", headertest.Raw(proxy, 0x10, headertest.V2(headertest.Client4, headertest.Server4)[16:]), noAddress.with(values{"version": "2", "command": "PROXY", "transport": "UNKNOWN"})},
		{"v2 TCP over an unspecified family", "on", headertest.Raw(proxy, 0x01, headertest.V2(headertest.Client4, headertest.Server4)[16:]), noAddress.with(values{"version": "2", "command": "PROXY", "transport": "UNKNOWN"})},
		{"v2 LOCAL", "on", headertest.Local(), noAddress.with(values{"version": "2", "command": "LOCAL"})},
		{"v2 LOCAL with a block", "on", headertest.Raw(0x20, 0x11, headertest.V2(headertest.Client4, headertest.Server4)[16:]+"\xea\x00\x01x"), noAddress.with(values{"version": "2", "command": "LOCAL"})},

		{"source port 0 of an earlier hop", "on", headertest.V2(netip.AddrPortFrom(headertest.Client4.Addr(), 0), headertest.Server4), v2Values.with(values{"source": "203.0.113.7:0", "client_port": "0"})},
		{"unspecified destination", "on", headertest.V2(headertest.Client4, netip.MustParseAddrPort("0.0.0.0:0")), without(v2Values, "server_ip", "server_port").with(values{"destination": "0.0.0.0:0"})},

		{"marked, v1", "unspecified", headertest.V1(headertest.Client4, headertest.Server4), without(v1Values, "server_ip", "server_port").with(values{"port_zero": "true", "client_port": "0"})},
		{"marked, v2", "unspecified", headertest.V2(headertest.Client4, headertest.Server4), without(v2Values, "server_ip", "server_port").with(values{"port_zero": "true", "client_port": "0"})},
		{"LOCAL under unspecified", "unspecified", headertest.Local(), noAddress.with(values{"version": "2", "command": "LOCAL"})},
		{"UNKNOWN under unspecified", "unspecified", headertest.Unknown(1), noAddress.with(values{"version": "1", "transport": "UNKNOWN"})},

		{"TLVs of text", "on", headertest.WithTLVs(headertest.TextTLV(wire.TypeALPN, "h2"), headertest.TextTLV(wire.TypeAuthority, "example.com"), headertest.TextTLV(wire.TypeUniqueID, "id-1"), headertest.TextTLV(wire.TypeNetNS, "blue"), headertest.TextTLV(0xf1, "\x00\xff")), v2Values.with(values{
			"tlv.alpn": "h2", "tlv.authority": "example.com", "tlv.unique_id": "id-1", "tlv.netns": "blue",
			"tlv.0x01": "6832", "tlv.0x05": "69642d31", "tlv.0xf1": "00ff",
		})},
		{"TLVs of a marked connection", "unspecified", headertest.WithTLVs(headertest.TextTLV(wire.TypeAuthority, "example.com")), without(v2Values, "server_ip", "server_port").with(values{
			"port_zero": "true", "client_port": "0", "tlv.authority": "example.com",
		})},
		{"TLVs of clouds", "on", headertest.WithTLVs(headertest.TextTLV(0xea, "\x01vpce-08d2bf15fac5001c9"), headertest.TextTLV(0xee, "\x01\x02\x00\x00\x80"), headertest.TextTLV(0xe0, "\xff\xff\xff\xff\xc0\xa8\x64\x02")), v2Values.with(values{
			"tlv.aws_vpce_id": "vpce-08d2bf15fac5001c9", "tlv.0xea": "01" + fmt.Sprintf("%x", "vpce-08d2bf15fac5001c9"),
			"tlv.azure_private_endpoint_link_id": "2147483650", "tlv.0xEE": "0102000080",
			"tlv.gcp_psc_connection_id": "18446744072646845442",
		})},
		{"TLVs of a cloud that come by subtype", "on", headertest.WithTLVs(headertest.TextTLV(0xe1, "\x01vpc-bp1aevy8sofi8mh1qc5cm"), headertest.TextTLV(0xe1, "\x03epsrv-hp3vpx8yqxblby3i"), headertest.TextTLV(0xe1, "\x02ep-hp33b2e43fays7s8")), v2Values.with(values{
			"tlv.alibaba_vpc_id": "vpc-bp1aevy8sofi8mh1qc5cm", "tlv.alibaba_endpoint_id": "ep-hp33b2e43fays7s8", "tlv.alibaba_endpoint_service_id": "epsrv-hp3vpx8yqxblby3i",
		})},
		{"TLV of SSL", "on", headertest.WithTLVs(headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0,
			headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, "client.test"), headertest.TextTLV(0x23, "TLS_AES_128_GCM_SHA256"), headertest.TextTLV(0x24, "ecdsa-with-SHA256"),
			headertest.TextTLV(0x25, "EC256"), headertest.TextTLV(0x26, "x25519"), headertest.TextTLV(0x27, "rsa_pss_rsae_sha256"), wire.TLV{Type: 0x28, Value: cert.DER})), v2Values.with(values{
			"tlv.ssl.version": "TLSv1.3", "tlv.ssl.cn": "client.test", "tlv.ssl.cipher": "TLS_AES_128_GCM_SHA256", "tlv.ssl.sig_alg": "ecdsa-with-SHA256",
			"tlv.ssl.key_alg": "EC256", "tlv.ssl.group": "x25519", "tlv.ssl.sig_scheme": "rsa_pss_rsae_sha256",
			"tlv.ssl.client_cert": cert.Base64, "tlv.ssl.verified": "true", "tlv.ssl.verify_result": "0", "tlv.ssl.cert_conn": "true", "tlv.ssl.cert_sess": "false",
			"tlv.ssl.client_cert.fingerprint": fmt.Sprintf("%x", sha256.Sum256(cert.DER)), "tlv.ssl.client_cert.subject": "CN=client.test",
			"tlv.ssl.client_cert.issuer": "CN=proxyprotocol test clients", "tlv.ssl.client_cert.serial": "2",
			"tlv.ssl.client_cert.san.dns_names": "[not-an-address.test]", "tlv.ssl.client_cert.san.dns_names.0": "not-an-address.test",
			"tlv.ssl.client_cert.san.ips": "[203.0.113.7 2001:db8::7]", "tlv.ssl.client_cert.san.ips.1": "2001:db8::7",
		})},
	}
	f := caddytest.StartFarm(t, []string{"on", "off", "unspecified"}, "", tellAll())
	for _, tt := range tests {
		for _, tr := range caddytest.Transports {
			t.Run(tt.name+"/"+string(tr), func(t *testing.T) {
				e := f.At(tt.mode, tr)
				s := caddytest.NewSession(t, tr, e, tt.preamble)
				defer s.Close()
				_, first := s.Get("/first")
				want := values{
					"mode": tt.mode, "peer": s.Peer.String(), "peer_ip": "127.0.0.1", "peer_port": portOfAddr(t, s.Peer.String()),
					"client_ip": "127.0.0.1", "client_port": portOfAddr(t, s.Peer.String()),
					"server_ip": "127.0.0.1", "server_port": portOfAddr(t, e.Address),
				}.with(tt.want)
				assert.Equal(t, want, told(t, first))

				// They hold for every request of the connection.
				_, second := s.Get("/second")
				assert.Equal(t, want, told(t, second))
				assert.Equal(t, 1, s.Dials)
			})
		}
	}
}

func without(v values, names ...string) values {
	rest := maps.Clone(v)
	for _, name := range names {
		delete(rest, name)
	}
	return rest
}

func mappedOf(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func portOfAddr(t testing.TB, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return port
}

func TestPlaceholders_SayTheModeInForceForThePeer(t *testing.T) {
	header := headertest.V1(headertest.Client4, headertest.Server4)
	tests := []struct{ mode, preamble, want string }{
		{"on {\noff 127.0.0.0/8\n}", "", "off"},
		{"on {\nunspecified 127.0.0.0/8\n}", header, "unspecified"},
		{"off {\non 127.0.0.0/8\n}", header, "on"},
		{"unspecified {\non 10.0.0.0/8\noff 127.0.0.1\non 127.0.0.0/8\n}", "", "off"},
		{"unspecified {\non 10.0.0.0/8\n}", header, "unspecified"},
	}
	var modes []string
	for _, tt := range tests {
		modes = append(modes, tt.mode)
	}
	f := caddytest.StartFarm(t, modes, "", "respond {http.proxy_protocol.mode}")
	for _, tt := range tests {
		_, body := caddytest.Get(t, caddytest.HTTP1, f.At(tt.mode, caddytest.HTTP1), tt.preamble, "/")
		assert.Equal(t, tt.want, body, tt.mode)
	}
}

func TestPlaceholders_HoldForConcurrentRequestsOfAConnection(t *testing.T) {
	f := caddytest.StartFarm(t, []string{"on"}, "", `
	respond /quiet 204
	log
	log_append /loud proxy_protocol {http.proxy_protocol}
	respond "{http.proxy_protocol.client_ip} {http.proxy_protocol.tlv.authority}"`)
	for _, tr := range []caddytest.Transport{caddytest.H2C, caddytest.HTTPS2} {
		t.Run(string(tr), func(t *testing.T) {
			s := caddytest.NewSession(t, tr, f.At("on", tr), headertest.WithTLVs(headertest.TextTLV(0x02, "a.test")))
			defer s.Close()
			response, err := s.Client.Head(tr.URL("/quiet")) // makes the connection, asks for no TLV
			require.NoError(t, err)
			response.Body.Close()

			const requests = 20
			bodies := make(chan string, requests)
			for range requests {
				go func() {
					response, err := s.Client.Get(tr.URL("/loud"))
					if err != nil {
						bodies <- err.Error()
						return
					}
					defer response.Body.Close()
					body, _ := io.ReadAll(response.Body)
					bodies <- string(body)
				}()
			}
			for range requests {
				assert.Equal(t, "203.0.113.7 a.test", <-bodies)
			}
			assert.Equal(t, 1, s.Dials)
		})
	}
}

func TestPlaceholders_AreKnownWhereverCaddyHasPlaceholders(t *testing.T) {
	port, backend := caddytest.FreePort(t), caddytest.FreePort(t)
	caddytest.Start(t, caddytest.ServerOptions(port, "proxy_protocol_mode on", "protocols h1 h2c"), fmt.Sprintf(`
	&(named) {
		respond "named {http.proxy_protocol.source}"
	}
	http://:%[1]d {
		@vars vars {http.proxy_protocol.source} 203.0.113.7:51234
		@cel expression `+"`{http.proxy_protocol.version} == 2 && {http.proxy_protocol.source} == '203.0.113.7:51234' && !{http.proxy_protocol.port_zero}`"+`
		vars who {http.proxy_protocol.source}
		map {http.proxy_protocol.transport} {family} {
			TCP4 "family of {http.proxy_protocol.client_ip}"
		}
		header X-Source {http.proxy_protocol.source}
		handle /respond {
			respond "{http.proxy_protocol.source}"
		}
		handle /vars {
			respond @vars "vars match {vars.who}"
		}
		handle /cel {
			respond @cel "CEL matches"
		}
		handle /map {
			respond "{family}"
		}
		handle /redir {
			redir https://example.com/{http.proxy_protocol.client_ip}
		}
		handle /rewrite {
			rewrite /{http.proxy_protocol.client_ip}
			respond "{uri}"
		}
		handle /templates {
			templates {
				mime text/plain
			}
			header Content-Type text/plain
			respond `+"`{{placeholder \"http.proxy_protocol.source\"}}`"+`
		}
		handle_path /sub/* {
			route {
				handle /route {
					respond "subroute {http.proxy_protocol.source}"
				}
			}
		}
		handle /invoke {
			invoke named
		}
		handle /proxy {
			reverse_proxy 127.0.0.1:%[2]d {
				header_up X-Client {http.proxy_protocol.source}
			}
		}
		handle /error {
			error "of {http.proxy_protocol.source}" 418
		}
		handle /not-wrapped-in-a-response {
			error 500
		}
		handle_errors {
			@teapot expression `+"`{err.status_code} == 418 && {http.proxy_protocol.present}`"+`
			respond @teapot "{err.status_code} {err.message}, {http.proxy_protocol.source}"
		}
	}
	http://second.test:%[1]d {
		respond "second site {http.proxy_protocol.source}"
	}
	http://:%[2]d {
		respond "upstream {header.X-Client}"
	}
	`, port, backend))
	tests := []struct{ name, host, path, want string }{
		{"handler", "", "/respond", "203.0.113.7:51234"},
		{"vars handler and matcher", "", "/vars", "vars match 203.0.113.7:51234"},
		{"expression matcher", "", "/cel", "CEL matches"},
		{"map handler", "", "/map", "family of 203.0.113.7"},
		{"rewrite handler", "", "/rewrite", "/203.0.113.7"},
		{"templates", "", "/templates", "203.0.113.7:51234"},
		{"route in a subroute", "", "/sub/route", "subroute 203.0.113.7:51234"},
		{"named route", "", "/invoke", "named 203.0.113.7:51234"},
		{"header to an upstream", "", "/proxy", "upstream 203.0.113.7:51234"},
		{"error route", "", "/error", "418 of 203.0.113.7:51234, 203.0.113.7:51234"},
		{"another site", "second.test", "/", "second site 203.0.113.7:51234"},
	}
	for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.H2C} {
		s := caddytest.NewSession(t, tr, caddytest.TCP4(port), headertest.V2(headertest.Client4, headertest.Server4))
		for _, tt := range tests {
			t.Run(tt.name+"/"+string(tr), func(t *testing.T) {
				s.In(t)
				header := []string{}
				if tt.host != "" {
					header = []string{"Host", tt.host}
				}
				response, body := s.Get(tt.path, header...)
				assert.Equal(t, tt.want, body)
				if tt.host == "" {
					assert.Equal(t, "203.0.113.7:51234", response.Header.Get("X-Source"))
				}
			})
		}
		t.Run("redirect/"+string(tr), func(t *testing.T) {
			s.In(t)
			response, _ := s.Get("/redir")
			assert.Equal(t, "https://example.com/203.0.113.7", response.Header.Get("Location"))
		})
		assert.Equal(t, 1, s.Dials)
	}
}

func TestPlaceholders_HoldBehindOtherListenerWrappers(t *testing.T) {
	const own = "proxy_protocol_mode on\n"
	tests := []struct {
		name, wrappers, protocols string
		transports                []caddytest.Transport
	}{
		{"http_redirect", own + "http_redirect\ntls", "protocols h1 h2", []caddytest.Transport{caddytest.HTTPS1, caddytest.HTTPS2}},
		{"http_redirect, HTTP/1 only", own + "http_redirect\ntls", "protocols h1", []caddytest.Transport{caddytest.HTTPS1}},
		{"one that hides the connection", own + caddytest.HidingWrapper + "\ntls", "protocols h1 h2 h2c", []caddytest.Transport{caddytest.HTTP1, caddytest.H2C, caddytest.HTTPS1, caddytest.HTTPS2}},
		{"one that hides that it is TLS", own + "tls\n" + caddytest.HidingWrapper, "protocols h1 h2", []caddytest.Transport{caddytest.HTTPS1}},
		{"HTTP/1 only", own + "tls", "protocols h1", []caddytest.Transport{caddytest.HTTP1, caddytest.HTTPS1}},
		{"HTTP/2 before HTTP/1", own + "tls", "protocols h2 h1", []caddytest.Transport{caddytest.HTTP1, caddytest.HTTPS1, caddytest.HTTPS2}},
		{"HTTP/2 only", own + "tls", "protocols h2", []caddytest.Transport{caddytest.HTTPS2}},
		{"h2c only", own + "tls", "protocols h2c", []caddytest.Transport{caddytest.H2C}},
		{"HTTP/2 and h2c", own + "tls", "protocols h2 h2c", []caddytest.Transport{caddytest.H2C, caddytest.HTTPS2}},
	}
	options, sites := "auto_https disable_redirects\n", ""
	type server struct{ plain, secure int }
	var servers []server
	cert := caddytest.CertificateFiles(t)
	site := "log\nlog_append present {http.proxy_protocol.present}\n" + tellAll()
	for _, tt := range tests {
		s := server{caddytest.FreePort(t), caddytest.FreePort(t)}
		servers = append(servers, s)
		if slices.ContainsFunc(tt.transports, caddytest.Transport.IsTLS) {
			options += caddytest.ServerOptions(s.secure, tt.wrappers, tt.protocols)
			sites += fmt.Sprintf("https://localhost:%d {\ntls %s\n%s}\n", s.secure, cert, site)
		}
		if slices.ContainsFunc(tt.transports, func(tr caddytest.Transport) bool { return !tr.IsTLS() }) {
			options += caddytest.ServerOptions(s.plain, tt.wrappers, tt.protocols)
			sites += fmt.Sprintf("http://:%d {\n%s}\n", s.plain, site)
		}
	}
	caddytest.Start(t, options, sites)
	for i, tt := range tests {
		for _, tr := range tt.transports {
			t.Run(tt.name+"/"+string(tr), func(t *testing.T) {
				e := caddytest.TCP4(servers[i].plain)
				if tr.IsTLS() {
					e = caddytest.TCP4(servers[i].secure)
				}
				s := caddytest.NewSession(t, tr, e, headertest.V2(headertest.Client4, headertest.Server4))
				defer s.Close()
				for _, path := range []string{"/first", "/second"} {
					_, body := s.Get(path)
					assert.Equal(t, values{
						"mode": "on", "peer": s.Peer.String(), "peer_ip": "127.0.0.1", "peer_port": portOfAddr(t, s.Peer.String()),
					}.with(v2Values), told(t, body))
				}
				assert.Equal(t, 1, s.Dials)
			})
		}
	}
	t.Run("http_redirect still redirects", func(t *testing.T) {
		c := caddytest.Dial(t, caddytest.TCP4(servers[0].secure))
		caddytest.Send(t, c, headertest.V2(headertest.Client4, headertest.Server4), "GET /path HTTP/1.1\r\nHost: localhost\r\n\r\n")
		response, _ := caddytest.ReadResponse(t, c)
		assert.Equal(t, http.StatusPermanentRedirect, response.StatusCode)
	})
}

func TestPlaceholders_OfAUnixSocketHaveNoIPAddress(t *testing.T) {
	path := caddytest.SocketPath(t)
	c := caddytest.Start(t, "servers {\nlistener_wrappers {\nproxy_protocol_mode unspecified\n}\n}", fmt.Sprintf("http:// {\nbind unix/%s\nlog\n%s}", path, tellAll()))
	tests := []struct {
		name, preamble string
		want           values
	}{
		{"no header", "", noHeader},
		{"LOCAL", headertest.Local(), noAddress.with(values{"version": "2", "command": "LOCAL"})},
		{"a header", headertest.V2(headertest.Client4, headertest.Server4), without(v2Values, "server_ip", "server_port").with(values{"port_zero": "true", "client_port": "0"})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := caddytest.NewSession(t, caddytest.HTTP1, caddytest.Unix(path), tt.preamble)
			defer s.Close()
			response, body := s.Get("/" + pathOf(tt.name))
			require.Equal(t, http.StatusOK, response.StatusCode)
			// How the system shows a socket without a name is its own business.
			got := told(t, body)
			delete(got, "peer")
			assert.Equal(t, values{"mode": "unspecified"}.with(tt.want), got)
			c.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": "/" + pathOf(tt.name)}))
		})
	}
}

// pathOf makes a path of the name of a test.
func pathOf(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return '-'
	}, name)
}

func TestPlaceholders_UnixPeerCannotNameItselfLikeAnIPAddress(t *testing.T) {
	path := caddytest.SocketPath(t)
	caddytest.Start(t, "servers {\nlistener_wrappers {\nproxy_protocol_mode off\n}\n}", fmt.Sprintf(`http:// {
		bind unix/%s
		@pinned pinned_ip 203.0.113.7
		header @pinned Pinned yes
		@peer proxy_protocol {
			peer 203.0.113.7
		}
		header @peer Peer yes
		@client client_ip 203.0.113.7
		header @client Client yes
		respond "{http.proxy_protocol.peer_ip}{http.proxy_protocol.client_ip}"
	}`, path))

	t.Chdir(t.TempDir()) // the name is that of a file here
	dialer := net.Dialer{Timeout: caddytest.Patience, LocalAddr: &net.UnixAddr{Name: "203.0.113.7:51234", Net: "unix"}}
	c, err := dialer.Dial("unix", path)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(caddytest.Patience)))
	caddytest.Send(t, c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	response, body := caddytest.ReadResponse(t, c)
	assert.Empty(t, response.Header.Get("Pinned"), "pinned_ip")
	assert.Empty(t, response.Header.Get("Peer"), "proxy_protocol peer")
	assert.Empty(t, response.Header.Get("Client"), "client_ip")
	assert.Empty(t, body, "placeholders")
}

func TestPlaceholders_ThatAreUnknownAreLeftToOthers(t *testing.T) {
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V2(headertest.Client4, headertest.Server4)))
	for _, name := range []string{"s", "_mode", ".", ".nonsense", ".tlv", ".tlv.", ".tlv.nonsense", ".tlv.ssl", ".tlv.ssl.nonsense", ".tlv.ssl.client_cert.", ".tlv.ssl.client_cert.nonsense", ".tlv.ssl.client_cert.san", ".tlv.ssl.client_cert.subject.0",
		".tlv.ssl.client_cert.san.ips.", ".tlv.ssl.client_cert.san.ips.-1", ".tlv.ssl.client_cert.san.ips.+1", ".tlv.ssl.client_cert.san.ips.01", ".tlv.ssl.client_cert.san.ips.x", ".tlv.ssl.client_cert.san.ips.0.0", ".tlv.ssl.client_cert.san.ips.99999999999999999999",
		".tlv.0x", ".tlv.0x1", ".tlv.0x001", ".tlv.0xzz", ".tlv.0X01", ".tlv.01", ".mode.x", ".Mode"} {
		value, known := placeholderOf(t, r, name)
		assert.False(t, known, name)
		assert.Nil(t, value, name)
	}

	f := caddytest.StartFarm(t, []string{"on"}, "", `respond "{http.proxy_protocol.nonsense} {http.proxy_protocols} {http.proxy_protocol.tlv.nonsense} {http.request.method}"`)
	_, body := caddytest.Get(t, caddytest.HTTP1, f.At("on", caddytest.HTTP1), headertest.V1(headertest.Client4, headertest.Server4), "/")
	assert.Equal(t, "{http.proxy_protocol.nonsense} {http.proxy_protocols} {http.proxy_protocol.tlv.nonsense} GET", body)
}

func TestPlaceholders_OfAnUnknownConnectionAreEmpty(t *testing.T) {
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
	r = r.WithContext(withoutLocalAddr{r.Context()})
	for _, name := range append([]string{""}, documented...) {
		if name != "" {
			name = "." + name
		}
		value, known := placeholderOf(t, r, name)
		assert.True(t, known, name)
		assert.Empty(t, value, name)
	}
}

func TestPlaceholders_SayTheConnectionsAddressNotTheRequests(t *testing.T) {
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.V1(headertest.Client4, headertest.Server4)))
	r.RemoteAddr = "198.51.100.1:1"
	for name, want := range map[string]string{".client_ip": "203.0.113.7", ".client_port": "51234"} {
		value, _ := placeholderOf(t, r, name)
		assert.Equal(t, want, value, name)
	}
}

// Logs

func TestAccessLog_HasTheWholeAsOneObject(t *testing.T) {
	tests := []struct {
		name, mode, preamble string
		want                 map[string]any
	}{
		{"no header", "off", "", map[string]any{"mode": "off", "present": false}},
		{"v1", "on", headertest.V1(headertest.Client4, headertest.Server4), map[string]any{
			"mode": "on", "present": true, "version": 1.0, "transport": "TCP4", "source": "203.0.113.7:51234", "destination": "192.0.2.1:443", "port_zero": false,
		}},
		{"v1 UNKNOWN", "on", headertest.Unknown(1), map[string]any{"mode": "on", "present": true, "version": 1.0, "transport": "UNKNOWN", "port_zero": false}},
		{"v2", "on", headertest.V2(headertest.Client6, headertest.Server6), map[string]any{
			"mode": "on", "present": true, "version": 2.0, "command": "PROXY", "transport": "TCP6", "source": "[2001:db8::7]:51234", "destination": "[2001:db8:1::1]:443", "port_zero": false,
		}},
		{"LOCAL", "on", headertest.Local(), map[string]any{"mode": "on", "present": true, "version": 2.0, "command": "LOCAL", "port_zero": false}},
		{"marked", "unspecified", headertest.V1(headertest.Client4, headertest.Server4), map[string]any{
			"mode": "unspecified", "present": true, "version": 1.0, "transport": "TCP4", "source": "203.0.113.7:51234", "destination": "192.0.2.1:443", "port_zero": true,
		}},
		{"TLVs", "on", headertest.TextWith(must1(wire.NewProxy(2, wire.Stream, headertest.Client4, headertest.Server4)), nil, true,
			headertest.TextTLV(wire.TypeNoop, "padding"), headertest.TextTLV(wire.TypeAuthority, "exa\nmple"), headertest.TextTLV(0xea, "\x01vpce-1"), headertest.TextTLV(0xea, "\x01vpce-2"), headertest.TextTLV(0xf1, "\x01"), headertest.TextTLV(0xee, "broken")), map[string]any{
			"mode": "on", "present": true, "version": 2.0, "command": "PROXY", "transport": "TCP4", "source": "203.0.113.7:51234", "destination": "192.0.2.1:443", "port_zero": false,
			"tlv": map[string]any{"authority": `exa\x0ample`, "aws_vpce_id": "vpce-1", "0xf1": "01", "0xee": "62726f6b656e"},
		}},
		{"SSL", "on", headertest.WithTLVs(headertest.SSLTLV(headertest.SSLUsed, 0, headertest.TextTLV(0x21, "TLSv1.2"))), map[string]any{
			"mode": "on", "present": true, "version": 2.0, "command": "PROXY", "transport": "TCP4", "source": "203.0.113.7:51234", "destination": "192.0.2.1:443", "port_zero": false,
			"tlv": map[string]any{"ssl.version": "TLSv1.2", "ssl.verified": "false"},
		}},
		{"truncated SSL", "on", headertest.WithTLVs(headertest.TextTLV(wire.TypeSSL, "\x01\x00")), map[string]any{
			"mode": "on", "present": true, "version": 2.0, "command": "PROXY", "transport": "TCP4", "source": "203.0.113.7:51234", "destination": "192.0.2.1:443", "port_zero": false,
			"tlv": map[string]any{"ssl.verified": "false"},
		}},
	}
	f := caddytest.StartFarm(t, []string{"on", "off", "unspecified"}, "", `
	log
	log_append lb {http.proxy_protocol.peer_ip}
	log_append proxy_protocol {http.proxy_protocol}
	respond "{http.proxy_protocol}"`)
	for _, tt := range tests {
		for _, tr := range caddytest.Transports {
			t.Run(tt.name+"/"+string(tr), func(t *testing.T) {
				s := caddytest.NewSession(t, tr, f.At(tt.mode, tr), tt.preamble)
				defer s.Close()
				path := "/" + pathOf(tt.name) + string(tr)
				_, body := s.Get(path)
				want := maps.Clone(tt.want)
				want["peer"] = s.Peer.String()

				entry := f.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": path}))
				assert.Equal(t, want, entry["proxy_protocol"])
				assert.Equal(t, "127.0.0.1", entry["lb"])

				var inText map[string]any
				require.NoError(t, json.Unmarshal([]byte(body), &inText), body)
				assert.Equal(t, want, inText, "in text it is JSON")
			})
		}
	}
}

func must1(h wire.Header, err error) wire.Header {
	caddytest.Must(err)
	return h
}

func TestAccessLog_HasTheClientWithNoConfiguration(t *testing.T) {
	type client struct{ ip, port string }
	const self = "self" // the port of the test's own end
	header, marked, peer := client{"203.0.113.7", "51234"}, client{"203.0.113.7", "0"}, client{"127.0.0.1", self}
	connections := []struct {
		name, mode, preamble string
		want                 client
	}{
		{"a header under on", "on", headertest.V2(headertest.Client4, headertest.Server4), header},
		{"IPv4-mapped addresses", "on", headertest.V2(mappedOf(headertest.Client4), mappedOf(headertest.Server4)), header},
		{"LOCAL under on", "on", headertest.Local(), peer},
		{"no header under off", "off", "", peer},
		{"no header under unspecified", "unspecified", "", peer},
		{"a header under unspecified", "unspecified", headertest.V2(headertest.Client4, headertest.Server4), marked},
	}
	requests := []struct {
		name         string
		tls          bool
		text         string
		status       int
		inErrorRoute bool
	}{
		{"served", false, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, false},
		{"without a host", false, "GET %s HTTP/1.1\r\nHost:\r\n\r\n", 400, true},
		{"with a bad host", false, "GET %s HTTP/1.1\r\nHost: ...\r\n\r\n", 400, true},
		{"with a long method", false, strings.Repeat("M", 33) + " %s HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, true},
		{"served over TLS", true, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, false},
		{"whose host is not the one of TLS", true, "GET %s HTTP/1.1\r\nHost: other.test\r\n\r\n", 421, false},
	}
	var options string
	f := &caddytest.Farm{Caddy: caddytest.New(t), Plain: make(map[string]int), Secure: make(map[string]int)}
	modes := []string{"on", "off", "unspecified"}
	options, sites := f.Config(t, modes, "", `
	log
	respond ok
	handle_errors {
		respond "error route: {http.proxy_protocol.client_ip}"
	}`)
	options = strings.ReplaceAll(options, "protocols h1 h2\n", "protocols h1 h2\nstrict_sni_host on\n")
	require.NoError(t, f.Load(options, sites))

	for _, c := range connections {
		for _, r := range requests {
			t.Run("a request "+r.name+" behind "+c.name, func(t *testing.T) {
				tr := caddytest.HTTP1
				if r.tls {
					tr = caddytest.HTTPS1
				}
				conn := caddytest.Dial(t, f.At(c.mode, tr))
				port := portOfAddr(t, conn.LocalAddr().String())
				caddytest.Send(t, conn, c.preamble)
				if r.tls {
					conn = caddytest.StartTLS(t, conn, caddytest.ClientTLS())
				}
				path := "/" + pathOf(c.name+r.name)
				caddytest.Send(t, conn, fmt.Sprintf(r.text, path))
				response, body := caddytest.ReadResponse(t, conn)
				assert.Equal(t, r.status, response.StatusCode)
				if r.inErrorRoute {
					assert.Equal(t, "error route: "+c.want.ip, body)
				}

				want := c.want
				if want.port == self {
					want.port = port
				}
				entry := f.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": path}))
				assert.Equal(t, want.ip, entry.Str("request.remote_ip"))
				assert.Equal(t, want.port, entry.Str("request.remote_port"))
				assert.Equal(t, want.ip, entry.Str("request.client_ip"))
			})
		}
	}
}

func TestPlaceholders_ClientCannotSpoofItsAddressInARequest(t *testing.T) {
	// 203.0.113.7 is the client of the header, 127.0.0.1 the load balancer.
	tests := []struct {
		name, trusted  string
		remote, client string
		pinned         string // the pin that matches
	}{
		{"without trusted_proxies", "", "203.0.113.7", "203.0.113.7", "header"},
		{"with the load balancer in trusted_proxies", "trusted_proxies static 127.0.0.0/8", "203.0.113.7", "203.0.113.7", "header"},
		{"with the header's client in trusted_proxies, it is believed", "trusted_proxies static 203.0.113.0/24", "203.0.113.7", "198.51.100.1", "forwarded"},
		{"with the header's client in strict trusted_proxies, it is believed", "trusted_proxies static 203.0.113.0/24\ntrusted_proxies_strict", "203.0.113.7", "198.51.100.1", "forwarded"},
	}
	options, sites := "", ""
	type server struct{ on, unspecified int }
	var servers []server
	for _, tt := range tests {
		s := server{caddytest.FreePort(t), caddytest.FreePort(t)}
		servers = append(servers, s)
		options += caddytest.ServerOptions(s.on, "proxy_protocol_mode on", tt.trusted) + caddytest.ServerOptions(s.unspecified, "proxy_protocol_mode unspecified", tt.trusted)
		sites += fmt.Sprintf(`http://:%d, http://:%d {
			log
			@header pinned_ip 203.0.113.7
			header @header Pinned header
			@forwarded pinned_ip 198.51.100.1
			header @forwarded Pinned forwarded
			respond "{http.proxy_protocol.client_ip}"
		}
		`, s.on, s.unspecified)
	}
	c := caddytest.Start(t, options, sites)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, port := range []int{servers[i].on, servers[i].unspecified} {
				s := caddytest.NewSession(t, caddytest.HTTP1, caddytest.TCP4(port), headertest.V1(headertest.Client4, headertest.Server4))
				path := fmt.Sprintf("/%d-%d", i, port)
				response, body := s.Get(path, "X-Forwarded-For", "198.51.100.1", "Forwarded", "for=198.51.100.1", "X-Real-Ip", "198.51.100.1")
				s.Close()
				assert.Equal(t, "203.0.113.7", body, "the header's client is not the request's to change")

				entry := c.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": path}))
				assert.Equal(t, tt.remote, entry.Str("request.remote_ip"))
				assert.Equal(t, tt.client, entry.Str("request.client_ip"))

				pinned := tt.pinned
				if port == servers[i].unspecified {
					pinned = "" // marked
				}
				assert.Equal(t, pinned, response.Header.Get("Pinned"))
			}
		})
	}
}

// attackText is text that would break a log line, a response header or a terminal.
const attackText = "evil\r\nX-Injected: yes\r\n\r\n<script>\"\\\x1b[31m\x00\x7f\u202e\u2028\xff\xc3("

const attackShown = `evil\x0d\x0aX-Injected: yes\x0d\x0a\x0d\x0a<script>"\\` + `\x1b[31m\x00\x7f\xe2\x80\xae\xe2\x80\xa8\xff\xc3(`

func TestPlaceholders_TextFromAHeaderBreaksNothing(t *testing.T) {
	port := caddytest.FreePort(t)
	dir := t.TempDir()
	files := map[string]string{"json": filepath.Join(dir, "json.log"), "console": filepath.Join(dir, "console.log")}
	c := caddytest.Start(t, caddytest.ServerOptions(port, "proxy_protocol_mode on", "protocols h1 h2c"), fmt.Sprintf(`
	http://localhost:%d {
		log {
			output file %s
			format json
			level DEBUG
		}
		log console {
			output file %s
			format console {
				level_format upper
			}
			level DEBUG
		}
		log_append authority {http.proxy_protocol.tlv.authority}
		log_append cn {http.proxy_protocol.tlv.ssl.cn}
		log_append proxy_protocol {http.proxy_protocol}
		header X-Authority {http.proxy_protocol.tlv.authority}
		header X-Unique-Id {http.proxy_protocol.tlv.unique_id}
		header X-Whole {http.proxy_protocol}
		handle /error {
			error "{http.proxy_protocol.tlv.authority}" 418
		}
		@pinned pinned_ip {http.proxy_protocol.tlv.authority}
		handle /pinned {
			respond @pinned "pinned"
			respond "not pinned"
		}
		respond "{http.proxy_protocol.tlv.authority}"
	}`, port, strconv.Quote(files["json"]), strconv.Quote(files["console"])))
	preamble := headertest.WithTLVs(headertest.TextTLV(wire.TypeAuthority, attackText), headertest.TextTLV(wire.TypeUniqueID, attackText), headertest.TextTLV(wire.TypeALPN, attackText), headertest.TextTLV(wire.TypeNetNS, attackText), headertest.SSLTLV(headertest.SSLUsed, 1, headertest.TextTLV(0x21, attackText), headertest.TextTLV(0x22, attackText)))

	for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.H2C} {
		t.Run("response header/"+string(tr), func(t *testing.T) {
			s := caddytest.NewSession(t, tr, caddytest.TCP4(port), preamble)
			defer s.Close()
			response, body := s.Get("/" + string(tr))
			assert.Equal(t, attackShown, body)
			assert.Equal(t, attackShown, response.Header.Get("X-Authority"))
			assert.Equal(t, attackShown, response.Header.Get("X-Unique-Id"))
			assert.NotContains(t, response.Header, "X-Injected")
			var whole struct{ TLV map[string]string }
			require.NoError(t, json.Unmarshal([]byte(response.Header.Get("X-Whole")), &whole))
			assert.Equal(t, map[string]string{
				"authority": attackShown, "unique_id": attackShown, "alpn": attackShown, "netns": attackShown,
				"ssl.version": attackShown, "ssl.cn": attackShown, "ssl.verified": "false",
			}, whole.TLV)
		})
	}
	t.Run("bytes of a response header", func(t *testing.T) {
		conn := caddytest.Dial(t, caddytest.TCP4(port))
		caddytest.Send(t, conn, preamble, "GET /bytes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		response := caddytest.ReadAll(t, conn)
		head, _, _ := strings.Cut(response, "\r\n\r\n")
		assert.Contains(t, head, "\r\nX-Authority: "+attackShown+"\r\n")
		assert.NotContains(t, head, "\r\nX-Injected")
	})
	t.Run("debug log of pinned_ip", func(t *testing.T) {
		_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), preamble, "/pinned")
		assert.Equal(t, "not pinned", body)
		entry := c.Logs.WaitFor(t, caddytest.Fields{"msg": "pinned_ip cannot use the value of a placeholder"})
		requireNoControls(t, entry.Str("error"))
	})
	t.Run("message of an error", func(t *testing.T) {
		caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), preamble, "/error")
		c.Logs.WaitFor(t, caddytest.Fields{"msg": attackShown, "status": 418.0})
	})
	for format, file := range files {
		t.Run(format+" log", func(t *testing.T) {
			const requests = 5
			var lines []string
			require.Eventually(t, func() bool {
				b, err := os.ReadFile(file)
				lines = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
				return err == nil && strings.Count(string(b), "handled request") == requests
			}, caddytest.Patience, caddytest.Tick)
			for _, line := range lines {
				requireNoControls(t, strings.ReplaceAll(line, "\t", ""))
				if format == "json" {
					var entry caddytest.Fields
					require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
				}
				// A line of its own would begin otherwise.
				assert.Regexp(t, regexp.MustCompile(`^(\{"level":|\d{4}/\d\d/\d\d )`), line)
			}
		})
	}
}

// requireNoControls asserts that text does nothing to a terminal.
func requireNoControls(t testing.TB, s string) {
	t.Helper()
	for _, r := range s {
		require.True(t, unicode.IsPrint(r), "%q has %q", s, r)
	}
}

// Metrics

func TestPlaceholders_AreNotCountedByMetrics(t *testing.T) {
	for _, metrics := range []string{"metrics", "metrics {\nper_host\n}"} {
		t.Run(metrics, func(t *testing.T) {
			wrapped, plain, scrape := caddytest.FreePort(t), caddytest.FreePort(t), caddytest.FreePort(t)
			const site = `
				handle /error {
					error 500
				}
				respond "{http.proxy_protocol.mode}"
				handle_errors {
					respond "handled"
				}`
			caddytest.Start(t, metrics+
				caddytest.ServerOptions(wrapped, "proxy_protocol_mode off", "name wrapped")+
				caddytest.ServerOptions(plain, "", "name plain")+
				caddytest.ServerOptions(scrape, "", "name scrape"),
				fmt.Sprintf("http://:%d, http://:%d {\n%s\n}\nhttp://:%d {\nmetrics\n}\n", wrapped, plain, site, scrape))
			for _, port := range []int{wrapped, plain} {
				for _, path := range []string{"/", "/error", "/"} {
					caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), "", path)
				}
			}
			counts := func(server string) []string {
				var lines []string
				_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(scrape), "", "/")
				for line := range strings.Lines(body) {
					label := `server="` + server + `"`
					// Neither times nor sizes are the same for two requests.
					if strings.HasPrefix(line, "caddy_http_") && strings.Contains(line, label) && !strings.Contains(line, "_bucket{") && !strings.Contains(line, "_sum{") {
						lines = append(lines, strings.ReplaceAll(line, label, ""))
					}
				}
				return lines
			}
			want := counts("plain")
			require.NotEmpty(t, want)
			assert.Equal(t, want, counts("wrapped"))
		})
	}
}
