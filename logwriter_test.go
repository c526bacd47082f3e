package proxyprotocol_test

import (
	"bytes"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// A log writer is another module's code. While it panics or blocks, Caddy goes on accepting
// connections, refuses what it must and serves the rest.
func TestLog_ThatFailsStopsNothing(t *testing.T) {
	for name, fail := range map[string]func(over <-chan struct{}){
		"panics": func(<-chan struct{}) { panic("log writer is broken") },
		"blocks": func(over <-chan struct{}) { <-over },
	} {
		for refused, text := range map[string]string{
			"in the accept loop":           "", // of an untrusted peer
			"in the connection's own time": caddytest.Request("/"),
		} {
			t.Run(name+"/"+refused, func(t *testing.T) {
				port := caddytest.FreePort(t)
				c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on {\ntrusted_proxies static 127.0.0.1\n}"), caddytest.PlainSite(port))
				over := make(chan struct{})
				var failed atomic.Int32
				before := func(line []byte) {
					if bytes.Contains(line, []byte("refused connection")) {
						failed.Add(1)
						fail(over)
					}
				}
				caddytest.BeforeWrite.Store(&before)
				release := sync.OnceFunc(func() {
					caddytest.BeforeWrite.Store(nil)
					close(over)
				})
				defer release()
				for range 3 * proxyprotocol.RefusalsLogged {
					from := "127.0.0.1"
					if text == "" {
						from = "127.0.0.2"
					}
					conn := caddytest.DialFrom(t, from, port)
					caddytest.Send(t, conn, text)
					caddytest.RequireRefused(t, conn)
					require.NoError(t, conn.Close())
				}
				assert.Positive(t, failed.Load())
				if name == "blocks" {
					assert.EqualValues(t, 1, failed.Load(), "one goroutine waits for the writer")
				}
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				caddytest.Send(t, conn, headertest.V1(headertest.Client4, headertest.Server4)+caddytest.Request("/"))
				response, body := caddytest.ReadResponse(t, conn)
				assert.Equal(t, http.StatusOK, response.StatusCode)
				assert.Equal(t, headertest.Client4.String(), body)
				release()
				c.Logs.WaitFor(t, caddytest.OfAccess)
			})
		}
	}
}
