package record

import (
	"sync/atomic"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// Counters counts outcomes. Counting is one atomic addition. Prometheus metrics are built from
// the counters on scrape.
type Counters struct {
	outcomes [policy.Modes][len(VersionNames)][Outcomes]atomic.Uint64
	headers  durations
}

// VersionNames are the labels of header versions; that of 0 is for no header.
var VersionNames = [...]string{"none", "v1", "v2"}

// Count counts a connection.
func (c *Counters) Count(mode policy.Mode, version uint8, o Outcome) {
	c.outcomes[mode][version][o].Add(1)
}

// Total returns the number of connections with an outcome.
func (c *Counters) Total(o Outcome) (n uint64) {
	for mode := range c.outcomes {
		for version := range c.outcomes[mode] {
			n += c.outcomes[mode][version][o].Load()
		}
	}
	return n
}

// Each calls f for every mode, version and outcome with a count.
func (c *Counters) Each(f func(mode policy.Mode, version string, o Outcome, n uint64)) {
	for mode := range c.outcomes {
		for version := range c.outcomes[mode] {
			for o := range c.outcomes[mode][version] {
				if n := c.outcomes[mode][version][o].Load(); n > 0 {
					f(policy.Mode(mode), VersionNames[version], Outcome(o), n)
				}
			}
		}
	}
}

// ObserveHeader counts the time from accept to the end of a header.
func (c *Counters) ObserveHeader(took time.Duration) { c.headers.observe(took) }

// HeaderTimes returns the number of observed headers, the sum of their times, and for each upper
// bound in seconds the number of headers that took no longer.
func (c *Counters) HeaderTimes() (n uint64, sum time.Duration, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64)
	for i := range c.headers.counts {
		n += c.headers.counts[i].Load()
		if i < len(durationBounds) {
			buckets[durationBounds[i].Seconds()] = n
		}
	}
	return n, time.Duration(c.headers.sum.Load()), buckets
}

// add adds the counts of other.
func (c *Counters) add(other *Counters) {
	for mode := range c.outcomes {
		for version := range c.outcomes[mode] {
			for o := range c.outcomes[mode][version] {
				c.outcomes[mode][version][o].Add(other.outcomes[mode][version][o].Load())
			}
		}
	}
	for i := range c.headers.counts {
		c.headers.counts[i].Add(other.headers.counts[i].Load())
	}
	c.headers.sum.Add(other.headers.sum.Load())
}

// durations is a histogram of durations.
type durations struct {
	counts [len(durationBounds) + 1]atomic.Uint64 // the last one is of those above all bounds
	sum    atomic.Int64
}

// durationBounds are the inclusive upper bounds of the buckets of durations.
var durationBounds = [...]time.Duration{
	100 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 3 * time.Second, 5 * time.Second,
}

func (d *durations) observe(took time.Duration) {
	i := 0
	for i < len(durationBounds) && took > durationBounds[i] {
		i++
	}
	d.counts[i].Add(1)
	d.sum.Add(int64(took))
}
