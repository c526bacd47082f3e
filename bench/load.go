package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// load is a kind of requests, of which a server gets as many as it can serve.
type load struct {
	name      string
	tls       bool
	keepAlive bool
}

var loads = []load{
	{name: "New connections"},
	{name: "Keep-alive requests", keepAlive: true},
	{name: "New TLS connections", tls: true},
	{name: "Keep-alive requests over TLS", tls: true, keepAlive: true},
}

// amount is the work of a server: its number of requests, and the time they took.
type amount struct {
	requests int64
	elapsed  time.Duration
	cpu      time.Duration // processor time of the server
}

func (a *amount) add(b amount) {
	a.requests += b.requests
	a.elapsed += b.elapsed
	a.cpu += b.cpu
}

// turn sends requests to a server for the length of a turn. Connections for keep-alive requests
// are opened before, and are not measured.
func (l load) turn(s *server, workers int, length time.Duration) (amount, error) {
	ask := make([]func() error, workers)
	for i := range ask {
		ask[i] = func() error { return l.once(s) }
		if !l.keepAlive {
			continue
		}
		c, err := l.connect(s)
		if err != nil {
			return amount{}, err
		}
		defer c.Close()
		ask[i] = func() error { return get(c) }
		if err := ask[i](); err != nil {
			return amount{}, err
		}
	}
	done, err := s.measureWhile(ask, length)
	if err != nil {
		return amount{}, fmt.Errorf("%s: %s: %w", l.name, s.name, err)
	}
	return done, nil
}

// measureWhile measures a server while goroutines call the functions, each one of them over and
// over again, until length has passed.
func (s *server) measureWhile(ask []func() error, length time.Duration) (amount, error) {
	var requests atomic.Int64
	var wait sync.WaitGroup
	failed := make([]error, len(ask))
	cpu, start := s.cpu(), time.Now()
	for i, ask := range ask {
		wait.Go(func() {
			for failed[i] == nil {
				failed[i] = ask()
				requests.Add(1)
				if time.Since(start) > length {
					break
				}
			}
		})
	}
	wait.Wait()
	return amount{requests.Load(), time.Since(start), s.cpu() - cpu}, errors.Join(failed...)
}

// once sends one request over a new connection.
func (l load) once(s *server) error {
	c, err := l.connect(s)
	if err != nil {
		return err
	}
	defer c.Close()
	return get(c)
}

// tlsConfig is the TLS configuration of all connections. All servers do the same key exchange and
// resume no sessions: otherwise the results would say more about their TLS libraries.
var tlsConfig = &tls.Config{
	ServerName:         "localhost",
	InsecureSkipVerify: true,
	MinVersion:         tls.VersionTLS13,
	CurvePreferences:   []tls.CurveID{tls.X25519},
}

// connect opens a connection to the plain or the TLS port of a server.
func (l load) connect(s *server) (net.Conn, error) {
	addr := s.plain
	if l.tls {
		addr = s.tls
	}
	c, err := dial(addr, "", s.header)
	if err != nil || !l.tls {
		return c, err
	}
	return tls.Client(c, tlsConfig), nil
}

// prefixedConn is a connection that writes a header before the bytes of the first Write.
type prefixedConn struct {
	net.Conn
	header string
}

// Write writes p, behind the header if it is the first Write.
func (c *prefixedConn) Write(p []byte) (int, error) {
	if c.header == "" {
		return c.Conn.Write(p)
	}
	both := append([]byte(c.header), p...)
	n, err := c.Conn.Write(both)
	n = max(n-len(c.header), 0)
	c.header = ""
	return n, err
}

// dial opens a connection that begins with a header. from is the local IP address; it may be
// empty.
func dial(addr, from, header string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := dialer.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	// Close resets the connection: in TIME_WAIT, thousands of connections a second would use up
	// the ports.
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return nil, err
	}
	return &prefixedConn{c, header}, c.SetDeadline(time.Now().Add(time.Minute))
}

var request = []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

// get sends a request, reads the response and checks that it is the expected one.
func get(c net.Conn) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	var buf [4096]byte
	for n := 0; ; {
		more, err := c.Read(buf[n:])
		n += more
		head, body, _ := bytes.Cut(buf[:n], []byte("\r\n\r\n"))
		if len(body) < len("ok") && err == nil && n < len(buf) {
			continue
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || string(body) != "ok" {
			return fmt.Errorf("unexpected answer %q (%v)", buf[:n], err)
		}
		return nil
	}
}
