package proxyprotocol_test

import (
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// answerSources sets how the source of sourced answers.
func answerSources(answer func(*http.Request) []netip.Prefix) {
	testSources.Store("source_test", answer)
}

var loopback4 = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

const sourced = "trusted_proxies proxy_protocol_test {\nname source_test\n}\ntimeout 300ms\n"

// A source that does not answer in time costs each connection its timeout, and no more:
// whether it ends with its request or never.
func TestSource_ThatHangsDoesNotDefeatTheTimeout(t *testing.T) {
	for _, mode := range []string{"on", "unspecified"} {
		for name, hang := range map[string]func(r *http.Request, over <-chan struct{}){
			"until its request ends": func(r *http.Request, _ <-chan struct{}) { <-r.Context().Done() },
			"for ever":               func(_ *http.Request, over <-chan struct{}) { <-over },
		} {
			t.Run(mode+"/"+name, func(t *testing.T) {
				over := make(chan struct{})
				defer close(over)
				answerSources(func(r *http.Request) []netip.Prefix {
					deadline, ok := r.Context().Deadline()
					assert.True(t, ok)
					assert.WithinDuration(t, time.Now(), deadline, time.Second, "the header's deadline")
					hang(r, over)
					return loopback4 // too late
				})
				port := caddytest.FreePort(t)
				c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode "+mode+" {\n"+sourced+"}"), caddytest.PlainSite(port))
				began := time.Now()
				var conns []net.Conn
				for range 20 {
					conn := caddytest.Dial(t, caddytest.TCP4(port))
					caddytest.Send(t, conn, headertest.V1(headertest.Client4, headertest.Server4)+caddytest.Request("/"))
					conns = append(conns, conn)
				}
				for _, conn := range conns {
					caddytest.RequireRefused(t, conn)
				}
				assert.Less(t, time.Since(began), caddytest.Patience/4)
				caddytest.Eventually(t, func() bool { return len(c.Logs.Refusals(nil)) == len(conns) }, "not all are logged")
				for _, entry := range c.Logs.Refusals(nil) {
					assert.Equal(t, "timeout", entry.Str("reason"))
					assert.Equal(t, "trusted_proxies: the source did not answer before the timeout", entry.Str("error"))
				}
			})
		}
	}
}

// Closing a connection ends its request to the source.
func TestSource_ThatHangsKeepsNoGoroutinesAfterAStop(t *testing.T) {
	var asked atomic.Int32
	answerSources(func(r *http.Request) []netip.Prefix {
		asked.Add(1)
		<-r.Context().Done()
		return nil
	})
	port := caddytest.FreePort(t)
	goroutines := runtime.NumGoroutine()
	c := caddytest.New(t)
	c.Grace = caddytest.Patience // net/http ends connections that have not sent a request within 5 seconds
	require.NoError(t, c.Load(caddytest.Wrappers("proxy_protocol_mode on {\n"+strings.Replace(sourced, "300ms", "10m", 1)+"}"), caddytest.PlainSite(port)))
	var conns []net.Conn
	for range 20 {
		conns = append(conns, caddytest.Dial(t, caddytest.TCP4(port)))
	}
	caddytest.Eventually(t, func() bool { return int(asked.Load()) == len(conns) }, "the source is not asked")
	c.Stop()
	for _, conn := range conns {
		caddytest.RequireRefused(t, conn)
	}
	caddytest.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+len(conns)/2 }, "goroutines are left")
	for _, entry := range c.Logs.Refusals(nil) {
		assert.Equal(t, []string{"silent", "debug"}, []string{entry.Str("reason"), entry.Str("level")})
	}
}

func TestSource_ThatReturnsNothingIsToldApart(t *testing.T) {
	port := caddytest.FreePort(t)
	for name, tt := range map[string]struct {
		answer []netip.Prefix
		want   any
	}{
		"nothing":      {nil, "trusted_proxies: the source returned no ranges, so no peer may send a header"},
		"others":       {[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, nil},
		"nothing real": {[]netip.Prefix{{}}, nil},
	} {
		for mode, text := range map[string]string{"on": "", "unspecified": headertest.V1(headertest.Client4, headertest.Server4)} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				answerSources(func(*http.Request) []netip.Prefix { return tt.answer })
				c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode "+mode+" {\n"+sourced+"}"), caddytest.PlainSite(port))
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				caddytest.Send(t, conn, text)
				caddytest.RequireRefused(t, conn)
				entry := c.Logs.WaitForRefusal(t, caddytest.Fields{"reason": "untrusted"})
				assert.Equal(t, tt.want, entry.Get("error"))
			})
		}
	}
}

// testHangs is a source of ranges that does not answer.
type testHangs struct{}

func init() { caddy.RegisterModule(testHangs{}) }

func (testHangs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.ip_sources.proxy_protocol_test_hangs", New: func() caddy.Module { return new(testHangs) }}
}

func (*testHangs) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*testHangs) GetIPRanges(r *http.Request) []netip.Prefix {
	<-r.Context().Done()
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} // too late
}

// Peers that need no answer do not notice.
func TestSource_ThatHangsDoesNotStallHTTP3(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, caddytest.Packets("", "on {\ntrusted_proxies proxy_protocol_test_hangs\non 127.0.0.3\n}"), caddytest.HTTP3Site(t, port, ""))
	forged, stop := caddytest.ListenUDP(t, "127.0.0.2"), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				_, _ = forged.WriteToUDPAddrPort([]byte(headertest.UDP(headertest.Client4, headertest.Server4)+quicPacket), to)
			}
		}
	}()
	relay := caddytest.StartRelay(t, "127.0.0.3", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
	began := time.Now()
	for range 10 {
		response, body := caddytest.NewHTTP3Client(t, relay.Address()).Get("/")
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Contains(t, body, "mode=on peer=127.0.0.3")
	}
	assert.Less(t, time.Since(began), caddytest.Patience/2)
	close(stop)
	<-done
	c.Logs.WaitFor(t, caddytest.OfPackets.With(caddytest.Fields{"reason": "io", "error": "trusted_proxies: the source has not answered yet"}))
	outcomes := caddytest.Datagrams(t)
	assert.NotZero(t, outcomes["io"])
	assert.Zero(t, outcomes["untrusted"])
}

// quicPacket is a datagram that QUIC would look at.
var quicPacket = "\x40" + strings.Repeat("x", 1199)
