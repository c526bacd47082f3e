package proxyprotocol

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// connBound is how long anything may take that must happen.
const connBound = 10 * time.Second

// What scripted connections and headers say of their ends.
const (
	connClient = "203.0.113.7:56324"
	connServer = "198.51.100.9:8443"
	connV1     = "PROXY TCP4 203.0.113.7 198.51.100.9 56324 8443\r\n"
	connGET    = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
)

var (
	connPeer  net.Addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:4711"))
	connLocal net.Addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.2:443"))
	connV2             = connHeader(2, wire.Stream, connClient, connServer)
)

// connHeader encodes a header with addresses.
func connHeader(version uint8, transport wire.Transport, src, dst string, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(version, transport, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	if err != nil {
		panic(err)
	}
	b, err := wire.Append(nil, h, tlvs, false)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// connBlock is a v2 header with this command, family and transport, and block.
func connBlock(command, family byte, block string) string {
	return wire.SignatureV2 + string([]byte{0x20 | command, family, byte(len(block) >> 8), byte(len(block))}) + block
}

// connStats are those of all connections here: making them is slow.
var connStats = newStats()

// connRules are rules that log everything, and whose timeout no test waits for.
func connRules(mode Mode, options ...func(*rules)) (*rules, *connLogs) {
	core, logs := observer.New(zap.DebugLevel)
	logger := zap.New(core)
	r := &rules{
		policy:        policy{mode: mode, asking: make(chan struct{}, 1)},
		timeout:       time.Hour,
		maxHeaderSize: defaultMaxHeaderSize,
		recorder:      recorder{newConnLog(logger, false), connStats},
	}
	for _, option := range options {
		option(r)
	}
	return r, &connLogs{logs, r.log}
}

// connLogs are the lines that were logged, also those that waited to be written.
type connLogs struct {
	*observer.ObservedLogs
	log *connLog
}

func (l *connLogs) All() []observer.LoggedEntry {
	l.log.wait()
	return l.ObservedLogs.All()
}

func (l *connLogs) TakeAll() []observer.LoggedEntry {
	l.log.wait()
	return l.ObservedLogs.TakeAll()
}

func (l *connLogs) Len() int {
	l.log.wait()
	return l.ObservedLogs.Len()
}

// wait returns when no line waits to be written.
func (l *connLog) wait() {
	for writing := true; writing; runtime.Gosched() {
		l.mu.Lock()
		writing = l.writing
		l.mu.Unlock()
	}
}

// connReasons are the reasons of the refusals that were logged.
func connReasons(logs *connLogs) []string {
	reasons := []string{}
	for _, entry := range logs.All() {
		if why, ok := entry.ContextMap()["reason"].(string); ok {
			reasons = append(reasons, why)
		}
	}
	return reasons
}

// connEvent is what one read of a scripted connection returns, or several, if there is not
// enough room for the data in one.
type connEvent struct {
	data string
	err  error
}

// connScript is a connection that says what a test wants, and then ends.
type connScript struct {
	mu       sync.Mutex
	events   []connEvent
	reads    int
	into     []byte // what the last read was to fill
	written  []byte
	closed   bool
	deadline time.Time // the read deadline
}

var errConnTimeout = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}

// connSays is a connection that says these pieces.
func connSays(pieces ...string) *connScript {
	s := new(connScript)
	for _, piece := range pieces {
		s.events = append(s.events, connEvent{data: piece})
	}
	return s
}

func (s *connScript) Read(p []byte) (int, error) {
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
	event := &s.events[0]
	n := copy(p, event.data)
	event.data = event.data[n:]
	if event.data != "" {
		return n, nil
	}
	err := event.err
	s.events = s.events[1:]
	return n, err
}

func (s *connScript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: net.ErrClosed}
	}
	s.written = append(s.written, p...)
	return len(p), nil
}

func (s *connScript) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *connScript) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

func (s *connScript) RemoteAddr() net.Addr             { return connPeer }
func (s *connScript) LocalAddr() net.Addr              { return connLocal }
func (s *connScript) SetWriteDeadline(time.Time) error { return nil }
func (s *connScript) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }

// connOf wraps a connection of a peer that is trusted, accepted now.
func connOf(c net.Conn, rules *rules) *conn {
	return newConn(c, rules, rules.mode, trusted, monotime.Now())
}

// connNetworks are the networks of real connections.
var connNetworks = []string{"tcp4", "tcp6", "unix"}

func connListen(t testing.TB, network string) net.Listener {
	address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
	if network == "unix" {
		dir, err := os.MkdirTemp("", "") // the test's own may be too long for a socket
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

// connDial returns both ends of a real connection. The server's is accepted before the
// client has said a byte.
func connDial(t testing.TB, network string, rules *rules) (client net.Conn, c *conn) {
	ln := connListen(t, network)
	client, err := net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	accepted, err := (&listener{Listener: ln, rules: rules}).Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return client, accepted.(*conn)
}

// connGo calls f in a goroutine; connWait waits for what it returned.
func connGo[T any](f func() T) <-chan T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return done
}

func connWait[T any](t testing.TB, done <-chan T) T {
	t.Helper()
	select {
	case result := <-done:
		return result
	case <-time.After(connBound):
		require.FailNow(t, "it takes too long")
		panic("unreachable")
	}
}

// connSoon calls f, which must not wait for anything.
func connSoon[T any](t testing.TB, f func() T) T {
	t.Helper()
	return connWait(t, connGo(f))
}

// connResult is what a read returned.
type connResult struct {
	data string
	err  error
}

func connRead(c io.Reader, size int) connResult {
	p := make([]byte, size)
	n, err := c.Read(p)
	return connResult{string(p[:n]), err}
}

func connReadAll(c io.Reader) connResult {
	b, err := io.ReadAll(c)
	return connResult{string(b), err}
}

// connSend writes, and does not wait for who reads it.
func connSend(c net.Conn, data string) {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		io.WriteString(c, data) // there is room for what tests say
	default:
		if data != "" { // a pipe's reader would be told
			go io.WriteString(c, data)
		}
	}
}

// connUntilHeaderIsRead waits until a goroutine waits for the header.
func connUntilHeaderIsRead(t testing.TB, c *conn) {
	t.Helper()
	require.Eventually(t, func() bool {
		if c.headerMu.TryLock() {
			c.headerMu.Unlock()
			return false
		}
		return true
	}, connBound, time.Millisecond)
}

// connUntilWatching waits until a read has gone past the header.
func connUntilWatching(t testing.TB, c *conn) {
	t.Helper()
	require.Eventually(t, func() bool { return c.state.Load() == stateWatching }, connBound, time.Millisecond)
}

// connCalls are the calls that look for the header.
var connCalls = map[string]func(*conn) error{
	"RemoteAddr": func(c *conn) error { c.RemoteAddr(); return nil },
	"LocalAddr":  func(c *conn) error { c.LocalAddr(); return nil },
	"Read":       func(c *conn) error { return connRead(c, 100).err },
	"Write":      func(c *conn) error { _, err := io.WriteString(c, "x"); return err },
	"ReadFrom":   func(c *conn) error { _, err := c.ReadFrom(strings.NewReader("x")); return err },
}

func TestConnReadsHeaderAtFirstUse(t *testing.T) {
	for _, network := range connNetworks {
		for name, call := range connCalls {
			t.Run(network+"/"+name, func(t *testing.T) {
				rules, _ := connRules(On)
				client, c := connDial(t, network, rules)
				assert.Equal(t, statePending, c.state.Load(), "before the first use")

				done := connGo(func() error { return call(c) })
				connUntilHeaderIsRead(t, c)
				connSend(client, connV1+"data")

				assert.NoError(t, connWait(t, done))
				assert.NotEqual(t, statePending, c.state.Load())
				assert.Equal(t, connClient, c.RemoteAddr().String())
				assert.Equal(t, connServer, c.LocalAddr().String())
			})
		}
	}
}

func TestConnOffLooksOnReadOnly(t *testing.T) {
	t.Run("scripted", func(t *testing.T) {
		rules, _ := connRules(Off)
		script := connSays(connV1)
		c := connOf(script, rules)
		for name, call := range connCalls {
			if name != "Read" {
				assert.NoError(t, call(c), name)
			}
		}
		assert.Equal(t, connPeer, c.RemoteAddr())
		assert.Equal(t, connLocal.String(), c.LocalAddr().String())
		assert.Zero(t, script.reads)
		assert.ErrorIs(t, connCalls["Read"](c), errRefused)
	})
	for _, network := range connNetworks {
		t.Run(network, func(t *testing.T) {
			rules, _ := connRules(Off)
			client, c := connDial(t, network, rules)
			assert.Equal(t, c.NetConn().RemoteAddr().String(), connSoon(t, c.RemoteAddr).String())
			assert.Equal(t, client.RemoteAddr().String(), connSoon(t, c.LocalAddr).String())
			n, err := c.Write([]byte("hello"))
			assert.NoError(t, err)
			assert.Equal(t, connResult{"hello", nil}, connSoon(t, func() connResult { return connRead(client, 100) }))
			assert.Equal(t, 5, n)
		})
	}
}

// A Read that waits for the client's first words must not make those wait who only want
// to know the addresses, or to speak first.
func TestConnAddressesDoNotWaitForReadBehindHeader(t *testing.T) {
	for _, name := range []string{"RemoteAddr", "LocalAddr", "Write"} {
		t.Run(name, func(t *testing.T) {
			rules, _ := connRules(On)
			client, c := connDial(t, "tcp4", rules)
			read := connGo(func() connResult { return connRead(c, 100) })
			connUntilHeaderIsRead(t, c)
			called := make(chan struct{})
			done := connGo(func() error { close(called); return connCalls[name](c) })
			<-called

			_, err := io.WriteString(client, connV1)
			require.NoError(t, err)
			connUntilWatching(t, c)
			assert.NoError(t, connWait(t, done))

			_, err = io.WriteString(client, "data")
			require.NoError(t, err)
			assert.Equal(t, connResult{"data", nil}, connWait(t, read))
		})
	}
}

func TestConnTakesHeaderAndDataInOneRead(t *testing.T) {
	tests := []struct {
		name, in, rest string
		mode           Mode
	}{
		{"v1 under on", connV1 + connGET, connGET, On},
		{"v2 under on", connV2 + connGET, connGET, On},
		{"v1 under unspecified", connV1 + connGET, connGET, Unspecified},
		{"LOCAL under on", connBlock(0, 0, "") + connGET, connGET, On},
		{"no header under unspecified", connGET, connGET, Unspecified},
		{"no header under off", connGET, connGET, Off},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 5, len(connGET) - 1, len(connGET), 4096} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, size), func(t *testing.T) {
				rules, _ := connRules(tt.mode)
				script := connSays(tt.in)
				c := connOf(script, rules)
				c.RemoteAddr()
				var got string
				for len(got) < len(tt.rest) {
					if tt.mode != Off {
						assert.NotEqual(t, stateOpen, c.state.Load(), "bytes are left")
					}
					r := connRead(c, size)
					require.NoError(t, r.err)
					got += r.data
				}
				assert.Equal(t, tt.rest, got)
				if size >= len(tt.rest) || tt.mode != Off {
					assert.Equal(t, 1, script.reads)
				}

				// From here on the socket fills the reader's own buffer.
				assert.Equal(t, stateOpen, c.state.Load())
				assert.Nil(t, c.buffer, "it is given back")
				script.events = []connEvent{{data: "more"}}
				p := make([]byte, 10)
				n, err := c.Read(p)
				assert.NoError(t, err)
				assert.Equal(t, "more", string(p[:n]))
				assert.Same(t, &p[0], &script.into[0])
				assert.Len(t, script.into, len(p))
			})
		}
	}
}

func TestConnHandsOnWhatFollowsHeaderOnce(t *testing.T) {
	data := strings.Repeat("0123456789", 100_000)
	for _, network := range connNetworks {
		for _, mode := range []Mode{On, Off, Unspecified} {
			t.Run(network+"/"+mode.String(), func(t *testing.T) {
				rules, _ := connRules(mode)
				client, c := connDial(t, network, rules)
				go func() {
					if mode != Off {
						io.WriteString(client, connV2)
					}
					io.WriteString(client, data)
					client.Close()
				}()
				got := connSoon(t, func() connResult { return connReadAll(c) })
				assert.NoError(t, got.err)
				assert.True(t, got.data == data, "%d bytes", len(got.data))
				assert.Equal(t, stateOpen, c.state.Load())
			})
		}
	}
}

// Deadlines

func TestConnReadDeadlineSurvivesHeader(t *testing.T) {
	want := time.Now().Add(time.Minute)
	rulesFor := func(timeout time.Duration) *rules {
		rules, _ := connRules(On, func(r *rules) { r.timeout = timeout })
		return rules
	}
	for _, timeout := range []time.Duration{time.Second, time.Hour} {
		for name, call := range connCalls {
			t.Run(fmt.Sprint(name, " with timeout ", timeout), func(t *testing.T) {
				t.Run("set before", func(t *testing.T) {
					script := connSays(connV1 + "data")
					c := connOf(script, rulesFor(timeout))
					require.NoError(t, c.SetReadDeadline(want))
					require.NoError(t, call(c))
					assert.WithinDuration(t, want, script.deadline, time.Second)
				})
				t.Run("set before with the write deadline", func(t *testing.T) {
					script := connSays(connV1 + "data")
					c := connOf(script, rulesFor(timeout))
					require.NoError(t, c.SetDeadline(want))
					require.NoError(t, call(c))
					assert.WithinDuration(t, want, script.deadline, time.Second)
				})
				t.Run("never set", func(t *testing.T) {
					script := connSays(connV1 + "data")
					c := connOf(script, rulesFor(timeout))
					require.NoError(t, call(c))
					assert.Zero(t, script.deadline)
				})
				t.Run("set after", func(t *testing.T) {
					script := connSays(connV1 + "data")
					c := connOf(script, rulesFor(timeout))
					require.NoError(t, call(c))
					require.NoError(t, c.SetReadDeadline(want))
					assert.Equal(t, want, script.deadline)
				})
			})
		}
	}
	for _, network := range connNetworks {
		t.Run("set while the header is awaited on "+network, func(t *testing.T) {
			client, c := connDial(t, network, rulesFor(time.Hour))
			done := connGo(c.RemoteAddr)
			connUntilHeaderIsRead(t, c)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
			connSend(client, connV1)
			assert.Equal(t, connClient, connWait(t, done).String())
			assert.ErrorIs(t, connSoon(t, func() connResult { return connRead(c, 1) }).err, os.ErrDeadlineExceeded)
		})
	}
}

func TestConnDeadlineOfHeaderIsTheEarlierOne(t *testing.T) {
	accepted := time.Now()
	soon, late := accepted.Add(time.Second), accepted.Add(time.Hour)
	timeout := accepted.Add(time.Minute)
	tests := []struct {
		name       string
		user, want time.Time
		op         op
	}{
		{"a read has none of its own", time.Time{}, timeout, opRead},
		{"a read has an earlier one", soon, soon, opRead},
		{"a read has a later one", late, timeout, opRead},
		{"a read has one beyond all bounds", accepted.AddDate(1000, 0, 0), timeout, opRead},
		{"an address is asked for and there is none", time.Time{}, timeout, opAddr},
		{"an address is asked for and there is an earlier one", soon, timeout, opAddr},
		{"an address is asked for and there is a later one", late, timeout, opAddr},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := connRules(On, func(r *rules) { r.timeout = time.Minute })
			script := connSays()
			c := newConn(script, rules, On, trusted, monotime.Of(accepted))
			require.NoError(t, c.SetReadDeadline(tt.user))
			require.NoError(t, c.holdDeadline(tt.op))
			require.NoError(t, c.beforeWait())
			assert.WithinDuration(t, tt.want, script.deadline, time.Second)
			c.restoreDeadline()
			if century := accepted.AddDate(100, 0, 0); tt.user.After(century) {
				assert.True(t, script.deadline.After(century), script.deadline)
			} else {
				assert.WithinDuration(t, tt.user, script.deadline, time.Second)
			}
		})
	}
}

func TestConnShorterReadDeadlineIsNotSticky(t *testing.T) {
	sent := []string{"", "P", "PROXY", connV1[:len(connV1)-1], connV2[:11], connV2[:len(connV2)-1]}
	for _, network := range append(connNetworks, "pipe") {
		for _, first := range sent {
			for _, mode := range []Mode{On, Unspecified} {
				t.Run(fmt.Sprintf("%s/%s/%q", network, mode, first), func(t *testing.T) {
					rules, logs := connRules(mode)
					var client net.Conn
					var c *conn
					if network == "pipe" {
						var server net.Conn
						client, server = net.Pipe()
						c = connOf(server, rules)
						defer client.Close()
					} else {
						client, c = connDial(t, network, rules)
					}
					connSend(client, first)
					for range 2 {
						require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
						got := connSoon(t, func() connResult { return connRead(c, 100) })
						var netErr net.Error
						require.ErrorAs(t, got.err, &netErr)
						assert.True(t, netErr.Timeout())
						assert.Empty(t, got.data)
						var opErr *net.OpError
						if network != "pipe" && assert.ErrorAs(t, got.err, &opErr) {
							assert.Equal(t, "read", opErr.Op, "net/http keeps silent on these")
						}
					}
					assert.Equal(t, statePending, c.state.Load())

					require.NoError(t, c.SetReadDeadline(time.Time{}))
					header := connV1
					if strings.HasPrefix(first, "\r") {
						header = connV2
					}
					connSend(client, strings.TrimPrefix(header, first)+"data")
					got := connSoon(t, func() connResult { return connRead(c, 100) })
					assert.Equal(t, connResult{"data", nil}, got)
					host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
					assert.Equal(t, "203.0.113.7", host)
					assert.Empty(t, connReasons(logs))
				})
			}
		}
	}
}

func TestConnAddressIgnoresReadDeadline(t *testing.T) {
	for _, network := range connNetworks {
		for _, name := range []string{"RemoteAddr", "LocalAddr", "Write"} {
			t.Run(network+"/"+name, func(t *testing.T) {
				rules, _ := connRules(On)
				client, c := connDial(t, network, rules)
				require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
				done := connGo(func() error { return connCalls[name](c) })
				connUntilHeaderIsRead(t, c)
				connSend(client, connV1)
				assert.NoError(t, connWait(t, done))
				assert.Equal(t, connClient, c.RemoteAddr().String())
			})
		}
	}
}

// net/http ends a read that is pending by a deadline in the past, which it then clears.
func TestConnAbortedReadLosesNothing(t *testing.T) {
	tests := []struct {
		name         string
		mode         Mode
		header, held string
		then         string
		want         string // or refused, if empty
	}{
		{"nothing said under off", Off, "", "", "GET /", "GET /"},
		{"beginning of v1 under off", Off, "", "PRO", "PFIND /", "PROPFIND /"},
		{"beginning of v2 under off", Off, "", "\r\n\r\n", "GET /", "\r\n\r\nGET /"},
		{"all but a byte of a signature under off", Off, "", wire.SignatureV2[:11], "x", wire.SignatureV2[:11] + "x"},
		{"header in two pieces under off", Off, "", "PROX", "Y", ""},
		{"nothing said under unspecified", Unspecified, "", "", "GET /", "GET /"},
		{"beginning of v1 under unspecified", Unspecified, "", "P", "UT /", "PUT /"},
		{"nothing behind a header", On, connV1, "", "GET /", "GET /"},
		{"beginning of v1 behind a header", On, connV1, "PRO", "PFIND /", "PROPFIND /"},
		{"beginning of v2 behind a header", On, connV2, "\r", "\nGET /", "\r\nGET /"},
		{"second header in two pieces", On, connV2, wire.SignatureV2[:11], "\n", ""},
	}
	for _, network := range connNetworks {
		for _, tt := range tests {
			t.Run(network+"/"+tt.name, func(t *testing.T) {
				rules, _ := connRules(tt.mode)
				client, c := connDial(t, network, rules)
				connSend(client, tt.header+tt.held)
				read := connGo(func() connResult { return connRead(c, 100) })
				if tt.header != "" {
					connUntilWatching(t, c)
				}
				for range 3 {
					// The read may not have begun yet; that must not matter either.
					require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
					got := connWait(t, read)
					assert.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
					assert.Empty(t, got.data)
					require.NoError(t, c.SetReadDeadline(time.Time{}))
					read = connGo(func() connResult { return connRead(c, 100) })
				}
				connSend(client, tt.then)
				got := connWait(t, read)
				if tt.want == "" {
					assert.ErrorIs(t, got.err, errRefused)
					assert.Empty(t, got.data)
					return
				}
				for len(got.data) < len(tt.want) && got.err == nil {
					more := connSoon(t, func() connResult { return connRead(c, 100) })
					got = connResult{got.data + more.data, more.err}
				}
				assert.Equal(t, connResult{tt.want, nil}, got)
			})
		}
	}
}

// At the timeout

// connPipe is a connection in memory whose time can be a bubble's.
func connPipe(rules *rules) (client net.Conn, c *conn) {
	client, server := net.Pipe()
	return client, connOf(server, rules)
}

func TestConnAtTimeout(t *testing.T) {
	const timeout = 5 * time.Second
	nothing := []string{"", "P", "PROX", "\r", wire.SignatureV2[:11]}
	begun := []string{"PROXY", "PROXY TCP4 203.0.113.7 198.51.", connV1[:len(connV1)-1], wire.SignatureV2, connV2[:15], connV2[:len(connV2)-1]}
	tests := []struct {
		mode    Mode
		sent    []string
		refused bool
	}{
		{On, nothing, true},
		{On, begun, true},
		{Unspecified, nothing, false},
		{Unspecified, begun, true},
	}
	for _, tt := range tests {
		for _, sent := range tt.sent {
			for name, call := range connCalls {
				if name == "Read" && !tt.refused {
					continue // goes on waiting: see below
				}
				t.Run(fmt.Sprintf("%s/%q/%s", tt.mode, sent, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						rules, logs := connRules(tt.mode, func(r *rules) { r.timeout = timeout })
						client, c := connPipe(rules)
						defer client.Close()
						defer c.Close()
						go io.Copy(io.Discard, client)
						connSend(client, sent)
						start := time.Now()
						err := call(c)
						assert.Equal(t, timeout, time.Since(start))
						assert.Equal(t, "pipe", c.RemoteAddr().String())
						if tt.refused {
							assert.Equal(t, stateRefused, c.state.Load())
							reason := "timeout"
							if sent == "" {
								reason = "silent"
							}
							assert.Equal(t, []string{reason}, connReasons(logs))
						} else {
							assert.NoError(t, err)
							assert.Equal(t, stateWatching, c.state.Load())
							assert.Empty(t, connReasons(logs))
						}
					})
				})
			}
		}
	}
}

func TestConnTimeoutRunsFromAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, _ := connRules(On, func(r *rules) { r.timeout = 5 * time.Second })
		client, c := connPipe(rules)
		defer client.Close()
		start := time.Now()
		time.Sleep(3 * time.Second)
		c.RemoteAddr()
		assert.Equal(t, 5*time.Second, time.Since(start))
		assert.Equal(t, stateRefused, c.state.Load())
	})
}

func TestConnFirstUseAfterTimeoutIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, logs := connRules(On, func(r *rules) { r.timeout = 5 * time.Second })
		client, c := connPipe(rules)
		defer client.Close()
		connSend(client, connV1)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "pipe", c.RemoteAddr().String())
		assert.Equal(t, []string{"silent"}, connReasons(logs), "nothing was received")
	})
}

func TestConnDribblerIsGoneAtTimeout(t *testing.T) {
	for _, header := range []string{connV1, connV2} {
		for _, mode := range []Mode{On, Unspecified} {
			for _, call := range []string{"RemoteAddr", "Read"} {
				t.Run(fmt.Sprintf("%q/%s/%s", header[:5], mode, call), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						rules, logs := connRules(mode, func(r *rules) { r.timeout = 20500 * time.Millisecond })
						client, c := connPipe(rules)
						done := connGo(func() error {
							for i := range len(header) {
								if _, err := io.WriteString(client, header[i:i+1]); err != nil {
									return err
								}
								time.Sleep(time.Second)
							}
							return nil
						})
						start := time.Now()
						_ = connCalls[call](c)
						assert.Equal(t, rules.timeout, time.Since(start))
						assert.Equal(t, []string{"timeout"}, connReasons(logs))
						assert.ErrorIs(t, <-done, io.ErrClosedPipe)
					})
				})
			}
		}
	}
}

func TestConnWatchGoesOnAfterTimeout(t *testing.T) {
	tests := []struct {
		name, early, late string
		want              string            // or refused:
		reason            map[Mode][]string // why
	}{
		{name: "a request", late: connGET, want: connGET},
		{name: "a request that begins like v1", early: "PRO", late: "PFIND / HTTP/1.1\r\n", want: "PROPFIND / HTTP/1.1\r\n"},
		{name: "a request that begins like v2", early: "\r\n", late: connGET, want: "\r\n" + connGET},
		{name: "a v1 header", late: connV1, reason: map[Mode][]string{Off: {"forbidden"}, Unspecified: {"timeout"}}},
		{name: "a v2 header", late: connV2, reason: map[Mode][]string{Off: {"forbidden"}, Unspecified: {"timeout"}}},
		{name: "the rest of a v1 signature", early: "PROX", late: "Y", reason: map[Mode][]string{Off: {"forbidden"}, Unspecified: {"timeout"}}},
		{name: "the rest of a v2 signature", early: wire.SignatureV2[:11], late: "\n", reason: map[Mode][]string{Off: {"forbidden"}, Unspecified: {"timeout"}}},
	}
	for _, mode := range []Mode{Off, Unspecified} {
		for _, tt := range tests {
			for _, addrFirst := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/%v", mode, tt.name, addrFirst), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						rules, logs := connRules(mode, func(r *rules) { r.timeout = 5 * time.Second })
						client, c := connPipe(rules)
						defer client.Close()
						defer c.Close()
						connSend(client, tt.early)
						if addrFirst {
							assert.Equal(t, "pipe", c.RemoteAddr().String())
						}
						read := connGo(func() connResult { return connRead(c, 100) })
						time.Sleep(24 * time.Hour)
						synctest.Wait()
						assert.Empty(t, read, "only the user's deadlines rule")
						connSend(client, tt.late)
						got := <-read
						if tt.want != "" {
							assert.Equal(t, connResult{tt.want, nil}, got)
							assert.Empty(t, connReasons(logs))
						} else {
							assert.ErrorIs(t, got.err, errRefused)
							assert.Empty(t, got.data)
							assert.Equal(t, tt.reason[mode], connReasons(logs))
						}
						assert.Equal(t, "pipe", c.RemoteAddr().String())
					})
				})
			}
		}
	}
}

func TestConnReadDeadlineRulesTheWatch(t *testing.T) {
	for _, tt := range []struct {
		mode   Mode
		header string
	}{{On, connV1}, {Unspecified, connV2}, {Unspecified, ""}, {Off, ""}} {
		t.Run(fmt.Sprintf("%s/%d", tt.mode, len(tt.header)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rules, _ := connRules(tt.mode, func(r *rules) { r.timeout = 5 * time.Second })
				client, c := connPipe(rules)
				defer client.Close()
				defer c.Close()
				connSend(client, tt.header)
				start := time.Now()
				require.NoError(t, c.SetReadDeadline(start.Add(30*time.Second)))
				c.RemoteAddr()
				got := connRead(c, 100)
				assert.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
				assert.Equal(t, 30*time.Second, time.Since(start))
				assert.Equal(t, stateWatching, c.state.Load())
			})
		})
	}
}

// Behind an accepted header silence is normal.
func TestConnSilenceBehindHeaderIsNoTimeout(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		t.Run(mode.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rules, logs := connRules(mode, func(r *rules) { r.timeout = 5 * time.Second })
				client, c := connPipe(rules)
				defer client.Close()
				defer c.Close()
				connSend(client, connV1)
				start := time.Now()
				assert.NotEqual(t, "pipe", c.RemoteAddr().String())
				assert.Zero(t, time.Since(start), "the address is known at once")
				read := connGo(func() connResult { return connRead(c, 100) })
				time.Sleep(time.Hour)
				connSend(client, "data")
				assert.Equal(t, connResult{"data", nil}, <-read)
				assert.Empty(t, connReasons(logs))
			})
		})
	}
}

// Closing and refusing

func TestConnCloseEndsPendingHeaderAtOnce(t *testing.T) {
	for _, network := range append(connNetworks, "pipe") {
		for _, sent := range []string{"", "PROXY TCP4"} {
			for name, call := range connCalls {
				t.Run(fmt.Sprintf("%s/%q/%s", network, sent, name), func(t *testing.T) {
					rules, _ := connRules(On)
					var client net.Conn
					var c *conn
					if network == "pipe" {
						client, c = connPipe(rules)
						defer client.Close()
					} else {
						client, c = connDial(t, network, rules)
					}
					connSend(client, sent)
					done := connGo(func() error { return call(c) })
					connUntilHeaderIsRead(t, c)
					require.NoError(t, c.Close())
					err := connWait(t, done)
					if name != "RemoteAddr" && name != "LocalAddr" {
						assert.Error(t, err)
					}
					for _, again := range connCalls {
						connSoon(t, func() error { return again(c) }) // does not hang either
					}
					assert.Equal(t, c.NetConn().RemoteAddr().String(), c.RemoteAddr().String())
				})
			}
		}
	}
}

func TestConnCloseEndsTheWatchAtOnce(t *testing.T) {
	for _, network := range connNetworks {
		for mode, sent := range map[Mode]string{Off: "PRO", On: connV1 + "PRO"} {
			t.Run(network+"/"+mode.String(), func(t *testing.T) {
				rules, _ := connRules(mode)
				client, c := connDial(t, network, rules)
				connSend(client, sent)
				read := connGo(func() connResult { return connRead(c, 100) })
				connUntilWatching(t, c)
				require.NoError(t, c.Close())
				got := connWait(t, read)
				assert.ErrorIs(t, got.err, net.ErrClosed)
				assert.Empty(t, got.data)
			})
		}
	}
}

func TestConnRefusalIsStickyAndSilent(t *testing.T) {
	tests := []struct {
		name, in string
		mode     Mode
		reason   string
		option   func(*rules)
	}{
		{"no header", connGET, On, "missing", nil},
		{"forbidden header", connV1, Off, "forbidden", nil},
		{"malformed header", "PROXY TCP4 nonsense\r\n", Unspecified, "malformed", nil},
		{"wrong checksum", connHeader(2, wire.Stream, connClient, connServer, wire.TLV{Type: wire.TypeCRC32C, Value: make([]byte, 4)}), On, "checksum", nil},
		{"too large a header", connBlock(1, 0x11, strings.Repeat("\x00", 600)), On, "too_large", func(r *rules) { r.maxHeaderSize = 536 }},
		{"second header", connV1 + connV2, On, "duplicate", nil},
		{"second header, marked", connV2 + connV1, Unspecified, "duplicate", nil},
		{"version not allowed", connV1, On, "version", func(r *rules) { r.version = 2 }},
		{"a timeout", "PRO", On, "timeout", func(r *rules) { r.timeout = 100 * time.Millisecond }},
		{"a late header", connV2[:len(connV2)-1], Unspecified, "timeout", func(r *rules) { r.timeout = 100 * time.Millisecond }},
	}
	for _, network := range connNetworks {
		for _, tt := range tests {
			for _, first := range []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"} {
				if tt.mode == Off && first != "Read" {
					continue // does not look
				}
				t.Run(network+"/"+tt.name+"/"+first, func(t *testing.T) {
					rules, logs := connRules(tt.mode)
					if tt.option != nil {
						tt.option(rules)
					}
					client, c := connDial(t, network, rules)
					_, err := io.WriteString(client, tt.in)
					require.NoError(t, err)
					connSoon(t, func() error { return connCalls[first](c) })

					for range 2 {
						for name, op := range map[string]string{"Read": "read", "Write": "write", "ReadFrom": "write"} {
							err := connSoon(t, func() error { return connCalls[name](c) })
							assert.ErrorIs(t, err, errRefused, name)
							var opErr *net.OpError
							if assert.True(t, errors.As(err, &opErr), name) {
								assert.Equal(t, op, opErr.Op, name)
								assert.False(t, opErr.Timeout(), name)
							}
						}
						assert.Equal(t, c.NetConn().RemoteAddr().String(), c.RemoteAddr().String())
					}
					assert.Equal(t, stateRefused, c.state.Load())

					got := connSoon(t, func() connResult {
						client.SetReadDeadline(time.Now().Add(connBound))
						return connReadAll(client)
					})
					assert.Empty(t, got.data, "the peer is told nothing")
					assert.NotErrorIs(t, got.err, os.ErrDeadlineExceeded, "the connection is closed")

					require.Equal(t, []string{tt.reason}, connReasons(logs), "logged once")
					entry := logs.FilterMessageSnippet("refused connection").All()[0]
					fields := entry.ContextMap()
					assert.Equal(t, zap.WarnLevel, entry.Level)
					assert.Equal(t, c.NetConn().RemoteAddr().String(), fields["peer"])
					assert.Equal(t, client.RemoteAddr().String(), fields["local"], "the address the peer connected to")
					assert.Equal(t, tt.mode.String(), fields["mode"])
				})
			}
		}
	}
}

// Errors of the socket

var errConnReset = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// A socket that fails before the header is complete does not recover, and what it fails with
// is not hidden behind what it says next.
func TestConnSocketErrorBeforeTheHeaderIsARefusal(t *testing.T) {
	etimedout := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	require.True(t, etimedout.Timeout(), "it looks like a deadline")
	for _, tt := range []struct {
		name string
		in   []connEvent
		want string
	}{
		{"before a header", []connEvent{{"", errConnReset}, {connV1 + "data", nil}}, "silent"},
		{"in a signature", []connEvent{{"PRO", nil}, {"", errConnReset}, {connV1[3:] + "data", nil}}, "io"},
		{"in a header", []connEvent{{connV2[:20], nil}, {"", errConnReset}}, "io"},
		{"with bytes of a header", []connEvent{{connV2[:20], errConnReset}, {connV2[20:] + "data", nil}}, "io"},
		{"a peer that no longer answers, before a header", []connEvent{{"", etimedout}}, "silent"},
		{"a peer that no longer answers, in a header", []connEvent{{connV1[:20], nil}, {"", etimedout}}, "io"},
		{"a plain error", []connEvent{{"PROXY", nil}, {"", errors.New("broken")}}, "io"},
		{"neither bytes nor an error, for ever", append([]connEvent{{"PROXY", nil}}, make([]connEvent, 200)...), "io"},
	} {
		for _, mode := range []Mode{On, Unspecified} {
			for name, call := range connCalls {
				t.Run(fmt.Sprintf("%s/%s/%s", tt.name, mode, name), func(t *testing.T) {
					rules, logs := connRules(mode)
					rules.stats = newStats()
					script := &connScript{events: slices.Clone(tt.in)}
					c := connOf(script, rules)
					err := call(c)
					if name != "RemoteAddr" && name != "LocalAddr" {
						assert.Error(t, err)
					}
					assert.Equal(t, stateRefused, c.state.Load())
					assert.True(t, script.closed)
					assert.Equal(t, connPeer, c.RemoteAddr())
					assert.ErrorIs(t, connRead(c, 100).err, errRefused)
					require.NoError(t, c.Close())

					require.Equal(t, []string{tt.want}, connReasons(logs))
					assert.NotEmpty(t, logs.All()[0].ContextMap()["error"], "it says how the socket failed")
					assert.EqualValues(t, 1, rules.stats.total(outcome(slices.Index(outcomeNames[:], tt.want))))
					assert.Len(t, rules.stats.lastRefusals(), map[bool]int{true: 1}[tt.want == "io"])
				})
			}
		}
	}
}

func TestConnSocketErrorsAreNotSticky(t *testing.T) {
	reset := errConnReset
	tests := []struct {
		name string
		mode Mode
		in   []connEvent // each but the last with an error
		want string
	}{
		{"behind a header", On, []connEvent{{connV1, nil}, {"", reset}, {"data", nil}}, "data"},
		{"with what may be a second signature", On, []connEvent{{connV1, nil}, {"PRO", reset}, {"PFIND", nil}}, "PROPFIND"},
		{"behind what may be a second signature", On, []connEvent{{connV1 + "PRO", nil}, {"", reset}, {"PFIND", nil}}, "PROPFIND"},
		{"under off", Off, []connEvent{{"", reset}, {"PRO", nil}, {"", reset}, {"PFIND", nil}}, "PROPFIND"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, logs := connRules(tt.mode)
			c := connOf(&connScript{events: tt.in}, rules)
			errs, got := 0, ""
			for range 10 {
				r := connRead(c, 100)
				got += r.data
				if r.err == io.EOF {
					break
				}
				if r.err != nil {
					assert.Equal(t, error(reset), r.err)
					errs++
				}
			}
			assert.Equal(t, tt.want, got)
			assert.NotZero(t, errs)
			assert.Empty(t, connReasons(logs))
		})
	}
}

func TestConnDeadlineThatCannotBeSetIsARefusal(t *testing.T) {
	for in, want := range map[string]string{"": "silent", "PRO": "io"} {
		rules, logs := connRules(On)
		broken := &connBroken{Conn: connSays(in, connV1), err: errors.New("broken")}
		if in != "" {
			broken.err = nil
		}
		c := connOf(broken, rules)
		if in != "" {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
			broken.Conn.(*connScript).events = []connEvent{{in, nil}, {"", errConnTimeout}}
			require.ErrorIs(t, connRead(c, 100).err, os.ErrDeadlineExceeded)
			broken.err = errors.New("broken")
		}
		assert.Equal(t, connResult{"", broken.err}, connRead(c, 100))
		assert.Equal(t, []string{want}, connReasons(logs))
		assert.ErrorIs(t, connRead(c, 100).err, errRefused)
	}
	for _, name := range []string{"RemoteAddr", "LocalAddr", "Write", "ReadFrom"} {
		rules, logs := connRules(On)
		c := connOf(&connBroken{Conn: connSays(connV1), err: errors.New("broken")}, rules)
		_ = connCalls[name](c)
		assert.Equal(t, []string{"silent"}, connReasons(logs), name)
		assert.Equal(t, connPeer, c.RemoteAddr(), name)
	}
}

// Once the peer's address was given out, it must not become another. A timeout that is not
// that of the header comes from a socket that does as it likes.
func TestConnTimeoutThatNobodySetIsARefusal(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		for _, name := range []string{"RemoteAddr", "LocalAddr", "Write"} {
			for begun, want := range map[string]string{"": "silent", "PRO": "io"} {
				t.Run(mode.String()+"/"+name+"/"+begun, func(t *testing.T) {
					rules, logs := connRules(mode)
					c := connOf(&connScript{events: []connEvent{{begun, errConnTimeout}, {connV1[len(begun):], nil}}}, rules)
					_ = connCalls[name](c)
					assert.ErrorIs(t, connRead(c, 100).err, errRefused)
					assert.Equal(t, connPeer, c.RemoteAddr())
					assert.Equal(t, []string{want}, connReasons(logs))
				})
			}
		}
	}
}

// connBroken is a connection that cannot set a read deadline.
type connBroken struct {
	net.Conn
	err error
}

func (c *connBroken) SetReadDeadline(t time.Time) error {
	if c.err != nil {
		return c.err
	}
	return c.Conn.SetReadDeadline(t)
}

func TestConnEndOfConnection(t *testing.T) {
	tests := []struct {
		name, in string
		want     map[Mode]string // the reason, or else the bytes handed on after a ':'
	}{
		{"at once", "", map[Mode]string{On: "silent", Off: ":", Unspecified: ":"}},
		{"in a v1 signature", "PROX", map[Mode]string{On: "missing", Off: ":PROX", Unspecified: ":PROX"}},
		{"in a v2 signature", wire.SignatureV2[:11], map[Mode]string{On: "missing", Off: ":" + wire.SignatureV2[:11], Unspecified: ":" + wire.SignatureV2[:11]}},
		{"behind a v1 signature", "PROXY", map[Mode]string{On: "malformed", Off: "forbidden", Unspecified: "malformed"}},
		{"behind a v2 signature", wire.SignatureV2, map[Mode]string{On: "malformed", Off: "forbidden", Unspecified: "malformed"}},
		{"in a v1 header", connV1[:len(connV1)-1], map[Mode]string{On: "malformed", Off: "forbidden", Unspecified: "malformed"}},
		{"in a v2 header", connV2[:len(connV2)-1], map[Mode]string{On: "malformed", Off: "forbidden", Unspecified: "malformed"}},
		{"behind a header", connV1, map[Mode]string{On: ":", Off: "forbidden", Unspecified: ":"}},
		{"in what may be a second signature", connV1 + "PROX", map[Mode]string{On: ":PROX", Off: "forbidden", Unspecified: ":PROX"}},
		{"behind data", connV1 + "data", map[Mode]string{On: ":data", Off: "forbidden", Unspecified: ":data"}},
		{"behind a request", connGET, map[Mode]string{On: "missing", Off: ":" + connGET, Unspecified: ":" + connGET}},
	}
	check := func(t *testing.T, c *conn, logs *connLogs, want string) {
		got := connSoon(t, func() connResult { return connReadAll(c) })
		if handedOn, ok := strings.CutPrefix(want, ":"); ok {
			assert.Equal(t, connResult{handedOn, nil}, got)
			assert.Empty(t, connReasons(logs))
			assert.Equal(t, connResult{"", io.EOF}, connRead(c, 10), "the end stays the end")
		} else {
			assert.ErrorIs(t, got.err, errRefused)
			assert.Empty(t, got.data)
			assert.Equal(t, []string{want}, connReasons(logs))
		}
	}
	for _, tt := range tests {
		for mode, want := range tt.want {
			t.Run(tt.name+"/"+mode.String(), func(t *testing.T) {
				t.Run("scripted", func(t *testing.T) {
					rules, logs := connRules(mode)
					check(t, connOf(connSays(tt.in), rules), logs, want)
				})
				t.Run("with the last byte", func(t *testing.T) {
					rules, logs := connRules(mode)
					check(t, connOf(&connScript{events: []connEvent{{tt.in, io.EOF}}}, rules), logs, want)
				})
				for _, network := range connNetworks {
					t.Run(network, func(t *testing.T) {
						rules, logs := connRules(mode)
						client, c := connDial(t, network, rules)
						_, err := io.WriteString(client, tt.in)
						require.NoError(t, err)
						require.NoError(t, client.Close())
						check(t, c, logs, want)
					})
				}
			})
		}
	}
}

// A health check that only connects is no reason to warn.
func TestConnEmptyConnectionIsNotWarnedOf(t *testing.T) {
	rules, logs := connRules(On)
	c := connOf(connSays(), rules)
	c.RemoteAddr()
	require.Equal(t, []string{"silent"}, connReasons(logs))
	assert.Equal(t, zap.DebugLevel, logs.All()[0].Level)
}

// connPanics is a connection whose methods of these names panic.
type connPanics struct {
	net.Conn
	names string
}

func (c connPanics) may(name string) {
	if strings.Contains(c.names+" ", name+" ") {
		panic("connection is broken")
	}
}

func (c connPanics) Read(p []byte) (int, error)        { c.may("Read"); return c.Conn.Read(p) }
func (c connPanics) Close() error                      { c.may("Close"); return c.Conn.Close() }
func (c connPanics) RemoteAddr() net.Addr              { c.may("RemoteAddr"); return c.Conn.RemoteAddr() }
func (c connPanics) LocalAddr() net.Addr               { c.may("LocalAddr"); return c.Conn.LocalAddr() }
func (c connPanics) SetReadDeadline(t time.Time) error { c.may("SetReadDeadline"); return nil }

func TestConnPanicBelowIsARefusal(t *testing.T) {
	tests := []struct {
		name  string
		mode  Mode
		in    string
		calls []string
	}{
		{"Read", On, connV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Read", Unspecified, connV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Read", Off, connV1, []string{"Read"}},
		{"SetReadDeadline", On, connV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Close", On, connGET, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Close", Off, connV1, []string{"Read"}},
		{"Read Close", On, connV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
	}
	for _, tt := range tests {
		for _, name := range tt.calls {
			t.Run(tt.name+"/"+tt.mode.String()+"/"+name, func(t *testing.T) {
				rules, logs := connRules(tt.mode)
				c := connOf(connPanics{connSays(tt.in), tt.name}, rules)
				var err error
				require.NotPanics(t, func() { err = connCalls[name](c) })
				if name != "RemoteAddr" && name != "LocalAddr" {
					assert.ErrorIs(t, err, errRefused)
				}
				assert.Equal(t, stateRefused, c.state.Load())
				assert.Equal(t, connPeer, c.RemoteAddr())
				assert.ErrorIs(t, connCalls["Read"](c), errRefused)
				assert.Len(t, connReasons(logs), 1)
			})
		}
	}
}

// A panic anywhere but where it is recovered would end the process.
func TestConnThatClaimsToHaveReadTheImpossibleIsRefused(t *testing.T) {
	tests := []struct {
		mode   Mode
		before string
	}{
		{On, ""}, {On, "PROXY"}, {On, connV1}, {On, connV1 + "PRO"}, {Off, ""}, {Off, "PRO"},
	}
	for _, tt := range tests {
		for _, excess := range []int{1, -10_000} {
			t.Run(fmt.Sprint(tt.mode, tt.before, excess), func(t *testing.T) {
				rules, logs := connRules(tt.mode)
				c := connOf(&connLiar{connSays(), tt.before, excess}, rules)
				require.NotPanics(t, func() { c.RemoteAddr() })
				room := make([]byte, 4096)
				n, err := c.Read(room[:100])
				assert.Zero(t, n)
				assert.ErrorIs(t, err, errRefused)
				assert.Equal(t, stateRefused, c.state.Load())
				assert.Equal(t, []string{"io"}, connReasons(logs))
			})
		}
	}
}

// connLiar says that a read gave more than there was room for, or less than nothing.
type connLiar struct {
	net.Conn
	before string // what it reads honestly first
	excess int
}

func (c *connLiar) Read(p []byte) (int, error) {
	if c.before == "" {
		return len(p) + c.excess, nil
	}
	n := copy(p, c.before)
	c.before = c.before[n:]
	return n, nil
}

// connForgets is a connection that has no addresses any more once something was read or it
// was closed, or worse ones.
type connForgets struct {
	*connScript
	after net.Addr
}

func (c connForgets) addr(before net.Addr) net.Addr {
	if c.reads > 0 || c.closed {
		return c.after
	}
	return before
}

func (c connForgets) RemoteAddr() net.Addr { return c.addr(connPeer) }
func (c connForgets) LocalAddr() net.Addr  { return c.addr(connLocal) }

// connBadAddr is an address that cannot be told.
type connBadAddr struct{ net.Addr }

func (connBadAddr) Network() string { return "tcp" }
func (connBadAddr) String() string  { panic("no address") }

// The peer can bring it about that a socket has no address any more: with a reset.
func TestConnKeepsThePeerThatItWasAcceptedFrom(t *testing.T) {
	tests := []struct {
		name string
		mode Mode
		in   string
	}{
		{"refused", On, connGET},
		{"no header", Unspecified, connGET},
		{"no header under off", Off, connGET},
		{"LOCAL", On, caddytest.HeaderLocal() + connGET},
	}
	for _, tt := range tests {
		for name, after := range map[string]net.Addr{"nil": nil, "panics": connBadAddr{}, "nil TCP address": (*net.TCPAddr)(nil)} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				rules, logs := connRules(tt.mode)
				c := connOf(connForgets{connSays(tt.in), after}, rules)
				require.NotPanics(t, func() { connRead(c, 100) })
				assert.Equal(t, connPeer, c.RemoteAddr())
				for _, entry := range logs.All() {
					assert.Equal(t, connPeer.String(), entry.ContextMap()["peer"])
				}
				if tt.name == "refused" {
					assert.Equal(t, []string{"missing"}, connReasons(logs))
					assert.Equal(t, connPeer, rules.stats.lastRefusals()[0].peer)
				}
			})
		}
	}
}

// Sizes of reads

func TestConnEmptyReadsOfSocketEnd(t *testing.T) {
	tests := []struct {
		name   string
		mode   Mode
		before []string
	}{
		{"before a header", On, nil},
		{"in a header", On, []string{"PROXY"}},
		{"behind a header", On, []string{connV1}},
		{"under off", Off, nil},
		{"under unspecified", Unspecified, []string{"P"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := connRules(tt.mode)
			script := connSays(tt.before...)
			script.events = append(script.events, make([]connEvent, 1000)...)
			c := connOf(script, rules)
			got := connRead(c, 100)
			assert.Empty(t, got.data)
			assert.True(t, got.err == nil || got.err == io.ErrNoProgress, "%v", got.err)
			assert.LessOrEqual(t, script.reads, 1+maxEmptyReads)
		})
	}
}

func TestConnFewEmptyReadsOfSocketDoNotMatter(t *testing.T) {
	rules, _ := connRules(On)
	script := new(connScript)
	for _, b := range []byte(connV1 + "PRdata") {
		script.events = append(script.events, make([]connEvent, 5)...)
		script.events = append(script.events, connEvent{data: string(b)})
	}
	c := connOf(script, rules)
	got := connReadAll(c)
	assert.Equal(t, connResult{"PRdata", nil}, got)
	assert.Equal(t, connClient, c.RemoteAddr().String())
}

func TestConnReadOfNothingLosesNothing(t *testing.T) {
	tests := []struct {
		name, want string
		mode       Mode
		in         []string
	}{
		{"behind a header", "data", On, []string{connV1, "data"}},
		{"with a header", "data", On, []string{connV1 + "data"}},
		{"in a request that begins like a header", "PROPFIND", On, []string{connV1 + "PRO", "PFIND"}},
		{"under off", "PROPFIND", Off, []string{"P", "RO", "PFIND"}},
		{"under unspecified", "PROPFIND", Unspecified, []string{"P", "RO", "PFIND"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := connRules(tt.mode)
			c := connOf(connSays(tt.in...), rules)
			var got string
			for range len(tt.want) {
				n, err := c.Read(nil)
				assert.NoError(t, err)
				assert.Zero(t, n)
				got += connRead(c, 1).data
			}
			assert.Equal(t, tt.want, got)
			n, err := c.Read(nil)
			assert.Zero(t, n)
			assert.True(t, err == nil || err == io.EOF)
		})
	}
	t.Run("waits for nothing behind a header", func(t *testing.T) {
		rules, _ := connRules(On)
		client, c := connDial(t, "tcp4", rules)
		connSend(client, connV1)
		assert.Equal(t, connResult{}, connSoon(t, func() connResult { return connRead(c, 0) }))
	})
}

// connWatches are all ways into the watch for a header.
var connWatches = []struct {
	name   string
	mode   Mode
	header string
	reason string
}{
	{"off", Off, "", "forbidden"},
	{"on v1", On, connV1, "duplicate"},
	{"on v2", On, connV2, "duplicate"},
	{"on LOCAL", On, connBlock(0, 0, ""), "duplicate"},
	{"on UNKNOWN", On, "PROXY UNKNOWN\r\n", "duplicate"},
	{"unspecified v2", Unspecified, connV2, "duplicate"},
}

// connSplits are ways to cut s in pieces: not at all, into single bytes, at every byte.
func connSplits(s string) [][]string {
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

func TestConnWatchRefusesHeaderHoweverSplit(t *testing.T) {
	seconds := []string{connV1, connV2, "PROXY UNKNOWN\r\n", connBlock(0, 0, ""), "PROXY", wire.SignatureV2, "PROXYnonsense"}
	for _, tt := range connWatches {
		t.Run(tt.name, func(t *testing.T) {
			for _, second := range seconds {
				for _, pieces := range connSplits(second) {
					for _, apart := range []bool{true, false} {
						for size := 1; size <= len(wire.SignatureV2)+2; size++ {
							rules, logs := connRules(tt.mode)
							in := append([]string{tt.header}, pieces...)
							if !apart || tt.header == "" {
								in = append([]string{tt.header + pieces[0]}, pieces[1:]...)
							}
							c := connOf(connSays(in...), rules)
							got := connRead(c, size)
							require.ErrorIs(t, got.err, errRefused, "%q by %d", in, size)
							require.Empty(t, got.data, "%q by %d", in, size)
							require.Equal(t, []string{tt.reason}, connReasons(logs))
							require.Equal(t, connPeer, c.RemoteAddr())
						}
					}
				}
			}
		})
	}
}

// connAlike are beginnings of connections that merely look like that of a header.
var connAlike = []string{
	"P", "PUT / HTTP/1.1\r\n", "PROPFIND /", "PROPPATCH /", "POST /", "PATCH /", "PROX", "PROXX", "PROPPROXY", "PPROXY", "proxy ",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n", "\r\nGET / HTTP/1.1\r\n", "\r\n\r\n\x00", "\r\n\r\n\x00\r\nQUIT", "\r\n\r\n\x00\r\nQUIT\r\n", "\r\r\n\r\n\x00\r\nQUIT\n",
	"\x16\x03\x01\x02\x00", "G", connGET, "\x00", "\r\nPROXY TCP4", "\r\n" + wire.SignatureV2,
}

func TestConnWatchHandsOnRequestsThatBeginLikeAHeader(t *testing.T) {
	watches := append(connWatches[:len(connWatches):len(connWatches)], struct {
		name   string
		mode   Mode
		header string
		reason string
	}{"unspecified", Unspecified, "", ""})
	for _, tt := range watches {
		t.Run(tt.name, func(t *testing.T) {
			for _, request := range connAlike {
				for _, pieces := range connSplits(request) {
					for size := 1; size <= len(wire.SignatureV2)+2; size++ {
						rules, logs := connRules(tt.mode)
						in := append([]string{tt.header}, pieces...)
						if tt.header == "" {
							in = pieces
						}
						c := connOf(connSays(in...), rules)
						var got string
						for {
							r := connRead(c, size)
							if r.err == io.EOF {
								break
							}
							require.NoError(t, r.err)
							require.NotEmpty(t, r.data)
							got += r.data
						}
						require.Equal(t, request, got, "%q by %d", in, size)
						require.Empty(t, connReasons(logs))
					}
				}
			}
		})
	}
}

// Bytes are held back only while they match a signature.
func TestConnWatchDelaysNothing(t *testing.T) {
	for _, network := range connNetworks {
		for _, tt := range []struct{ held, then string }{
			{"", "G"}, {"", "\x16"}, {"P", "U"}, {"P", "O"}, {"PR", "I"}, {"PRO", "P"}, {"PROX", "X"}, {"\r", "G"}, {"\r\n", "G"}, {wire.SignatureV2[:11], "\r"},
		} {
			for _, watch := range connWatches {
				t.Run(fmt.Sprintf("%s/%s/%q", network, watch.name, tt.held+tt.then), func(t *testing.T) {
					rules, _ := connRules(watch.mode)
					client, c := connDial(t, network, rules)
					_, err := io.WriteString(client, watch.header+tt.held)
					require.NoError(t, err)
					_, err = io.WriteString(client, tt.then)
					require.NoError(t, err)
					var got string
					for len(got) < len(tt.held+tt.then) {
						r := connSoon(t, func() connResult { return connRead(c, 100) })
						require.NoError(t, r.err)
						got += r.data
					}
					assert.Equal(t, tt.held+tt.then, got)
				})
			}
		}
	}
}

// Addresses

func TestConnAddressesOfHeader(t *testing.T) {
	socket := connLocal.String()
	tests := []struct {
		name, in string
		mode     Mode
		remote   string
		local    string
		marked   bool
	}{
		{"v1", connV1, On, connClient, connServer, false},
		{"v2", connV2, On, connClient, connServer, false},
		{"v2 over IPv6", connHeader(2, wire.Stream, "[2001:db8::7]:1", "[2001:db8::9]:2"), On, "[2001:db8::7]:1", "[2001:db8::9]:2", false},
		{"v2 datagrams", connHeader(2, wire.Dgram, connClient, connServer), On, connClient, connServer, false},
		{"IPv4-mapped addresses are unmapped", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 56324 8443\r\n", On, connClient, connServer, false},
		{"an IPv4-mapped source alone is unmapped", "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::9 56324 8443\r\n", On, connClient, "[2001:db8::9]:8443", false},
		{"a marked connection keeps the socket's address", connV1, Unspecified, "203.0.113.7:0", socket, true},
		{"a marked IPv6 connection", connHeader(2, wire.Stream, "[2001:db8::7]:1", "[2001:db8::9]:2"), Unspecified, "[2001:db8::7]:0", socket, true},
		{"port 0 of a hop before is no mark", connHeader(2, wire.Stream, "203.0.113.7:0", connServer), On, "203.0.113.7:0", connServer, false},
		{"port 0 under unspecified is marked all the same", connHeader(2, wire.Stream, "203.0.113.7:0", connServer), Unspecified, "203.0.113.7:0", socket, true},
		{"unspecified IPv4 destination", connHeader(2, wire.Stream, connClient, "0.0.0.0:443"), On, connClient, socket, false},
		{"unspecified IPv6 destination", connHeader(2, wire.Stream, "[2001:db8::7]:1", "[::]:443"), On, "[2001:db8::7]:1", socket, false},
		{"unspecified IPv4-mapped destination", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:0.0.0.0 56324 443\r\n", On, connClient, socket, false},
		{"destination port 0", connHeader(2, wire.Stream, connClient, "198.51.100.9:0"), On, connClient, "198.51.100.9:0", false},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", On, connPeer.String(), socket, false},
		{"UNKNOWN under unspecified", "PROXY UNKNOWN ::1 ::1 1 2\r\n", Unspecified, connPeer.String(), socket, false},
		{"LOCAL", connBlock(0, 0, ""), On, connPeer.String(), socket, false},
		{"LOCAL with addresses", connBlock(0, 0x11, connV2[16:]), Unspecified, connPeer.String(), socket, false},
		{"no header", connGET, Unspecified, connPeer.String(), socket, false},
		{"no header under off", connGET, Off, connPeer.String(), socket, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, logs := connRules(tt.mode)
			c := connOf(connSays(tt.in+"data"), rules)
			for range 2 {
				assert.Equal(t, tt.remote, c.RemoteAddr().String())
				assert.Equal(t, tt.local, c.LocalAddr().String())
				assert.Equal(t, tt.marked, c.Marked())
				require.IsType(t, (*net.TCPAddr)(nil), c.RemoteAddr())
				assert.Equal(t, "tcp", c.RemoteAddr().Network())
				assert.Equal(t, "tcp", c.LocalAddr().Network())
				connReadAll(c)
			}
			remote := c.RemoteAddr().(*net.TCPAddr)
			assert.False(t, remote.AddrPort().Addr().Is4In6() && len(remote.IP) == net.IPv6len)
			rules.log.wait()
			assert.Len(t, logs.FilterMessageSnippet("a client address is unverified").All(), map[bool]int{true: 1}[tt.marked])
		})
	}
}

func TestConnWithoutHeaderHasAddressesOfSocket(t *testing.T) {
	for _, network := range connNetworks {
		t.Run(network, func(t *testing.T) {
			rules, _ := connRules(Unspecified)
			client, c := connDial(t, network, rules)
			connSend(client, connGET)
			assert.Equal(t, c.NetConn().RemoteAddr(), connSoon(t, c.RemoteAddr))
			assert.Equal(t, c.NetConn().LocalAddr().String(), c.LocalAddr().String())
			assert.Equal(t, c.NetConn().LocalAddr().Network(), c.LocalAddr().Network())
		})
	}
}

// What was learned from a header must not lie in a buffer that other connections use.
func TestConnFactsSurviveTheBuffer(t *testing.T) {
	tlvs := []wire.TLV{{Type: wire.TypeAuthority, Value: []byte("example.com")}, {Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")}}
	in := connHeader(2, wire.Stream, connClient, connServer, tlvs...)
	for _, pieces := range [][]string{{in}, {in + "data"}, {in[:20], in[20:] + "data"}} {
		rules, _ := connRules(On)
		script := connSays(pieces...)
		c := connOf(script, rules)
		c.RemoteAddr()
		used := script.into[:cap(script.into)]
		if len(pieces) == 1 {
			connReadAll(c)
			assert.Len(t, used, bufferSize, "the pool's")
		}
		for i := range used {
			used[i] = 0xff
		}
		var got []wire.TLV
		for tlv := range c.tlvs.raw.All() {
			got = append(got, tlv)
		}
		assert.Equal(t, tlvs, got)
		assert.Equal(t, connClient, c.RemoteAddr().String())
		assert.Equal(t, connServer, c.LocalAddr().String())
		assert.Equal(t, connClient, c.header.Source().String())
	}
}

// What passes the wrapper by

func TestConnHalfClose(t *testing.T) {
	for _, network := range connNetworks {
		t.Run(network, func(t *testing.T) {
			rules, _ := connRules(On)
			client, c := connDial(t, network, rules)
			_, err := io.WriteString(client, connV1+"question")
			require.NoError(t, err)
			require.NoError(t, client.(interface{ CloseWrite() error }).CloseWrite())
			assert.Equal(t, connResult{"question", nil}, connSoon(t, func() connResult { return connReadAll(c) }))

			_, err = io.WriteString(c, "answer")
			require.NoError(t, err)
			require.NoError(t, c.CloseWrite())
			assert.Equal(t, connResult{"answer", nil}, connSoon(t, func() connResult { return connReadAll(client) }))
			_, err = io.WriteString(c, "more")
			assert.Error(t, err)
		})
		t.Run(network+"/reads only", func(t *testing.T) {
			rules, _ := connRules(On)
			client, c := connDial(t, network, rules)
			_, err := io.WriteString(client, connV1)
			require.NoError(t, err)
			connSoon(t, c.RemoteAddr)
			require.NoError(t, c.CloseRead())
			assert.Equal(t, connResult{"", io.EOF}, connSoon(t, func() connResult { return connRead(c, 10) }))
			_, err = io.WriteString(c, "answer")
			assert.NoError(t, err)
		})
	}
	t.Run("not supported below", func(t *testing.T) {
		rules, _ := connRules(On)
		c := connOf(connSays(), rules)
		assert.ErrorIs(t, c.CloseRead(), errors.ErrUnsupported)
		assert.ErrorIs(t, c.CloseWrite(), errors.ErrUnsupported)
		_, err := c.SyscallConn()
		assert.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

// connReaderFrom is a connection that can read from a file itself.
type connReaderFrom struct {
	*connScript
	from io.Reader
}

func (c *connReaderFrom) ReadFrom(r io.Reader) (int64, error) {
	c.from = r
	return io.Copy(struct{ io.Writer }{c.connScript}, r)
}

func TestConnReadFrom(t *testing.T) {
	t.Run("the socket's own gets the reader", func(t *testing.T) {
		rules, _ := connRules(On)
		below := &connReaderFrom{connScript: connSays(connV1)}
		c := connOf(below, rules)
		from := io.LimitReader(strings.NewReader("hello"), 100)
		n, err := c.ReadFrom(from)
		assert.NoError(t, err)
		assert.Equal(t, int64(5), n)
		assert.Same(t, from, below.from)
		assert.Equal(t, "hello", string(below.written))
	})
	t.Run("a socket without its own gets the bytes", func(t *testing.T) {
		rules, _ := connRules(On)
		below := connSays(connV1)
		n, err := connOf(below, rules).ReadFrom(strings.NewReader("hello"))
		assert.NoError(t, err)
		assert.Equal(t, int64(5), n)
		assert.Equal(t, "hello", string(below.written))
	})
	for _, network := range connNetworks {
		t.Run("a file over "+network, func(t *testing.T) {
			content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			file, err := os.Open(path)
			require.NoError(t, err)
			defer file.Close()

			rules, _ := connRules(On)
			client, c := connDial(t, network, rules)
			connSend(client, connV1)
			sent := connGo(func() error {
				defer c.CloseWrite()
				_, err := io.Copy(c, file)
				return err
			})
			got := connSoon(t, func() connResult { return connReadAll(client) })
			assert.NoError(t, connWait(t, sent))
			assert.True(t, got.data == string(content), "%d bytes", len(got.data))
		})
	}
}

func TestConnLeadsToSocket(t *testing.T) {
	for _, network := range connNetworks {
		t.Run(network, func(t *testing.T) {
			rules, _ := connRules(On)
			_, c := connDial(t, network, rules)
			var fd uintptr
			assert.NoError(t, connSoon(t, func() error {
				raw, err := c.SyscallConn()
				if err != nil {
					return err
				}
				return raw.Control(func(f uintptr) { fd = f })
			}))
			assert.NotZero(t, fd)
			if network == "unix" {
				assert.IsType(t, (*net.UnixConn)(nil), c.NetConn())
			} else {
				assert.IsType(t, (*net.TCPConn)(nil), c.NetConn())
			}
			assert.Equal(t, statePending, c.state.Load(), "none of these waits for a header")
		})
	}
}

// os.File copies past Read and Write if it gets hold of the descriptor.
func TestConnFilesDoNotPassItBy(t *testing.T) {
	for _, network := range connNetworks {
		t.Run(network+"/to a file", func(t *testing.T) {
			rules, _ := connRules(On)
			client, c := connDial(t, network, rules)
			_, err := io.WriteString(client, connV1+"data")
			require.NoError(t, err)
			require.NoError(t, client.Close())
			file, err := os.Create(filepath.Join(t.TempDir(), "file"))
			require.NoError(t, err)
			defer file.Close()
			assert.NoError(t, connSoon(t, func() error { _, err := io.Copy(file, c); return err }))
			got, err := os.ReadFile(file.Name())
			assert.NoError(t, err)
			assert.Equal(t, "data", string(got))
		})
		t.Run(network+"/from a file", func(t *testing.T) {
			rules, _ := connRules(On)
			client, c := connDial(t, network, rules)
			_, err := io.WriteString(client, connGET)
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, []byte("secret"), 0o600))
			file, err := os.Open(path)
			require.NoError(t, err)
			defer file.Close()
			assert.ErrorIs(t, connSoon(t, func() error { _, err := io.Copy(c, file); return err }), errRefused)
			assert.Empty(t, connSoon(t, func() connResult { return connReadAll(client) }).data)
		})
	}
}

// net/http would take it for a TLS connection.
func TestConnHasNoConnectionState(t *testing.T) {
	rules, _ := connRules(On)
	var c any = connOf(connSays(), rules)
	_, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	assert.False(t, ok)
}

// Concurrency

// Every byte goes to one Read, and what is behind is not read before.
func TestConnReadsAtTheSameTimeTakeTurns(t *testing.T) {
	const size, readers = 4, 8
	var sent []string
	for i := range 900 {
		sent = append(sent, fmt.Sprintf("%0*d", size, i))
	}
	together, behind := sent[:700], sent[700:]
	rules, _ := connRules(On)
	c := connOf(&connSerial{Conn: connSays(append([]string{connV1 + strings.Join(together, "")}, behind...)...)}, rules)
	require.Equal(t, connClient, c.RemoteAddr().String())
	require.Equal(t, stateBuffered, c.state.Load())

	var mu sync.Mutex
	var got []string
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			p := make([]byte, size)
			for {
				n, err := c.Read(p)
				if err != nil {
					return
				}
				mu.Lock()
				got = append(got, string(p[:n]))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	assert.ElementsMatch(t, sent, got)
	assert.Equal(t, stateOpen, c.state.Load())
}

// Both may see the same phase and want it.
func TestConnReadsAtTheSameInstantTakeTurns(t *testing.T) {
	const rounds = 30_000
	rules, _ := connRules(On)
	var c atomic.Pointer[conn] // of the round, or nil once the other has read
	var other connResult
	var failed atomic.Bool
	defer failed.Store(true)
	ended := connGo(func() bool {
		for range rounds {
			for spins := 1; c.Load() == nil && !failed.Load(); spins++ {
				if spins%1000 == 0 {
					runtime.Gosched() // there may be one processor only
				}
			}
			if failed.Load() {
				return false
			}
			other = connRead(c.Load(), 1)
			c.Store(nil)
		}
		return true
	})
	for range rounds {
		next := connOf(connSays(connV1+"ab"), rules)
		require.Equal(t, connClient, next.RemoteAddr().String())
		c.Store(next)
		got := connRead(next, 1)
		for spins := 1; c.Load() != nil; spins++ {
			if spins%1000 == 0 {
				runtime.Gosched()
			}
		}
		if got.data == "b" {
			got, other = other, got
		}
		require.Equal(t, [2]connResult{{"a", nil}, {"b", nil}}, [2]connResult{got, other})
		require.Equal(t, stateOpen, next.state.Load())
	}
	connWait(t, ended)
}

// connSerial reads one at a time, as sockets do.
type connSerial struct {
	net.Conn
	mu sync.Mutex
}

func (c *connSerial) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn.Read(p)
}

func TestConnConcurrentUse(t *testing.T) {
	inputs := []string{connV1 + "data", connV2 + "PROPFIND", connV1 + connV2, connGET, "PROXY nonsense\r\n", connV2[:20], ""}
	for _, mode := range []Mode{On, Off, Unspecified} {
		t.Run(mode.String(), func(t *testing.T) {
			rules, logs := connRules(mode, func(r *rules) { r.timeout = 10 * time.Millisecond })
			ln := connListen(t, "tcp4")
			for i := range 300 {
				random := rand.New(rand.NewPCG(uint64(mode), uint64(i)))
				in := inputs[random.IntN(len(inputs))]
				splits := connSplits(in)
				pieces := splits[random.IntN(len(splits))]
				closeAfter := time.Duration(random.IntN(20)) * time.Millisecond
				client, err := net.Dial("tcp4", ln.Addr().String())
				require.NoError(t, err)
				accepted, err := (&listener{Listener: ln, rules: rules}).Accept()
				require.NoError(t, err)
				c := accepted.(*conn)
				peer, socket := c.NetConn().RemoteAddr().String(), c.NetConn().LocalAddr().String()

				var wg sync.WaitGroup
				wg.Go(func() {
					for _, piece := range pieces {
						io.WriteString(client, piece)
					}
					if in != "" && i%2 == 0 {
						client.Close()
					}
				})
				for range 2 {
					wg.Go(func() {
						for {
							if _, err := c.Read(make([]byte, 3)); err != nil && !isTimeout(err) {
								return
							}
						}
					})
				}
				wg.Go(func() {
					for range 5 {
						c.Write([]byte("hello"))
						c.SetReadDeadline(time.Now().Add(-time.Second))
						c.SetReadDeadline(time.Time{})
						c.SetDeadline(time.Now().Add(time.Second))
					}
				})
				wg.Go(func() {
					for range 5 {
						assert.Contains(t, []string{peer, connClient, "203.0.113.7:0"}, c.RemoteAddr().String())
						assert.Contains(t, []string{socket, connServer}, c.LocalAddr().String())
						c.NetConn()
						c.SyscallConn()
					}
					if i%3 == 0 {
						c.Close()
					}
				})
				closer := time.AfterFunc(closeAfter, func() { c.Close() })
				connSoon(t, func() bool { wg.Wait(); return true })
				closer.Stop()
				client.Close()
				c.Close()
				assert.Contains(t, []string{peer, connClient, "203.0.113.7:0"}, c.RemoteAddr().String())
			}
			assert.LessOrEqual(t, len(connReasons(logs)), 300, "no more than one refusal each")
		})
	}
}

// connDuring does something at the end of its first read.
type connDuring struct {
	*connScript
	during func()
}

func (c *connDuring) Read(p []byte) (int, error) {
	n, err := c.connScript.Read(p)
	if during := c.during; during != nil {
		c.during = nil
		during()
	}
	return n, err
}

func TestConnReadDeadlineReachesASocketThatIsWaitedFor(t *testing.T) {
	rules, _ := connRules(On, func(r *rules) { r.timeout = time.Hour })
	socket := &connDuring{connScript: connSays(connV1 + "data")}
	broken := &connBroken{Conn: socket}
	c := connOf(broken, rules)
	at := time.Now().Add(time.Minute)
	socket.during = func() {
		assert.NoError(t, c.SetReadDeadline(at))
		assert.WithinDuration(t, at, socket.deadline, time.Second)
		broken.err = errors.New("broken")
		assert.Equal(t, broken.err, c.SetReadDeadline(at))
		broken.err = nil
	}
	assert.Equal(t, connResult{"data", nil}, connRead(c, 100))
	assert.Nil(t, socket.during, "it was called")
}

func TestConnSetDeadlineSaysThatTheReadDeadlineFailed(t *testing.T) {
	rules, _ := connRules(Off)
	broken := &connBroken{Conn: connSays("GET"), err: errors.New("broken")}
	assert.Equal(t, broken.err, connOf(broken, rules).SetDeadline(time.Now()))
}

func TestConnClosedWhileItsHeaderIsReadIsCountedOnce(t *testing.T) {
	for _, timed := range []bool{false, true} {
		for said, want := range map[string]struct {
			peer    string
			outcome outcome
		}{
			connV1 + "GET":  {connClient, outcomeClient},
			connV1:          {connClient, outcomeClient},
			connV1 + connV2: {connPeer.String(), reasonDuplicate},
			"PROXY TCP4 ":   {connPeer.String(), reasonIO},
			"PRO":           {connPeer.String(), reasonIO},
			"":              {connPeer.String(), reasonSilent},
		} {
			rules, _ := connRules(On)
			rules.stats = newStats()
			socket := &connDuring{connScript: connSays(said)}
			c := connOf(socket, rules)
			if timed {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
			}
			socket.during = func() { assert.NoError(t, c.Close()) }
			assert.Equal(t, want.peer, c.RemoteAddr().String())
			assert.NotEqual(t, statePending, c.state.Load())
			_, _ = io.ReadAll(c)
			require.NoError(t, c.Close())
			for o := range outcomes {
				assert.EqualValues(t, map[bool]int{true: 1}[o == want.outcome], rules.stats.total(o), "%q: %s", said, o)
			}
		}
	}
}

func TestConnClosedWhileAReadOfItsHeaderEndsIsCountedOnce(t *testing.T) {
	for begun, want := range map[string]outcome{"": reasonSilent, "PRO": reasonIO} {
		for _, timed := range []bool{false, true} {
			rules, _ := connRules(On)
			rules.stats = newStats()
			socket := &connDuring{connScript: &connScript{events: []connEvent{{begun, errConnTimeout}}}}
			c := connOf(socket, rules)
			if timed {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
			}
			socket.during = func() { assert.NoError(t, c.Close()) }
			assert.ErrorIs(t, connRead(c, 100).err, os.ErrDeadlineExceeded, "the caller's own")
			assert.EqualValues(t, 1, rules.stats.total(want), "%q", begun)
			require.NoError(t, c.Close())
			assert.EqualValues(t, 1, rules.stats.total(want), "%q", begun)
		}
	}
}

func TestConnWithoutHeaderThatIsClosedWhileItIsReadIsCountedOnce(t *testing.T) {
	for said, want := range map[string]outcome{"": reasonSilent, "GET": outcomeDirect, connV1: outcomeMarked} {
		rules, _ := connRules(Unspecified)
		rules.stats = newStats()
		socket := &connDuring{connScript: connSays(said)}
		if said == "" {
			socket.connScript = &connScript{events: []connEvent{{err: io.EOF}}}
		}
		c := connOf(socket, rules)
		socket.during = func() { assert.NoError(t, c.Close()) }
		c.RemoteAddr()
		_, _ = io.ReadAll(c)
		require.NoError(t, c.Close())
		for o := range outcomes {
			assert.EqualValues(t, map[bool]int{true: 1}[o == want], rules.stats.total(o), "%q: %s", said, o)
		}
	}
}

func TestConnReadDeadlineThatHasPassedComesBeforeWhatIsThere(t *testing.T) {
	rules, _ := connRules(On)
	client, c := connDial(t, "tcp4", rules)
	connSend(client, connV1+"data")
	require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	assert.ErrorIs(t, connRead(c, 100).err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	assert.Equal(t, connResult{"data", nil}, connRead(c, 100))
}

func TestConnErrorAfterTheTimeoutIsNoTimeout(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		rules, logs := connRules(mode)
		socket := &connScript{events: []connEvent{{"", errConnReset}}}
		c := newConn(socket, rules, mode, trusted, monotime.Now().Add(-2*rules.timeout))
		assert.Equal(t, error(errConnReset), connRead(c, 100).err, mode)
		assert.Equal(t, []string{"silent"}, connReasons(logs), mode)
	}
}

// connFailing is a connection whose methods fail, but for Read.
type connFailing struct{ *connScript }

var errConnFailing = errors.New("fails")

func (connFailing) Close() error                     { return errConnFailing }
func (connFailing) CloseRead() error                 { return errConnFailing }
func (connFailing) CloseWrite() error                { return errConnFailing }
func (connFailing) SetReadDeadline(time.Time) error  { return nil }
func (connFailing) SetWriteDeadline(time.Time) error { return errConnFailing }
func (connFailing) LocalAddr() net.Addr              { return nil }

func TestConnPassesErrorsOn(t *testing.T) {
	rules, _ := connRules(Unspecified)
	c := connOf(connFailing{connSays("GET")}, rules)
	assert.Equal(t, "tcp", c.LocalAddr().Network(), "of no address")
	assert.Empty(t, c.LocalAddr().String())
	assert.Equal(t, errConnFailing, c.SetDeadline(time.Now()))
	assert.Equal(t, errConnFailing, c.CloseRead())
	assert.Equal(t, errConnFailing, c.CloseWrite())
	assert.Equal(t, errConnFailing, c.Close())
}

func TestConnReadDeadlineErrorsArePassedOn(t *testing.T) {
	for _, mode := range []Mode{On, Off} {
		rules, _ := connRules(mode)
		_, server := connTCP(t, "tcp4")
		c := connOf(server, rules)
		require.NoError(t, c.Close())
		assert.ErrorIs(t, c.SetReadDeadline(time.Now()), net.ErrClosed, mode)
	}
}

// connNoRaw is a connection that could be raw and is not.
type connNoRaw struct{ *connScript }

func (connNoRaw) SyscallConn() (syscall.RawConn, error) { return nil, errConnFailing }

func TestConnWithoutRawConnectionSaysSo(t *testing.T) {
	rules, _ := connRules(On)
	raw, err := connOf(connNoRaw{connSays()}, rules).SyscallConn()
	assert.Nil(t, raw)
	assert.Equal(t, errConnFailing, err)
}

func TestSecondHeaderIsRemembered(t *testing.T) {
	rules, _ := connRules(On)
	rules.stats = newStats()
	connReadAll(connOf(connSays(connV1, "PRO", "XY TCP4"), rules))
	last := rules.stats.lastRefusals()
	require.Len(t, last, 1)
	assert.True(t, strings.HasPrefix(last[0].hex(), hex.EncodeToString([]byte("PROXY"))), last[0].hex())
}

func TestConnRefusedAfterItsHeaderHasTheSocketsAddresses(t *testing.T) {
	rules, logs := connRules(On)
	c := connOf(connSays(connV1, connV2), rules)
	assert.Equal(t, connServer, c.LocalAddr().String())
	local := c.LocalAddr()
	_, err := c.Read(make([]byte, 100))
	require.ErrorIs(t, err, errRefused)
	assert.Equal(t, []string{"duplicate"}, connReasons(logs))
	assert.Equal(t, connLocal.String(), local.String())
	assert.Equal(t, connPeer.String(), c.RemoteAddr().String())
}

// connCounted returns what a connection that begins like this is counted as.
func connCounted(t *testing.T, mode Mode, use func(*conn), pieces ...string) (counted []string) {
	rules, _ := connRules(mode)
	rules.stats = newStats()
	use(connOf(connSays(pieces...), rules))
	for o := range outcomes {
		for range rules.stats.total(o) {
			counted = append(counted, o.String())
		}
	}
	return counted
}

func TestConnIsCountedOnceItIsKnown(t *testing.T) {
	closes := func(c *conn) { c.Close() }
	judged := func(c *conn) { c.RemoteAddr() }
	reads := func(c *conn) { _, _ = io.ReadAll(c) }
	both := func(f, g func(*conn)) func(*conn) { return func(c *conn) { f(c); g(c) } }
	for _, tt := range []struct {
		name   string
		mode   Mode
		use    func(*conn)
		pieces []string
		want   []string
	}{
		{"closed before anything", On, closes, nil, []string{"silent"}},
		{"closed before anything under off", Off, closes, nil, []string{"silent"}},
		{"closed before anything under unspecified", Unspecified, closes, nil, []string{"silent"}},
		{"ended before anything", On, both(reads, closes), nil, []string{"silent"}},
		{"ended before anything under off", Off, both(reads, closes), nil, []string{"silent"}},
		{"ended before anything under unspecified", Unspecified, both(judged, both(reads, closes)), nil, []string{"silent"}},
		{"closed where a signature may begin under off", Off, both(reads, closes), []string{"PRO"}, []string{"direct"}},
		{"closed twice", On, both(closes, closes), nil, []string{"silent"}},
		{"closed behind its header", On, both(judged, closes), []string{connV1}, []string{"client"}},
		{"a header may still follow", On, judged, []string{connV1}, nil},
		{"no header can follow, nothing is read", On, judged, []string{connV1 + "GET"}, []string{"client"}},
		{"no header can follow, nothing is read, then closed", Unspecified, both(judged, closes), []string{"GET"}, []string{"direct"}},
		{"a header followed after all", On, both(judged, both(reads, closes)), []string{connV1, connV2}, []string{"duplicate"}},
		{"everything is read", Unspecified, both(reads, closes), []string{connV1, "GET"}, []string{"marked"}},
		{"a read deadline was set", On, both(func(c *conn) { _ = c.SetReadDeadline(time.Now().Add(time.Hour)) }, judged), []string{connV1 + "GET"}, []string{"client"}},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, connCounted(t, tt.mode, tt.use, tt.pieces...)) })
	}
}

func TestConnThatEndsWithinASignatureIsMissingItsHeader(t *testing.T) {
	for _, said := range []string{"P", "\r", "PROX", "\r\n\r\n"} {
		rules, logs := connRules(On)
		connReadAll(connOf(connSays(said), rules))
		assert.Equal(t, []string{"missing"}, connReasons(logs), "%q", said)
	}
}

func TestConnThatEndsAtOnceSaysSoAtOnce(t *testing.T) {
	rules, _ := connRules(Unspecified)
	n, err := connOf(connSays(), rules).Read(make([]byte, 10))
	assert.Zero(t, n)
	assert.Equal(t, io.EOF, err)
}

func TestConnHoldsNoBufferWhileItWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   Mode
		events []connEvent
	}{
		"behind its header":           {On, []connEvent{{data: connV1}}},
		"behind a part of a second":   {On, []connEvent{{data: connV1 + "PRO"}}},
		"after the timeout":           {Unspecified, []connEvent{{data: "PRO"}, {err: errConnTimeout}}},
		"after the timeout, in pairs": {Unspecified, []connEvent{{data: "PR"}, {data: "O"}, {err: errConnTimeout}}},
		"refused":                     {Off, []connEvent{{data: connV1}}},
		"with the timeout":            {Unspecified, []connEvent{{data: "PRO", err: errConnTimeout}}},
	} {
		t.Run(name, func(t *testing.T) {
			rules, _ := connRules(tt.mode)
			c := newConn(&connScript{events: tt.events}, rules, tt.mode, trusted, monotime.Now().Add(-2*rules.timeout))
			c.RemoteAddr()
			if tt.mode == Off {
				connRead(c, 100)
			}
			if c.buffer != nil {
				assert.False(t, c.buffer.pooled)
				assert.LessOrEqual(t, cap(c.buffer.buf), 16, "room for what begins a signature")
			}
		})
	}
}

func TestHeaderDurationRunsFromAccept(t *testing.T) {
	for _, timed := range []bool{true, false} {
		rules, _ := connRules(On, func(r *rules) { r.timed = timed })
		rules.stats = newStats()
		newConn(connSays(connV1), rules, On, trusted, monotime.Now().Add(-time.Minute)).RemoteAddr()
		headers := &rules.stats.headers
		if !timed {
			assert.Zero(t, headers.sum.Load())
			continue
		}
		sum := time.Duration(headers.sum.Load())
		assert.GreaterOrEqual(t, sum, time.Minute)
		assert.Less(t, sum, time.Minute+connBound)
		assert.EqualValues(t, 1, headers.counts[len(durationBounds)].Load(), "beyond all bounds")
	}
}

// What is there already when the first look comes too late is late all the same, and is not
// mistaken for silence.
func TestConnHeaderThatIsJudgedAfterTheTimeoutIsRefused(t *testing.T) {
	for _, network := range connNetworks {
		for _, name := range []string{"first use", "after a read that the user's deadline ended"} {
			t.Run(network+"/"+name, func(t *testing.T) {
				rules, logs := connRules(On, func(r *rules) { r.timeout = time.Hour })
				client, c := connDial(t, network, rules)
				if name != "first use" {
					require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
					require.ErrorIs(t, connRead(c, 1).err, os.ErrDeadlineExceeded)
					require.NoError(t, c.SetReadDeadline(time.Time{}))
				}
				c.acceptedAt = c.acceptedAt.Add(-2 * rules.timeout)
				connSend(client, connV1)
				assert.Equal(t, c.peer, connSoon(t, c.RemoteAddr))
				assert.Equal(t, []string{"timeout"}, connReasons(logs))
			})
		}
	}
}

// connGate holds back what a read returned.
type connGate struct {
	net.Conn
	got, goOn chan struct{}
}

func (g connGate) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.got <- struct{}{}
	<-g.goOn
	return n, err
}

// http.Server closes connections, and so does the goroutine that serves one.
func TestConnClosedTwiceWhileItIsJudgedIsCountedOnce(t *testing.T) {
	rules, _ := connRules(Unspecified)
	rules.stats = newStats()
	gate := connGate{connSays(connV1), make(chan struct{}), make(chan struct{})}
	c := newConn(gate, rules, Unspecified, trusted, monotime.Now())
	done := connGo(c.RemoteAddr)
	<-gate.got
	require.NoError(t, c.Close())
	close(gate.goOn)
	connWait(t, done)
	require.NoError(t, c.Close())
	var n uint64
	for o := range outcomes {
		n += rules.stats.total(o)
	}
	assert.EqualValues(t, 1, n)
	assert.EqualValues(t, 1, rules.stats.total(outcomeMarked), "its header was there")
}

func TestConnReadDeadlineIsNotLostWhileTheHeaderIsJudged(t *testing.T) {
	rules, _ := connRules(On)
	deadline := time.Unix(1, 0)
	for range 2000 {
		gate := connGate{connSays(connV1), make(chan struct{}), make(chan struct{})}
		c := newConn(gate, rules, On, trusted, monotime.Now())
		done := connGo(c.RemoteAddr)
		<-gate.got
		close(gate.goOn)
		require.NoError(t, c.SetReadDeadline(deadline)) // before, while or after it is known
		connWait(t, done)
		got := gate.Conn.(*connScript).deadline
		require.False(t, got.IsZero())
		require.False(t, got.After(monotime.Time(0).ToTime()))
	}
}

// connBrokenByRead panics once it was read.
type connBrokenByRead struct {
	net.Conn
	read bool
}

func (c *connBrokenByRead) Read([]byte) (int, error) { c.read = true; panic("read") }

func (c *connBrokenByRead) LocalAddr() net.Addr {
	if c.read {
		panic("local")
	}
	return connLocal
}

func TestConnThatPanicsForItsLocalAddrIsRefused(t *testing.T) {
	rules, logs := connRules(Unspecified)
	c := newConn(&connBrokenByRead{Conn: connSays()}, rules, Unspecified, trusted, monotime.Now())
	assert.NotPanics(t, func() { c.RemoteAddr() })
	assert.Equal(t, []string{"io"}, connReasons(logs))
}

// connAfterRead closes the connection after a read has its bytes and before it returns.
type connAfterRead struct {
	*connScript
	after func()
}

func (h *connAfterRead) Read(p []byte) (int, error) {
	n, err := h.connScript.Read(p)
	h.after()
	return n, err
}

// A header that was read when Close came is logged once, under the reason that was counted.
func TestConnClosedWhileItsHeaderIsWatchedIsLoggedOnce(t *testing.T) {
	rules, logs := connRules(Off, func(r *rules) { r.stats = newStats() })
	hook := &connAfterRead{connScript: connSays(connV1)}
	c := connOf(hook, rules)
	hook.after = func() { c.Close() }
	connRead(c, 100)
	reasons := connReasons(logs)
	assert.Len(t, reasons, 1)
	for o := range outcomes {
		if rules.stats.total(o) > 0 {
			assert.Equal(t, []string{o.String()}, reasons, "what is counted")
		}
	}
}

// A read that finds nothing because Close came counts what Close left to it.
func TestConnClosedWhileItsSilenceIsReadIsCountedOnce(t *testing.T) {
	for _, mode := range []Mode{Off, Unspecified} {
		rules, logs := connRules(mode, func(r *rules) { r.stats = newStats() })
		hook := &connAfterRead{connScript: &connScript{events: []connEvent{{err: errConnTimeout}}}, after: func() {}}
		c := newConn(hook, rules, mode, trusted, monotime.Now().Add(-2*rules.timeout))
		c.RemoteAddr() // the timeout is over
		require.Equal(t, stateWatching, c.state.Load())
		hook.events = []connEvent{{err: errConnReset}}
		hook.after = func() { require.NoError(t, c.Close()) }
		require.Error(t, connRead(c, 100).err)
		require.NoError(t, c.Close())
		assert.EqualValues(t, 1, rules.stats.total(reasonSilent), mode)
		assert.Equal(t, []string{"silent"}, connReasons(logs), mode)
	}
}

// What came before Close and is handed on is no silent connection.
func TestConnClosedWhileItsRequestIsReadWasNotSilent(t *testing.T) {
	rules, _ := connRules(Off, func(r *rules) { r.stats = newStats() })
	hook := &connAfterRead{connScript: connSays(connGET)}
	c := connOf(hook, rules)
	hook.after = func() { c.Close() }
	assert.Equal(t, connGET, connRead(c, 100).data)
	require.NoError(t, c.Close())
	assert.Zero(t, rules.stats.total(reasonSilent))
	assert.EqualValues(t, 1, rules.stats.total(outcomeDirect))
}

// connHook calls functions at the beginning of calls, once each.
type connHook struct {
	*connScript
	onClose, afterClose func()
}

func (h *connHook) Close() error {
	connOnce(&h.onClose)
	err := h.connScript.Close()
	connOnce(&h.afterClose)
	return err
}

func connOnce(f *func()) {
	if call := *f; call != nil {
		*f = nil
		call()
	}
}

func TestConn_ClosedWhileItIsRefusedIsCountedAsRefused(t *testing.T) {
	for said, want := range map[string]outcome{
		connGET:         reasonMissing,
		connV1 + connV2: reasonDuplicate,
		"PROXY foo\r\n": reasonMalformed,
	} {
		rules, logs := connRules(On, func(r *rules) { r.stats = newStats() })
		socket := &connHook{connScript: connSays(said)}
		c := connOf(socket, rules)
		socket.afterClose = func() { connWait(t, connGo(c.Close)) } // as Server.Shutdown does
		c.RemoteAddr()
		for o := range outcomes {
			assert.EqualValues(t, map[bool]int{true: 1}[o == want], rules.stats.total(o), "%q: %s", said, o)
		}
		assert.Equal(t, []string{want.String()}, connReasons(logs))
		assert.Len(t, rules.stats.lastRefusals(), 1)
	}
}

func TestConn_ReadWhileItIsClosedIsNotSilent(t *testing.T) {
	rules, _ := connRules(Off, func(r *rules) { r.stats = newStats() })
	socket := &connHook{connScript: &connScript{events: []connEvent{{err: errConnTimeout}, {data: "GET"}}}}
	c := connOf(socket, rules)
	socket.onClose = func() {
		assert.ErrorIs(t, connRead(c, 100).err, os.ErrDeadlineExceeded)
		assert.Equal(t, "GET", connRead(c, 100).data)
	}
	require.NoError(t, c.Close())
	assert.EqualValues(t, 1, rules.stats.total(outcomeDirect))
	assert.Zero(t, rules.stats.total(reasonSilent))
}

func TestConn_DeadlineClearedWhileTheHeaderIsReadStaysCleared(t *testing.T) {
	ln := connListen(t, "tcp4")
	for range 300 {
		rules, _ := connRules(On)
		client, err := net.Dial("tcp4", ln.Addr().String())
		require.NoError(t, err)
		accepted, err := (&listener{Listener: ln, rules: rules}).Accept()
		require.NoError(t, err)
		connSend(client, connV1+"data")
		stop := make(chan struct{})
		var changes sync.WaitGroup
		changes.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					assert.NoError(t, accepted.SetReadDeadline(time.Unix(1, 0)))
					assert.NoError(t, accepted.SetReadDeadline(time.Time{}))
				}
			}
		})
		assert.Equal(t, connClient, accepted.RemoteAddr().String())
		close(stop)
		changes.Wait()
		assert.Equal(t, connResult{"data", nil}, connRead(accepted.(*conn), 100))
		require.NoError(t, client.Close())
		require.NoError(t, accepted.Close())
	}
}
