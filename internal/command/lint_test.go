package command_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// linted is the JSON of lint, as users read it.
type linted struct {
	Config    string `json:"config"`
	Adapter   string `json:"adapter"`
	Listeners []struct {
		Server         string   `json:"server"`
		Address        string   `json:"address"`
		TLS            bool     `json:"tls"`
		Mode           string   `json:"mode"`
		Instead        string   `json:"instead"`
		TrustedProxies string   `json:"trusted_proxies"`
		TrustedRanges  []string `json:"trusted_ranges"`
		Ranges         []struct {
			Mode   string   `json:"mode"`
			Ranges []string `json:"ranges"`
		} `json:"ranges"`
		Require   []string `json:"require"`
		HTTP3     string   `json:"http3"`
		Redirects bool     `json:"redirects"`
		ACME      bool     `json:"acme"`
		Live      string   `json:"live"`
	} `json:"listeners"`
	Findings []struct {
		Kind    string   `json:"kind"`
		Servers []string `json:"servers"`
		Where   []string `json:"where"`
		Problem string   `json:"problem"`
		Fix     string   `json:"fix"`
		Lines   string   `json:"lines"`
	} `json:"findings"`
}

// kinds returns the kinds of the findings, each with the servers and the first of the places.
func (l *linted) kinds() []string {
	all := []string{}
	for _, f := range l.Findings {
		all = append(all, strings.TrimSpace(f.Kind+" "+strings.Join(f.Servers, ",")))
	}
	return all
}

// configFile writes a configuration to a file of a new directory, and returns its path.
func configFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// lint runs lint for a configuration. It asserts that the exit code says whether there are findings.
func lint(t testing.TB, name, text string, args ...string) *linted {
	t.Helper()
	args = append([]string{"lint", "--json", "--config", configFile(t, name, text)}, args...)
	output, err := proxyProtocol(t, "", args...)
	requireHarmless(t, output)
	l := new(linted)
	require.NoError(t, json.Unmarshal([]byte(output), l), "%s\n%v", output, err)
	switch n := len(l.Findings); n {
	case 0:
		assert.NoError(t, err)
	case 1:
		assert.ErrorContains(t, err, ": 1 finding")
	default:
		assert.ErrorContains(t, err, fmt.Sprintf(": %d findings", n))
	}
	return l
}

// wrapped returns a Caddyfile with the wrapper on all servers.
func wrapped(wrapper, sites string) string {
	return scoped("", wrapper, sites)
}

// scoped returns a Caddyfile with the wrapper in 'servers' options with an address.
func scoped(address, wrapper, sites string) string {
	return "{\n" + serverOptions(address, wrapper) + "}\n" + sites
}

func serverOptions(address, wrapper string) string {
	return "servers " + address + " {\nlistener_wrappers {\nproxy_protocol_mode " + wrapper + "\ntls\n}\n}\n"
}

const (
	onBalanced = "on {\ntrusted_proxies static 10.0.0.10\n}"
	plain      = "http://:8080 {\nrespond hello\n}\n"
	redirect   = "example.com {\nlog\n}\nhttp:// {\nlog\n}\n"
)

// lintSource is a source of trusted proxies that is not static. It trusts nobody.
type lintSource struct{}

// CaddyModule returns the Caddy module information.
func (lintSource) CaddyModule() caddyserver.ModuleInfo {
	return caddyserver.ModuleInfo{ID: "http.ip_sources.lint_test", New: func() caddyserver.Module { return new(lintSource) }}
}

func (*lintSource) GetIPRanges(*http.Request) []netip.Prefix { return nil }

func (*lintSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func init() { caddyserver.RegisterModule(lintSource{}) }

// jsonConfig returns the JSON of a Caddyfile.
func jsonConfig(t testing.TB, text string) string {
	t.Helper()
	adapted, err := caddytest.Adapt(text)
	require.NoError(t, err)
	return string(adapted)
}

func TestLint_Findings(t *testing.T) {
	packets := func(listener, packet string) string {
		return "{\nservers {\nlistener_wrappers {\nproxy_protocol_mode " + listener + "\ntls\n}\npacket_conn_wrappers {\nproxy_protocol_mode " + packet + "\n}\n}\n}\n" + redirect
	}
	for _, tt := range []struct {
		name, config string
		want         []string
		problem      string // a part of the last finding's problem
		where        string // a part of where it is
		lines        string // a part of its lines, or of what to do
	}{
		{name: "on with trusted proxies", config: wrapped(onBalanced, redirect)},
		{name: "off", config: wrapped("off", redirect)},
		{name: "on for some", config: wrapped("off {\non 10.0.0.0/24\n}", redirect)},
		{name: "a dynamic source", config: wrapped("on {\ntrusted_proxies lint_test\n}", redirect)},
		{name: "everyone on purpose", config: wrapped("on {\ntrusted_proxies static 0.0.0.0/0 ::/0\n}", redirect)},
		{name: "HTTP/3 behind headers", config: packets(onBalanced, onBalanced)},
		{name: "HTTP/3 disabled in spite of the packet wrapper", config: packets(onBalanced, "off"),
			want: []string{"warning srv0"}, problem: "HTTP/3 is disabled: 'proxy_protocol_mode' in 'packet_conn_wrappers' has mode 'off'"},
		{name: "HTTP/3 allowed", config: wrapped("on {\ntrusted_proxies static 10.0.0.10\nhttp3 allow\n}", redirect)},

		{name: "unspecified", config: wrapped("unspecified", plain),
			want: []string{"warning srv0"}, problem: "mode 'unspecified' is for tests only", where: "listener_wrappers", lines: "proxy_protocol_mode on {\n\ttrusted_proxies static 192.0.2.10\n}"},
		{name: "unspecified by default", config: wrapped("", plain),
			want: []string{"warning srv0"}, problem: "mode 'unspecified' is for tests only"},
		{name: "unspecified for some", config: wrapped("on {\ntrusted_proxies static 10.0.0.10\nunspecified 10.1.0.0/16\noff ::1\n}", plain),
			want: []string{"warning srv0"}, problem: "mode 'unspecified' is for tests only", lines: "on {\n\ttrusted_proxies static 10.0.0.10\n\toff ::1\n}"},
		{name: "unspecified datagrams", config: packets(onBalanced, "unspecified {\ntrusted_proxies static 10.0.0.10\n}"),
			want: []string{"warning srv0", "warning srv0,srv1"}, problem: "mode 'unspecified' is for tests only", where: "packet_conn_wrappers", lines: "proxy_protocol_mode on {\n\ttrusted_proxies static 10.0.0.10\n}"},
		{name: "on without trusted proxies", config: wrapped("on", plain),
			want: []string{"warning srv0"}, problem: "mode 'on' without 'trusted_proxies'", lines: "trusted_proxies static 192.0.2.10"},
		{name: "a source without ranges", config: wrapped("on {\ntrusted_proxies static\n}", plain),
			want: []string{"warning srv0"}, problem: "'trusted_proxies' has no ranges", lines: "trusted_proxies static 192.0.2.10"},
		{name: "a short timeout", config: wrapped("on {\ntrusted_proxies static 10.0.0.10\ntimeout 1s\n}", plain),
			want: []string{"warning srv0"}, problem: "'timeout' is shorter", where: "timeout 1s"},

		{name: "private ranges", config: wrapped("on {\ntrusted_proxies static private_ranges\n}", plain),
			want: []string{"private_ranges srv0"}, problem: "private_ranges", where: "listener_wrappers", lines: "trusted_proxies static 192.0.2.10\n"},
		{name: "private ranges and others", config: wrapped("on {\ntrusted_proxies static 203.0.113.7 private_ranges\n}", plain),
			want: []string{"private_ranges srv0"}, lines: "trusted_proxies static 203.0.113.7\n"},
		{name: "private ranges on", config: wrapped("off {\non private_ranges\n}", plain),
			want: []string{"private_ranges srv0"}, lines: "proxy_protocol_mode off"},
		{name: "private ranges and others on", config: wrapped("off {\non private_ranges 203.0.113.7\n}", plain),
			want: []string{"private_ranges srv0"}, lines: "on 203.0.113.7\n"},
		{name: "private ranges for datagrams", config: packets(onBalanced, "on {\ntrusted_proxies static private_ranges\n}"),
			want: []string{"private_ranges srv0,srv1"}, where: "packet_conn_wrappers", lines: "static 192.0.2.10\n}"},
		{name: "private ranges off", config: wrapped("on {\ntrusted_proxies static 203.0.113.7\noff private_ranges\n}", plain)},
		{name: "some private ranges", config: wrapped("on {\ntrusted_proxies static 10.0.0.0/8 192.168.0.0/16\n}", plain)},

		{name: "servers of another address", config: scoped("127.0.0.1:8080", onBalanced, plain),
			want: []string{"servers"}, lines: "servers :8080 {"},
		{name: "servers and bind", config: "{\n" + serverOptions(":8080", onBalanced) + serverOptions(":8081", onBalanced) + "}\nhttp://:8080 {\nbind 192.0.2.1\n}\nhttp://:8081 {\n}\n",
			want: []string{"servers", "unwrapped srv0"}},
		{name: "servers and default_bind", config: "{\ndefault_bind 127.0.0.1 ::1\n" + serverOptions(":8080", onBalanced) + "}\n" + plain,
			want: []string{"servers"}, lines: "servers 127.0.0.1:8080 {"},
		{name: "servers with bind", config: scoped("192.0.2.1:8080", onBalanced, "http://:8080 {\nbind 192.0.2.1\n}\n")},
		{name: "servers with one of two addresses", config: scoped("[::1]:8080", onBalanced, "http://:8080 {\nbind 127.0.0.1 ::1\n}\n")},
		{name: "servers of redirects", config: "{\n" + serverOptions(":80", onBalanced) + serverOptions(":443", onBalanced) + "}\nexample.com {\nlog\n}\n",
			want: []string{"servers", "warning srv0"}, problem: "redirects to HTTPS", where: ":80"},
		{name: "servers of two of its addresses", config: "{\n" + serverOptions("127.0.0.1:8080", onBalanced) + serverOptions("[::1]:8080", "off") + "}\nhttp://:8080 {\nbind 127.0.0.1 ::1\n}\n",
			want: []string{"servers"}, problem: "is ignored, because other 'servers' options match the same server", lines: "keep one of them"},
		{name: "servers of a port that nothing has", config: "{\n" + serverOptions(":9999", onBalanced) + serverOptions("", onBalanced) + "}\n" + plain,
			want: []string{"servers"}, problem: "'servers :9999' matches no listener", lines: "the servers listen on :8080"},
		{name: "servers without a server", config: scoped(":9999", onBalanced, ""),
			want: []string{"servers"}, lines: "no server listens: add a site"},
		{name: "servers without the wrapper", config: "{\nservers :9999 {\nprotocols h1\n}\n" + serverOptions("", onBalanced) + "}\n" + plain},
		{name: "servers for all, of which there are none", config: "{\n" + serverOptions("", onBalanced) + serverOptions(":8080", onBalanced) + "}\n" + plain},

		{name: "no wrapper", config: plain, want: []string{"no_wrapper"}, problem: "no listener has the wrapper", lines: "servers {\n\tlistener_wrappers {\n\t\tproxy_protocol_mode on {\n\t\t\ttrusted_proxies static 192.0.2.10\n"},
		{name: "Caddy's own wrapper", config: "{\nservers {\nlistener_wrappers {\nproxy_protocol\ntls\n}\n}\n}\n" + plain, want: []string{"no_wrapper"}},
		{name: "nothing", config: "{\nadmin off\n}\n", want: []string{"no_wrapper"}},

		{name: "another port", config: scoped(":8080", onBalanced, plain+"http://:9090 {\n}\n"),
			want: []string{"unwrapped srv1"}, problem: "has no listener wrapper", where: ":9090", lines: "servers :9090 {\n\tlistener_wrappers {\n\t\tproxy_protocol_mode off\n"},
		{name: "another port with another wrapper", config: "{\n" + serverOptions(":8080", onBalanced) + "servers :9090 {\nlistener_wrappers {\nhttp_redirect\n}\n}\n}\n" + plain + "http://:9090 {\n}\n",
			want: []string{"unwrapped srv1"}, lines: "before all others; if clients connect directly, say so with mode 'off'\nproxy_protocol_mode off"},
		{name: "another port beside unspecified for some", config: scoped(":8080", "off {\nunspecified 10.0.0.1\n}", plain+"http://:9090 {\n}\n"),
			want: []string{"warning srv0", "unwrapped srv1"}},
		{name: "another port that is off", config: "{\n" + serverOptions(":8080", onBalanced) + serverOptions(":9090", "off") + "}\n" + plain + "http://:9090 {\n}\n"},
		{name: "another port beside off", config: scoped(":8080", "off", plain+"http://:9090 {\n}\n")},
		{name: "another port on loopback", config: scoped(":8080", onBalanced, plain+"http://:9090 {\nbind 127.0.0.1 ::1\n}\nhttp://:9091 {\nbind localhost\n}\n")},
		{name: "a Unix socket", config: scoped(":8080", onBalanced, plain+"http:// {\nbind unix//run/lint.sock\n}\n")},
		{name: "another port with Caddy's own wrapper", config: "{\n" + serverOptions(":8080", onBalanced) + "servers :9090 {\nlistener_wrappers {\nproxy_protocol\n}\n}\n}\n" + plain + "http://:9090 {\n}\n"},
		{name: "all on loopback", config: scoped("127.0.0.1:8080", onBalanced, "http://:8080 {\nbind 127.0.0.1\n}\nhttp://:9090 {\nbind 127.0.0.1\n}\n"),
			want: []string{"unwrapped srv1"}, where: "127.0.0.1:9090"},
		{name: "TCP beside datagrams", config: "{\nservers {\npacket_conn_wrappers {\nproxy_protocol_mode " + onBalanced + "\n}\n}\n}\n" + redirect,
			want: []string{"unwrapped srv0", "unwrapped srv1"}},

		{name: "redirects", config: wrapped(onBalanced, "example.com {\nlog\n}\n"),
			want: []string{"warning srv0"}, problem: "redirects to HTTPS", where: ":80", lines: "add the site 'http:// { log }'"},
		{name: "ACME without redirects", config: strings.Replace(wrapped(onBalanced, "example.com {\nlog\n}\n"), "{\n", "{\nauto_https disable_redirects\n", 1),
			want: []string{"warning srv0"}, problem: "ACME"},
		{name: "neither ACME nor redirects", config: strings.Replace(wrapped(onBalanced, "example.com {\nlog\n}\n"), "{\n", "{\nauto_https off\n", 1)},
		{name: "redirects beside off", config: wrapped("off", "example.com {\nlog\n}\n")},

		{name: "a guard after vars in a named route", config: wrapped(onBalanced, "&(guarded) {\nvars a b\nproxy_protocol on\nrespond hello\n}\nhttp://:8080 {\ninvoke guarded\n}\n"),
			want: []string{"named_route"}, problem: "the named route 'guarded'", where: "proxy_protocol on", lines: "'&(guarded) {'"},
		{name: "guards in a route in a named route", config: wrapped(onBalanced, "&(guarded) {\nroot * /srv\nroute {\n@me pinned_ip 203.0.113.7 ::1\n@lb expression `proxy_protocol('present') && pinned_ip('::1')`\n@x proxy_protocol present\nrespond @me 1\nrespond @lb 2\nrespond @x 3\n}\n}\nhttp://:8080 {\ninvoke guarded\n}\n"),
			want: []string{"named_route"}, where: "pinned_ip 203.0.113.7 ::1"},
		{name: "a guard in an imported named route", config: wrapped(onBalanced, "(body) {\nvars a b\nproxy_protocol on\n}\n&(guarded) {\nimport body\nrespond \"}\"\n}\nhttp://:8080 {\ninvoke guarded\n}\n"),
			want: []string{"named_route"}, where: "proxy_protocol on"},
		{name: "guards in a named route with handle", config: wrapped(onBalanced, "&(guarded) {\nhandle {\nvars a b\nproxy_protocol on\nrespond hello\n}\n}\nhttp://:8080 {\ninvoke guarded\n}\n")},
		{name: "a guard that is the first in a named route", config: wrapped(onBalanced, "&(guarded) {\nproxy_protocol on\nrespond hello\n}\nhttp://:8080 {\ninvoke guarded\n}\n")},
		{name: "guards with matchers in a named route", config: wrapped(onBalanced, "&(guarded) {\n@me pinned_ip ::1\nvars a b\nproxy_protocol /admin* on\nrespond @me hello\n}\nhttp://:8080 {\ninvoke guarded\n}\n")},
		{name: "a named route that loses no guard", config: wrapped(onBalanced, "&(other) {\nvars a b\nrespond hello\n}\nhttp://:8080 {\nproxy_protocol on\ninvoke other\n}\n")},
		{name: "an empty named route", config: wrapped(onBalanced, "&(empty) {\n}\n"+plain)},

		{name: "a negated matcher", config: wrapped("on {\ntrusted_proxies static 10.0.0.10\nhttp3 allow\n}", "example.com {\n@x not pinned_ip 203.0.113.7\nrespond @x secret\n}\nhttp:// {\nlog\n}\n"),
			want: []string{"warning srv0"}, problem: "a negated matcher also matches", where: "not pinned_ip 203.0.113.7", lines: "negate a matcher only to refuse"},
		{name: "a negated matcher that refuses", config: wrapped("on {\ntrusted_proxies static 10.0.0.10\nhttp3 allow\n}", "example.com {\n@x not pinned_ip 203.0.113.7\nrespond @x 403\n}\nhttp:// {\nlog\n}\n")},
		{name: "a matcher without the wrapper", config: "http://:8080 {\n@x pinned_ip 203.0.113.7\nrespond @x hello\n}\n",
			want: []string{"warning", "no_wrapper"}},
		{name: "a directive without the wrapper", config: "http://:8080 {\nproxy_protocol on\n}\n",
			want: []string{"load", "no_wrapper"}},

		{name: "the wrapper after tls", config: "{\nservers {\nlistener_wrappers {\ntls\nproxy_protocol_mode " + onBalanced + "\n}\n}\n}\n" + redirect,
			want: []string{"load"}, problem: "must come before 'tls'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lint(t, "Caddyfile", tt.config)
			want := tt.want
			if want == nil {
				want = []string{}
			}
			require.Equal(t, want, l.kinds(), "%+v", l.Findings)
			if len(want) > 0 {
				last := l.Findings[len(l.Findings)-1]
				assert.Contains(t, last.Problem, tt.problem)
				assert.Contains(t, strings.Join(last.Where, " "), tt.where)
				assert.Contains(t, last.Fix+"\n"+last.Lines, tt.lines)
			}
		})
	}
}

// TestLint_LinesAreSafe asserts that lint has no finding about a wrapper once its lines are in the
// place of the wrapper, and that they trust nobody whom the configuration does not trust.
func TestLint_LinesAreSafe(t *testing.T) {
	for _, wrapper := range []string{
		"", "on", "unspecified", "unspecified {\ntrusted_proxies static 10.0.0.10\n}", "on {\ntrusted_proxies static\n}",
		"on {\ntrusted_proxies static private_ranges\n}", "on {\ntrusted_proxies static private_ranges 203.0.113.7\n}",
		"off {\nunspecified 10.0.0.1\non private_ranges\n}", "on {\ntrusted_proxies static 10.0.0.10\non private_ranges 203.0.113.7\noff ::2\nversion v2\ntimeout 5s\n}",
	} {
		t.Run(wrapper, func(t *testing.T) {
			l := lint(t, "Caddyfile", wrapped(wrapper, plain))
			require.NotEmpty(t, l.Findings)
			fixed := lint(t, "Caddyfile", "{\nservers {\nlistener_wrappers {\n"+l.Findings[0].Lines+"\ntls\n}\n}\n}\n"+plain)
			assert.Empty(t, fixed.Findings)
			for _, r := range fixed.Listeners[0].TrustedRanges {
				assert.Contains(t, append(l.Listeners[0].TrustedRanges, "192.0.2.10"), r)
			}
			assert.NotEqual(t, "any", fixed.Listeners[0].TrustedProxies)

			asJSON := lint(t, "caddy.json", jsonConfig(t, wrapped(wrapper, plain)))
			require.Len(t, asJSON.Findings, len(l.Findings))
			var object map[string]any
			require.NoError(t, json.Unmarshal([]byte(asJSON.Findings[0].Lines), &object), "%+v", asJSON.Findings[0])
			assert.Equal(t, "proxy_protocol_mode", object["wrapper"])
		})
	}
}

func TestLint_ShowsNoSecret(t *testing.T) {
	const secret = "5ec2e75ec2e75ec2e75ec2e7" // a value of a TLV and a key
	config := wrapped("unspecified {\nrequire tlv 0xe1 "+secret+" {env.LB_TOKEN}\nrequire tlv authority a.test\nrequire signature "+secret+"\n}",
		"http:// {\n@a not proxy_protocol present {\ntlv 0xe1 "+secret+"\n}\n@b expression `!proxy_protocol('tlv:0xe1="+secret+"')`\nrespond @a a\nrespond @b b\n}")
	t.Setenv("LB_TOKEN", "00")
	for name, text := range map[string]string{"Caddyfile": config, "caddy.json": jsonConfig(t, config)} {
		l := lint(t, name, text)
		shown, err := json.Marshal(l)
		require.NoError(t, err)
		assert.NotContains(t, string(shown), secret)
		for _, part := range []string{"{env.YOUR_SECRET}", "{env.LB_TOKEN}", "a.test", "tlv 0xe1 [redacted]", "tlv:0xe1=[redacted]"} {
			assert.Contains(t, string(shown), part)
		}
	}
}

func TestLint_Listeners(t *testing.T) {
	l := lint(t, "Caddyfile", `{
	servers :443 {
		listener_wrappers {
			proxy_protocol_mode on {
				trusted_proxies static 10.0.0.10 2001:db8::/48
				off 127.0.0.1 ::1
			}
			tls
		}
		packet_conn_wrappers {
			proxy_protocol_mode on {
				trusted_proxies lint_test
				off 127.0.0.1 ::1
			}
		}
	}
	servers :80 {
		listener_wrappers {
			proxy_protocol_mode off
		}
	}
	servers :8443 {
		protocols h1 h2
		listener_wrappers {
			proxy_protocol_mode on {
				trusted_proxies lint_test
			}
			tls
		}
	}
	servers :9443 {
		listener_wrappers {
			proxy_protocol_mode on {
				trusted_proxies static 10.0.0.10
				http3 allow
			}
			tls
		}
	}
	servers :7443 {
		listener_wrappers {
			proxy_protocol
			tls
		}
	}
	servers :6443 {
		listener_wrappers {
			proxy_protocol_mode on {
				trusted_proxies static 10.0.0.10
			}
			tls
		}
	}
}

example.com, example.com:8443, example.com:9443, example.com:7443, example.com:6443 {
	log
}

http:// {
	log
}
`)
	require.Empty(t, l.Findings)
	rows := []string{}
	for _, l := range l.Listeners {
		text := fmt.Sprint(l.Address, " ", l.Mode, "/", l.Instead, " ", l.TrustedProxies, l.TrustedRanges)
		for _, r := range l.Ranges {
			text += fmt.Sprint(" ", r.Mode, r.Ranges)
		}
		if l.TLS {
			text += " TLS"
		}
		if l.Redirects {
			text += " redirects"
		}
		if l.ACME {
			text += " ACME"
		}
		rows = append(rows, text+" "+l.HTTP3)
	}
	assert.ElementsMatch(t, []string{
		":443 on/ static[10.0.0.10 2001:db8::/48] off[127.0.0.1 ::1] TLS checked",
		"udp/:443 on/ lint_test[] off[127.0.0.1 ::1] TLS ",
		":80 off/ none[] redirects ACME ",
		":8443 on/ lint_test[] TLS ",
		":9443 on/ static[10.0.0.10] TLS unchecked",
		":7443 /Caddy's own wrapper 'proxy_protocol' [] TLS unchecked",
		":6443 on/ static[10.0.0.10] TLS disabled",
	}, rows)
}

func TestLint_JSON(t *testing.T) {
	for _, tt := range []struct {
		name, servers string
		want          []string
		text          string
	}{
		{"clean", `{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"on","trusted_proxies":{"source":"static","ranges":["10.0.0.10"]}}]}}`, nil, ""},
		{"no mode", `{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode"}]}}`, []string{"warning a"}, `"mode": "on"`},
		{"a mode that is no text", `{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":true}]}}`, []string{"load"}, "true is not a mode"},
		{"an unknown mode", `{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"maybe","ranges":[{"mode":"no","ranges":["x"]}],"trusted_proxies":{"source":"static","ranges":["y"]}}]}}`, []string{"load"}, "maybe"},
		{"a wrapper that is no object", `{"a":{"listen":[":8080"],"listener_wrappers":[1]}}`, []string{"load", "no_wrapper"}, ""},
		{"an unknown option", `{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"off","nonsense":1}]}}`, []string{"load"}, "nonsense"},
		{"a server that is null", `{"a":null}`, []string{"load", "no_wrapper"}, ""},
		{"servers that are a list", `[]`, []string{"load"}, "cannot unmarshal"},
		{"another port", `{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"on","trusted_proxies":{"source":"static","ranges":["10.0.0.10"]}}]},"b":{"listen":[":9090"]}}`, []string{"unwrapped b"}, "\"listener_wrappers\": [\n\t{\n\t\t\"wrapper\": \"proxy_protocol_mode\",\n\t\t\"mode\": \"off\"\n\t},\n\t{\n\t\t\"wrapper\": \"tls\"\n\t}\n]"},
		{"a wrong address", `{"a":{"listen":["127.0.0.1:x"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"off"}]}}`, []string{"load"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lint(t, "caddy.json", `{"apps":{"http":{"servers":`+tt.servers+`}}}`)
			want := tt.want
			if want == nil {
				want = []string{}
			}
			require.Equal(t, want, l.kinds(), "%+v", l.Findings)
			if len(want) > 0 {
				assert.Contains(t, l.Findings[0].Problem+l.Findings[0].Lines, tt.text)
			}
		})
	}
}

// TestLint_HidesRequirements asserts that the values of requirements, which may be secrets, are not
// shown.
func TestLint_HidesRequirements(t *testing.T) {
	path := configFile(t, "caddy.json", `{"apps":{"http":{"servers":{"a":{"listen":[":8080"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"on",
		"require":{"signature":{"keys":["c2VjcmV0"]},"tlvs":{"0xe1":["c2VjcmV0"],"aws_vpce_id":["c2VjcmV0"]}}}]}}}}}`)
	for _, args := range [][]string{{"--json"}, nil} {
		output, err := proxyProtocol(t, "", append([]string{"lint", "--config", path}, args...)...)
		assert.NotContains(t, output, "c2VjcmV0")
		assert.NotContains(t, fmt.Sprint(err), "c2VjcmV0")
		assert.Contains(t, output, "signature")
		assert.Contains(t, output, "TLVs 0xe1 aws_vpce_id")
	}
}

func TestLint_Inputs(t *testing.T) {
	good := wrapped(onBalanced, plain)
	t.Run("the Caddyfile in this directory", func(t *testing.T) {
		t.Chdir(filepath.Dir(configFile(t, "Caddyfile", good)))
		output, err := proxyProtocol(t, "", "lint")
		require.NoError(t, err)
		assert.Contains(t, output, "No findings.\n")
	})
	t.Run("no file", func(t *testing.T) {
		t.Chdir(t.TempDir())
		_, err := proxyProtocol(t, "", "lint")
		assert.EqualError(t, err, "input file required when there is no Caddyfile in current directory (use --config flag)")
	})
	t.Run("standard input", func(t *testing.T) {
		output, err := proxyProtocol(t, scoped(":9090", onBalanced, plain), "lint", "--config", "-", "--adapter", "caddyfile")
		assert.EqualError(t, err, "-: 1 finding")
		assert.Contains(t, output, "- [servers] -:2\n")
		_, err = proxyProtocol(t, jsonConfig(t, good), "lint", "--config", "-")
		assert.NoError(t, err)
		_, err = proxyProtocol(t, good, "lint", "--config", "-", "--adapter", "nonsense")
		assert.EqualError(t, err, "unrecognized config adapter: nonsense")
		_, err = proxyProtocol(t, "{", "lint", "--config", "-", "--adapter", "caddyfile")
		assert.Error(t, err)
		output, err = proxyProtocol(t, "", "lint", "--config", "-")
		assert.EqualError(t, err, "-: 1 finding")
		assert.Contains(t, output, "decoding config")
		output, err = proxyProtocol(t, "null", "lint", "--config", "-")
		assert.EqualError(t, err, "-: 2 findings")
		assert.Contains(t, output, "decoding config: it is empty")
	})
	t.Run("no such file", func(t *testing.T) {
		_, err := proxyProtocol(t, "", "lint", "--config", filepath.Join(t.TempDir(), "Caddyfile"))
		assert.ErrorContains(t, err, "reading config from file")
	})
	t.Run("an argument", func(t *testing.T) {
		_, err := proxyProtocol(t, "", "lint", "Caddyfile")
		assert.EqualError(t, err, "lint takes no arguments: write --config Caddyfile")
	})
	t.Run("no timeout", func(t *testing.T) {
		_, err := proxyProtocol(t, "", "lint", "--timeout", "0s")
		assert.ErrorContains(t, err, "--timeout must be longer than 0")
	})
	t.Run("environment files", func(t *testing.T) {
		for _, name := range []string{"LINT_TEST_MODE", "LINT_TEST_PEER"} {
			t.Setenv(name, "") // restores it
			require.NoError(t, os.Unsetenv(name))
		}
		env, more := configFile(t, "env", "LINT_TEST_MODE=off # a comment\n"), configFile(t, "more", "LINT_TEST_PEER='::1'\n")
		path := configFile(t, "Caddyfile", wrapped("{$LINT_TEST_MODE} {\noff {$LINT_TEST_PEER}\n}", plain))
		output, err := proxyProtocol(t, "", "lint", "--config", path, "--envfile", env, "--envfile", more)
		require.NoError(t, err)
		assert.Contains(t, output, "  mode off         ::1\n")
		assert.NotContains(t, output, "LINT_TEST")
	})
	t.Run("no such environment file", func(t *testing.T) {
		_, err := proxyProtocol(t, "", "lint", "--envfile", filepath.Join(t.TempDir(), "env"))
		assert.ErrorContains(t, err, "reading environment file")
	})
	t.Run("imports", func(t *testing.T) {
		imported := configFile(t, "options", serverOptions(":9090", onBalanced))
		l := lint(t, "Caddyfile", "{\nimport "+imported+"\n}\n"+plain)
		require.Equal(t, []string{"servers"}, l.kinds())
		assert.Equal(t, []string{imported + ":1"}, l.Findings[0].Where)
	})
}

// TestLint_Text asserts what the text looks like.
func TestLint_Text(t *testing.T) {
	for name, config := range map[string]string{
		"lint_clean": wrapped("on {\ntrusted_proxies static 10.0.0.10\noff 127.0.0.1 ::1\n}", redirect),
		"lint_findings": "{\nauto_https disable_redirects\n" + serverOptions("127.0.0.1:443", onBalanced) + serverOptions(":8080", "{\nunspecified 10.0.0.1\n}") + "}\n" +
			"example.com {\n@x not proxy_protocol present\nrespond @x hello\n}\n" + plain,
		"lint_load":    "{\nservers {\nlistener_wrappers {\ntls\nproxy_protocol_mode " + onBalanced + "\n}\n}\n}\n" + redirect,
		"lint_hostile": scoped("\"\x1b[2J\"", onBalanced, plain),
		"lint_nothing": "{\nadmin off\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"proxy-protocol", "lint", "--config", configFile(t, "Caddyfile", config)}
			output, err := caddy(t, "", args...)
			requireHarmless(t, output)
			requireGolden(t, name, transcript(output, err, args...))
		})
	}
}

// TestLint_OpensNothing asserts that lint opens no port, no log file and no admin endpoint.
func TestLint_OpensNothing(t *testing.T) {
	address, admin := freeAddress(t), freeAddress(t)
	log := filepath.Join(t.TempDir(), "caddy.log")
	lint(t, "Caddyfile", "{\nadmin "+admin+"\nlog {\noutput file "+log+"\nlevel ERROR\n}\n"+serverOptions("", "on")+"}\nhttp://:"+address[len("127.0.0.1:"):]+" {\nlog\n}\n")
	assert.NoFileExists(t, log)
	for _, address := range []string{address, admin} {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		assert.Error(t, err)
	}
}

func TestLint_Live(t *testing.T) {
	open, mine, others, other, down := freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	secure, allowed, unix := freeAddress(t), freeAddress(t), filepath.Join(t.TempDir(), "lint.sock")
	on := func(peer string) object {
		return object{"wrapper": "proxy_protocol_mode", "mode": "on", "trusted_proxies": object{"source": "static", "ranges": []string{peer}}}
	}
	allow := on("127.0.0.1")
	allow["http3"] = "allow"
	source := object{"wrapper": "proxy_protocol_mode", "mode": "on", "trusted_proxies": object{"source": "lint_test"}}
	unspecified := object{"wrapper": "proxy_protocol_mode", "mode": "unspecified"}
	servers := object{
		"plain": httpServer(open, false, nil),
		"mine":  httpServer(mine, false, on("127.0.0.1")), "others": httpServer(others, false, on("10.0.0.10")),
		"other": httpServer(other, false, source), "secure": httpServer(secure, true, on("127.0.0.1")),
		"allowed": httpServer(allowed, true, allow), "unspecified": httpServer(freeAddress(t), false, unspecified),
		"off":     httpServer(freeAddress(t), false, object{"wrapper": "proxy_protocol_mode", "mode": "off"}),
		"unix":    httpServer("unix/"+unix, false, on("127.0.0.1")),
		"builtin": httpServer(freeAddress(t), false, object{"wrapper": "proxy_protocol", "fallback_policy": "REQUIRE", "timeout": "5s"}),
	}
	run(t, "", servers)
	_, pem := certificate()
	config := func(servers object) string {
		text, err := json.Marshal(object{"apps": object{
			"http": object{"grace_period": int64(time.Second), "servers": servers},
			"tls":  object{"certificates": object{"load_pem": []object{{"certificate": string(pem), "key": string(pem)}}}},
		}})
		require.NoError(t, err)
		return string(text)
	}
	live := func(l *linted) map[string]string {
		all := map[string]string{}
		for _, one := range l.Listeners {
			all[one.Server] = one.Live
		}
		return all
	}

	l := lint(t, "caddy.json", config(servers), "--live", "--timeout", patience.String())
	assert.Equal(t, []string{"warning unspecified", "unwrapped plain"}, l.kinds(), "%+v", l.Findings)
	assert.Equal(t, map[string]string{
		"plain": "other, closest to off", "mine": "on", "others": "refused", "other": "refused", "secure": "on",
		"allowed": "other, closest to on", "unspecified": "unspecified", "off": "off", "unix": "on",
		"builtin": "other, closest to on",
	}, live(l))

	// A placeholder is replaced.
	t.Setenv("LINT_TEST_ADDRESS", mine)
	l = lint(t, "caddy.json", config(object{"mine": httpServer("{env.LINT_TEST_ADDRESS}", false, on("127.0.0.1"))}), "--live")
	require.Len(t, l.Listeners, 1)
	assert.Equal(t, mine+" on", l.Listeners[0].Address+" "+l.Listeners[0].Live)

	l = lint(t, "caddy.json", config(object{"mine": httpServer(mine, false, object{"wrapper": "proxy_protocol_mode", "mode": "x"})}), "--live")
	assert.Equal(t, []string{"load"}, l.kinds())
	assert.Equal(t, "not checked, because the configuration does not load", l.Listeners[0].Live)

	// What runs is not what the configuration says.
	servers = object{
		"mine":   httpServer(mine, false, on("10.0.0.10")),
		"others": httpServer(others, false, on("127.0.0.1")),
		"plain":  httpServer(open, false, object{"wrapper": "proxy_protocol_mode", "mode": "off"}),
		"secure": httpServer(secure, false, on("127.0.0.1")),
		"down":   httpServer(down, false, on("127.0.0.1")),
	}
	l = lint(t, "caddy.json", config(servers), "--live", "--timeout", patience.String())
	assert.ElementsMatch(t, []string{"live mine", "live others", "live plain", "live secure", "live down"}, l.kinds())
	for _, f := range l.Findings {
		switch f.Servers[0] {
		case "mine":
			assert.Contains(t, f.Problem, "the verdict is 'on', but according to the configuration, the verdict from this machine is 'refused'")
			assert.Equal(t, []string{mine}, f.Where)
		case "down":
			assert.Contains(t, f.Problem, "the listener is down")
		}
	}
}
