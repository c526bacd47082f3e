// Package cputime adds processor time to the results of benchmarks. On a busy machine, wall time
// depends on the other processes.
package cputime

import "testing"

// Report starts to measure the processor time of the process. The function that Report returns ends
// the measurement and reports the time per operation as cpu-ns/op. On systems without such a clock,
// nothing is reported.
//
//	defer cputime.Report(b)()
func Report(b *testing.B) func() {
	start, ok := used()
	return func() {
		if end, _ := used(); ok && b.N > 0 {
			b.ReportMetric(float64(end-start)/float64(b.N), "cpu-ns/op")
		}
	}
}
