package policy

import (
	"context"
	"net"
	"net/netip"
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
