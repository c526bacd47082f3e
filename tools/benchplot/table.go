package main

import (
	"fmt"
	"slices"
	"strings"
)

// table has the cells of a Markdown table. The first row has the titles of the columns.
type table [][]string

// findTable returns the first table below the heading "### title".
func findTable(document, title string) (table, error) {
	_, section, found := strings.Cut(document, "\n### "+title+"\n")
	if !found {
		return nil, fmt.Errorf("the document has no heading '### %s'", title)
	}
	section, _, _ = strings.Cut(section, "\n#")
	var t table
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			continue
		}
		if strings.HasPrefix(line, "| ---") {
			continue
		}
		row := strings.Split(strings.Trim(line, "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if len(t) > 0 && len(row) != len(t[0]) {
			return nil, fmt.Errorf("%s: a row has %d columns instead of %d: %s", title, len(row), len(t[0]), line)
		}
		t = append(t, row)
	}
	if len(t) < 2 {
		return nil, fmt.Errorf("%s: there is no table", title)
	}
	return t, nil
}

// column returns the number of a column.
func (t table) column(title string) (int, error) {
	i := slices.Index(t[0], title)
	if i < 0 {
		return 0, fmt.Errorf("no column '%s' among %q", title, t[0])
	}
	return i, nil
}

// measured is a ratio: a median and the quartiles, or 1 for what others are compared with.
type measured struct{ median, low, high float64 }

// parseMeasured reads a ratio as Command bench writes it: "1" or "0.988 (0.977–0.999)".
func parseMeasured(cell string) (m measured, err error) {
	if cell == "1" {
		return measured{1, 1, 1}, nil
	}
	if _, err = fmt.Sscanf(cell, "%g (%g–%g)", &m.median, &m.low, &m.high); err != nil {
		return m, fmt.Errorf("'%s' is not a ratio: %w", cell, err)
	}
	if m.low > m.median || m.median > m.high {
		return m, fmt.Errorf("'%s': the median is not between the quartiles", cell)
	}
	return m, nil
}
