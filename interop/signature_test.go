//go:build interop

package interop

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// The keys of load balancers, in base64.
var (
	oldKey = base64.StdEncoding.EncodeToString([]byte("the key of the load balancer"))
	newKey = base64.StdEncoding.EncodeToString([]byte("the key that comes after it!"))
)

// signing returns the listener wrapper that requires signatures of these keys. more are lines of its
// block.
func signing(more string, keys ...string) string {
	return "proxy_protocol_mode on {\nrequire signature " + strings.Join(keys, " ") + " {\nmax_age 30s\n}\n" + more + "\n}"
}

// haproxyBlock returns the configuration of HAProxy in the documentation that has this word behind its
// fence.
func haproxyBlock(t testing.TB, word string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/recipes/haproxy.md")
	require.NoError(t, err)
	_, text, ok := strings.Cut(string(page), "```haproxy "+word+"\n")
	require.True(t, ok)
	text, _, ok = strings.Cut(text, "```")
	require.True(t, ok)
	return text
}

// signer is a frontend of HAProxy that signs its headers.
type signer struct {
	listen, caddy string
	key           string
	// change changes the configuration in the documentation.
	change func(config string) string
}

// config returns the configuration in the documentation for this signer.
func (s signer) config(t testing.TB, i int) string {
	t.Helper()
	config := haproxyBlock(t, "signed")
	replaced := strings.NewReplacer(
		"frontend https", fmt.Sprintf("frontend f%d", i), "default_backend caddy", fmt.Sprintf("default_backend b%d", i),
		"backend caddy", fmt.Sprintf("backend b%d", i),
		"bind :443", "bind "+s.listen, "10.0.0.20:443", s.caddy, "BASE64KEY", s.key, " check\n", "\n",
	).Replace(config)
	require.NotContains(t, replaced, "443 ")
	if s.change != nil {
		changed := s.change(replaced)
		require.NotEqual(t, replaced, changed)
		return changed
	}
	return replaced
}

// startSigners runs HAProxy 3 with these frontends until the test ends.
func startSigners(t testing.TB, signers []signer) {
	t.Helper()
	config := "defaults\n\ttimeout client 30s\n\ttimeout server 30s\n\ttimeout connect 30s\n\tretries 0\n"
	var listening []string
	for i, s := range signers {
		config += s.config(t, i)
		listening = append(listening, s.listen)
	}
	dir := peers.Files(t, map[string]string{"haproxy.cfg": config})
	peers.Start(t, listening, haproxies[1].path(t), "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
}

// TestSignatures asserts that Caddy accepts what HAProxy signs with the configuration in the
// documentation, and nothing else: over IPv4 and IPv6 on either side, while a key changes, and with a
// clock that is wrong.
func TestSignatures(t *testing.T) {
	both, only := signing("", oldKey, newKey), signing("", newKey)
	listed := signing("trusted_proxies static "+serverIP4+" "+loopback6, oldKey)
	untrusting := signing("trusted_proxies static 192.0.2.1", oldKey)
	token := "proxy_protocol_mode on {\nrequire tlv 0xe1 73657373696f6e\n}"
	c := startCaddy(t, both, only, listed, untrusting, token)
	date := func(offset string) func(string) string {
		return func(config string) string {
			return strings.Replace(config, "set-var(sess.ts) date\n", "set-var(sess.ts) date("+offset+")\n", 1)
		}
	}
	replace := func(old, replacement string) func(string) string {
		return func(config string) string { return strings.Replace(config, old, replacement, 1) }
	}
	const mismatch = "require signature: the signature does not match: it was made with another key, or for other addresses"
	for _, test := range []struct {
		name    string
		wrapper string
		key     string
		change  func(string) string
		reason  string // of a refusal, or empty
		err     string // a regular expression
	}{
		{"the old key of two", both, oldKey, nil, "", ""},
		{"the new key of two", both, newKey, nil, "", ""},
		{"the new key", only, newKey, nil, "", ""},
		{"the old key, when it has been removed", only, oldKey, nil, "unauthenticated", mismatch},
		{"a listed load balancer", listed, oldKey, nil, "", ""},
		{"a load balancer that is not listed", untrusting, oldKey, nil, "untrusted", "^$"},
		{"a clock that is 25 seconds slow", both, oldKey, date("-25"), "", ""},
		{"a clock that is 25 seconds fast", both, oldKey, date("25"), "", ""},
		{"a clock that is an hour slow", both, oldKey, date("-3600"), "unauthenticated", "the signature is 360[01] seconds old, but max_age is 30s"},
		{"a clock that is an hour fast", both, oldKey, date("3600"), "unauthenticated", "the signature is from (3600|3599) seconds in the future, but max_age is 30s"},
		{"milliseconds", both, oldKey, date("0,ms"), "unauthenticated", "the time in the signature is not a decimal number"},
		{"lower case", both, oldKey, replace(",hex]", ",hex,lower]"), "", ""},
		{"another TLV", both, oldKey, replace("(0xE5)", "(0xE6)"), "unauthenticated", "the header has no signature"},
		{"two signatures", both, oldKey, replace("set-proxy-v2-tlv-fmt(0xE5)", `set-proxy-v2-tlv-fmt(0xE5) "x" set-proxy-v2-tlv-fmt(0xE5)`), "unauthenticated", "the header has two signatures"},
		{"without the destination's port", both, oldKey, replace("concat('',sess.dport,'')", "concat('','','')"), "unauthenticated", mismatch},
		{"version 1", both, oldKey, replace("send-proxy-v2 ", "send-proxy "), "unauthenticated", "a version 1 header cannot carry what is required"},
		{"a token", token, oldKey, replace("set-proxy-v2-tlv-fmt(0xE5)", "set-proxy-v2-tlv-fmt(0xE1) session set-proxy-v2-tlv-fmt(0xE5)"), "", ""},
		{"another token", token, oldKey, replace("set-proxy-v2-tlv-fmt(0xE5)", "set-proxy-v2-tlv-fmt(0xE1) sessions set-proxy-v2-tlv-fmt(0xE5)"), "unauthenticated", "the value of 0xe1 is not one of those that are required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			type route struct {
				leg
				signer
			}
			var routes []route
			var signers []signer
			for _, p := range []protocol{http1, http2Through} {
				for _, front := range []family{ipv4, ipv6} {
					for _, back := range []family{ipv4, ipv6} {
						l := p.leg(t, front, back, c.servers[test.wrapper])
						s := signer{listen: l.listen, caddy: l.caddy, key: test.key, change: test.change}
						routes, signers = append(routes, route{l, s}), append(signers, s)
					}
				}
			}
			startSigners(t, signers)
			for _, r := range routes {
				t.Run(r.leg.String(), func(t *testing.T) {
					logs := c.logs.now(t)
					client := newClient(t, r.protocol, r.front, r.leg.listen, c.authority)
					if test.reason != "" {
						requireRefused(t, sender{}, r.leg, client)
						e := logs.waitFor(t, func(e entry) bool { return e.isRefusal() && e.Reason == test.reason })
						assert.Regexp(t, test.err, e.Error)
						assert.Empty(t, logs.find(t, func(e entry) bool { return e.Message == "handled request" }))
						return
					}
					got, logged, _ := client.ask(t, c.logs)
					assert.Equal(t, client.local, got.remote)
					assert.Equal(t, client.local, got.proxyProtocol.Source)
					assert.Equal(t, r.leg.listen, got.proxyProtocol.Destination)
					want, typ := "signature", "0xe5"
					if test.wrapper == token {
						want, typ = "tlv", "0xe1"
					}
					assert.Equal(t, want, got.proxyProtocol.Authenticated)
					assert.Equal(t, "[redacted]", got.proxyProtocol.TLV[typ])
					assert.Equal(t, got.proxyProtocol, logged.ProxyProtocol)
				})
			}
			requireNoKey(t, c)
		})
	}
}

// requireNoKey asserts that no key and no signature is in the log. Caddy itself logs the configuration,
// with what was written there, at level DEBUG.
func requireNoKey(t testing.TB, c *caddy) {
	t.Helper()
	log, err := os.ReadFile(c.logs.path)
	require.NoError(t, err)
	for line := range strings.Lines(string(log)) {
		if !strings.Contains(line, "adjusted config") {
			require.NotContains(t, line, oldKey)
			require.NotContains(t, line, newKey)
			require.NotRegexp(t, regexp.MustCompile(`[0-9]{10} [0-9a-fA-F]{64}`), line)
		}
	}
}

// TestSignatures_DualStack asserts that HAProxy and Caddy write IPv4-mapped addresses in the same way.
func TestSignatures_DualStack(t *testing.T) {
	wrapper := signing("", oldKey)
	c := startCaddy(t, wrapper)
	l := http1.leg(t, ipv4, ipv4, c.servers[wrapper])
	_, port, ok := strings.Cut(l.listen, ":")
	require.True(t, ok)
	startSigners(t, []signer{{listen: l.listen, caddy: l.caddy, key: oldKey, change: func(config string) string {
		return strings.Replace(config, "bind "+l.listen, "bind [::]:"+port+" v4v6", 1)
	}}})
	client := newClient(t, http1, ipv4, l.listen, c.authority)
	got, _, _ := client.ask(t, c.logs)
	assert.Equal(t, "signature", got.proxyProtocol.Authenticated)
	assert.Equal(t, client.local, got.remote)
}

// TestSignatures_ModeHTTP asserts that requests which come long after their connection are accepted,
// if HAProxy signs at each request as the documentation says, and are refused if it does not.
func TestSignatures_ModeHTTP(t *testing.T) {
	const brief = 2 * time.Second
	wrapper := strings.Replace(signing("", oldKey), "max_age 30s", "max_age "+brief.String(), 1)
	c := startCaddy(t, wrapper)
	for name, late := range map[string]bool{"at the connection": false, "at each request": true} {
		t.Run(name, func(t *testing.T) {
			l := http1.leg(t, ipv4, ipv4, c.servers[wrapper])
			startSigners(t, []signer{{listen: l.listen, caddy: l.caddy, key: oldKey, change: func(config string) string {
				config = strings.ReplaceAll(config, "mode tcp", "mode http\n    option http-server-close")
				if !late {
					return config
				}
				var kept []string
				for line := range strings.Lines(config) {
					if !strings.Contains(line, "set-var(sess.ts)") && !strings.Contains(line, "set-var(sess.msg)") {
						kept = append(kept, line)
					}
				}
				return strings.Replace(strings.Join(kept, ""), "    default_backend", haproxyBlock(t, "signed-http")+"    default_backend", 1)
			}}})
			client := newClient(t, http1, ipv4, l.listen, c.authority)
			got, _, _ := client.ask(t, c.logs)
			assert.Equal(t, "signature", got.proxyProtocol.Authenticated)
			time.Sleep(brief + 2*time.Second) // the clocks' seconds may have begun just before
			if !late {
				logs := c.logs.now(t)
				requireRefused(t, sender{speaksHTTP: true}, l, client)
				e := logs.waitFor(t, func(e entry) bool { return e.isRefusal() && e.Reason == "unauthenticated" })
				assert.Contains(t, e.Error, "seconds old, but max_age is 2s")
				return
			}
			got, _, _ = client.ask(t, c.logs)
			assert.Equal(t, "signature", got.proxyProtocol.Authenticated)
			assert.Equal(t, 1, client.dials)
		})
	}
}
