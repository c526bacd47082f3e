package main

import (
	"fmt"
	"math"
	"strings"
)

// table is a table of the results. Its first columns have words, the others numbers.
type table struct {
	title string
	words int // number of columns with words
	head  []string
	rows  [][]string
}

// String returns the table as Markdown.
func (t table) String() string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	fmt.Fprintf(&b, "### %s\n\n", t.title)
	line(t.head)
	rule := make([]string, len(t.head))
	for i := range rule {
		rule[i] = "---"
		if i >= t.words {
			rule[i] = "--:"
		}
	}
	line(rule)
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}

// number returns the median of values as text, or a dash if it is not a number.
func number(format string, values []float64) string {
	if m := median(values); !math.IsNaN(m) && !math.IsInf(m, 0) {
		return fmt.Sprintf(format, m)
	}
	return "–"
}

// compared returns the median of the ratios to the values of the same round in base, and the
// quantiles low and high of these ratios. It returns "1" for base itself.
func compared(values, base []float64, low, high float64) string {
	if &values[0] == &base[0] {
		return "1"
	}
	ratios := ratios(values, base)
	if number("%f", ratios) == "–" {
		return "–"
	}
	return fmt.Sprintf("%.3f (%.3f–%.3f)", median(ratios), quantile(ratios, low), quantile(ratios, high))
}
