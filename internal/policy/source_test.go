package policy

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// Calls of a source are bounded, and peers that wait for their turn wait no longer than their
// deadline.
func TestPolicy_BoundsTheCallsOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		var asking, peak atomic.Int32
		over := make(chan struct{})
		p := Policy{asking: make(chan struct{}, most), Source: func(context.Context, net.Addr) []netip.Prefix {
			if n := asking.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			defer asking.Add(-1)
			<-over
			return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}}
		ask := func(within time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			_, err := p.Ask(ctx, tcpAddr("127.0.0.1:1"))
			return err
		}
		errs := make(chan error)
		for range 4 * most {
			go func() { errs <- ask(time.Second) }()
		}
		began := time.Now()
		for range 4 * most {
			assert.ErrorIs(t, <-errs, ErrSourceLate)
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

func TestPolicy_SetSourceLetsItBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a source that cannot be asked waits forever
		p := Policy{Mode: On}
		assert.True(t, p.TrustsAnyone())
		p.SetSource(func(_ context.Context, peer net.Addr) []netip.Prefix {
			assert.Equal(t, testPeer, peer)
			return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		})
		assert.False(t, p.TrustsAnyone())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		trust, err := p.Ask(ctx, testPeer)
		assert.NoError(t, err)
		assert.Equal(t, Trusted, trust)
	})
}

// endedContext is a context that has ended, before its channel tells.
type endedContext struct{ context.Context }

func (endedContext) Err() error { return context.DeadlineExceeded }

// A source may return no ranges because its time is over.
func TestPolicy_AnswerAfterTheDeadlineDoesNotCount(t *testing.T) {
	for _, ranges := range [][]netip.Prefix{nil, {netip.MustParsePrefix("0.0.0.0/0")}} {
		var p Policy
		p.SetSource(func(context.Context, net.Addr) []netip.Prefix { return ranges })
		trust, err := p.Ask(endedContext{t.Context()}, testPeer)
		assert.Equal(t, Untrusted, trust)
		assert.Equal(t, ErrSourceLate, err)
	}
}

// The panic reaches the caller, which recovers. One in another goroutine would end the process.
func TestPolicy_AskPanicsIfTheSourceDoes(t *testing.T) {
	var p Policy
	p.SetSource(func(context.Context, net.Addr) []netip.Prefix { panic("source is broken") })
	assert.PanicsWithValue(t, "source is broken", func() { _, _ = p.Ask(t.Context(), testPeer) })
}

func TestPolicy_SourceThatEndsItsGoroutineTrustsNobody(t *testing.T) {
	var p Policy
	p.SetSource(func(context.Context, net.Addr) []netip.Prefix { runtime.Goexit(); return nil })
	trust, err := p.Ask(t.Context(), testPeer)
	assert.Equal(t, Untrusted, trust)
	assert.NoError(t, err)
}
