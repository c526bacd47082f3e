// Command benchplot draws pictures of the ratios in the tables of benchmarks.
//
//	benchplot docs/benchmarks.md
//
// The pictures are SVG files beside the document. They are drawn from the numbers in the document
// and from nothing else, so the same document always gives the same pictures.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// picture is a chart of one or more tables of the document.
type picture struct {
	file  string
	title string // of the axis
	// tables are the titles of the tables. Each is a group of rows, unless group names a column.
	tables []string
	group  string            // the column whose values are the groups; empty for none
	rows   string            // the column that names the rows
	ratio  int               // the number of the column with a ratio to draw, counted from the last, which is 0
	leave  map[string]bool   // rows that are left out
	names  map[string]string // short names of rows
}

const (
	noWrapper = "Caddy, no wrapper"
	nginx     = "nginx, `proxy_protocol`"
	haproxy   = "HAProxy, `accept-proxy`"
)

var names = map[string]string{
	noWrapper:             "no wrapper",
	noWrapper + ", again": "no wrapper, again (chance)",
	"Caddy, built-in `proxy_protocol`, `REQUIRE`": "built-in, REQUIRE",
	"Caddy, built-in `proxy_protocol`, `REJECT`":  "built-in, REJECT",
	"Caddy, `proxy_protocol_mode on`":             "this module, on",
	"Caddy, `proxy_protocol_mode off`":            "this module, off",
	"Caddy, `proxy_protocol_mode unspecified`":    "this module, unspecified",
	nginx:   "nginx",
	haproxy: "HAProxy",
}

var pictures = []picture{
	{
		file:  "benchmarks-requests.svg",
		title: "processor time of a request; 1 is Caddy without a wrapper",
		tables: []string{"New connections", "Keep-alive requests",
			"New TLS connections", "Keep-alive requests over TLS"},
		rows: "server",
		// They say nothing about wrappers, and are far away on the axis.
		leave: map[string]bool{noWrapper: true, nginx: true, haproxy: true},
		names: names,
	},
	{
		file:   "benchmarks-refusals.svg",
		title:  "processor time of a refused connection; 1 is Caddy without a wrapper, which answers",
		tables: []string{"Refused connections"},
		group:  "what comes",
		rows:   "server",
		ratio:  1, // the last one compares with the built-in wrapper
		leave:  map[string]bool{noWrapper: true},
		names:  names,
	},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: benchplot docs/benchmarks.md")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "benchplot:", err)
		os.Exit(1)
	}
}

func run(document string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	for _, p := range pictures {
		svg, err := p.draw(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(document), p.file), svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}
