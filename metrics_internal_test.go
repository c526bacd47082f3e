package proxyprotocol

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

func TestMetrics_AllocateNothingOnTheGoodPath(t *testing.T) {
	rules := connQuiet(On)
	rules.stats = newStats()
	c := newConn(connOf(connSays(""), rules).Conn, rules, On, trusted, monotime.Now())
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		rules.stats.count(On, 2, outcomeClient)
		rules.stats.headers.observe(time.Millisecond)
		rules.stats.sawPeer(caddytest.Client4.Addr())
		rules.log.accepted(c.peer, c.Conn, c.mode, &c.header, c.Marked())
	}))
}

func BenchmarkRefusal(b *testing.B) {
	rules := connQuiet(On)
	rules.stats = newStats()
	var p [64]byte
	b.ReportAllocs()
	for b.Loop() {
		c := newConn(connSays(caddytest.Request("/")), rules, On, trusted, monotime.Now())
		if _, err := c.Read(p[:]); err == nil {
			b.Fatal("not refused")
		}
	}
}

func TestMetrics_DurationsFallIntoTheirBuckets(t *testing.T) {
	for i, bound := range durationBounds {
		var d durations
		d.observe(bound)
		d.observe(bound + 1)
		assert.EqualValues(t, 1, d.counts[i].Load(), "bounds are inclusive: %s", bound)
		assert.EqualValues(t, 1, d.counts[i+1].Load(), bound)
	}
}
