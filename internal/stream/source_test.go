package proxyprotocol

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// What a source keeps is bounded, and peers that wait for their turn wait no longer than
// their deadline.
func TestSource_IsAskedBySoManyAtOnce(t *testing.T) {
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
			return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
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

func TestSource_IsGivenAsMuchTimeAsTheHeaderHas(t *testing.T) {
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
		c := newConn(connSays(connV1), rules, On, unasked, monotime.Now())
		time.Sleep(2 * time.Second)
		assert.Equal(t, connPeer, c.RemoteAddr())
		assert.Equal(t, []string{"timeout"}, connReasons(logs))
		time.Sleep(time.Hour)
	})
}

func TestSource_IsLeftWhenTheConnectionIsClosed(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan struct{})
			rules, logs := connRules(mode, func(r *rules) {
				r.stats = newStats()
				r.source = connSource(func(r *http.Request) []netip.Prefix {
					close(asked)
					<-r.Context().Done()
					return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				})
			})
			c := newConn(connSays(connV1), rules, mode, unasked, monotime.Now())
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
func TestSource_ThatIsSlowIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, _ := connRules(On, func(r *rules) {
			r.timeout = 5 * time.Second
			r.source = connSource(func(r *http.Request) []netip.Prefix {
				time.Sleep(4 * time.Second)
				return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			})
		})
		c := newConn(connSays(connV1), rules, On, unasked, monotime.Now())
		assert.Equal(t, connClient, fmt.Sprint(c.RemoteAddr()))
	})
}
