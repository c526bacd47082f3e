package caddytest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Unwrapped takes the place of a mode, for a server without the listener wrapper.
const Unwrapped = "unwrapped"

// Farm is a Caddy with a plain and a TLS server for each of several modes. All servers have the same
// site.
type Farm struct {
	*Caddy
	// Plain and Secure are the ports of the servers, by mode.
	Plain, Secure map[string]int
}

// StartFarm runs servers of these modes until the test ends. options are global options, and site
// has the lines of the site.
func StartFarm(t testing.TB, modes []string, options, site string) *Farm {
	t.Helper()
	f := &Farm{Caddy: New(t), Plain: make(map[string]int), Secure: make(map[string]int)}
	require.NoError(t, f.Load(f.Config(t, modes, options, site)))
	return f
}

// Config returns the configuration of servers of these modes, and gives the servers ports. Modes
// whose servers have ports already are left out.
func (f *Farm) Config(t testing.TB, modes []string, options, site string) (globalOptions, sites string) {
	t.Helper()
	// Without this, Caddy would listen at port 80, too, where requests of other tests could arrive.
	options += "\nauto_https disable_redirects"
	cert := CertificateFiles(t)
	for _, mode := range modes {
		if f.Plain[mode] != 0 {
			continue
		}
		f.Plain[mode], f.Secure[mode] = FreePort(t), FreePort(t)
		wrapper := "proxy_protocol_mode " + mode + "\ntls"
		if mode == Unwrapped {
			wrapper = ""
		}
		options += ServerOptions(f.Plain[mode], wrapper, "protocols h1 h2c") + ServerOptions(f.Secure[mode], wrapper, "protocols h1 h2")
		sites += fmt.Sprintf("http://:%d {\n%s\n}\nhttps://localhost:%d {\ntls %s\n%s\n}\n", f.Plain[mode], site, f.Secure[mode], cert, site)
	}
	return options, sites
}

// At returns the endpoint of the server of a mode for a transport.
func (f *Farm) At(mode string, tr Transport) Endpoint {
	if tr.IsTLS() {
		return TCP4(f.Secure[mode])
	}
	return TCP4(f.Plain[mode])
}
