package main

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// perConnection has the bytes of a server's memory per connection, by round.
type perConnection struct{ silent, idle []float64 }

// measureMemory returns a table of the memory of open connections: silent and idle ones.
func measureMemory(s settings, servers []*server) ([]table, error) {
	measured := make(map[*server]*perConnection)
	for _, srv := range servers {
		measured[srv] = new(perConnection)
	}
	for round := range s.rounds {
		progress("memory: round %d of %d", round+1, s.rounds)
		for _, srv := range shuffled(servers) {
			if err := srv.start(); err != nil {
				return nil, err
			}
			silent, idle, err := srv.memory(s.connections)
			srv.stop()
			if err != nil {
				return nil, fmt.Errorf("memory: %s: %w", srv.name, err)
			}
			m := measured[srv]
			m.silent, m.idle = append(m.silent, silent), append(m.idle, idle)
		}
	}
	t := table{title: "Memory of open connections", words: 1, head: []string{"server", "bytes, silent", "ratio (quartiles)", "bytes, idle", "ratio (quartiles)"}}
	base := measured[servers[0]]
	for _, srv := range servers {
		m := measured[srv]
		t.rows = append(t.rows, []string{
			srv.name,
			number("%.0f", m.silent), compared(m.silent, base.silent, .25, .75),
			number("%.0f", m.idle), compared(m.idle, base.idle, .25, .75),
		})
	}
	return []table{t}, nil
}

// memory returns the memory of a connection, as the average of n. A silent connection has not sent
// a byte yet, an idle one has had one request.
func (s *server) memory(n int) (silent, idle float64, err error) {
	before, err := s.settled()
	if err != nil {
		return 0, 0, err
	}
	if before == 0 {
		return 0, 0, errors.New("this system does not report it")
	}
	connections := make([]net.Conn, n)
	for i := range connections {
		if connections[i], err = (load{}).connect(s); err != nil {
			return 0, 0, err
		}
		defer connections[i].Close()
	}
	// A few of the open files are not connections, so the last few connections may not be
	// accepted yet. They are while the server settles.
	for end := time.Now().Add(time.Minute); s.files() < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return 0, 0, fmt.Errorf("expected %d accepted connections within a minute, got %d", n, s.files())
		}
	}
	quiet, err := s.settled()
	if err != nil {
		return 0, 0, err
	}
	for _, c := range connections {
		if err := get(c); err != nil {
			return 0, 0, err
		}
	}
	after, err := s.settled()
	return float64(quiet-before) / float64(n), float64(after-before) / float64(n), err
}

// settled waits until the memory in use stays the same, for a limited time, and returns it in
// bytes.
func (s *server) settled() (used int, err error) {
	for range 20 {
		if err := s.collect(); err != nil {
			return 0, err
		}
		last := used
		if used = s.resident(); max(used, last)-min(used, last) < 100<<10 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return used, nil
}
