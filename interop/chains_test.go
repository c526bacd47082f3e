//go:build interop

package interop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hops are the protocols of two load balancers in a row. The first is that of the client.
type hops [2]protocol

// untouched are the hops of load balancers that forward bytes as they are.
var untouched = []hops{{http1, http1}, {h2c, h2c}, {http1Through, http1Through}, {http2Through, http2Through}}

// acceptFromOthers makes nginx take the client's address from the headers of other load balancers.
const acceptFromOthers = "set_real_ip_from " + serverIP4 + ";\n\tset_real_ip_from " + loopback6 + ";\n\tset_real_ip_from unix:;\n"

// wrapped are the server options of a Caddy in front that has this module, too.
const wrapped = "listener_wrappers {\n" + on + "\ntls\n}"

// TestTwoLoadBalancers asserts that Caddy gets the client's address through two load balancers in a
// row.
func TestTwoLoadBalancers(t *testing.T) {
	c := startCaddy(t, on)
	for _, test := range []struct {
		name          string
		first, second starter
		hops          []hops
		version       int
		// oneFamily reports whether the connections to both load balancers must be of the same
		// version of IP.
		oneFamily bool
		// want changes the expected answer, which has the client and the destination of the first
		// load balancer.
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
			// nginx writes its own address as the destination. It has to be of the client's
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
			// Caddy's reverse_proxy sends the client's IP address, but not its port.
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
					// between is the version of IP between the load balancers.
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

// TestTwoHeaders asserts that a connection is refused if each of two load balancers in a row sends a
// header.
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

// TestNginxWithoutRealIP shows a common mistake: without set_real_ip_from, nginx reads the first load
// balancer's header, but names the first load balancer as the client in its own header.
func TestNginxWithoutRealIP(t *testing.T) {
	c := startCaddy(t, on)
	client := inARow(t, c, haproxy("mode tcp", "", "send-proxy-v2"), ipv4, nginx("proxy_protocol", ""))
	got, logged, _ := client.ask(t, c.logs)
	assert.Equal(t, serverIP4, got.clientIP)
	assert.Equal(t, serverIP4, logged.Request.RemoteIP)
}

// TestNginxMixesFamilies asserts that a header with an IPv4 source and an IPv6 destination is
// refused. The specification does not allow such a header, and HAProxy refuses it, too.
func TestNginxMixesFamilies(t *testing.T) {
	c := startCaddy(t, on)
	client := inARow(t, c, haproxy("mode tcp", "", "send-proxy-v2"), ipv6, nginx("proxy_protocol", acceptFromOthers))
	logs := c.logs.now(t)
	_, err := client.Get(client.url("/refused"))
	assert.Error(t, err)
	assert.Equal(t, "malformed", logs.waitFor(t, entry.isRefusal).Reason)
}

// TestNginxBehindNginx has two nginx in a row, with another version of IP than the client's, or a
// Unix socket, between them. It asserts that Caddy gets the client's address with the option
// mismatched_destination, and that without it the log names the option.
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
						dir, err := os.MkdirTemp("", "pp") // shorter than t.TempDir
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
				assert.Contains(t, refused.Error, "destination is not of the announced family; nginx writes this")
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
