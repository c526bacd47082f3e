package proxyprotocol

import (
	"encoding/hex"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
			"http":  func(_ testing.TB, port int) string { return plainSite(port) },
			"https": secureSite,
		} {
			ends := endings
			if mode == "on" {
				ends = map[string]func(testing.TB, net.Conn){"closed": endings["closed"], "reset": endings["reset"], "at timeout": requireRefused}
			}
			for ending, end := range ends {
				t.Run(mode+"/"+name+"/"+ending, func(t *testing.T) {
					port := freePort(t)
					lines := "proxy_protocol_mode " + mode
					if ending == "at timeout" {
						lines += " {\ntimeout 200ms\n}"
					}
					c := startCaddy(t, wrappers(lines+"\ntls"), site(t, port))
					for range n {
						end(t, dialFrom(t, "", port))
					}
					eventually(t, func() bool { return len(c.logs.refusals(nil)) == n }, "not all are logged")
					for _, entry := range c.logs.refusals(nil) {
						assert.Equal(t, []string{"silent", "debug"}, []string{entry.str("reason"), entry.str("level")})
					}
					require.Len(t, currentStatus().Listeners, len(loopbacks()))
					counted := make(map[string]uint64)
					for _, l := range currentStatus().Listeners {
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
		for _, begun := range []string{"P", "PROX", "PROXY", v1(client4, server4)[:20], headerV2[:11], headerV2[:20]} {
			t.Run(mode+"/"+begun, func(t *testing.T) {
				port := freePort(t)
				c := startCaddy(t, wrappers("proxy_protocol_mode "+mode), plainSite(port))
				conn := dialFrom(t, "", port)
				send(t, conn, begun)
				endings["reset"](t, conn)
				entry := c.logs.waitForRefusal(t, nil)
				assert.Equal(t, []string{"io", "warn"}, []string{entry.str("reason"), entry.str("level")})
				assert.Contains(t, entry.str("error"), "connection reset by peer")
				var remembered []refusalStatus
				for _, l := range currentStatus().Listeners {
					remembered = append(remembered, l.Refusals...)
				}
				require.Len(t, remembered, 1)
				assert.Equal(t, "io", remembered[0].Reason)
				assert.Equal(t, hex.EncodeToString([]byte(begun)[:min(len(begun), bytesKept)]), remembered[0].Bytes)
			})
		}
	}
}

func TestStatusSaysThatNobodyIsTrustedUnderOff(t *testing.T) {
	port := freePort(t)
	for mode, want := range map[string]string{
		"on":          "any",
		"unspecified": "any",
		"off":         "none",
		"on {\ntrusted_proxies static 127.0.0.1\n}": "static",
	} {
		startCaddy(t, wrappers("proxy_protocol_mode "+mode), plainSite(port))
		for _, l := range currentStatus().Listeners {
			assert.Equal(t, want, l.TrustedProxies, mode)
		}
	}
}
