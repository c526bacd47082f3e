package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// refusal is a connection or a datagram that this module refuses. Other servers refuse it, too, or
// answer.
type refusal struct {
	name     string
	from     string     // IP address of the sender
	sends    string     // bytes of the connection or the datagram
	attempts []*attempt // the first is at a Caddy without a wrapper
}

// attempt is a refusal at one server: the expected reaction, and the measured cost.
type attempt struct {
	*server
	// answer is the expected status. If it is empty, the server must close the connection
	// without a byte.
	answer string
	// reason is the expected reason in this module's log. It is empty for other servers.
	reason string
	// builtIn marks Caddy's built-in wrapper, with which the others are compared.
	builtIn bool
	cpu     []float64 // microseconds per refusal, by round
}

// The servers trust the first of these addresses, and not the second.
const (
	trustedIP   = "127.0.0.1"
	untrustedIP = "127.0.0.2"
)

const (
	// malformedV2 is too short for its addresses.
	malformedV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x04\xc0\x00\x02\x01"

	headerOfDatagram    = "\r\n\r\n\x00\r\nQUIT\n\x21\x12\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb"
	malformedOfDatagram = "\r\n\r\n\x00\r\nQUIT\n\x21\x12\x00\x04\xc0\x00\x02\x01"
)

// stray is a packet of a QUIC connection that does not exist. QUIC drops it.
var stray = "\x40" + strings.Repeat("stray ", 200)

// measureRefusals returns a table for refused connections, and one for dropped datagrams.
func measureRefusals(s settings, dir, certificate string) ([]table, error) {
	connections, datagrams, servers, err := allRefusals(s, dir, certificate)
	if err != nil {
		return nil, err
	}
	for round := range s.rounds {
		progress("refusals: round %d of %d", round+1, s.rounds)
		err := withAll(servers, func() error {
			err := takeRefusals(s, connections, (*refusal).connections)
			if err == nil {
				err = takeRefusals(s, datagrams, (*refusal).datagrams)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []table{connectionTable(connections), datagramTable(datagrams)}, nil
}

// allRefusals returns all refusals over TCP and over UDP, and the servers of their attempts.
func allRefusals(s settings, dir, certificate string) (connections, datagrams []*refusal, servers []*server, err error) {
	add := func(srv *server) *server {
		srv.log = filepath.Join(dir, fmt.Sprintf("refusals%d.log", len(servers)))
		servers = append(servers, srv)
		return srv
	}
	caddy := func(name, header, wrapper string) *server {
		return add(&server{name: name, header: header, command: func(s *server) (*exec.Cmd, error) { return caddyCommand(s, wrapper, certificate) }})
	}
	http3 := func(name, wrapper string) *server {
		srv := caddy(name, "", "")
		srv.http3, srv.packets = true, wrapper
		return srv
	}
	const on = `{"wrapper":"proxy_protocol_mode","mode":"on","trusted_proxies":{"source":"static","ranges":["` + trustedIP + `/32"]}}`
	var (
		none      = caddy(noWrapper, "", "")
		noneAgain = caddy(noWrapperAgain, "", "")
		require   = caddy("Caddy, built-in `proxy_protocol`, `REQUIRE`", headerV2, `{"wrapper":"proxy_protocol","fallback_policy":"REQUIRE"}`)
		reject    = caddy("Caddy, built-in `proxy_protocol`, `REJECT`", "", `{"wrapper":"proxy_protocol","fallback_policy":"REJECT"}`)
		wrapped   = caddy("Caddy, `proxy_protocol_mode on`", headerV2, on)
		off       = caddy("Caddy, `proxy_protocol_mode off`", "", `{"wrapper":"proxy_protocol_mode","mode":"off"}`)

		noneUDP      = http3(noWrapper, "")
		noneAgainUDP = http3(noWrapperAgain, "")
		wrappedUDP   = http3("Caddy, `proxy_protocol_mode on`", on)
	)
	missing := &refusal{name: "no header", from: trustedIP, sends: string(request), attempts: []*attempt{
		{server: none, answer: "200"},
		{server: noneAgain, answer: "200"},
		{server: require, builtIn: true},
		{server: wrapped, reason: "missing"},
	}}
	malformed := &refusal{name: "a malformed header", from: trustedIP, sends: malformedV2 + string(request), attempts: []*attempt{
		{server: none, answer: "400"},
		{server: require, builtIn: true},
		{server: wrapped, reason: "malformed"},
	}}
	connections = []*refusal{
		missing,
		{name: "a header of an untrusted peer", from: untrustedIP, sends: headerV2 + string(request), attempts: []*attempt{
			{server: none, answer: "400"},
			{server: reject, builtIn: true},
			{server: wrapped, reason: "untrusted"},
		}},
		malformed,
		{name: "a header where none is allowed", from: trustedIP, sends: headerV2 + string(request), attempts: []*attempt{
			{server: none, answer: "400"},
			{server: reject, builtIn: true},
			{server: off, reason: "forbidden"},
		}},
	}
	datagrams = []*refusal{
		{name: "no header", from: trustedIP, sends: stray, attempts: []*attempt{
			{server: noneUDP}, {server: noneAgainUDP}, {server: wrappedUDP, reason: "missing"},
		}},
		{name: "a header of an untrusted peer", from: untrustedIP, sends: headerOfDatagram + stray, attempts: []*attempt{
			{server: noneUDP}, {server: wrappedUDP, reason: "untrusted"},
		}},
		{name: "a malformed header", from: trustedIP, sends: malformedOfDatagram + stray, attempts: []*attempt{
			{server: noneUDP}, {server: wrappedUDP, reason: "malformed"},
		}},
	}
	if s.caddyOnly {
		return connections, datagrams, servers, nil
	}
	nginx, haproxy, err := peerServers(s, dir, certificate)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, srv := range []*server{nginx, haproxy} {
		add(srv)
		for _, r := range []*refusal{missing, malformed} {
			r.attempts = append(r.attempts, &attempt{server: srv})
		}
	}
	return connections, datagrams, servers, nil
}

// takeRefusals measures a round: all turns of all attempts but the first turn, which warms up the
// server.
func takeRefusals(s settings, all []*refusal, turn func(*refusal, settings, *attempt) (amount, error)) error {
	for _, r := range all {
		amounts := make([]amount, len(r.attempts))
		for i := range s.turns + 1 {
			for _, at := range rand.Perm(len(r.attempts)) {
				done, err := turn(r, s, r.attempts[at])
				if err != nil {
					return fmt.Errorf("%s: %s: %w", r.name, r.attempts[at].name, err)
				}
				if i > 0 {
					amounts[at].add(done)
				}
			}
		}
		for i, m := range r.attempts {
			if err := m.checkLog(); err != nil {
				return fmt.Errorf("%s: %s: %w", r.name, m.name, err)
			}
			m.cpu = append(m.cpu, float64(amounts[i].cpu)/float64(time.Microsecond)/float64(amounts[i].requests))
		}
	}
	return nil
}

// checkLog returns an error if the server's log has no refusal with the expected reason: the table
// would then be wrong.
func (m *attempt) checkLog() error {
	if m.reason == "" {
		return nil
	}
	if want := fmt.Sprintf(`"reason":%q`, m.reason); !strings.Contains(fileText(m.log), want) {
		return fmt.Errorf("its log does not say %s", want)
	}
	return nil
}

// connections makes refused connections for the length of a turn.
func (r *refusal) connections(s settings, m *attempt) (amount, error) {
	ask := make([]func() error, s.workers)
	for i := range ask {
		ask[i] = func() error { return r.connection(m) }
	}
	return m.measureWhile(ask, s.turn)
}

// connection makes one refused connection and checks the answer.
func (r *refusal) connection(m *attempt) error {
	c, err := dial(m.plain, r.from, "")
	if err != nil {
		return err
	}
	defer c.Close()
	if m.answer == "200" {
		return get(c)
	}
	// The write fails if the server closes the connection before it has read the bytes.
	_, _ = io.WriteString(c, r.sends)
	answer, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the connection is still open")
	}
	expected := len(answer) == 0
	if m.answer != "" {
		expected = strings.HasPrefix(string(answer), "HTTP/1.1 "+m.answer+" ")
	}
	if !expected {
		return fmt.Errorf("unexpected answer %q (%v)", answer, err)
	}
	return nil
}

// burst is the number of datagrams that are sent at a time. They fit into the default receive
// buffer of a socket on Linux.
const burst = 64

// datagrams sends dropped datagrams for the length of a turn. Datagrams that were lost before the
// server read them do not count.
func (r *refusal) datagrams(s settings, m *attempt) (amount, error) {
	to, err := net.ResolveUDPAddr("udp", m.tls)
	if err != nil {
		return amount{}, err
	}
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(r.from)}, to)
	if err != nil {
		return amount{}, err
	}
	defer c.Close()
	_, lostBefore, err := udpQueue(to)
	if err != nil {
		return amount{}, err
	}
	done, err := m.measureWhile([]func() error{func() error { return sendBurst(c, to, r.sends) }}, s.turn)
	if err != nil {
		return amount{}, err
	}
	_, lost, err := udpQueue(to)
	done.requests = done.requests*burst - (lost - lostBefore)
	return done, err
}

// sendBurst sends datagrams and waits until the server has read all of them. A datagram that is
// lost in a full buffer would cost the server nothing.
func sendBurst(c *net.UDPConn, to *net.UDPAddr, datagram string) error {
	for range burst {
		if _, err := io.WriteString(c, datagram); err != nil {
			return err
		}
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		waiting, _, err := udpQueue(to)
		if err != nil || waiting == 0 {
			return err
		}
		time.Sleep(50 * time.Microsecond) // reading /proc takes processor time, too
	}
	return errors.New("the server does not take datagrams")
}

// udpQueue returns the number of bytes that wait at the UDP socket with an address, and the number
// of datagrams that the socket has lost because its buffer was full.
func udpQueue(addr *net.UDPAddr) (waiting, lost int64, err error) {
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(addr.IP.To4()), addr.Port)
	for line := range strings.Lines(fileText("/proc/net/udp")) {
		fields := strings.Fields(line)
		if len(fields) < 13 || fields[1] != local {
			continue
		}
		if _, err := fmt.Sscanf(fields[4], "%X:%X", new(int64), &waiting); err != nil {
			return 0, 0, err
		}
		_, err := fmt.Sscan(fields[12], &lost)
		return waiting, lost, err
	}
	return 0, 0, fmt.Errorf("nothing listens at %v", addr)
}

func connectionTable(refused []*refusal) table {
	t := table{title: "Refused connections", words: 3, head: []string{"what comes", "server", "answer", "CPU each, µs", "ratio to no wrapper (quartiles)", "ratio to built-in (quartiles)"}}
	for _, r := range refused {
		var builtIn []float64
		for _, m := range r.attempts {
			if m.builtIn {
				builtIn = m.cpu
			}
		}
		for _, m := range r.attempts {
			answer := m.answer
			if answer == "" {
				answer = "none"
			}
			t.rows = append(t.rows, []string{
				r.name, m.name, answer, number("%.1f", m.cpu),
				compared(m.cpu, r.attempts[0].cpu, .25, .75), compared(m.cpu, builtIn, .25, .75),
			})
		}
	}
	return t
}

func datagramTable(dropped []*refusal) table {
	t := table{title: "Dropped datagrams", words: 2, head: []string{"what comes", "server", "CPU each, µs", "ratio (quartiles)"}}
	for _, r := range dropped {
		for _, m := range r.attempts {
			t.rows = append(t.rows, []string{r.name, m.name, number("%.2f", m.cpu), compared(m.cpu, r.attempts[0].cpu, .25, .75)})
		}
	}
	return t
}
