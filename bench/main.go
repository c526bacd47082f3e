// Command bench measures what the listener wrapper costs a whole Caddy, beside the same
// Caddy without a wrapper and with its built-in one. All run in one process of their own
// and are measured in turn, round by round; the result is a table of ratios to the
// unwrapped server of the same round.
//
//	go run ./bench
//
// Traffic stays on loopback, and the command stops by itself.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"slices"
	"time"
)

func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 20, "how many rounds; each measures every server once")
	duration := flag.Duration("duration", time.Second, "how long a server is measured in a round")
	workers := flag.Int("workers", 8, "how many connections at a time")
	serve := flag.String("serve", "", "internal: run Caddy with this JSON configuration")
	flag.Parse()
	if *serve != "" {
		serveCaddy(*serve)
		return
	}
	servers, stop, err := startServers()
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	for _, load := range []load{newConnections, keepAlive, newTLSConnections} {
		report(load, servers, measure(load, servers, *rounds, *duration, *workers))
	}
}

// result is what was measured of a server in one round.
type result struct {
	rate float64       // requests per second
	cpu  time.Duration // of Caddy, per request
}

// measure returns the results of every server in every round. The order of the servers is
// another one each round.
func measure(l load, servers []server, rounds int, duration time.Duration, workers int) map[string][]result {
	results := make(map[string][]result)
	for round := range rounds + 1 {
		for _, i := range rand.Perm(len(servers)) {
			r := l.run(servers[i], duration, workers)
			if round > 0 { // the first warms up
				results[servers[i].name] = append(results[servers[i].name], r)
			}
		}
	}
	return results
}

// report prints a table of medians and of ratios to the first server, round by round.
func report(l load, servers []server, results map[string][]result) {
	fmt.Printf("\n%s, %d rounds\n\n", l.name, len(results[servers[0].name]))
	fmt.Print("| server | requests/s, median | ratio, median | quartiles | range | CPU per request, ratio, median | quartiles |\n|---|--:|--:|--:|--:|--:|--:|\n")
	base := results[servers[0].name]
	for _, s := range servers {
		var rates, ratios, cpu []float64
		for round, r := range results[s.name] {
			rates = append(rates, r.rate)
			ratios = append(ratios, r.rate/base[round].rate)
			cpu = append(cpu, float64(r.cpu)/float64(base[round].cpu))
		}
		fmt.Printf("| %s | %.0f | %.3f | %.3f to %.3f | %.3f to %.3f | %.3f | %.3f to %.3f |\n", s.name, quantile(rates, .5),
			quantile(ratios, .5), quantile(ratios, .25), quantile(ratios, .75), slices.Min(ratios), slices.Max(ratios),
			quantile(cpu, .5), quantile(cpu, .25), quantile(cpu, .75))
	}
}

// quantile returns the value that a share of the values is below.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := share * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
