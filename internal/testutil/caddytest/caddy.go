// Package caddytest runs Caddy inside a test and talks to it: over TCP, Unix sockets and UDP,
// with PROXY protocol headers, TLS and HTTP/1, 2 and 3.
//
// It knows the modules of this repository by their names in the configuration only. A test
// imports the package that registers them.
//
// There is one Caddy in a process: a test that runs one must not be parallel to another that
// does. Its own subtests may be parallel to each other.
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

// Caddy is the Caddy of a test. It runs until the test ends.
type Caddy struct {
	t testing.TB
	// Logs has the log entries of the test.
	Logs Logs
	// Dir is a directory for the test. Caddy's storage is there.
	Dir string
	// Grace is the grace period in configurations that are loaded from now on: the time that
	// Caddy gives to connections when it stops.
	Grace time.Duration
}

// Start runs Caddy with a Caddyfile made of global options and sites.
func Start(t testing.TB, options, sites string) *Caddy {
	t.Helper()
	c := New(t)
	require.NoError(t, c.Load(options, sites))
	return c
}

// StartJSON is Start with the JSON of apps.
func StartJSON(t testing.TB, apps string) *Caddy {
	t.Helper()
	c := New(t)
	require.NoError(t, c.LoadJSON(apps))
	return c
}

// New returns a Caddy that runs nothing yet.
func New(t testing.TB) *Caddy {
	t.Helper()
	c := &Caddy{t: t, Logs: Logs{all: new(logEntries)}, Dir: t.TempDir(), Grace: time.Second}
	captured.Store(c.Logs.all)
	t.Cleanup(c.Stop)
	return c
}

// Stop stops Caddy, and fails the test if that hangs. It is called when the test ends, too.
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

// Load makes a Caddyfile of global options and sites the running configuration. If it returns
// an error, the last configuration goes on.
func (c *Caddy) Load(options, sites string) error {
	return c.LoadCaddyfile(c.Caddyfile(options, sites))
}

// LoadCaddyfile is Load with a whole Caddyfile.
func (c *Caddy) LoadCaddyfile(text string) error {
	config, err := Adapt(text)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// unlogged is the logger of Caddy's events. To log them at the debug level, a handshake reads
// fields that the TLS app still writes when it starts, which may be after HTTP/3: a race of
// Caddy's own.
const unlogged = "events"

// LoadJSON is Load with the JSON of apps.
func (c *Caddy) LoadJSON(apps string) error {
	return caddy.Load(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"storage": {"module": "file_system", "root": %q},
		"logging": {"logs": {"default": {"level": "DEBUG", "exclude": [%q], "writer": {"output": "proxy_protocol_test"}, "encoder": {"format": "json"}}}},
		"apps": %s
	}`, c.Dir, unlogged, apps), true)
}

// Caddyfile returns the whole Caddyfile for some global options and sites.
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

// Server returns the running HTTP server that listens at a port.
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
