package proxyprotocol

import (
	"sync/atomic"
	"time"
)

// tally counts what became of connections. Counting is a matter of one addition; what
// metrics make of it is made when they are asked for.
type tally struct {
	outcomes [modes][len(versionNames)][outcomes]atomic.Uint64
	headers  durations
}

// versionNames are the labels of header versions; 0 is no header.
var versionNames = [...]string{"none", "v1", "v2"}

// count counts a connection.
func (t *tally) count(mode Mode, version uint8, o outcome) { t.outcomes[mode][version][o].Add(1) }

// total returns how many connections there were of an outcome.
func (t *tally) total(o outcome) (n uint64) {
	for mode := range t.outcomes {
		for version := range t.outcomes[mode] {
			n += t.outcomes[mode][version][o].Load()
		}
	}
	return n
}

// each calls f for all that has been counted.
func (t *tally) each(f func(mode Mode, version string, o outcome, n uint64)) {
	for mode := range t.outcomes {
		for version := range t.outcomes[mode] {
			for o := range t.outcomes[mode][version] {
				if n := t.outcomes[mode][version][o].Load(); n > 0 {
					f(Mode(mode), versionNames[version], outcome(o), n)
				}
			}
		}
	}
}

// observeHeader counts the time that a header took.
func (t *tally) observeHeader(took time.Duration) { t.headers.observe(took) }

// headerTimes returns how many headers there were whose time was taken, the sum of their
// times, and how many took no longer than each upper bound, in seconds.
func (t *tally) headerTimes() (n uint64, sum time.Duration, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64)
	for i := range t.headers.counts {
		n += t.headers.counts[i].Load()
		if i < len(durationBounds) {
			buckets[durationBounds[i].Seconds()] = n
		}
	}
	return n, time.Duration(t.headers.sum.Load()), buckets
}

// add adds all that other has counted.
func (t *tally) add(other *tally) {
	for mode := range t.outcomes {
		for version := range t.outcomes[mode] {
			for o := range t.outcomes[mode][version] {
				t.outcomes[mode][version][o].Add(other.outcomes[mode][version][o].Load())
			}
		}
	}
	for i := range t.headers.counts {
		t.headers.counts[i].Add(other.headers.counts[i].Load())
	}
	t.headers.sum.Add(other.headers.sum.Load())
}

// durations is a histogram.
type durations struct {
	counts [len(durationBounds) + 1]atomic.Uint64 // the last is above all bounds
	sum    atomic.Int64
}

// durationBounds are the inclusive upper bounds of its buckets.
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
