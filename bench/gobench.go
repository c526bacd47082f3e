package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const module = "github.com/portzero/caddy-proxy-protocol"

// goBenchmark is a Go benchmark with sub-benchmarks. The name of a sub-benchmark is a task, a slash
// and the variant that does the task. Variants of a task are compared with the variant base.
type goBenchmark struct {
	title, pkg, name string
	head             []string // titles of the columns of task and variant
	base             string
}

var goBenchmarks = []goBenchmark{
	{"Decoding a header", module + "/internal/wire", "BenchmarkDecode", []string{"header", "decoder"}, "pires"},
	{"Setting up a connection", module + "/internal/stream", "BenchmarkConn", []string{"header", "connection"}, "pires"},
	{"Judging a peer", module + "/internal/policy", "BenchmarkPolicy", []string{"peer", "ranges"}, "1"},
}

// goResult has the numbers that one sub-benchmark reported.
type goResult struct {
	task, variant string
	metrics       map[string][]float64 // by unit and round
}

// measureGo returns a table for each of Go's benchmarks.
func measureGo(s settings, dir string) (tables []table, err error) {
	progress("Go's benchmarks: building")
	build := []string{"test", "-c", "-o", dir}
	if builtWithRace() { // so that packages in the build cache can be used
		build = append(build, "-race")
	}
	for _, b := range goBenchmarks {
		build = append(build, b.pkg)
	}
	if _, err := output(10*time.Minute, "go", build...); err != nil {
		return nil, err
	}
	results := make([][]*goResult, len(goBenchmarks))
	for round := range s.rounds {
		progress("Go's benchmarks: round %d of %d", round+1, s.rounds)
		for i, b := range goBenchmarks {
			text, err := output(time.Minute+100*s.benchtime, b.binary(dir), "-test.run=^$", "-test.bench=^"+b.name+"$",
				"-test.benchtime="+s.benchtime.String(), "-test.benchmem", "-test.cpu=1")
			if err != nil {
				return nil, err
			}
			results[i] = addGoResults(results[i], b.name, text)
		}
	}
	for i, b := range goBenchmarks {
		tables = append(tables, b.table(results[i]))
	}
	return tables, nil
}

// binary returns the path of the test binary of the benchmark's package.
func (b goBenchmark) binary(dir string) string { return filepath.Join(dir, path.Base(b.pkg)+".test") }

// builtWithRace reports whether this program has the race detector in it.
func builtWithRace() bool {
	info, _ := debug.ReadBuildInfo()
	for _, setting := range info.Settings {
		if setting.Key == "-race" {
			return setting.Value == "true"
		}
	}
	return false
}

// addGoResults adds the numbers that a run printed. Its lines are like this:
//
//	BenchmarkDecode/v1/ipv4/this  12345  99.5 ns/op  0 B/op  0 allocs/op
func addGoResults(results []*goResult, name string, text []byte) []*goResult {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], name+"/") {
			continue
		}
		task, variant := path.Split(strings.TrimPrefix(fields[0], name+"/"))
		task, variant = strings.TrimSuffix(spaces(task), "/"), spaces(variant)
		r := findResult(results, task, variant)
		if r == nil {
			r = &goResult{task, variant, make(map[string][]float64)}
			results = append(results, r)
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
				r.metrics[fields[i+1]] = append(r.metrics[fields[i+1]], value)
			}
		}
	}
	return results
}

// spaces turns the underscores that Go writes in names back into spaces.
func spaces(name string) string { return strings.ReplaceAll(name, "_", " ") }

func findResult(results []*goResult, task, variant string) *goResult {
	for _, r := range results {
		if r.task == task && r.variant == variant {
			return r
		}
	}
	return nil
}

func (b goBenchmark) table(results []*goResult) table {
	t := table{title: b.title, words: 2, head: append(b.head, "CPU, ns", "ratio (range)", "B", "allocations")}
	for _, r := range results {
		row := []string{r.task, r.variant, "–", "–", number("%.0f", r.metrics["B/op"]), number("%.0f", r.metrics["allocs/op"])}
		if cpu, base := r.metrics["cpu-ns/op"], findResult(results, r.task, b.base); cpu != nil && base != nil {
			row[2], row[3] = number("%.1f", cpu), compared(cpu, base.metrics["cpu-ns/op"], 0, 1)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// output runs a command for at most the time bound, and returns its output.
func output(bound time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return out, nil
}
