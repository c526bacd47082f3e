package proxyprotocol_test

import (
	"encoding/hex"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// endings are how a peer ends a connection.
var endings = map[string]func(testing.TB, net.Conn){
	"closed": func(t testing.TB, c net.Conn) { require.NoError(t, c.Close()) },
	"reset": func(t testing.TB, c net.Conn) {
		require.NoError(t, c.(*net.TCPConn).SetLinger(0))
		require.NoError(t, c.Close())
	},
	"half closed": func(t testing.TB, c net.Conn) { require.NoError(t, c.(*net.TCPConn).CloseWrite()) },
}

func TestConnectionsThatSayNothingAreNoNews(t *testing.T) {
	const n = 25
	for _, mode := range []string{"on", "off", "unspecified"} {
		for name, site := range map[string]func(testing.TB, int) string{
			"http":  func(_ testing.TB, port int) string { return caddytest.PlainSite(port) },
			"https": caddytest.SecureSite,
		} {
			ends := endings
			if mode == "on" {
				ends = map[string]func(testing.TB, net.Conn){"closed": endings["closed"], "reset": endings["reset"], "at timeout": caddytest.RequireRefused}
			}
			for ending, end := range ends {
				t.Run(mode+"/"+name+"/"+ending, func(t *testing.T) {
					port := caddytest.FreePort(t)
					lines := "proxy_protocol_mode " + mode
					if ending == "at timeout" {
						lines += " {\ntimeout 200ms\n}"
					}
					c := caddytest.Start(t, caddytest.Wrappers(lines+"\ntls"), site(t, port))
					conns := make([]net.Conn, n)
					for i := range conns {
						conns[i] = caddytest.DialFrom(t, "", port)
					}
					for _, conn := range conns {
						end(t, conn)
					}
					caddytest.Eventually(t, func() bool { return len(c.Logs.Refusals(nil)) == n }, "not all are logged")
					for _, entry := range c.Logs.Refusals(nil) {
						assert.Equal(t, []string{"silent", "debug"}, []string{entry.Str("reason"), entry.Str("level")})
					}
					require.Len(t, caddytest.CurrentStatus(t).Listeners, len(caddytest.Loopbacks()))
					counted := make(map[string]uint64)
					for _, l := range caddytest.CurrentStatus(t).Listeners {
						for o, count := range l.Outcomes {
							counted[o] += count
						}
						assert.Empty(t, l.Refusals)
						assert.Empty(t, l.Hints)
					}
					assert.Equal(t, map[string]uint64{"silent": n}, counted)
				})
			}
		}
	}
}

// A reset is not the end of a header that was cut off, and is remembered.
func TestConnectionThatIsResetInsideItsHeaderFailed(t *testing.T) {
	for _, mode := range []string{"on", "unspecified"} {
		for _, begun := range []string{"P", "PROX", "PROXY", headertest.V1(headertest.Client4, headertest.Server4)[:20], headertest.V2(headertest.Client4, headertest.Server4)[:11], headertest.V2(headertest.Client4, headertest.Server4)[:20]} {
			t.Run(mode+"/"+begun, func(t *testing.T) {
				port := caddytest.FreePort(t)
				c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode "+mode), caddytest.PlainSite(port))
				conn := caddytest.DialFrom(t, "", port)
				caddytest.Send(t, conn, begun)
				endings["reset"](t, conn)
				entry := c.Logs.WaitForRefusal(t, nil)
				assert.Equal(t, []string{"io", "warn"}, []string{entry.Str("reason"), entry.Str("level")})
				assert.Contains(t, entry.Str("error"), "connection reset by peer")
				var remembered []statusapi.Refusal
				for _, l := range caddytest.CurrentStatus(t).Listeners {
					remembered = append(remembered, l.Refusals...)
				}
				require.Len(t, remembered, 1)
				assert.Equal(t, "io", remembered[0].Reason)
				assert.Equal(t, hex.EncodeToString([]byte(begun)[:min(len(begun), record.BytesKept)]), remembered[0].Bytes)
			})
		}
	}
}

func TestStatusSaysThatNobodyIsTrustedUnderOff(t *testing.T) {
	port := caddytest.FreePort(t)
	for mode, want := range map[string]string{
		"on":          "any",
		"unspecified": "any",
		"off":         "none",
		"on {\ntrusted_proxies static 127.0.0.1\n}": "static",
	} {
		caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode "+mode), caddytest.PlainSite(port))
		for _, l := range caddytest.CurrentStatus(t).Listeners {
			assert.Equal(t, want, l.TrustedProxies, mode)
		}
	}
}
