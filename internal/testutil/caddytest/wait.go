package caddytest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// Patience bounds every wait for an event that must happen. It is long, so that a slow
	// machine does not fail tests.
	Patience = 20 * time.Second
	// Tick is the time between two evaluations of a condition.
	Tick = 2 * time.Millisecond
)

// Eventually waits until the condition is true. Unlike require.Eventually it evaluates the condition
// at once, and in the test's goroutine.
func Eventually(t testing.TB, condition func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !condition(); time.Sleep(Tick) {
		if time.Now().After(deadline) {
			require.Fail(t, fmt.Sprintf(format, args...))
		}
	}
}

// Must panics if err is not nil. It is for errors that are a mistake in the test itself.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}
