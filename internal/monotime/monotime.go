// Package monotime has the time in 8 bytes: a time.Time takes 24, and asking for one takes
// longer.
package monotime

import "time"

var start = time.Now()

// Time is a moment of the process's monotonic clock, in nanoseconds since the process
// started. The clock goes on evenly when the wall clock is set. Moments compare as numbers do.
type Time int64

// Now returns the current moment.
func Now() Time { return Time(time.Since(start)) }

// At returns the moment that time.Now returned as t. Unlike Of it is exact, and goes by the wall
// clock if t has no reading of the monotonic one.
func At(t time.Time) Time { return Time(t.Sub(start)) }

// furthest is 146 years. Adding it to the current moment does not overflow.
const furthest = time.Duration(1 << 62)

// Of returns the moment of t. It goes by the time from now until t, because the wall clock,
// by which t may be, may have been set since the process started.
func Of(t time.Time) Time { return Now().Add(max(-furthest, min(time.Until(t), furthest))) }

// Add returns the moment d later.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub returns the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// ToTime returns the moment as a time.Time, for deadlines.
func (t Time) ToTime() time.Time { return start.Add(time.Duration(t)) }
