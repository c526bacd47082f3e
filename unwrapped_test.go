package proxyprotocol_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// Caddy ignores global options whose address no server has, without a word.
func TestServer_OptionsOfAnotherAddressAreNoticed(t *testing.T) {
	const wrapper = "listener_wrappers {\nproxy_protocol_mode on\n}"
	for _, test := range []struct {
		name, options, site string
		wrapped             bool
	}{
		{name: "all servers", options: "servers {\n" + wrapper + "\n}", site: "bind 127.0.0.1", wrapped: true},
		{name: "all servers, default_bind", options: "default_bind 127.0.0.1\nservers {\n" + wrapper + "\n}", wrapped: true},
		{name: "a port", options: "servers :PORT {\n" + wrapper + "\n}", wrapped: true},
		{name: "a port, bind", options: "servers :PORT {\n" + wrapper + "\n}", site: "bind 127.0.0.1"},
		{name: "a port, default_bind", options: "default_bind 127.0.0.1\nservers :PORT {\n" + wrapper + "\n}"},
		{name: "an address", options: "servers 127.0.0.1:PORT {\n" + wrapper + "\n}"},
		{name: "an address, bind", options: "servers 127.0.0.1:PORT {\n" + wrapper + "\n}", site: "bind 127.0.0.1", wrapped: true},
		{name: "an address, default_bind", options: "default_bind 127.0.0.1\nservers 127.0.0.1:PORT {\n" + wrapper + "\n}", wrapped: true},
		{name: "an address, bind another way to write it", options: "servers 127.0.0.1:PORT {\n" + wrapper + "\n}", site: "bind localhost"},
		{name: "one of two addresses", options: "servers 127.0.0.1:PORT {\n" + wrapper + "\n}", site: "bind 127.0.0.1 ::1", wrapped: true},
		{name: "a port and all servers", options: "servers :PORT {\n" + wrapper + "\n}\nservers {\n" + wrapper + "\n}", site: "bind 127.0.0.1", wrapped: true},
		{name: "a port and nothing for all servers", options: "servers :PORT {\n" + wrapper + "\n}\nservers {\ntrace\n}", site: "bind 127.0.0.1"},
		{name: "all servers and nothing for the address", options: "servers {\n" + wrapper + "\n}\nservers 127.0.0.1:PORT {\ntrace\n}", site: "bind 127.0.0.1"},
		{name: "snippets", options: "servers 127.0.0.1:PORT {\nimport wrapper\n}", site: "import bind", wrapped: true},
		{name: "snippets, a port", options: "servers :PORT {\nimport wrapper\n}", site: "import bind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.site, "::1") {
				caddytest.NeedIPv6(t)
			}
			port := caddytest.FreePort(t)
			// Snippets stand before all global options that import them.
			config := func(c *caddytest.Caddy, host, lines string) error {
				text := "(wrapper) {\n" + wrapper + "\n}\n(bind) {\nbind 127.0.0.1\n}\n" +
					c.Caddyfile(test.options, fmt.Sprintf("http://%s:PORT {\n%s\n%s\nrespond {remote}\n}\n", host, test.site, lines))
				return c.LoadCaddyfile(strings.ReplaceAll(text, "PORT", fmt.Sprint(port)))
			}
			c := caddytest.New(t)

			err := config(c, "", "proxy_protocol on")
			if test.wrapped {
				require.NoError(t, err)
				response, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headerV2, "/")
				assert.Equal(t, http.StatusOK, response.StatusCode)
				assert.Equal(t, headertest.Client4.String(), body)
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				caddytest.Send(t, conn, caddytest.Request("/"))
				caddytest.RequireRefused(t, conn)
			} else {
				require.ErrorContains(t, err, "server srv0 has no listener wrapper 'proxy_protocol_mode'")
				assert.Regexp(t, fmt.Sprintf(` one that the server listens on: \S*:%d$`, port), err.Error())
			}

			for _, matcher := range []string{"proxy_protocol present", "pinned_ip 127.0.0.1", "expression proxy_protocol('present')", "expression pinned_ip('127.0.0.1')"} {
				for _, host := range []string{"", "localhost"} {
					log := c.Logs.Tail()
					require.NoError(t, config(c, host, "@it "+matcher+"\nrespond @it matched"), "matchers do not keep Caddy from loading")
					warnings := unwrappedWarnings(log)
					if test.wrapped {
						assert.Empty(t, warnings, "%s on %q", matcher, host)
						continue
					}
					require.Len(t, warnings, 1, "%s on %q", matcher, host)
					name := strings.NewReplacer("expression ", "", "(", " ").Replace(matcher)
					name, _, _ = strings.Cut(name, " ")
					assert.Contains(t, warnings[0].Str("msg"), "'"+name+"' matches nothing on a server without the listener wrapper")
					listen, _ := warnings[0].Get("listen").([]any)
					require.Len(t, listen, 1)
					assert.Contains(t, err.Error(), listen[0], "the error says the same")
				}
			}
		})
	}
}

// Of several servers it is not always certain whose a matcher is: then there is no warning.
func TestMatchers_WarnOfTheirOwnServerOnly(t *testing.T) {
	for _, test := range []struct {
		name, wrapped, bare string // lines of the sites
		options             string // of the first server
		warned              int
	}{
		{name: "no matcher", wrapped: "respond ok", bare: "respond ok"},
		{name: "on the wrapped server", wrapped: "handle {\n@it pinned_ip 127.0.0.1\nrespond @it ok\n}", bare: "respond ok"},
		{name: "on the other", wrapped: "respond ok", bare: "handle {\n@it pinned_ip 127.0.0.1\nrespond @it ok\n}", warned: 1},
		{name: "on both", wrapped: "handle {\n@it proxy_protocol absent\nrespond @it ok\n}", bare: "handle {\n@it proxy_protocol absent\nrespond @it ok\n}", warned: 1},
		{name: "in the first routes of the other", wrapped: "respond ok", bare: "@it pinned_ip 127.0.0.1\nrespond @it ok"},
		{name: "in the first routes of both, Caddy's own wrapper", wrapped: "@it pinned_ip 127.0.0.1\nrespond @it ok", bare: "@it pinned_ip 127.0.0.1\nrespond @it ok", options: "proxy_protocol"},
		{name: "in deeper routes of both, Caddy's own wrapper", wrapped: "handle {\n@it pinned_ip 127.0.0.1\nrespond @it ok\n}", bare: "respond ok", options: "proxy_protocol", warned: 1},
		{name: "in an error route of the other", wrapped: "respond ok", bare: "handle_errors {\n@it pinned_ip 127.0.0.1\nrespond @it ok\n}", warned: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			wrapped, bare := caddytest.FreePort(t), caddytest.FreePort(t)
			if test.options == "" {
				test.options = "proxy_protocol_mode on"
			}
			c := caddytest.Start(t, caddytest.ServerOptions(wrapped, test.options),
				fmt.Sprintf("http://:%d {\n%s\n}\nhttp://:%d {\n%s\n}\n", wrapped, test.wrapped, bare, test.bare))
			warnings := unwrappedWarnings(c.Logs)
			assert.Len(t, warnings, test.warned)
			for _, warning := range warnings {
				port := bare
				if test.options == "proxy_protocol" {
					port = wrapped
				}
				assert.Equal(t, []any{fmt.Sprintf(":%d", port)}, warning.Get("listen"))
			}
		})
	}
}

func TestMatchers_WarnOfAllServersIfNoneHasAWrapper(t *testing.T) {
	const site = "http://:%d {\n@it pinned_ip 127.0.0.1\nrespond @it ok\n}\n"
	var ports []int
	sites := ""
	for range 6 { // so many that they are in order by accident only seldom
		port := caddytest.FreePort(t)
		ports = append(ports, port)
		sites += fmt.Sprintf(site, port)
	}
	c := caddytest.Start(t, "", sites)
	warnings := unwrappedWarnings(c.Logs)
	require.Len(t, warnings, len(ports))
	var all []any
	slices.Sort(ports)
	for _, port := range ports {
		all = append(all, fmt.Sprintf(":%d", port))
	}
	for _, warning := range warnings {
		assert.Equal(t, all, warning.Get("listen"))
	}
}

func TestMatchers_DoNotWarnOfWhatTheyCannotKnow(t *testing.T) {
	t.Run("packet wrapper alone", func(t *testing.T) {
		for _, host := range []string{"", "localhost"} {
			c := caddytest.Start(t, caddytest.Packets("", "on"), fmt.Sprintf("https://%s:%d {\ntls %s\n@it pinned_ip 127.0.0.1\nrespond @it ok\n}\n", host, caddytest.FreePort(t), caddytest.CertificateFiles(t)))
			assert.Empty(t, unwrappedWarnings(c.Logs), "%q", host)
		}
	})
	t.Run("used by another app when the servers are there", func(t *testing.T) {
		c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on"), caddytest.PlainSite(caddytest.FreePort(t)))
		require.NoError(t, (&proxyprotocol.MatchPinnedIP{Ranges: []string{"127.0.0.1"}}).Provision(caddy.ActiveContext()))
		assert.Empty(t, unwrappedWarnings(c.Logs))
	})
	t.Run("no servers", func(t *testing.T) {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		assert.NoError(t, (&proxyprotocol.MatchPinnedIP{Ranges: []string{"127.0.0.1"}}).Provision(ctx))
		assert.NoError(t, (&proxyprotocol.MatchProxyProtocol{Is: []string{"present"}}).Provision(ctx))
	})
}

// A CEL function whose arguments are known only when a request comes warns once.
func TestMatchers_OfARequestDoNotWarnEachTime(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, "", fmt.Sprintf("http://localhost:%d {\nbind 127.0.0.1\n@it expression proxy_protocol({query.is})\nrespond @it matched\nrespond not\n}", port))
	for range 3 {
		_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), "", "/?is=absent")
		assert.Equal(t, "not", body)
	}
	assert.Len(t, unwrappedWarnings(c.Logs), 1)
}

func unwrappedWarnings(log caddytest.Logs) (warnings []caddytest.Fields) {
	for _, entry := range log.Find(caddytest.Fields{"level": "warn"}) {
		if strings.Contains(entry.Str("msg"), "without the listener wrapper") {
			warnings = append(warnings, entry)
		}
	}
	return warnings
}
