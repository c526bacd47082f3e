// Package caddytest runs Caddy inside a test and talks to it: over TCP, Unix sockets and UDP,
// with PROXY protocol headers, TLS and HTTP/1, 2 and 3.
//
// This package only uses the names of this repository's modules in configurations. A test imports
// the package that registers them.
//
// There is one Caddy in a process. So tests that run Caddy must not be parallel to each other. The
// subtests of one such test may be parallel.
package caddytest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Caddy is the Caddy that a test runs. It stops when the test ends.
type Caddy struct {
	t testing.TB
	// Logs has the log entries since New.
	Logs Logs
	// Dir is a temporary directory for the test, with Caddy's storage in it.
	Dir string
	// Grace is the grace period in configurations of Load and Caddyfile: the time that Caddy gives
	// to open connections when it stops.
	Grace time.Duration
}

// Start runs Caddy with a Caddyfile of global options and sites until the test ends.
func Start(t testing.TB, options, sites string) *Caddy {
	t.Helper()
	c := New(t)
	require.NoError(t, c.Load(options, sites))
	return c
}

// StartJSON runs Caddy with the JSON of apps until the test ends.
func StartJSON(t testing.TB, apps string) *Caddy {
	t.Helper()
	c := New(t)
	require.NoError(t, c.LoadJSON(apps))
	return c
}

// New returns a Caddy without a configuration. Its log begins here.
func New(t testing.TB) *Caddy {
	t.Helper()
	c := &Caddy{t: t, Logs: Logs{all: new(logEntries)}, Dir: t.TempDir(), Grace: time.Second}
	captured.Store(c.Logs.all)
	t.Cleanup(c.Stop)
	return c
}

// Stop stops Caddy, and fails the test if Caddy does not stop. It is also called when the test ends.
func (c *Caddy) Stop() {
	stopped := make(chan error, 1)
	go func() { stopped <- caddy.Stop() }()
	select {
	case err := <-stopped:
		assert.NoError(c.t, err)
	case <-time.After(Patience):
		assert.Fail(c.t, "Caddy does not stop")
	}
}

// Load loads a Caddyfile of global options and sites. If it returns an error, Caddy keeps the last
// configuration.
func (c *Caddy) Load(options, sites string) error {
	return c.LoadCaddyfile(c.Caddyfile(options, sites))
}

// LoadCaddyfile loads a whole Caddyfile. If it returns an error, Caddy keeps the last configuration.
func (c *Caddy) LoadCaddyfile(text string) error {
	config, err := Adapt(text)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// unlogged is the name of the logger of Caddy's events, which is left out of the log. Logging events
// at the debug level is a data race in Caddy: a TLS handshake reads fields that the TLS app writes
// when it starts, and HTTP/3 may start before.
const unlogged = "events"

// LoadJSON loads the JSON of apps. If it returns an error, Caddy keeps the last configuration.
func (c *Caddy) LoadJSON(apps string) error {
	return caddy.Load(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"storage": {"module": "file_system", "root": %q},
		"logging": {"logs": {"default": {"level": "DEBUG", "exclude": [%q], "writer": {"output": "proxy_protocol_test"}, "encoder": {"format": "json"}}}},
		"apps": %s
	}`, c.Dir, unlogged, apps), true)
}

// Caddyfile returns a whole Caddyfile with these global options and sites.
func (c *Caddy) Caddyfile(options, sites string) string {
	return fmt.Sprintf(`{
		admin off
		persist_config off
		skip_install_trust
		grace_period %s
		storage file_system %s
		log {
			output proxy_protocol_test
			format json
			level DEBUG
			exclude %s
		}
		%s
	}
	%s
	`, c.Grace, strconv.Quote(c.Dir), unlogged, options, sites)
}

// Adapt returns the JSON of a Caddyfile. A warning is an error, unless it is about the format.
func Adapt(text string) ([]byte, error) {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	for _, warning := range warnings {
		if err == nil && !strings.Contains(warning.Message, "not formatted") {
			err = errors.New(warning.String())
		}
	}
	return config, err
}

// Server returns the HTTP server of the running Caddy that listens at a port.
func Server(t testing.TB, port int) *caddyhttp.Server {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	for _, server := range app.(*caddyhttp.App).Servers {
		if slices.Contains(server.Listen, fmt.Sprintf(":%d", port)) {
			return server
		}
	}
	require.Fail(t, "no such server", "port %d", port)
	return nil
}
