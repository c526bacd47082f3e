package stream

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gaissmai/bart"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// bound is how long tests wait for events that must happen.
const bound = 10 * time.Second

// The addresses in headers, and the input of connections.
const (
	clientAddr = "203.0.113.7:56324"
	serverAddr = "198.51.100.9:8443"
	headerV1   = "PROXY TCP4 203.0.113.7 198.51.100.9 56324 8443\r\n"
	getRequest = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
)

var (
	peerAddr   net.Addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:4711"))
	socketAddr net.Addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.2:443"))
	headerV2            = headerText(2, wire.Stream, clientAddr, serverAddr)
)

// headerText encodes a header with addresses.
func headerText(version uint8, transport wire.Transport, src, dst string, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(version, transport, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	return headertest.TextWith(h, err, false, tlvs...)
}

// headerWithChecksum returns a v2 header with a checksum.
func headerWithChecksum(src, dst string, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Stream, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	return headertest.TextWith(h, err, true, tlvs...)
}

// sharedStats are the Stats of all tests that do not count, because making new ones is slow.
var sharedStats = record.NewStats()

// testConfig returns a configuration that logs everything, and whose timeout no test reaches.
func testConfig(mode policy.Mode, options ...func(*Config)) (*Config, *listenertest.Logs) {
	log, logs := listenertest.NewLog(false)
	config := &Config{
		Policy:        policy.Policy{Mode: mode},
		Timeout:       time.Hour,
		MaxHeaderSize: 4096,
		Recorder:      record.Recorder{Log: log, Stats: sharedStats},
	}
	for _, option := range options {
		option(config)
	}
	return config, logs
}

// outcomeNamed returns the outcome of this name.
func outcomeNamed(name string) record.Outcome {
	for o := range record.Outcomes {
		if o.String() == name {
			return o
		}
	}
	panic("no outcome is named " + name)
}

// tcpAddr returns the TCP address of this text.
func tcpAddr(s string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))
}

// modeTable returns a table of the modes of ranges.
func modeTable(t testing.TB, modes map[string]policy.Mode) *bart.Table[policy.Mode] {
	table := new(bart.Table[policy.Mode])
	for s, mode := range modes {
		prefix, err := policy.ParseRange(s)
		require.NoError(t, err)
		table.Insert(prefix, mode)
	}
	return table
}

// rangeSet returns a table of ranges.
func rangeSet(t testing.TB, ranges ...string) *bart.Lite {
	set, err := policy.NewSet(ranges)
	require.NoError(t, err)
	return set
}

// withSource returns an option that sets a source that trusts these ranges. asked counts its calls.
func withSource(asked *atomic.Int32, ranges ...string) func(*Config) {
	return func(config *Config) { config.SetSource(listenertest.Source(asked, ranges...)) }
}

// event is the result of one read of a scripted connection, or of several reads if the data does
// not fit into one.
type event struct {
	data string
	err  error
}

// script is a connection in memory. Its reads return these events, and then io.EOF.
type script struct {
	mu       sync.Mutex
	events   []event
	reads    int
	into     []byte // the argument of the last read
	written  []byte
	closed   bool
	deadline time.Time // the read deadline
}

var errDeadline = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}

var errReset = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// says returns a connection whose client sends these pieces.
func says(pieces ...string) *script {
	s := new(script)
	for _, piece := range pieces {
		s.events = append(s.events, event{data: piece})
	}
	return s
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	s.into = p
	if s.closed {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}
	}
	if len(s.events) == 0 {
		return 0, io.EOF
	}
	next := &s.events[0]
	n := copy(p, next.data)
	next.data = next.data[n:]
	if next.data != "" {
		return n, nil
	}
	err := next.err
	s.events = s.events[1:]
	return n, err
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: net.ErrClosed}
	}
	s.written = append(s.written, p...)
	return len(p), nil
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *script) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

func (s *script) RemoteAddr() net.Addr             { return peerAddr }
func (s *script) LocalAddr() net.Addr              { return socketAddr }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }

// duringRead is a connection that calls a function at the end of its first read.
type duringRead struct {
	*script
	during func()
}

func (c *duringRead) Read(p []byte) (int, error) {
	n, err := c.script.Read(p)
	if during := c.during; during != nil {
		c.during = nil
		during()
	}
	return n, err
}

// afterRead is a connection that calls a function at the end of each read.
type afterRead struct {
	*script
	after func()
}

func (c *afterRead) Read(p []byte) (int, error) {
	n, err := c.script.Read(p)
	c.after()
	return n, err
}

// gatedRead is a connection whose reads report on got, and wait for goOn before they return.
type gatedRead struct {
	net.Conn
	got, goOn chan struct{}
}

func (g gatedRead) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.got <- struct{}{}
	<-g.goOn
	return n, err
}

// wrapTrusted wraps a connection of a trusted peer that was accepted now.
func wrapTrusted(c net.Conn, config *Config) *conn {
	return newConn(c, config, config.Mode, policy.Trusted, monotime.Now())
}

// networks are the networks of real connections.
var networks = []string{"tcp4", "tcp6", "unix"}

func listen(t testing.TB, network string) net.Listener {
	address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
	if network == "unix" {
		dir, err := os.MkdirTemp("", "") // t.TempDir may be too long for a socket
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil && network == "tcp6" {
		t.Skipf("no IPv6 here: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// socketPair returns both ends of a real connection that is not wrapped.
func socketPair(t testing.TB, network string) (client, server net.Conn) {
	ln := listen(t, network)
	client, err := net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// dial returns both ends of a real connection. The server's end is accepted before the client has
// sent a byte.
func dial(t testing.TB, network string, config *Config) (client net.Conn, c *conn) {
	ln := listen(t, network)
	client, err := net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	accepted, err := (&Listener{Listener: ln, Config: config}).Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return client, accepted.(*conn)
}

// pipe returns both ends of a connection in memory, which can be used in a synctest bubble.
func pipe(config *Config) (client net.Conn, c *conn) {
	client, server := net.Pipe()
	return client, wrapTrusted(server, config)
}

// send writes data to a connection, and does not wait until it is read.
func send(c net.Conn, data string) {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		io.WriteString(c, data) // the socket's buffer has room for the data of tests
	default:
		if data != "" { // an empty write to a pipe would end a read
			go io.WriteString(c, data)
		}
	}
}

// async calls f in a goroutine. The channel receives its result.
func async[T any](f func() T) <-chan T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return done
}

// wait returns the result of async.
func wait[T any](t testing.TB, done <-chan T) T {
	t.Helper()
	select {
	case result := <-done:
		return result
	case <-time.After(bound):
		require.FailNow(t, "it takes too long")
		panic("unreachable")
	}
}

// soon calls f, which must return soon.
func soon[T any](t testing.TB, f func() T) T {
	t.Helper()
	return wait(t, async(f))
}

// result is the result of a read.
type result struct {
	data string
	err  error
}

func readOnce(c io.Reader, size int) result {
	p := make([]byte, size)
	n, err := c.Read(p)
	return result{string(p[:n]), err}
}

func readAll(c io.Reader) result {
	b, err := io.ReadAll(c)
	return result{string(b), err}
}

// untilHeaderIsRead waits until a goroutine reads the header.
func untilHeaderIsRead(t testing.TB, c *conn) {
	t.Helper()
	require.Eventually(t, func() bool {
		if c.headerMu.TryLock() {
			c.headerMu.Unlock()
			return false
		}
		return true
	}, bound, time.Millisecond)
}

// untilWatching waits until the state is stateWatching.
func untilWatching(t testing.TB, c *conn) {
	t.Helper()
	require.Eventually(t, func() bool { return c.state.Load() == stateWatching }, bound, time.Millisecond)
}

// calls are the calls that read the header.
var calls = map[string]func(*conn) error{
	"RemoteAddr": func(c *conn) error { c.RemoteAddr(); return nil },
	"LocalAddr":  func(c *conn) error { c.LocalAddr(); return nil },
	"Read":       func(c *conn) error { return readOnce(c, 100).err },
	"Write":      func(c *conn) error { _, err := io.WriteString(c, "x"); return err },
	"ReadFrom":   func(c *conn) error { _, err := c.ReadFrom(strings.NewReader("x")); return err },
}

// waysToCut returns ways to cut s into pieces: not at all, into single bytes, and in two at every byte.
func waysToCut(s string) [][]string {
	splits := [][]string{{s}, strings.Split(s, "")}
	if strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) {
		splits[1] = nil
		for i := range len(s) {
			splits[1] = append(splits[1], s[i:i+1])
		}
	}
	for i := 1; i < len(s); i++ {
		splits = append(splits, []string{s[:i], s[i:]})
	}
	return splits
}

// lookalikes are inputs that begin like a header, or like none, and have no header.
var lookalikes = []string{
	"P", "PUT / HTTP/1.1\r\n", "PROPFIND /", "PROPPATCH /", "POST /", "PATCH /", "PROX", "PROXX", "PROPPROXY", "PPROXY", "proxy ",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n", "\r\nGET / HTTP/1.1\r\n", "\r\n\r\n\x00", "\r\n\r\n\x00\r\nQUIT", "\r\n\r\n\x00\r\nQUIT\r\n", "\r\r\n\r\n\x00\r\nQUIT\n",
	"\x16\x03\x01\x02\x00", "G", getRequest, "\x00", "\r\nPROXY TCP4", "\r\n" + wire.SignatureV2,
}
