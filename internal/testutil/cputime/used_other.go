//go:build !unix

package cputime

import "time"

// used reports that this system has no clock of processor time.
func used() (time.Duration, bool) { return 0, false }
