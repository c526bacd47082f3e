//go:build interop

package interop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hops are the protocols of two load balancers in a row. A client speaks the first.
type hops [2]protocol

// untouched are those of load balancers that pass on bytes.
var untouched = []hops{{http1, http1}, {h2c, h2c}, {http1Through, http1Through}, {http2Through, http2Through}}

// acceptFromOthers makes nginx take the address in a header for the client's.
const acceptFromOthers = "set_real_ip_from " + serverIP4 + ";\n\tset_real_ip_from " + loopback6 + ";\n\tset_real_ip_from unix:;\n"

// wrapped are options of a Caddy in front that has this module as well.
const wrapped = "listener_wrappers {\n" + on + "\ntls\n}"

// TestTwoLoadBalancers asserts that Caddy learns who the client is from the second of two
// load balancers in a row.
func TestTwoLoadBalancers(t *testing.T) {
	c := startCaddy(t, on)
	for _, test := range []struct {
		name          string
		first, second starter
		hops          []hops
		version       int
		// oneFamily says that clients and the first load balancer have to come over the same
		// version of IP.
		oneFamily bool
		// want changes what is expected: client and destination of the first load balancer.
		want func(a *answer, first, second leg)
	}{
		{
			name:  "nginx, HAProxy accept-proxy",
			first: nginx("", ""), second: haproxy("mode tcp", "accept-proxy", "send-proxy-v2"),
			hops: untouched, version: 2,
		},
		{
			name:  "HAProxy, HAProxy accept-proxy",
			first: haproxy("mode tcp", "", "send-proxy-v2"), second: haproxy("mode tcp", "accept-proxy", "send-proxy"),
			hops: untouched, version: 1,
		},
		{
			name:  "nginx, HAProxy that leaves the header as it is",
			first: nginx("", ""), second: haproxy("mode tcp", "", ""),
			hops: untouched, version: 1,
		},
		{
			// It says where it was connected to itself. That has to be of the client's
			// version of IP: see TestNginxMixesFamilies.
			name:  "HAProxy, nginx proxy_protocol and set_real_ip_from",
			first: haproxy("mode tcp", "", "send-proxy-v2"), second: nginx("proxy_protocol", acceptFromOthers),
			hops: untouched, version: 1, oneFamily: true,
			want: func(a *answer, _, second leg) {
				a.server, a.proxyProtocol.Destination = second.listen, second.listen
			},
		},
		{
			name:  "hitch, HAProxy accept-proxy",
			first: hitch("write-proxy-v2 = on"), second: haproxy("mode tcp", "accept-proxy", "send-proxy-v2"),
			hops: []hops{{http1Ended, http1}, {http2Ended, h2c}}, version: 2,
		},
		{
			name:  "HAProxy, hitch proxy-proxy",
			first: haproxy("mode tcp", "", "send-proxy-v2"), second: hitch("proxy-proxy = on"),
			hops: []hops{{http1Through, http1Ended}, {http2Through, http2Ended}}, version: 2,
		},
		{
			// It knows addresses, but no ports.
			name:  "HAProxy, Caddy with this module",
			first: haproxy("mode tcp", "", "send-proxy-v2"), second: reverseProxy(wrapped, "proxy_protocol v2"),
			hops: []hops{{http1, http1}, {h2c, h2c}, {http1Through, http1Repeated}, {http2Through, http2Repeated}}, version: 2,
			want: func(a *answer, _, second leg) { caddyTells(a, second, nil) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var first, second []leg
			for i, h := range test.hops {
				for _, f := range []family{ipv4, ipv6} {
					// From one to the other, and on to Caddy.
					between := []family{ipv4, ipv6}[i%2]
					if test.oneFamily {
						between = f
					}
					to := h[1].leg(t, between, f, c.servers[on])
					second = append(second, to)
					first = append(first, leg{h[0], f, between, f.freeAddress(t), to.listen})
				}
			}
			test.second(t, c, true, second)
			test.first(t, c, true, first)
			for i := range first {
				from, to := first[i], second[i]
				t.Run(from.String(), func(t *testing.T) {
					client := newClient(t, from.protocol, from.front, from.listen, c.authority)
					got, logged, _ := client.ask(t, c.logs)
					want := sender{version: test.version}.expected(from, client, nil)
					want.peerIP = to.back.server()
					if test.want != nil {
						test.want(&want, from, to)
					}
					requireAnswer(t, want, got, logged)
					if !from.http2 {
						client.websocket(t)
					}
				})
			}
		})
	}
}

// TestTwoHeaders asserts that nobody is served if two load balancers in a row send a header
// each.
func TestTwoHeaders(t *testing.T) {
	c := startCaddy(t, on)
	for _, test := range []struct {
		name          string
		first, second starter
	}{
		{"nginx, HAProxy v1", nginx("", ""), haproxy("mode tcp", "", "send-proxy")},
		{"nginx, HAProxy v2", nginx("", ""), haproxy("mode tcp", "", "send-proxy-v2")},
		{"HAProxy v1, nginx", haproxy("mode tcp", "", "send-proxy"), nginx("", "")},
		{"HAProxy v2, nginx", haproxy("mode tcp", "", "send-proxy-v2"), nginx("", "")},
		{"HAProxy v2, HAProxy v2", haproxy("mode tcp", "", "send-proxy-v2"), haproxy("mode tcp", "", "send-proxy-v2")},
	} {
		t.Run(test.name, func(t *testing.T) {
			var first, second []leg
			for _, p := range passThrough {
				to := p.leg(t, ipv4, ipv4, c.servers[on])
				second = append(second, to)
				first = append(first, leg{p, ipv4, ipv4, ipv4.freeAddress(t), to.listen})
			}
			test.second(t, c, true, second)
			test.first(t, c, true, first)
			for _, l := range first {
				t.Run(l.protocol.name, func(t *testing.T) {
					logs := c.logs.now(t)
					requireRefused(t, sender{}, l, newClient(t, l.protocol, l.front, l.listen, c.authority))
					refused := logs.waitFor(t, entry.isRefusal)
					assert.Equal(t, "duplicate", refused.Reason)
					assert.Equal(t, "on", refused.Mode)
					assert.Empty(t, logs.find(t, func(e entry) bool { return e.Message == "handled request" }))
				})
			}
		})
	}
}

// inARow runs two load balancers in a row for HTTP/1.1, and returns a client of the first.
func inARow(t testing.TB, c *caddy, first starter, between family, second starter) *client {
	t.Helper()
	to := http1.leg(t, between, ipv4, c.servers[on])
	second(t, c, true, []leg{to})
	from := leg{http1, ipv4, between, ipv4.freeAddress(t), to.listen}
	first(t, c, true, []leg{from})
	return newClient(t, from.protocol, from.front, from.listen, c.authority)
}

// TestNginxWithoutRealIP shows what is easy to get wrong: without set_real_ip_from, nginx
// reads the first load balancer's header, and names that as the client in its own.
func TestNginxWithoutRealIP(t *testing.T) {
	c := startCaddy(t, on)
	client := inARow(t, c, haproxy("mode tcp", "", "send-proxy-v2"), ipv4, nginx("proxy_protocol", ""))
	got, logged, _ := client.ask(t, c.logs)
	assert.Equal(t, serverIP4, got.clientIP)
	assert.Equal(t, serverIP4, logged.Request.RemoteIP)
}

// TestNginxMixesFamilies asserts that a header is refused that names a client's address of
// IPv4 and a destination of IPv6. The specification does not allow it, and HAProxy does not
// take it either.
func TestNginxMixesFamilies(t *testing.T) {
	c := startCaddy(t, on)
	client := inARow(t, c, haproxy("mode tcp", "", "send-proxy-v2"), ipv6, nginx("proxy_protocol", acceptFromOthers))
	logs := c.logs.now(t)
	_, err := client.Get(client.url("/refused"))
	assert.Error(t, err)
	assert.Equal(t, "malformed", logs.waitFor(t, entry.isRefusal).Reason)
}

// TestNginxBehindNginx asserts that a client behind two nginx is known if there is another
// family or a Unix socket between them, if Caddy is told to accept what the second writes
// then, and that the log says so if it is not.
func TestNginxBehindNginx(t *testing.T) {
	c := startCaddy(t, on, allowing)
	for _, test := range []struct {
		name           string
		front, between family
		unix           bool
	}{
		{"an IPv6 client, IPv4 between", ipv6, ipv4, false},
		{"an IPv6 client, a Unix socket between", ipv6, ipv4, true},
		{"an IPv4 client, IPv6 between", ipv4, ipv6, false},
		{"an IPv4 client, a Unix socket between", ipv4, ipv6, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, back := range []family{ipv4, ipv6} {
				through := func(wrapper string) (*client, leg) {
					listen := test.between.freeAddress(t)
					if test.unix {
						dir, err := os.MkdirTemp("", "pp") // shorter than that of the test
						require.NoError(t, err)
						t.Cleanup(func() { os.RemoveAll(dir) })
						listen = "unix:" + filepath.Join(dir, "chain.sock")
					}
					second := leg{http1, test.between, back, listen, c.servers[wrapper].address(back, false)}
					nginx("proxy_protocol", acceptFromOthers)(t, c, true, []leg{second})
					first := leg{http1, test.front, test.between, test.front.freeAddress(t), listen}
					nginx("", "")(t, c, true, []leg{first})
					return newClient(t, http1, test.front, first.listen, c.authority), leg{http1, test.front, back, first.listen, second.caddy}
				}

				client, _ := through(on)
				logs := c.logs.now(t)
				_, err := client.Get(client.url("/refused"))
				require.Error(t, err)
				refused := logs.waitFor(t, entry.isRefusal)
				assert.Equal(t, "malformed", refused.Reason)
				assert.Contains(t, refused.Error, "destination is not of the announced family, as nginx writes it")
				assert.Contains(t, refused.Error, "mismatched_destination allow")

				client, whole := through(allowing)
				got, logged, _ := client.ask(t, c.logs)
				want := sender{version: 1}.expected(whole, client, nil)
				want.server, want.proxyProtocol.Destination = whole.caddy, ""
				requireAnswer(t, want, got, logged)
				client.websocket(t)
			}
		})
	}
}
