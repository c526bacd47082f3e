//go:build interop

package interop

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRefusals asserts that clients of a load balancer that is set up wrongly get no bytes from Caddy,
// in any protocol, and that the log has the reason.
func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name, wrapper string
		headers       bool
		mode, reason  string
	}{
		{"no header under on", on, false, "on", "missing"},
		{"a header under off", off, true, "off", "forbidden"},
		{"a header of an untrusted peer", distrusting, true, "on", "untrusted"},
		{"no header of an untrusted peer", distrusting, false, "on", "untrusted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := startCaddy(t, test.wrapper)
			for _, s := range senders {
				t.Run(s.name, func(t *testing.T) {
					var legs []leg
					for i, p := range s.protocols {
						both := []family{ipv4, ipv6}[i%2] // the version of IP changes addresses only
						legs = append(legs, p.leg(t, both, both, c.servers[test.wrapper]))
					}
					s.start(t, c, test.headers, legs)
					for _, l := range legs {
						t.Run(l.String(), func(t *testing.T) {
							logs := c.logs.now(t)
							client := newClient(t, l.protocol, l.front, l.listen, c.authority)
							requireRefused(t, s, l, client)
							logs.waitFor(t, func(e entry) bool {
								host, _, _ := net.SplitHostPort(e.Peer)
								return e.isRefusal() && e.Mode == test.mode && e.Reason == test.reason && host == l.back.server()
							})
							assert.Empty(t, logs.find(t, func(e entry) bool { return e.Message == "handled request" }))
						})
					}
				})
			}
		})
	}
}

// requireRefused asserts that a client sees a refusal: the connection is closed, or the load balancer
// answers with an error.
func requireRefused(t testing.TB, s sender, l leg, c *client) {
	t.Helper()
	if s.speaksHTTP && l.http2 {
		// HAProxy asks HTTP/2 clients to try again, and Go's client does so for a minute.
		c.Timeout = 4 * time.Second
	}
	response, err := c.Get(c.url("/refused"))
	if s.speaksHTTP && (err == nil || !l.http2) {
		require.NoError(t, err)
		response.Body.Close()
		assert.Contains(t, []int{http.StatusBadGateway, http.StatusServiceUnavailable}, response.StatusCode)
		return
	}
	if !assert.Error(t, err) {
		response.Body.Close()
		return
	}
	if s.speaksHTTP {
		return
	}
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	assert.False(t, netErr.Timeout(), "the connection is still open: %v", err)
	if !l.balancerTLS() {
		assert.Zero(t, c.received.Load(), "bytes of Caddy")
	}
}
