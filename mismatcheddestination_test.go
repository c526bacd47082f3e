package proxyprotocol_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// mismatchedSite is a plain site that answers all that it knows of the addresses.
func mismatchedSite(port int) string {
	return fmt.Sprintf(`http://:%d {
		bind %s
		log
		log_append proxy_protocol {http.proxy_protocol}
		@client remote_ip 2001:db8::7 203.0.113.7
		@pinned pinned_ip 2001:db8::7 203.0.113.7
		vars client no
		vars @client client yes
		vars pinned no
		vars @pinned pinned yes
		respond "{remote}|{http.request.local}|{http.proxy_protocol.source}|{http.proxy_protocol.destination}|{http.proxy_protocol.server_ip}:{http.proxy_protocol.server_port}|{http.proxy_protocol.port_zero}|{http.proxy_protocol.transport}|{vars.client}|{vars.pinned}|{http.proxy_protocol}"
	}
	`, port, strings.Join(caddytest.Loopbacks(), " "))
}

// ask sends a header and a request, and returns the answer's body.
func ask(t *testing.T, conn net.Conn, header string) string {
	t.Helper()
	caddytest.Send(t, conn, header+caddytest.Request("/"))
	response, body := caddytest.ReadResponse(t, conn)
	require.Equal(t, http.StatusOK, response.StatusCode)
	return body
}

func TestMismatchedDestination_RefusalNamesTheCauseAndTheOption(t *testing.T) {
	for _, options := range []string{"", "http3 allow", "version v1"} {
		for _, mode := range []string{"on", "unspecified"} {
			c, ip4, _, _ := startWrapper(t, "proxy_protocol_mode "+mode+" {\n"+options+"\n}")
			for _, header := range []string{headertest.NginxOverIPv4, headertest.NginxOverIPv6, headertest.NginxOverUnix} {
				t.Run(mode+options+header, func(t *testing.T) {
					logs := c.Logs.Tail()
					conn := caddytest.Dial(t, ip4)
					_, _ = io.WriteString(conn, header+caddytest.Request("/"))
					caddytest.RequireRefused(t, conn)
					entry := logs.WaitForRefusal(t, nil)
					assert.Equal(t, "malformed", entry.Str("reason"))
					assert.Contains(t, entry.Str("error"), "byte 23: destination is not of the announced family; nginx writes this")
					assert.Contains(t, entry.Str("error"), "add 'mismatched_destination allow' to 'proxy_protocol_mode'")
				})
			}
		}
	}
}

func TestMismatchedDestination_IsAllowed(t *testing.T) {
	port := caddytest.FreePort(t)
	caddyfile := func(mode string) (string, string) {
		return caddytest.Wrappers("proxy_protocol_mode " + mode + " {\nmismatched_destination allow\n}"), mismatchedSite(port)
	}
	ofJSON := func(t *testing.T) string {
		options, sites := caddyfile("on")
		config, err := caddytest.Adapt(caddytest.New(t).Caddyfile(options, sites))
		require.NoError(t, err)
		require.Contains(t, string(config), `"mismatched_destination":"allow"`)
		var apps struct{ Apps json.RawMessage }
		require.NoError(t, json.Unmarshal(config, &apps))
		return string(apps.Apps)
	}
	for _, test := range []struct {
		name   string
		mode   string
		start  func(t *testing.T) *caddytest.Caddy
		marked bool
	}{
		{"Caddyfile", "on", func(t *testing.T) *caddytest.Caddy {
			return caddytest.Start(t, first(caddyfile("on")), mismatchedSite(port))
		}, false},
		{"JSON", "on", func(t *testing.T) *caddytest.Caddy { return caddytest.StartJSON(t, ofJSON(t)) }, false},
		{"unspecified", "unspecified", func(t *testing.T) *caddytest.Caddy {
			return caddytest.Start(t, first(caddyfile("unspecified")), mismatchedSite(port))
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.start(t)
			clientPort, mark, pinned := "51234", "false", "yes"
			if test.marked {
				clientPort, mark, pinned = "0", "true", "no"
			}
			for _, from := range []struct{ header, client, source, transport string }{
				{headertest.NginxOverIPv4, "[2001:db8::7]:", "[2001:db8::7]:51234", "TCP6"},
				{headertest.NginxOverIPv6, "203.0.113.7:", "203.0.113.7:51234", "TCP4"},
				{headertest.NginxOverUnix, "[2001:db8::7]:", "[2001:db8::7]:51234", "TCP6"},
				{"PROXY TCP4 203.0.113.7 unix: 51234 0\r\n", "203.0.113.7:", "203.0.113.7:51234", "TCP4"},
			} {
				t.Run(from.header, func(t *testing.T) {
					logs := c.Logs.Tail()
					conn := caddytest.Dial(t, caddytest.TCP4(port))
					socket, peer := caddytest.TCP4(port).Address, conn.LocalAddr().String()
					whole := fmt.Sprintf(`{"mode":%q,"peer":%q,"port_zero":%s,"present":true,"source":%q,"transport":%q,"version":1}`,
						test.mode, peer, mark, from.source, from.transport)
					assert.Equal(t, strings.Join([]string{
						from.client + clientPort, socket, from.source, "", socket, mark, from.transport, "yes", pinned, whole,
					}, "|"), ask(t, conn, from.header))

					access := logs.WaitFor(t, caddytest.OfAccess)
					assert.Equal(t, clientPort, access.Str("request.remote_port"))
					assert.Equal(t, from.source, access.Str("proxy_protocol.source"))
					assert.Nil(t, access.Get("proxy_protocol.destination"), "there is none")
					accepted := logs.WaitFor(t, caddytest.OfModule.With(caddytest.Fields{"msg": "accepted PROXY protocol header"}))
					assert.Equal(t, from.source, accepted.Str("source"))
					assert.Equal(t, "", accepted.Str("destination"))
				})
			}

			// In pieces, one byte each.
			conn := caddytest.Dial(t, caddytest.TCP4(port))
			for _, b := range []byte(headertest.NginxOverUnix) {
				caddytest.Send(t, conn, string(b))
			}
			assert.True(t, strings.HasPrefix(ask(t, conn, ""), "[2001:db8::7]:"+clientPort+"|"+caddytest.TCP4(port).Address+"|"))

			// Nothing else is different.
			conn = caddytest.Dial(t, caddytest.TCP4(port))
			local := "198.51.100.10:443"
			if test.marked {
				local = caddytest.TCP4(port).Address
			}
			assert.True(t, strings.HasPrefix(ask(t, conn, "PROXY TCP4 203.0.113.7 198.51.100.10 51234 443\r\n"), "203.0.113.7:"+clientPort+"|"+local+"|203.0.113.7:51234|198.51.100.10:443|"))
			for _, bad := range []string{
				"PROXY TCP6 203.0.113.7 2001:db8::1 51234 443\r\n",
				"PROXY TCP4 2001:db8::7 198.51.100.10 51234 443\r\n",
				"PROXY TCP6 unix:/run/nginx/chain.sock 2001:db8::1 0 443\r\n",
				"PROXY TCP6 2001:db8::7 127.0.0.1 51234 65536\r\n",
				"PROXY TCP6 2001:db8::7 127.0.0.01 51234 443\r\n",
				"PROXY TCP6 2001:db8::7 localhost 51234 443\r\n",
				"PROXY TCP6 2001:db8::7 unix:/a b 51234 0\r\n",
				"PROXY TCP6 2001:db8::7 unix:/a\nb 51234 0\r\n",
				"PROXY TCP6 2001:db8::7 unix:/a 51234 443\r\n",
				"PROXY TCP6 2001:db8::7 unix:/" + strings.Repeat("p", 80) + " 51234 0\r\n",
				wire.SignatureV2 + "\x21\x21\x00\x0c" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x07",
			} {
				logs := c.Logs.Tail()
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				_, _ = io.WriteString(conn, bad+caddytest.Request("/"))
				caddytest.RequireRefused(t, conn)
				entry := logs.WaitForRefusal(t, nil)
				assert.Equal(t, "malformed", entry.Str("reason"), "%q", bad)
				assert.NotContains(t, entry.Str("error"), "mismatched_destination", "%q", bad)
			}
			conn = caddytest.Dial(t, caddytest.TCP4(port))
			_, _ = io.WriteString(conn, headertest.NginxOverIPv4+headertest.NginxOverIPv4+caddytest.Request("/"))
			caddytest.RequireRefused(t, conn)
			c.Logs.WaitForRefusal(t, caddytest.Fields{"reason": "duplicate"})
		})
	}
}

func first[A, B any](a A, _ B) A { return a }

// A peer that may send no header may send no mismatched one either.
func TestMismatchedDestination_ChangesNoMode(t *testing.T) {
	const option = "\nmismatched_destination allow\n}"
	for _, test := range []struct{ wrapper, want string }{
		{"proxy_protocol_mode off {" + option, "forbidden under off"},
		{"proxy_protocol_mode on {\ntrusted_proxies static 192.0.2.1" + option, "untrusted under on"},
		{"proxy_protocol_mode unspecified {\ntrusted_proxies static 192.0.2.1" + option, "untrusted under unspecified"},
		{"proxy_protocol_mode on {\nversion v2" + option, "version under on"},
	} {
		c, ip4, _, _ := startWrapper(t, test.wrapper)
		assert.Equal(t, test.want, outcomeOf(t, c, ip4, headertest.NginxOverIPv4), test.wrapper)
	}
}
