package caddytest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// Patience bounds every wait for something that must happen. It is long, because a
	// slow machine is no failure.
	Patience = 20 * time.Second
	// Tick is the time between two looks at a condition.
	Tick = 2 * time.Millisecond
)

// Eventually waits until the condition is true. Unlike require.Eventually it looks at once, and
// from the test's goroutine.
func Eventually(t testing.TB, condition func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !condition(); time.Sleep(Tick) {
		if time.Now().After(deadline) {
			require.Fail(t, fmt.Sprintf(format, args...))
		}
	}
}

// Must panics if there is an error. It is for tables of tests.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}
