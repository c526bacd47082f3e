package main

import "slices"

// quantile returns the value below which a share of the values lies. Between two values it
// interpolates.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := share * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func median(values []float64) float64 { return quantile(values, .5) }

// ratios returns the ratio of each value to the value of the same round in base.
func ratios(values, base []float64) (all []float64) {
	for round := range values {
		all = append(all, values[round]/base[round])
	}
	return all
}
