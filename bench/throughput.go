package main

import "time"

// throughput has the requests per second of a server under a load, and the processor time per
// request in microseconds, by round.
type throughput struct{ perSecond, cpu []float64 }

// measureLoads returns a table for each load.
func measureLoads(s settings, servers []*server) (tables []table, err error) {
	measured := make(map[load]map[*server]*throughput)
	for _, l := range loads {
		measured[l] = make(map[*server]*throughput)
		for _, srv := range servers {
			measured[l][srv] = new(throughput)
		}
	}
	for round := range s.rounds {
		progress("requests: round %d of %d", round+1, s.rounds)
		err := withAll(servers, func() error {
			for _, l := range loads {
				amounts, err := takeTurns(s, servers, l)
				if err != nil {
					return err
				}
				for srv, a := range amounts {
					r := measured[l][srv]
					r.perSecond = append(r.perSecond, float64(a.requests)/a.elapsed.Seconds())
					r.cpu = append(r.cpu, float64(a.cpu)/float64(time.Microsecond)/float64(a.requests))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, l := range loads {
		t := table{title: l.name, words: 1, head: []string{"server", "per second", "ratio (quartiles)", "CPU each, µs", "ratio (quartiles)"}}
		base := measured[l][servers[0]]
		for _, srv := range servers {
			r := measured[l][srv]
			t.rows = append(t.rows, []string{
				srv.name,
				number("%.0f", r.perSecond), compared(r.perSecond, base.perSecond, .25, .75),
				number("%.1f", r.cpu), compared(r.cpu, base.cpu, .25, .75),
			})
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// takeTurns gives each server its turns of a round, in another order each time. It returns the sum
// of all turns of a server but the first, which warms up the server.
func takeTurns(s settings, servers []*server, l load) (map[*server]*amount, error) {
	amounts := make(map[*server]*amount)
	for turn := range s.turns + 1 {
		for _, srv := range shuffled(servers) {
			a, err := l.turn(srv, s.workers, s.turn)
			if err != nil {
				return nil, err
			}
			if turn == 0 {
				amounts[srv] = new(amount)
				continue
			}
			amounts[srv].add(a)
		}
	}
	return amounts, nil
}
