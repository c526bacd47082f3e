//go:build unix

package cputime_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/cputime"
)

func TestReportsProcessorTimePerOperation(t *testing.T) {
	sum := 0
	result := testing.Benchmark(func(b *testing.B) {
		defer cputime.Report(b)()
		for range b.N {
			for i := range 1000 {
				sum += i
			}
		}
	})
	assert.NotZero(t, sum)
	assert.Positive(t, result.Extra["cpu-ns/op"])
}
