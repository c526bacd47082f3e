package command_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The reactions of an imitated server to a connection. Any other text is its answer.
const (
	closes = ""
	hangs  = "hang" // keep the connection open, after the text before this word
	resets = "reset"
	ok     = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	bad    = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nwhat?"
)

// imitation has the reactions of an imitated server to connections that begin with "none",
// "v1", "v2", "local", "two v1", "two v2" and "checksum".
type imitation map[string]string

func everything(does string) imitation {
	return imitation{"none": does, "v1": does, "v2": does, "local": does, "two v1": does, "two v2": does, "checksum": does}
}

func (i imitation) with(does string, beginnings ...string) imitation {
	changed := imitation{}
	for beginning, did := range i {
		changed[beginning] = did
	}
	for _, beginning := range beginnings {
		changed[beginning] = does
	}
	return changed
}

// beginning returns the name of the beginning of a connection.
func beginning(t testing.TB, b []byte) string {
	r := wire.Decode(b, wire.MaxSize)
	if r.State == wire.Invalid {
		assert.Equal(t, wire.ProblemChecksum, r.Err.Problem)
		return "checksum"
	}
	if r.State != wire.Complete {
		assert.Equal(t, wire.Absent, r.State)
		return "none"
	}
	if r.Header.HasAddrs() {
		for _, address := range []string{r.Header.Source().String(), r.Header.Destination().String()} {
			assert.True(t, strings.HasPrefix(address, "192.0.2.") || strings.HasPrefix(address, "[2001:db8:"), address)
		}
	}
	name := "v1"
	switch {
	case r.Header.Command() == wire.Local:
		name = "local"
	case r.Version == 2:
		name = "v2"
	}
	if state, version := wire.Signature(b[r.Size:]); state == wire.Partial {
		assert.Equal(t, r.Version, version)
		return "two " + name
	}
	return name
}

// serve serves plain HTTP until the test ends, and returns the address.
func (i imitation) serve(t testing.TB) string {
	return serve(t, func(conn net.Conn) {
		// The headers and the request, or ClientHello, arrive in one piece.
		var b [4096]byte
		n, err := conn.Read(b[:])
		if err != nil {
			return
		}
		do(conn, i[beginning(t, b[:n])])
	})
}

// serveTLS serves TLS until the test ends, and returns the address. An answer is a completed
// handshake.
func (i imitation) serveTLS(t testing.TB) string {
	cert, _ := certificate()
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	return serve(t, func(conn net.Conn) {
		var b [4096]byte
		n, err := conn.Read(b[:])
		if err != nil {
			return
		}
		does := i[beginning(t, b[:n])]
		if does != ok {
			do(conn, does)
			return
		}
		hello := b[:n]
		if r := wire.Decode(hello, wire.MaxSize); r.State == wire.Complete {
			hello = hello[r.Size:]
		}
		server := tls.Server(&replayedConn{conn, hello}, config)
		_ = server.Handshake()
		server.Close()
	})
}

// replayedConn is a connection whose first reads return bytes that were read before.
type replayedConn struct {
	net.Conn
	bytes []byte
}

func (c *replayedConn) Read(p []byte) (int, error) {
	if len(c.bytes) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.bytes)
	c.bytes = c.bytes[n:]
	return n, nil
}

func do(conn net.Conn, what string) {
	what, hanging := strings.CutSuffix(what, hangs)
	if what == resets {
		_ = conn.(*net.TCPConn).SetLinger(0)
		return
	}
	_, _ = io.WriteString(conn, what)
	if hanging {
		_, _ = io.Copy(io.Discard, conn) // until the other end gives up
	}
}

var (
	likeOn          = everything(closes).with(ok, "v1", "v2", "local")
	likeOff         = everything(closes).with(ok, "none")
	likeUnspecified = likeOn.with(ok, "none")
)

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		golden string
		server imitation
		tls    bool
		args   []string
		fails  bool
	}{
		{golden: "on", server: likeOn, args: []string{"--expect", "on"}},
		{golden: "on_only_v2", server: likeOn.with(closes, "v1"), args: []string{"--expect", "on"}},
		{golden: "off", server: likeOff, args: []string{"--expect", "off"}},
		{golden: "unspecified", server: likeUnspecified, args: []string{"--expect", "unspecified"}},
		{golden: "refused", server: everything(closes), args: []string{"--expect", "refused"}},
		{golden: "reset", server: everything(resets), args: []string{"--expect", "refused"}},
		{golden: "on_json", server: likeOn, args: []string{"--expect", "on", "--json"}},
		{golden: "tls_on", server: likeOn, tls: true, args: []string{"--tls", "--expect", "on"}},
		{golden: "by_name", server: likeOn, args: []string{"--expect", "on"}},
		{golden: "tls_refused", server: everything(closes), tls: true, args: []string{"--tls", "--sni", "localhost", "--expect", "refused"}},
		{golden: "expect_fails", server: likeUnspecified, args: []string{"--expect", "on"}, fails: true},
		{golden: "no_proxy_protocol", server: everything(bad).with(ok, "none"), args: []string{"--expect", "off"}, fails: true},
		{golden: "like_nginx", server: likeOn.with(bad, "two v1", "two v2").with(ok, "checksum")},
		{golden: "like_unspecified_json", server: likeUnspecified.with(bad, "two v1", "two v2").with(ok, "checksum"), args: []string{"--json"}},
		{golden: "second_header_believed", server: likeOn.with(ok, "two v1", "two v2")},
		{golden: "one_answer_spoils_refused", server: everything(closes).with("x", "local"), args: []string{"--expect", "refused"}, fails: true},
		{golden: "only_tls", server: likeOn, tls: true, args: []string{"--expect", "refused"}, fails: true},
		{golden: "only_tls_400", server: everything(bad), args: []string{"--expect", "refused"}, fails: true},
		{golden: "hostile", server: everything("\x1b]0;owned\x07\x1b[2J\r\n\xff"), fails: true},
		{golden: "hostile_json", server: everything("\x1b]0;owned\x07\x1b[2J\r\n\u009b\xff"), args: []string{"--json"}, fails: true},
	} {
		t.Run(test.golden, func(t *testing.T) {
			t.Parallel()
			address := ""
			switch {
			case test.golden == "only_tls":
				// Like HAProxy, the server closes connections that do not begin with a ClientHello.
				address = serve(t, func(conn net.Conn) {
					cert, _ := certificate()
					server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
					_ = server.Handshake()
				})
			case test.tls:
				address = test.server.serveTLS(t)
			default:
				address = test.server.serve(t)
			}
			if test.golden == "by_name" {
				address = strings.Replace(address, "127.0.0.1", "localhost", 1)
			}
			args := append([]string{"proxy-protocol", "check", "--timeout", patience.String()}, append(test.args, address)...)
			output, err := caddy(t, "", args...)
			requireHarmless(t, output)
			assert.Equal(t, test.fails, err != nil)
			requireGolden(t, "check_"+test.golden, transcript(output, err, args...))
		})
	}
}

// TestCheckInTime asserts that check ends in time, even if there is no server, or no end of its
// answer.
func TestCheckInTime(t *testing.T) {
	for _, test := range []struct {
		golden string
		serve  func(t testing.TB) string
		args   []string
	}{
		{"dead", deadAddress, nil},
		{"dead_expecting_refused", deadAddress, []string{"--expect", "refused"}},
		{"dead_json", deadAddress, []string{"--json"}},
		{"no_such_host", func(testing.TB) string { return "no..such..host:443" }, nil},
		{"no_such_host_escaped", func(testing.TB) string { return "no..such\n\\x0a..host:443" }, nil},
		{"silent", everything(hangs).serve, nil},
		{"silent_expecting_refused", everything(hangs).serve, []string{"--expect", "refused"}},
		{"silent_tls", everything(hangs).serveTLS, []string{"--tls"}},
		{"silent_headers", everything(hangs).with(ok, "none").serve, []string{"--expect", "off"}},
		{"half_an_answer", func(t testing.TB) string {
			return serve(t, func(conn net.Conn) {
				do(conn, "HTTP/1.1 20"+hangs)
			})
		}, nil},
		{"endless_answer", func(t testing.TB) string {
			return serve(t, func(conn net.Conn) {
				for err := error(nil); err == nil; {
					_, err = conn.Write(make([]byte, 1024))
				}
			})
		}, nil},
		{"silent_in_tls", func(t testing.TB) string {
			return serve(t, func(conn net.Conn) {
				do(conn, "\x16\x03\x03\x40\x00\x02"+hangs)
			})
		}, []string{"--tls"}},
	} {
		t.Run(test.golden, func(t *testing.T) {
			t.Parallel()
			address := test.serve(t)
			args := append([]string{"proxy-protocol", "check", "--timeout", impatience}, append(test.args, address)...)
			started := time.Now()
			output, err := caddy(t, "", args...)
			assert.Less(t, time.Since(started), patience)
			require.Error(t, err)
			requireHarmless(t, output)
			requireGolden(t, "check_"+test.golden, transcript(output, err, args...))
		})
	}
}

func TestCheckBadInput(t *testing.T) {
	for _, test := range []struct {
		args []string
		err  string
	}{
		{nil, "check needs one host:port, such as example.com:443, not 0"},
		{[]string{"a:1", "b:1"}, "check needs one host:port, such as example.com:443, not 2"},
		{[]string{"example.com"}, "check needs a host:port, such as example.com:443, or unix//<path>, not 'example.com'"},
		{[]string{"2001:db8::1"}, "not '2001:db8::1'"},
		{[]string{"https://example.com:443"}, "not 'https://example.com:443'"},
		{[]string{"example.com:"}, "not 'example.com:'"},
		{[]string{"a\x1b[2J"}, `not 'a\x1b[2J'`},
		{[]string{"--expect", "of", "a:1"}, "--expect must be one of on, off, unspecified, refused, not 'of'"},
		{[]string{"--timeout", "0s", "a:1"}, "--timeout must be longer than 0, not 0s"},
		{[]string{"--timeout", "-1s", "a:1"}, "--timeout must be longer than 0, not -1s"},
		{[]string{"--timeout", "soon", "a:1"}, `invalid argument "soon" for "--timeout" flag`},
		{[]string{"--sni", "a b", "a:1"}, "--sni must be a name such as example.com, not 'a b'"},
		{[]string{"--sni", "a\r\nHost: b", "a:1"}, `not 'a\x0d\x0aHost: b'`},
		{[]string{"--insecure", "a:1"}, "unknown flag: --insecure"},
	} {
		output, err := proxyProtocol(t, "", append([]string{"check"}, test.args...)...)
		require.ErrorContains(t, err, test.err)
		assert.Empty(t, output)
	}
}

// checked has the parts of check's JSON that tests look at.
type checked struct {
	Probes []struct {
		Probe    string `json:"probe"`
		Protocol string `json:"protocol"`
		Outcome  string `json:"outcome"`
		Detail   string `json:"detail"`
	} `json:"probes"`
	Verdict     string   `json:"verdict"`
	Closest     string   `json:"closest"`
	Differences []string `json:"differences"`
	Notes       []string `json:"notes"`
	NotApart    string   `json:"not_apart"`
}

// check runs the command check with --json and returns its output.
func check(t testing.TB, args ...string) checked {
	t.Helper()
	args = append([]string{"check", "--json", "--timeout", patience.String()}, args...)
	output, err := proxyProtocol(t, "", args...)
	var c checked
	require.NoError(t, json.Unmarshal([]byte(output), &c), "%v: %s", err, output)
	return c
}

// did returns one letter for the outcome of each probe over a protocol.
func (c checked) did(protocol string) string {
	letters := map[string]string{
		"answered": "A", "answered_400": "4", "answered_other": "B", "tls_failed": "F",
		"closed": ".", "timed_out": "H", "unreachable": "x",
	}
	did := ""
	for _, probe := range c.Probes {
		if probe.Protocol == protocol {
			did += letters[probe.Outcome]
		}
	}
	return did
}
