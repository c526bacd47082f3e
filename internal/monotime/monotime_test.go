package monotime

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestTime_AgreesWithTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := Now()
		time.Sleep(3 * time.Second)
		after := Now()
		assert.Equal(t, 3*time.Second, after.Sub(before))
		assert.Equal(t, after, before.Add(3*time.Second))
		assert.True(t, after.ToTime().Equal(time.Now()))
		assert.Equal(t, after.Add(time.Minute), Of(time.Now().Add(time.Minute)))
		assert.Equal(t, after.Add(-time.Minute), Of(time.Now().Add(-time.Minute)))
	})
}

func TestOf_DoesNotOverflow(t *testing.T) {
	for _, far := range []time.Time{
		time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Now().Add(1<<63 - 1),
	} {
		assert.Greater(t, Of(far), Now().Add(100*365*24*time.Hour))
	}
	assert.Less(t, Of(time.Time{}), Now())
	synctest.Test(t, func(t *testing.T) { // a bubble's time begins in the past
		assert.Less(t, Of(time.Time{}), Now())
	})
}

func TestAt_IsExact(t *testing.T) {
	before := Now()
	now := time.Now()
	after := Now()
	assert.GreaterOrEqual(t, At(now), before)
	assert.LessOrEqual(t, At(now), after)
	assert.Equal(t, time.Second, At(now.Add(time.Second)).Sub(At(now)))
}
