package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// load is a way to ask a server for as much as it can give.
type load struct {
	name string
	// work sends requests until the deadline and returns how many were answered.
	work func(s server, until time.Time) (int, error)
}

var (
	newConnections    = load{"new connection per request", workNew}
	keepAlive         = load{"keep-alive requests", workKeepAlive}
	newTLSConnections = load{"new TLS connection per request", workNewTLS}
)

// run asks a server for as long as duration.
func (l load) run(s server, duration time.Duration, workers int) result {
	var total atomic.Int64
	var wait sync.WaitGroup
	cpu, start := s.cpu(), time.Now()
	for range workers {
		wait.Go(func() {
			n, err := l.work(s, start.Add(duration))
			if err != nil {
				log.Fatalf("%s: %s: %v", l.name, s.name, err)
			}
			total.Add(int64(n))
		})
	}
	wait.Wait()
	n := total.Load()
	return result{
		rate: float64(n) / time.Since(start).Seconds(),
		cpu:  (s.cpu() - cpu) / time.Duration(max(n, 1)),
	}
}

func workNew(s server, until time.Time) (n int, err error) {
	for header := []byte(s.header); time.Now().Before(until); n++ {
		c, err := dial(s.plain)
		if err != nil {
			return n, err
		}
		err = get(c, header)
		c.Close()
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func workKeepAlive(s server, until time.Time) (n int, err error) {
	c, err := dial(s.plain)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for header := []byte(s.header); time.Now().Before(until); n++ {
		if err := get(c, header); err != nil {
			return n, err
		}
		header = nil
	}
	return n, nil
}

var tlsConfig = &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}

func workNewTLS(s server, until time.Time) (n int, err error) {
	for time.Now().Before(until) {
		c, err := dial(s.tls)
		if err != nil {
			return n, err
		}
		if _, err = c.Write([]byte(s.header)); err == nil {
			err = get(tls.Client(c, tlsConfig), nil)
		}
		c.Close()
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func dial(addr string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	// Thousands of connections a second would use up the ports otherwise.
	return c, c.(*net.TCPConn).SetLinger(0)
}

var request = []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

// get sends the header with a request and reads the answer, which fits one read.
func get(c net.Conn, header []byte) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(append(header[:len(header):len(header)], request...)); err != nil {
		return err
	}
	var buf [4096]byte
	n, err := c.Read(buf[:])
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200 ")) || !bytes.HasSuffix(buf[:n], []byte("ok")) {
		return fmt.Errorf("unexpected answer %q", buf[:n])
	}
	return nil
}
