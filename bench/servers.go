package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"time"
)

// server is a server to measure, with a plain and a TLS port. It is a process of its own, so that
// processor time and memory are those of the server alone. Each round starts new processes: some
// processes are faster or slower for their whole life, and this must not be so in all rounds.
type server struct {
	name    string
	header  string // the bytes that a connection begins with
	command func(s *server) (*exec.Cmd, error)
	// log is the file for the server's log at the default level. If it is empty, the server logs
	// errors only.
	log string
	// http3 makes a Caddy serve HTTP/3, too.
	http3 bool
	// packets is the JSON of the packet wrapper. It is empty for none.
	packets string

	// plain and tls are the addresses of the ports. They and the process are set by start.
	plain, tls string
	*process
}

// The names of the first two servers. Every table compares with the first. The second is the same
// server again: its difference from the first is chance.
const (
	noWrapper      = "Caddy, no wrapper"
	noWrapperAgain = "Caddy, no wrapper, again"
)

const headerV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb"

// allServers returns the servers to measure. The first is the one that others are compared with.
func allServers(s settings, dir, certificate string) ([]*server, error) {
	const (
		trust = `"trusted_proxies":{"source":"static","ranges":["127.0.0.0/8","::1"]}`
		// While memory is measured, connections are silent for less time than this.
		timeout = `"timeout":"10m"`
	)
	wrapped := func(wrapper string) func(*server) (*exec.Cmd, error) {
		return func(s *server) (*exec.Cmd, error) { return caddyCommand(s, wrapper, certificate) }
	}
	servers := []*server{
		{name: noWrapper, command: wrapped("")},
		{name: noWrapperAgain, command: wrapped("")},
		{name: "Caddy, built-in `proxy_protocol`, `REQUIRE`", header: headerV2, command: wrapped(`{"wrapper":"proxy_protocol","fallback_policy":"REQUIRE",` + timeout + `}`)},
		{name: "Caddy, `proxy_protocol_mode on`", header: headerV2, command: wrapped(`{"wrapper":"proxy_protocol_mode","mode":"on",` + trust + `,` + timeout + `}`)},
		{name: "Caddy, `proxy_protocol_mode off`", command: wrapped(`{"wrapper":"proxy_protocol_mode","mode":"off",` + timeout + `}`)},
		{name: "Caddy, `proxy_protocol_mode unspecified`", header: headerV2, command: wrapped(`{"wrapper":"proxy_protocol_mode",` + timeout + `}`)},
	}
	if s.caddyOnly {
		return servers, nil
	}
	nginx, haproxy, err := peerServers(s, dir, certificate)
	return append(servers, nginx, haproxy), err
}

// peerServers returns nginx and HAProxy. It is an error if one of them is not installed.
func peerServers(s settings, dir, certificate string) (nginx, haproxy *server, err error) {
	for _, program := range []string{"nginx", "haproxy"} {
		if _, err := find(program); err != nil {
			return nil, nil, fmt.Errorf("%w; install it (apt-get install nginx-light haproxy), or leave nginx and HAProxy out with -caddy-only", err)
		}
	}
	most := s.connections + 100
	nginx = &server{name: "nginx, `proxy_protocol`", header: headerV2, command: func(s *server) (*exec.Cmd, error) { return nginxCommand(s, dir, certificate, most) }}
	haproxy = &server{name: "HAProxy, `accept-proxy`", header: headerV2, command: func(s *server) (*exec.Cmd, error) { return haproxyCommand(s, dir, certificate, most) }}
	return nginx, haproxy, nil
}

// start starts the server and waits until it answers on both ports.
func (s *server) start() error {
	var err error
	if s.plain, err = freeAddr(); err != nil {
		return err
	}
	if s.tls, err = freeAddr(); err != nil {
		return err
	}
	cmd, err := s.command(s)
	if err != nil {
		return err
	}
	if s.process, err = startProcess(cmd, s.log); err != nil {
		return err
	}
	err = errors.New("not tried")
	for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		err = errors.Join(load{}.once(s), load{tls: true}.once(s))
	}
	if err != nil {
		s.stop()
		return fmt.Errorf("%s does not answer: %w", s.name, err)
	}
	s.findProcesses()
	return nil
}

// withAll starts all servers, calls do, and stops the servers.
func withAll(servers []*server, do func() error) error {
	for _, s := range servers {
		if err := s.start(); err != nil {
			return err
		}
		defer s.stop()
	}
	return do()
}

// shuffled returns the servers in random order.
func shuffled(servers []*server) []*server {
	mixed := make([]*server, len(servers))
	for to, from := range rand.Perm(len(servers)) {
		mixed[to] = servers[from]
	}
	return mixed
}

// freeAddr returns a loopback address with a free port.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
