package record

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

func TestCounters_EachLeavesOutWhatWasNotCounted(t *testing.T) {
	type count struct {
		mode    policy.Mode
		version string
		outcome Outcome
		n       uint64
	}
	var c Counters
	c.Count(policy.On, 1, Client)
	c.Count(policy.On, 1, Client)
	c.Count(policy.Off, 0, Direct)
	c.Count(policy.Unspecified, 2, Marked)
	var got []count
	c.Each(func(mode policy.Mode, version string, o Outcome, n uint64) {
		got = append(got, count{mode, version, o, n})
	})
	assert.ElementsMatch(t, []count{{policy.On, "v1", Client, 2}, {policy.Off, "none", Direct, 1}, {policy.Unspecified, "v2", Marked, 1}}, got)
}

func TestCounters_HeaderTimesAreCumulative(t *testing.T) {
	var c Counters
	c.ObserveHeader(50 * time.Microsecond)
	c.ObserveHeader(2 * time.Millisecond)
	c.ObserveHeader(time.Minute)
	n, sum, buckets := c.HeaderTimes()
	assert.EqualValues(t, 3, n)
	assert.Equal(t, time.Minute+2050*time.Microsecond, sum)
	assert.Equal(t, map[float64]uint64{
		.0001: 1, .0005: 1, .001: 1, .005: 2, .01: 2, .05: 2, .1: 2, .5: 2, 1: 2, 3: 2, 5: 2,
	}, buckets, "that of a minute is above all bounds")
}
