//go:build interop

package interop

import "testing"

// TestReverseProxyForwardedFor asserts the client's address behind a Caddy with reverse_proxy. That
// Caddy sends the address in X-Forwarded-For if it trusts the peer, and otherwise the peer's.
func TestReverseProxyForwardedFor(t *testing.T) {
	c := startCaddy(t, on)
	for _, send := range []struct {
		option  string
		version int
	}{{"proxy_protocol v1", 1}, {"proxy_protocol v2", 2}} {
		for _, test := range []struct {
			name, options string
			front         family
			forwarded     string
			// client is the expected IP address of the client. It is empty for the client's own.
			client    string
			transport string
			source    string
		}{
			{"not trusted", "", ipv4, "203.0.113.7", "", "TCP4", ""},
			{"IPv4", "trusted_proxies static 127.0.0.9", ipv4, "203.0.113.7", "203.0.113.7", "TCP4", ""},
			{"IPv6", "trusted_proxies static ::1", ipv6, "2001:db8::7", "2001:db8::7", "TCP6", ""},
			{"IPv6 over IPv4", "trusted_proxies static 127.0.0.9", ipv4, "2001:db8::7", "2001:db8::7", "TCP6", ""},
			{"IPv4 over IPv6", "trusted_proxies static ::1", ipv6, "203.0.113.7", "203.0.113.7", "TCP4", ""},
			// The client's address is 203.0.113.7, but the header has it in IPv4-mapped form.
			{"IPv4-mapped IPv6", "trusted_proxies static 127.0.0.9", ipv4, "::ffff:203.0.113.7", "203.0.113.7", "TCP6", "[::ffff:203.0.113.7]:0"},
		} {
			t.Run(send.option+", "+test.name, func(t *testing.T) {
				l := http1.leg(t, test.front, ipv4, c.servers[on])
				reverseProxy(test.options, send.option)(t, c, true, []leg{l})
				client := newClient(t, l.protocol, l.front, l.listen, c.authority)
				got, logged, _ := client.ask(t, c.logs, "X-Forwarded-For", test.forwarded)
				want := sender{version: send.version}.expected(l, client, nil)
				if test.client != "" {
					want.clientIP = test.client
				}
				caddyTells(&want, l, nil)
				want.proxyProtocol.Transport = test.transport
				if test.source != "" {
					want.proxyProtocol.Source, want.proxyProtocol.Destination = test.source, "[::]:0"
				}
				requireAnswer(t, want, got, logged)
			})
		}
	}
}
