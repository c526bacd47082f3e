// Command bench measures the cost of the listener wrapper and of refusals. It compares a Caddy with
// this module with one without it, one with Caddy's built-in wrapper, nginx and HAProxy. The servers
// take turns, so that a disturbance of the machine affects all of them alike. The results are
// Markdown tables; with -write they replace those of a document, and its pictures are drawn again.
//
//	go run ./bench -write docs/benchmarks.md
//
// The command needs Linux, and nginx and HAProxy unless -caddy-only leaves them out. Traffic stays
// on loopback.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// settings are the amounts of work of a run.
type settings struct {
	rounds      int           // number of rounds; numbers are compared within a round
	turns       int           // measured turns of each server per round and kind of load
	turn        time.Duration // length of a turn
	workers     int           // number of connections at a time
	connections int           // number of open connections when memory is measured
	benchtime   time.Duration // time of each of Go's benchmarks per round
	caddyOnly   bool          // leaves out nginx and HAProxy
	only        string        // name of the only part to measure; empty for all
}

var (
	thorough = settings{rounds: 20, turns: 5, turn: 200 * time.Millisecond, workers: 8, connections: 8000, benchtime: 100 * time.Millisecond}
	quick    = settings{rounds: 3, turns: 2, turn: 100 * time.Millisecond, workers: 8, connections: 4000, benchtime: 10 * time.Millisecond}
)

func main() {
	if serveCaddy() {
		return
	}
	rounds := flag.Int("rounds", 0, "how many rounds, instead of the usual number")
	short := flag.Bool("quick", false, "measure for a minute or two, which shows that it works and not much else")
	caddyOnly := flag.Bool("caddy-only", false, "leave out nginx and HAProxy")
	only := flag.String("only", "", "measure one part only: go, requests, refusals or memory")
	write := flag.String("write", "", "the document whose tables to replace")
	flag.Parse()
	s := thorough
	if *short {
		s = quick
	}
	if *rounds > 0 {
		s.rounds = *rounds
	}
	s.caddyOnly, s.only = *caddyOnly, *only
	err := run(s, *write)
	if err == nil && *write != "" {
		err = drawPictures(*write)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(s settings, document string) error {
	switch s.only {
	case "", "go", "requests", "refusals", "memory":
	default:
		return fmt.Errorf("-only: %q is not a part: use go, requests, refusals or memory", s.only)
	}
	if s.only != "" && document != "" {
		return errors.New("-only and -write: the document needs all parts: leave out one of the two")
	}
	if document != "" { // an error is better found now than after the run
		if err := replaceResults(document, nil); err != nil {
			return err
		}
	}
	results, err := measure(s)
	if err != nil {
		return err
	}
	fmt.Print(results)
	if document == "" {
		return nil
	}
	return replaceResults(document, &results)
}

// progress prints a line on standard error about the part that runs now.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// measure runs all parts, or the only one. It returns a description of the machine and the tables.
func measure(s settings) (results string, err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	defer signal.Stop(interrupted)
	go func() {
		<-interrupted
		_ = os.RemoveAll(dir)
		os.Exit(1)
	}()
	certificate, err := writeCertificate(dir)
	if err != nil {
		return "", err
	}
	servers, err := allServers(s, dir, certificate)
	if err != nil {
		return "", err
	}
	if results, err = machine(s); err != nil {
		return "", err
	}
	for _, part := range []struct {
		name    string
		measure func() ([]table, error)
	}{
		{"go", func() ([]table, error) { return measureGo(s, dir) }},
		{"requests", func() ([]table, error) { return measureLoads(s, servers) }},
		{"refusals", func() ([]table, error) { return measureRefusals(s, dir, certificate) }},
		{"memory", func() ([]table, error) { return measureMemory(s, servers) }},
	} {
		if s.only != "" && s.only != part.name {
			continue
		}
		tables, err := part.measure()
		if err != nil {
			return "", err
		}
		for _, t := range tables {
			results += "\n" + t.String()
		}
	}
	return results, nil
}
