package proxyprotocol

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// answerSources sets how the source of sourced answers.
func answerSources(answer func(*http.Request) []netip.Prefix) {
	testSources.Store("source_test", answer)
}

var loopback4 = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

const sourced = "trusted_proxies proxy_protocol_test {\nname source_test\n}\ntimeout 300ms\n"

// A source that does not answer in time costs each connection its timeout, and no more:
// whether it ends with its request or never.
func TestSourceThatHangsDoesNotDefeatTheTimeout(t *testing.T) {
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
					caddytest.Send(t, conn, caddytest.HeaderV1(caddytest.Client4, caddytest.Server4)+caddytest.Request("/"))
					conns = append(conns, conn)
				}
				for _, conn := range conns {
					caddytest.RequireRefused(t, conn)
				}
				assert.Less(t, time.Since(began), caddytest.Patience/4)
				caddytest.Eventually(t, func() bool { return len(c.Logs.Refusals(nil)) == len(conns) }, "not all are logged")
				for _, entry := range c.Logs.Refusals(nil) {
					assert.Equal(t, "timeout", entry.Str("reason"))
					assert.Equal(t, errSourceLate.Error(), entry.Str("error"))
				}
			})
		}
	}
}

// Closing a connection ends its request to the source.
func TestSourceThatHangsKeepsNoGoroutinesOfAServerThatStopped(t *testing.T) {
	answerSources(func(r *http.Request) []netip.Prefix {
		<-r.Context().Done()
		return nil
	})
	port := caddytest.FreePort(t)
	goroutines := runtime.NumGoroutine()
	c := caddytest.New(t)
	c.Grace = caddytest.Patience // net/http ends connections that have not sent a request within 5 seconds
	require.NoError(t, c.Load(caddytest.Wrappers("proxy_protocol_mode on {\n"+strings.Replace(sourced, "300ms", "10m", 1)+"}"), caddytest.PlainSite(port)))
	before := runtime.NumGoroutine()
	var conns []net.Conn
	for range 20 {
		conns = append(conns, caddytest.Dial(t, caddytest.TCP4(port)))
	}
	caddytest.Eventually(t, func() bool { return runtime.NumGoroutine() >= before+2*len(conns) }, "the source is not asked")
	c.Stop()
	for _, conn := range conns {
		caddytest.RequireRefused(t, conn)
	}
	caddytest.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+len(conns)/2 }, "goroutines are left")
	for _, entry := range c.Logs.Refusals(nil) {
		assert.Equal(t, []string{"silent", "debug"}, []string{entry.Str("reason"), entry.Str("level")})
	}
}

func TestSourceThatReturnsNothingIsToldApart(t *testing.T) {
	port := caddytest.FreePort(t)
	for name, tt := range map[string]struct {
		answer []netip.Prefix
		want   any
	}{
		"nothing":      {nil, errSourceEmpty.Error()},
		"others":       {[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, nil},
		"nothing real": {[]netip.Prefix{{}}, nil},
	} {
		for mode, text := range map[string]string{"on": "", "unspecified": caddytest.HeaderV1(caddytest.Client4, caddytest.Server4)} {
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

// What a source keeps is bounded, and peers that wait for their turn wait no longer than
// their deadline.
func TestSourceIsAskedBySoManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		var asking, peak atomic.Int32
		over := make(chan struct{})
		p := policy{asking: make(chan struct{}, most), source: connSource(func(*http.Request) []netip.Prefix {
			if n := asking.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			defer asking.Add(-1)
			<-over
			return loopback4
		})}
		ask := func(within time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			_, err := p.ask(ctx, connTCPAddr("127.0.0.1:1"))
			return err
		}
		errs := make(chan error)
		for range 4 * most {
			go func() { errs <- ask(time.Second) }()
		}
		began := time.Now()
		for range 4 * most {
			assert.ErrorIs(t, <-errs, errSourceLate)
		}
		assert.Equal(t, time.Second, time.Since(began))
		assert.EqualValues(t, most, peak.Load())
		assert.EqualValues(t, most, asking.Load(), "these never end")

		close(over)
		synctest.Wait()
		assert.Zero(t, asking.Load())
		assert.NoError(t, ask(time.Second), "and it is asked again")
	})
}

func TestSourceIsGivenAsMuchTimeAsTheHeaderHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, logs := connRules(On, func(r *rules) {
			r.timeout = 5 * time.Second
			r.source = connSource(func(r *http.Request) []netip.Prefix {
				deadline, _ := r.Context().Deadline()
				assert.Equal(t, 3*time.Second, time.Until(deadline), "two seconds after accept")
				time.Sleep(4 * time.Second)
				return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
			})
		})
		c := newConn(connSays(connV1), rules, On, unasked, time.Since(start))
		time.Sleep(2 * time.Second)
		assert.Equal(t, connPeer, c.RemoteAddr())
		assert.Equal(t, []string{"timeout"}, connReasons(logs))
		time.Sleep(time.Hour)
	})
}

func TestSourceIsLeftWhenTheConnectionIsClosed(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan struct{})
			rules, logs := connRules(mode, func(r *rules) {
				r.stats = newStats()
				r.source = connSource(func(r *http.Request) []netip.Prefix {
					close(asked)
					<-r.Context().Done()
					return loopback4
				})
			})
			c := newConn(connSays(connV1), rules, mode, unasked, time.Since(start))
			began := time.Now()
			done := connGo(c.RemoteAddr)
			<-asked
			require.NoError(t, c.Close())
			assert.Equal(t, connPeer, <-done)
			assert.Zero(t, time.Since(began), "at once")
			want := map[Mode]string{On: "silent", Unspecified: "io"}[mode]
			require.Equal(t, []string{want}, connReasons(logs))
			assert.Equal(t, zap.DebugLevel, logs.FilterMessage(refusalMessages[outcome(slices.Index(outcomeNames[:], want))]).All()[0].Level, "this server closed it")
		})
	}
}

// A source that takes its time within the timeout is as good as a quick one.
func TestSourceThatIsSlowIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, _ := connRules(On, func(r *rules) {
			r.timeout = 5 * time.Second
			r.source = connSource(func(r *http.Request) []netip.Prefix {
				time.Sleep(4 * time.Second)
				return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			})
		})
		c := newConn(connSays(connV1), rules, On, unasked, time.Since(start))
		assert.Equal(t, connClient, fmt.Sprint(c.RemoteAddr()))
	})
}
