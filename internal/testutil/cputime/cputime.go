// Package cputime adds processor time to what benchmarks report. On a machine that has
// other things to do, wall time says more about those.
package cputime

import "testing"

// Report reports the processor time that the process spends per operation, until the
// function that it returns is called. Where the system does not tell, it reports nothing.
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
