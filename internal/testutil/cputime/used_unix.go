//go:build unix

package cputime

import (
	"syscall"
	"time"
)

// used returns the processor time of this process so far, in user and in kernel mode.
func used() (time.Duration, bool) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, false
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), true
}
