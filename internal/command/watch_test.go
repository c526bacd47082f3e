package command_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// safeBuffer is a buffer that a test reads while a command writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startWatch runs status --watch until the test ends, and returns its output.
func startWatch(t testing.TB, admin string) *safeBuffer {
	var out safeBuffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs([]string{"proxy-protocol", "status", "--watch", "--address", admin})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		requireHarmless(t, out.String())
	})
	return &out
}

// shows waits until the output has a line that matches.
func (s *safeBuffer) shows(t testing.TB, pattern string) {
	t.Helper()
	caddytest.Eventually(t, func() bool { return assert.Regexp(new(quiet), "(?m)"+pattern, s.String()) }, "%s is not in the output", pattern)
}

// quiet is a TestingT that reports nothing.
type quiet struct{}

func (*quiet) Errorf(string, ...any) {}

func TestStatus_WatchPrintsWhatChanges(t *testing.T) {
	on, admin := freeAddress(t), freeAddress(t)
	servers := object{"srv0": httpServer(on, false, onFor("127.0.0.1"))}
	run(t, admin, servers)
	out := startWatch(t, admin)
	out.shows(t, `^  connections +none$`)

	request := func(from string) {
		c := caddytest.DialFrom(t, from, portOf(on))
		caddytest.Send(t, c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		caddytest.RequireRefused(t, c)
	}
	request("")
	out.shows(t, `^\S+ srv0 `+on+`: missing 127\.0\.0\.1:\d+ http GET / HTTP/1\.1\\x0d\\x0a$`)
	out.shows(t, `^\S+ srv0 `+on+`: missing 1$`)
	request("127.0.0.2")
	out.shows(t, `^\S+ srv0 `+on+`: untrusted 127\.0\.0\.2:\d+$`)
	out.shows(t, `^\S+ srv0 `+on+`: missing 1, untrusted 1$`)
	assert.Equal(t, 1, strings.Count(out.String(), ": missing 127.0.0.1"), "once")
	require.Equal(t, "on", check(t, "--address", admin, on).Verdict)
	out.shows(t, `^\S+ srv0 `+on+`: checks: client 2, duplicate 2, checksum 1, local 1, missing 1$`)

	// The admin API goes away and comes back, and Caddy counts anew, as when it restarts.
	run(t, freeAddress(t), object{})
	out.shows(t, `no status: .*connection refused$`)
	off := freeAddress(t)
	servers["srv1"] = httpServer(off, false, object{"wrapper": "proxy_protocol_mode", "mode": "off"})
	run(t, admin, servers)
	out.shows(t, `^\S+ srv1 `+off+`: mode off$`)
	request("127.0.0.2")
	out.shows(t, `^\S+ srv0 `+on+`: untrusted 1$`)
	assert.Equal(t, 1, strings.Count(out.String(), "no status:"), "once")
}

func TestStatus_WatchEndsWhenItsOutputDoes(t *testing.T) {
	admin := freeAddress(t)
	run(t, admin, object{})
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	cmd := root()
	cmd.SetOut(w)
	cmd.SetArgs([]string{"proxy-protocol", "status", "-w", "--address", admin})
	require.ErrorContains(t, cmd.Execute(), "broken pipe")
}

// portOf returns the port of an address.
func portOf(address string) int {
	return int(netip.MustParseAddrPort(address).Port())
}
