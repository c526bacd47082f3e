package proxyprotocol_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

const (
	ofHTTP3     = "HTTP/3 is disabled: this wrapper cannot check UDP, so HTTP/3 would bypass mode 'on'; to keep it anyway, add 'http3 allow' to 'proxy_protocol_mode'"
	ofPlainPort = "port %d has no 'proxy_protocol_mode' and answers a header with 400: if your load balancer sends headers there, %s will fail; to prevent that, add the site 'http:// { log }', and, if 'proxy_protocol_mode' is in 'servers' options with an address, a block 'servers :%d { listener_wrappers { ... } }'; or in JSON, a server with \"listen\": [\":%d\"] and the same \"listener_wrappers\""
)

func TestServer_OnWhichTheWrapperCannotWorkDoesNotLoad(t *testing.T) {
	inOrder := func(wrapper string) string {
		return "write:\n\n\tlistener_wrappers {\n\t\t" + wrapper + "\n\t\ttls\n\t}"
	}
	const noProtocol = "no protocol is left, because HTTP/3 is disabled where a PROXY protocol header is mandatory; write:\n\n\tprotocols h1 h2\n\nor, to serve HTTP/3 to every host that can reach the port, in proxy_protocol_mode:\n\n\thttp3 allow"
	var (
		on, off = inOrder("proxy_protocol_mode on"), inOrder("proxy_protocol_mode off")
		twice   = "duplicate listener wrapper 'proxy_protocol_mode': a connection has only one header: keep one wrapper and " + on
		builtin = "listener wrapper 'proxy_protocol_mode' cannot be combined with Caddy's own 'proxy_protocol', because a connection has only one header: remove 'proxy_protocol' and "
		late    = "listener wrapper 'proxy_protocol_mode' must come before 'tls', because the header comes before the TLS handshake: "
	)
	for _, test := range []struct {
		name, options, bind string
		plain               bool
		position            int
		want                string // "" if it loads
	}{
		{name: "alone on a plain server", options: caddytest.Wrappers("proxy_protocol_mode on"), plain: true},
		// Caddy itself puts TLS first where there is no tls.
		{name: "alone", options: caddytest.Wrappers("proxy_protocol_mode on"), want: late + on},
		{name: "off alone", options: caddytest.Wrappers("proxy_protocol_mode off"), want: late + off},
		{name: "before tls", options: caddytest.Wrappers("proxy_protocol_mode on\ntls")},
		{name: "behind tls", options: caddytest.Wrappers("tls\nproxy_protocol_mode on"), position: 1, want: late + on},
		{name: "behind tls on a plain server", options: caddytest.Wrappers(caddytest.AcceptWrapper + "\ntls\nproxy_protocol_mode on"), plain: true, position: 2, want: late + on},
		{name: "off behind tls", options: caddytest.Wrappers("tls\nproxy_protocol_mode off"), position: 1, want: late + off},
		{
			name: "behind tls with all options", position: 1,
			options: caddytest.Wrappers("tls\nproxy_protocol_mode on {\ntrusted_proxies static 10.0.0.0/8\noff 127.0.0.0/8 ::1\ntimeout 4s\nmax_header_size 1KiB\nversion v2\nhttp3 allow\nmismatched_destination allow\n}"),
			want:    late + inOrder("proxy_protocol_mode on {\n\t\t\ttrusted_proxies static 10.0.0.0/8\n\t\t\toff 127.0.0.0/8 ::1\n\t\t\ttimeout 4s\n\t\t\tmax_header_size 1024\n\t\t\tversion v2\n\t\t\thttp3 allow\n\t\t\tmismatched_destination allow\n\t\t}"),
		},
		{name: "twice", options: caddytest.Wrappers("proxy_protocol_mode on\nproxy_protocol_mode off\ntls"), want: twice},
		{name: "on both sides of tls", options: caddytest.Wrappers("proxy_protocol_mode on\ntls\nproxy_protocol_mode on"), want: twice},
		{name: "behind Caddy's own", options: caddytest.Wrappers("proxy_protocol\nproxy_protocol_mode on\ntls"), position: 1, want: builtin + on},
		{name: "before Caddy's own", options: caddytest.Wrappers("proxy_protocol_mode off\nproxy_protocol\ntls"), want: builtin + off},
		{name: "before Caddy's own on a plain server", options: caddytest.Wrappers("proxy_protocol_mode off\nproxy_protocol"), plain: true, want: builtin + off},
		{name: "with others around", options: caddytest.Wrappers(caddytest.AcceptWrapper + "\nproxy_protocol_mode on\ntls\n" + caddytest.AcceptWrapper)},
		{name: "before http_redirect", options: caddytest.Wrappers("proxy_protocol_mode on\nhttp_redirect\ntls")},
		{
			name: "behind http_redirect", options: caddytest.Wrappers("http_redirect\nproxy_protocol_mode on\ntls"), position: 1,
			want: "listener wrapper 'proxy_protocol_mode' must come before 'http_redirect', which would otherwise answer before the header is checked; write:\n\n\tlistener_wrappers {\n\t\tproxy_protocol_mode on\n\t\thttp_redirect\n\t\ttls\n\t}",
		},
		{name: "h3 alone", options: withProtocols("h3", "proxy_protocol_mode on\ntls"), want: noProtocol},
		{name: "h3 alone for the mode of a range", options: withProtocols("h3", "proxy_protocol_mode off {\non 127.0.0.1\n}\ntls"), want: noProtocol},
		{name: "h3 alone under off", options: withProtocols("h3", "proxy_protocol_mode off\ntls")},
		{name: "h3 alone under unspecified", options: withProtocols("h3", "proxy_protocol_mode\ntls")},
		{name: "h3 alone and allowed", options: withProtocols("h3", "proxy_protocol_mode on {\nhttp3 allow\n}\ntls")},
		{name: "h3 alone on one address", options: caddytest.Wrappers("proxy_protocol_mode on\ntls"), bind: "{\nprotocols h3\n}", want: noProtocol},
		{name: "h3 alone and allowed on one address", options: caddytest.Wrappers("proxy_protocol_mode on {\nhttp3 allow\n}\ntls"), bind: "{\nprotocols h3\n}"},
		{name: "h1 on the one address of a server of h3 alone", options: withProtocols("h3", "proxy_protocol_mode on\ntls"), bind: "{\nprotocols h1\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.New(t)
			require.NoError(t, c.Load("auto_https disable_redirects", caddytest.SecureSite(t, port)))
			site := strings.Replace(caddytest.SecureSite(t, port), strings.Join(caddytest.Loopbacks(), " "), "127.0.0.1 "+test.bind, 1)
			if test.plain {
				site = caddytest.PlainSite(port)
			}
			err := c.Load("auto_https disable_redirects\n"+test.options, site)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, fmt.Sprintf("loading new config: loading http app module: provision http: loading listener wrapper modules: position %d: loading module 'proxy_protocol_mode': provision caddy.listeners.proxy_protocol_mode: server srv0: %s", test.position, test.want))

			response, _ := caddytest.Get(t, caddytest.HTTPS2, caddytest.TCP4(port), "", "/")
			assert.Equal(t, http.StatusOK, response.StatusCode, "the running config stays")
		})
	}
}

func withProtocols(protocols, wrapper string) string {
	return strings.Replace(caddytest.Wrappers(wrapper), "servers {", "servers {\nprotocols "+protocols, 1)
}

func TestHTTP3_IsTakenAwayWhereAHeaderIsMandatory(t *testing.T) {
	for _, test := range []struct {
		name, options string
		preamble      string
		kept, warned  bool
	}{
		{name: "without the wrapper", kept: true},
		{name: "on", options: caddytest.Wrappers("proxy_protocol_mode on\ntls"), preamble: headerV2, warned: true},
		{name: "off", options: caddytest.Wrappers("proxy_protocol_mode off\ntls"), kept: true},
		{name: "unspecified", options: caddytest.Wrappers("proxy_protocol_mode\ntls"), kept: true},
		{name: "on for a range", options: caddytest.Wrappers("proxy_protocol_mode off {\non 10.0.0.0/8\n}\ntls"), warned: true},
		{name: "on for everyone but a range", options: caddytest.Wrappers("proxy_protocol_mode on {\noff 127.0.0.0/8\n}\ntls"), warned: true},
		{name: "off for a range of unspecified", options: caddytest.Wrappers("proxy_protocol_mode unspecified {\noff 127.0.0.0/8\n}\ntls"), kept: true},
		{name: "on and allowed", options: caddytest.Wrappers("proxy_protocol_mode on {\nhttp3 allow\n}\ntls"), preamble: headerV2, kept: true},
		{name: "on for a range and allowed", options: caddytest.Wrappers("proxy_protocol_mode off {\non 10.0.0.0/8\nhttp3 allow\n}\ntls"), kept: true},
		{name: "on and protocols", options: withProtocols("h1 h2 h3", "proxy_protocol_mode on\ntls"), preamble: headerV2, warned: true},
		{name: "on and other protocols", options: withProtocols("h1 h2", "proxy_protocol_mode on\ntls"), preamble: headerV2},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, "auto_https disable_redirects\n"+test.options, caddytest.SecureSite(t, port))
			for _, tr := range []caddytest.Transport{caddytest.HTTPS1, caddytest.HTTPS2} {
				response, _ := caddytest.Get(t, tr, caddytest.TCP4(port), test.preamble, "/")
				assert.Equal(t, http.StatusOK, response.StatusCode)
				if test.kept {
					assert.Contains(t, response.Header.Get("Alt-Svc"), fmt.Sprintf(`h3=":%d"`, port))
				} else {
					assert.Empty(t, response.Header.Values("Alt-Svc"))
				}
			}
			assert.Equal(t, test.kept, caddytest.ListensOnUDP(t, port))
			warned := c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"msg": ofHTTP3, "level": "warn", "server_name": "srv0"}))
			assert.Equal(t, test.warned, len(warned) == 1)
			assert.Len(t, c.Logs.Find(caddytest.Fields{"msg": ofHTTP3}), len(warned))
		})
	}
}

func TestHTTP3_PlainServerIsNotWarnedOf(t *testing.T) {
	c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on"), caddytest.PlainSite(caddytest.FreePort(t)))
	assert.Empty(t, c.Logs.Find(caddytest.Fields{"msg": ofHTTP3}))
}

// All servers share the list of protocols that Caddy gives them by default.
func TestHTTP3_IsTakenFromOneServerAlone(t *testing.T) {
	on, off, unwrapped := caddytest.FreePort(t), caddytest.FreePort(t), caddytest.FreePort(t)
	options := "auto_https disable_redirects\n" +
		strings.Replace(caddytest.Wrappers("proxy_protocol_mode on\ntls"), "servers", fmt.Sprintf("servers 127.0.0.1:%d", on), 1) +
		strings.Replace(caddytest.Wrappers("proxy_protocol_mode off\ntls"), "servers", fmt.Sprintf("servers 127.0.0.1:%d", off), 1)
	var sites string
	for _, port := range []int{on, off, unwrapped} {
		sites += strings.Replace(caddytest.SecureSite(t, port), strings.Join(caddytest.Loopbacks(), " "), "127.0.0.1", 1)
	}
	c := caddytest.New(t)
	for range 3 { // the order in which servers are provisioned is random
		require.NoError(t, c.Load(options, sites))
		for _, test := range []struct {
			port     int
			preamble string
			kept     bool
		}{{on, headerV1, false}, {off, "", true}, {unwrapped, "", true}} {
			// Right after a load Caddy itself may not have it yet, or reset the connection.
			caddytest.Eventually(t, func() bool {
				response, _, err := caddytest.TryGet(t, caddytest.HTTPS2, caddytest.TCP4(test.port), test.preamble, "/")
				return err == nil && test.kept == (response.Header.Get("Alt-Svc") != "")
			}, "Alt-Svc of %s", test.preamble)
			assert.Equal(t, test.kept, caddytest.ListensOnUDP(t, test.port))
		}
	}
}

func TestHTTP3_IsTakenFromSingleAddresses(t *testing.T) {
	caddytest.NeedIPv6(t)
	for _, test := range []struct {
		wrapper, preamble string
		kept              bool
	}{
		{"proxy_protocol_mode on", headerV1, false},
		{"proxy_protocol_mode on {\nhttp3 allow\n}", headerV1, true},
		{"proxy_protocol_mode off", "", true},
	} {
		t.Run(test.wrapper, func(t *testing.T) {
			port := caddytest.FreePort(t)
			// The other address has the protocols of the server.
			site := strings.Replace(caddytest.SecureSite(t, port), "bind 127.0.0.1 ::1", "bind 127.0.0.1 {\nprotocols h1 h3\n}\nbind ::1", 1)
			caddytest.Start(t, "auto_https disable_redirects\n"+withProtocols("h1 h2", test.wrapper+"\ntls"), site)
			for _, e := range []caddytest.Endpoint{caddytest.TCP4(port), caddytest.TCP6(port)} {
				response, _ := caddytest.Get(t, caddytest.HTTPS1, e, test.preamble, "/")
				assert.Equal(t, http.StatusOK, response.StatusCode)
				assert.Equal(t, test.kept, response.Header.Get("Alt-Svc") != "")
			}
			assert.Equal(t, test.kept, caddytest.ListensOnUDP(t, port))
		})
	}
}

// The redirects of automatic HTTPS

func TestServer_RedirectsWithoutWrapperAreWarnedOf(t *testing.T) {
	scoped := func(port int, mode string) string {
		return strings.Replace(caddytest.Wrappers("proxy_protocol_mode "+mode+"\ntls"), "servers", fmt.Sprintf("servers 127.0.0.1:%d", port), 1)
	}
	everywhere := func(mode string) func(int, int) string {
		return func(int, int) string { return caddytest.Wrappers("proxy_protocol_mode " + mode + "\ntls") }
	}
	const fix = "http:// {\nlog\n}\n"
	for _, test := range []struct {
		name     string
		options  func(plain, secure int) string
		sites    string
		warned   bool
		redirect bool // of a request behind a header
	}{
		{name: "on", options: everywhere("on"), warned: true},
		{name: "unspecified", options: everywhere("unspecified"), warned: true},
		{name: "off", options: everywhere("off")},
		{name: "on for a range", options: everywhere("off {\non 10.0.0.0/8\n}"), warned: true},
		{name: "on and fixed", options: everywhere("on"), sites: fix, redirect: true},
		{name: "unspecified and fixed", options: everywhere("unspecified"), sites: fix, redirect: true},
		{
			name:    "on for one address",
			options: func(_, secure int) string { return scoped(secure, "on") },
			warned:  true,
		},
		{
			name:    "on for one address and fixed",
			options: func(plain, secure int) string { return scoped(secure, "on") + scoped(plain, "on") },
			sites:   fix, redirect: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			plain, secure := caddytest.FreePort(t), caddytest.FreePort(t)
			options := fmt.Sprintf("default_bind 127.0.0.1\nhttp_port %d\nhttps_port %d\n", plain, secure) + test.options(plain, secure)
			site := strings.Replace(caddytest.SecureSite(t, secure), "bind "+strings.Join(caddytest.Loopbacks(), " ")+"\n", "", 1)
			c := caddytest.Start(t, options, site+test.sites)
			warned := c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"msg": fmt.Sprintf(ofPlainPort, plain, "redirects to HTTPS", plain, plain), "level": "warn"}))
			assert.Equal(t, test.warned, len(warned) == 1)

			conn := caddytest.Dial(t, caddytest.TCP4(plain))
			caddytest.Send(t, conn, headerV1+caddytest.Request("/"))
			response, _ := caddytest.ReadResponse(t, conn)
			if !test.redirect {
				assert.Equal(t, http.StatusBadRequest, response.StatusCode, "that is what the warning says")
				return
			}
			assert.Equal(t, http.StatusPermanentRedirect, response.StatusCode)
			assert.Equal(t, "https://localhost/", response.Header.Get("Location"))
			c.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.remote_ip": headertest.Client4.Addr().String()}))
		})
	}
}

// Without redirects Caddy still needs port 80 for ACME's HTTP challenge, and opens it itself where no
// server listens.
func TestServer_ACMEWithoutWrapperIsWarnedOf(t *testing.T) {
	const (
		redirects = "redirects to HTTPS"
		acme      = "ACME's HTTP challenge"
	)
	// No certificate is ever obtained: nothing answers at this address.
	const ca = "acme_ca https://127.0.0.1:1/directory\nskip_install_trust\n"
	for _, tt := range []struct {
		name, options, mode, site, more, needs string
	}{
		{name: "redirects and ACME", site: "example.com", needs: redirects + " and " + acme},
		{name: "ACME alone", options: "auto_https disable_redirects", site: "example.com", needs: acme},
		{name: "fixed", options: "auto_https disable_redirects", site: "example.com", more: "http:// {\nlog\n}\n"},
		{name: "off", options: "auto_https disable_redirects", mode: "off", site: "example.com"},
		{name: "no automatic HTTPS", options: "auto_https off", site: "https://example.com"},
		{name: "no certificates", options: "auto_https disable_certs", site: "example.com", needs: redirects},
		{name: "a certificate of its own", options: "auto_https disable_redirects", site: "a.test", more: "certificate"},
		{name: "a certificate for other names", options: "auto_https disable_redirects", site: "example.com", more: "certificate", needs: acme},
		{name: "no certificate", options: "auto_https disable_redirects", site: "a.test", needs: acme},
		{name: "an internal name", options: "auto_https disable_redirects", site: "localhost"},
		{name: "Caddy's own authority", options: "auto_https disable_redirects\nlocal_certs", site: "example.com"},
		{name: "Caddy's own authority for the site", options: "auto_https disable_redirects", site: "example.com", more: "internal"},
		{name: "a wildcard", options: "auto_https disable_redirects", site: "*.example.com"},
		{name: "another challenge", options: "auto_https disable_redirects\ncert_issuer acme {\ndisable_http_challenge\n}", site: "example.com"},
		{name: "on demand", options: "auto_https disable_redirects\non_demand_tls {\nask http://127.0.0.1:1\n}", site: "https://", more: "on_demand", needs: acme},
		{name: "only plain HTTP", site: "http://example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plain, secure := caddytest.FreePort(t), caddytest.FreePort(t)
			mode := tt.mode
			if mode == "" {
				mode = "on"
			}
			options := fmt.Sprintf("default_bind 127.0.0.1\nhttp_port %d\nhttps_port %d\n%s%s\n", plain, secure, ca, tt.options) + caddytest.Wrappers("proxy_protocol_mode "+mode+"\ntls")
			inner, more := "", tt.more
			switch more {
			case "certificate":
				inner, more = "tls "+caddytest.CertificateFiles(t)+"\n", ""
			case "internal", "on_demand":
				inner, more = "tls {\n"+map[string]string{"internal": "issuer internal", "on_demand": "on_demand"}[more]+"\n}\n", ""
			}
			c := caddytest.New(t)
			config, err := caddytest.Adapt(c.Caddyfile(options, tt.site+" {\n"+inner+"respond ok\n}\n"+more))
			require.NoError(t, err)
			var parsed caddy.Config
			require.NoError(t, json.Unmarshal(config, &parsed))
			require.NoError(t, caddy.Validate(&parsed))
			warnings := c.Logs.Warnings()
			want := fmt.Sprintf(ofPlainPort, plain, tt.needs, plain, plain)
			if tt.needs == "" {
				for _, warning := range warnings {
					assert.NotContains(t, warning, "answers a header with 400")
				}
				return
			}
			assert.Contains(t, warnings, want)
		})
	}
}

// A user of JSON has no 'http:// { log }'.
func TestServer_RedirectsWithTheServerOfTheWarningReadHeaders(t *testing.T) {
	plain, secure := caddytest.FreePort(t), caddytest.FreePort(t)
	const wrappers = `"listener_wrappers": [{"wrapper": "proxy_protocol_mode", "mode": "on"}, {"wrapper": "tls"}]`
	files := strings.Fields(caddytest.CertificateFiles(t))
	c := caddytest.StartJSON(t, fmt.Sprintf(`{
		"tls": {"certificates": {"load_files": [{"certificate": %s, "key": %s}]}},
		"http": {"http_port": %d, "https_port": %d, "servers": {
			"secure": {"listen": [":%d"], %s, "routes": [{"match": [{"host": ["localhost"]}], "handle": [{"handler": "static_response"}]}]},
			"plain": {"listen": [":%d"], %s}
		}}
	}`, files[0], files[1], plain, secure, secure, wrappers, plain, wrappers))
	for _, warning := range c.Logs.Warnings() {
		assert.NotContains(t, warning, "answers a header with 400")
	}
	conn := caddytest.Dial(t, caddytest.TCP4(plain))
	caddytest.Send(t, conn, headerV1+caddytest.Request("/"))
	response, _ := caddytest.ReadResponse(t, conn)
	assert.Equal(t, http.StatusPermanentRedirect, response.StatusCode)
}

// Connections that are TLS already

// testTLS is a listener wrapper that does TLS as Caddy's own does, under another name.
type testTLS struct{}

func init() { caddy.RegisterModule(testTLS{}) }

func (testTLS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.proxy_protocol_test_tls",
		New: func() caddy.Module { return new(testTLS) },
	}
}

func (*testTLS) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*testTLS) WrapListener(l net.Listener) net.Listener {
	cert, err := tls.X509KeyPair(caddytest.Certificate().CertPEM, caddytest.Certificate().KeyPEM)
	caddytest.Must(err)
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
}

func TestServer_ConnectionThatIsAlreadyTLSIsRefused(t *testing.T) {
	for _, mode := range []string{"on", "off", "unspecified"} {
		t.Run(mode, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_test_tls\nproxy_protocol_mode "+mode), caddytest.PlainSite(port))
			for _, preamble := range []string{"", headerV2} {
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				_, _ = io.WriteString(conn, preamble)
				caddytest.RequireRefused(t, conn)
				entry := c.Logs.WaitForRefusal(t, caddytest.Fields{"peer": conn.LocalAddr().String()})
				assert.Equal(t, caddytest.TCP4(port).Address, entry.Str("local"))
				assert.Equal(t, mode, entry.Str("mode"))
				assert.Equal(t, "io", entry.Str("reason"))
				assert.Equal(t, "the connection is TLS already: put 'proxy_protocol_mode' before 'tls' in listener_wrappers, because the header comes before the TLS handshake", entry.Str("error"))
			}
		})
	}
}

// Caddy provisions servers in random order.
func TestServer_OrderOfWrappersIsTheSameErrorAtEveryLoad(t *testing.T) {
	plain, secure := caddytest.FreePort(t), caddytest.FreePort(t)
	sites := caddytest.PlainSite(plain) + caddytest.SecureSite(t, secure)
	errs := make(map[string]int)
	for range 12 {
		err := caddytest.New(t).Load("auto_https disable_redirects\n"+caddytest.Wrappers("tls\nproxy_protocol_mode on"), sites)
		require.ErrorContains(t, err, "must come before 'tls'")
		errs[err.Error()]++
	}
	assert.Len(t, errs, 1)
}
