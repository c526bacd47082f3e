package statusapi

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// peer returns a peer with refusals for a reason, and connections with a header.
func peer(address, mode, reason string, refusals, headers uint64) Peer {
	p := Peer{Address: address, Mode: mode, Connections: refusals + headers, Headers: headers}
	if refusals > 0 {
		p.Refusals = map[string]uint64{reason: refusals}
	}
	return p
}

// direct returns a peer with connections without a header.
func direct(address, mode string, connections uint64) Peer {
	return Peer{Address: address, Mode: mode, Connections: connections}
}

func TestListener_FindHints(t *testing.T) {
	const private, other, public, stranger, loopback = "10.0.0.5", "10.0.0.6", "203.0.113.5", "198.51.100.9", "127.0.0.1"
	type counts = map[string]uint64
	const nobody = "none has had one: if no load balancer is in front of this server, set the mode 'off'"
	neverSent := func(address string) string { return address + " sends no header" }
	for _, tt := range []struct {
		name     string
		mode     string
		trusted  string
		outcomes counts
		peers    []Peer
		more     bool
		refusals []Refusal
		payloads *WrongPayloads
		want     []string
	}{
		{name: "nothing yet"},
		{name: "all is well", outcomes: counts{"client": 9, "local": 3}, peers: []Peer{peer(private, "on", "", 0, 12)}},
		{name: "healthy, and strangers without headers", outcomes: counts{"client": 9, "missing": 2},
			peers: []Peer{peer(private, "on", "", 0, 9), peer(public, "on", "missing", 2, 0)}},
		{name: "healthy, and untrusted strangers", trusted: "static", outcomes: counts{"client": 9, "untrusted": 2},
			peers: []Peer{peer(private, "on", "", 0, 9), peer(public, "on", "untrusted", 2, 0)}},

		{name: "a load balancer with another key", outcomes: counts{"unauthenticated": 9},
			peers: []Peer{peer(public, "on", "unauthenticated", 9, 0)}, want: []string{public + " sends headers that do not prove what 'require' demands (refused: 9)"}},
		{name: "the same, and its health checks pass", trusted: "static", outcomes: counts{"unauthenticated": 9, "local": 5},
			peers: []Peer{peer(private, "on", "unauthenticated", 9, 5)}, want: []string{private + " sends headers that do not prove"}},
		{name: "one of two trusted load balancers with another key", trusted: "static", outcomes: counts{"client": 9, "unauthenticated": 2},
			peers: []Peer{peer(public, "on", "", 0, 9), peer(stranger, "on", "unauthenticated", 2, 0)}, want: []string{stranger + " sends headers that do not prove"}},
		{name: "healthy, and strangers who have no key", outcomes: counts{"client": 9, "unauthenticated": 2},
			peers: []Peer{peer(public, "on", "", 0, 9), peer(stranger, "on", "unauthenticated", 2, 0)}},
		{name: "another key, and health checks without a header", outcomes: counts{"unauthenticated": 9, "missing": 2},
			peers: []Peer{{Address: private, Mode: "on", Connections: 11, Refusals: counts{"unauthenticated": 9, "missing": 2}}},
			want:  []string{private + " sends headers, but not every time (refused: 2)", private + " sends headers that do not prove"}},
		{name: "a private host without a key, and no list", outcomes: counts{"client": 9, "unauthenticated": 2},
			peers: []Peer{peer(public, "on", "", 0, 9), peer(private, "on", "unauthenticated", 2, 0)}, want: []string{private + " sends headers that do not prove"}},
		{name: "as many accepted as not, and health checks", outcomes: counts{"client": 2, "unauthenticated": 2, "local": 3},
			peers: []Peer{peer(public, "on", "unauthenticated", 2, 5)}},
		{name: "one header accepted, one not, and one missing", outcomes: counts{"client": 1, "unauthenticated": 1, "missing": 1},
			peers: []Peer{{Address: public, Mode: "on", Connections: 3, Headers: 1, Refusals: counts{"unauthenticated": 1, "missing": 1}}},
			want:  []string{public + " sends headers, but not every time (refused: 1)"}},
		{name: "one header that is not accepted, and one missing", outcomes: counts{"unauthenticated": 1, "missing": 1},
			peers: []Peer{{Address: public, Mode: "on", Connections: 2, Refusals: counts{"unauthenticated": 1, "missing": 1}}},
			want:  []string{public + " sends headers, but not every time (refused: 1)", public + " sends headers that do not prove"}},
		{name: "four load balancers with another key", outcomes: counts{"unauthenticated": 10},
			peers: []Peer{peer("10.0.0.1", "on", "unauthenticated", 1, 0), peer("10.0.0.2", "on", "unauthenticated", 2, 0), peer("10.0.0.3", "on", "unauthenticated", 3, 0), peer("10.0.0.4", "on", "unauthenticated", 4, 0)},
			want:  []string{"10.0.0.4 sends", "10.0.0.3 sends", "10.0.0.2 sends"}},
		{name: "another key under unspecified, and direct connections", mode: "unspecified", outcomes: counts{"unauthenticated": 9, "direct": 20},
			peers: []Peer{{Address: private, Mode: "unspecified", Connections: 29, Refusals: counts{"unauthenticated": 9}}},
			want:  []string{private + " sends headers that do not prove"}},

		{name: "a private load balancer sends no header", outcomes: counts{"missing": 9},
			peers: []Peer{peer(private, "on", "missing", 9, 0)}, want: []string{neverSent(private) + " (refused: 9)", nobody}},
		{name: "a public one", outcomes: counts{"missing": 1},
			peers: []Peer{peer(public, "on", "missing", 1, 0)}, want: []string{neverSent(public), nobody}},
		{name: "one on this machine", outcomes: counts{"missing": 9},
			peers: []Peer{peer(loopback, "on", "missing", 9, 0)}, want: []string{neverSent(loopback), nobody}},
		{name: "two of them", outcomes: counts{"missing": 10},
			peers: []Peer{peer(private, "on", "missing", 3, 0), peer(other, "on", "missing", 7, 0)},
			want:  []string{neverSent(other), neverSent(private), nobody}},
		{name: "no load balancer, and many clients", outcomes: counts{"missing": 900}, more: true,
			peers: []Peer{peer("203.0.113.1", "on", "missing", 9, 0), peer("203.0.113.2", "on", "missing", 9, 0), peer("203.0.113.3", "on", "missing", 9, 0), peer("203.0.113.4", "on", "missing", 9, 0)},
			want:  []string{neverSent("203.0.113.1"), neverSent("203.0.113.2"), neverSent("203.0.113.3"), nobody}},
		{name: "with a monitor under off beside it", outcomes: counts{"missing": 9, "direct": 50},
			peers: []Peer{peer(private, "on", "missing", 9, 0), direct(other, "off", 50)}, want: []string{neverSent(private), nobody}},
		{name: "one of two sends none", outcomes: counts{"missing": 9, "client": 50},
			peers: []Peer{peer(private, "on", "missing", 9, 0), peer(other, "on", "", 0, 50)}, want: []string{neverSent(private)}},
		{name: "one of two that are trusted sends none", trusted: "static", outcomes: counts{"missing": 9, "client": 50},
			peers: []Peer{peer(public, "on", "missing", 9, 0), peer(private, "on", "", 0, 50)}, want: []string{neverSent(public)}},
		{name: "its health checks have none", outcomes: counts{"missing": 9, "client": 50},
			peers: []Peer{peer(public, "on", "missing", 9, 50)}, want: []string{public + " sends headers, but not every time (refused: 9)"}},

		{name: "its health checks have none, and its headers are refused", outcomes: counts{"missing": 9, "version": 50},
			peers: []Peer{{Address: private, Mode: "on", Connections: 59, Refusals: counts{"missing": 9, "version": 50}}}, want: []string{private + " sends headers, but not every time (refused: 9)"}},
		{name: "a monitor without headers, and a load balancer that is untrusted", trusted: "static", outcomes: counts{"missing": 9, "untrusted": 50},
			peers: []Peer{peer(other, "on", "missing", 9, 0), peer(private, "on", "untrusted", 50, 0)}, want: []string{other + " sends no header", private + " is not in"}},

		{name: "it sends headers to off", mode: "off", outcomes: counts{"forbidden": 4},
			peers: []Peer{peer(public, "off", "forbidden", 4, 0)}, want: []string{public + " sends headers, which mode 'off' refuses (refused: 4): if it is your load balancer, add to 'proxy_protocol_mode': on " + public}},
		{name: "it sends headers to off, clients come directly", mode: "off", outcomes: counts{"forbidden": 4, "direct": 9},
			peers: []Peer{peer(public, "off", "forbidden", 4, 0), direct(stranger, "off", 9)}, want: []string{public + " sends headers"}},
		{name: "headers to off over a Unix socket", mode: "off", outcomes: counts{"forbidden": 4}, want: []string{"headers arrive, which mode 'off' refuses (refused: 4)"}},
		{name: "many send headers to off", mode: "off", outcomes: counts{"forbidden": 4}, peers: []Peer{
			peer("10.0.0.1", "off", "forbidden", 1, 0), peer("10.0.0.2", "off", "forbidden", 1, 0), peer("10.0.0.3", "off", "forbidden", 1, 0), peer("10.0.0.4", "off", "forbidden", 2, 0)},
			want: []string{"10.0.0.4 sends", "10.0.0.1 sends", "10.0.0.2 sends"}},

		{name: "a wrong range", trusted: "static", outcomes: counts{"untrusted": 9},
			peers: []Peer{peer(public, "on", "untrusted", 9, 0)}, want: []string{public + " is not in 'trusted_proxies' (refused: 9): if it is your load balancer, add its address there, such as: trusted_proxies static " + public + "/32; or add to 'proxy_protocol_mode': on " + public}},
		{name: "a wrong range over IPv6", trusted: "static", outcomes: counts{"untrusted": 9},
			peers: []Peer{peer("2001:db8::9", "on", "untrusted", 9, 0)}, want: []string{"add to 'proxy_protocol_mode': on 2001:db8::9"}},
		{name: "a wrong range for one of two", trusted: "static", outcomes: counts{"untrusted": 9, "client": 9},
			peers: []Peer{peer(private, "on", "untrusted", 9, 0), peer(other, "on", "", 0, 9)}, want: []string{private + " is not in"}},
		{name: "this machine is untrusted", trusted: "static", outcomes: counts{"untrusted": 9, "client": 9},
			peers: []Peer{peer(loopback, "on", "untrusted", 9, 0)}, want: []string{"if your load balancer runs on this machine, add its address there, such as: trusted_proxies static 127.0.0.1/32; or add to 'proxy_protocol_mode': on 127.0.0.1; if only this machine's own health checks connect from there, add to 'proxy_protocol_mode': off 127.0.0.1"}},
		{name: "untrusted peers that are not remembered", trusted: "static", outcomes: counts{"untrusted": 9}, want: []string{"peers that are not in 'trusted_proxies' are refused (refused: 9)"}},
		{name: "many untrusted", trusted: "static", outcomes: counts{"untrusted": 4}, peers: []Peer{
			peer("10.0.0.1", "on", "untrusted", 1, 0), peer("10.0.0.2", "on", "untrusted", 1, 0), peer("10.0.0.3", "on", "untrusted", 1, 0), peer("10.0.0.4", "on", "untrusted", 1, 0)},
			want: []string{"10.0.0.1 is", "10.0.0.2 is", "10.0.0.3 is"}},

		{name: "only health checks", outcomes: counts{"local": 1},
			peers: []Peer{peer(private, "on", "", 0, 1)}, want: []string{"only headers without a client address"}},
		{name: "only health checks, and headers that are refused", outcomes: counts{"local": 9, "malformed": 9},
			peers: []Peer{peer(private, "on", "malformed", 9, 9)}},
		{name: "only health checks, and two headers", outcomes: counts{"local": 9, "duplicate": 9},
			peers: []Peer{peer(private, "on", "duplicate", 9, 9)}},
		{name: "health checks, and marked clients", mode: "unspecified", outcomes: counts{"local": 3, "marked": 1},
			peers: []Peer{peer(private, "unspecified", "", 0, 4)}},

		{name: "the last refusals have a hint", outcomes: counts{"client": 9, "duplicate": 2, "version": 1, "too_large": 1, "malformed": 1},
			refusals: []Refusal{{Peer: "10.0.0.5:1", Reason: "duplicate", Hint: "the latest"}, {Peer: "10.0.0.5:2", Reason: "duplicate", Hint: "an older one"},
				{Peer: "10.0.0.5:3", Reason: "too_large", Hint: "raise it"}, {Reason: "malformed", Hint: "-"}, {Reason: "version"}},
			want: []string{"10.0.0.5:1 was refused as duplicate: the latest", "10.0.0.5:3 was refused as too_large: raise it"}},
		{name: "the last refusals are those of a peer that has been set right", outcomes: counts{"client": 9, "version": 2}, peers: []Peer{peer(private, "on", "", 0, 9)},
			refusals: []Refusal{{Peer: "10.0.0.5:1", Reason: "version", Hint: "do it"}}},
		{name: "the last refusals are old", outcomes: counts{"client": 9}, refusals: []Refusal{{Peer: "10.0.0.5:1", Reason: "version", Hint: "do it"}}},

		{name: "one load balancer without headers under off", mode: "off", trusted: "none", outcomes: counts{"direct": 1},
			peers: []Peer{direct(private, "off", 1)}, want: []string{"every connection under mode 'off' comes from 10.0.0.5, without a header"}},
		{name: "two of them under unspecified, and a monitor under off", mode: "unspecified", outcomes: counts{"direct": 9},
			peers: []Peer{direct(private, "unspecified", 4), direct(other, "unspecified", 4), direct(loopback, "off", 1)}, want: []string{"comes from 10.0.0.5 and 10.0.0.6, without"}},
		{name: "a public one under off", mode: "off", trusted: "none", outcomes: counts{"direct": 10},
			peers: []Peer{direct(public, "off", 10)}, want: []string{"comes from " + public}},
		{name: "one client that comes directly", mode: "off", trusted: "none", outcomes: counts{"direct": 9}, peers: []Peer{direct(public, "off", 9)}},
		{name: "three private clients", mode: "off", trusted: "none", outcomes: counts{"direct": 9},
			peers: []Peer{direct(private, "off", 3), direct(other, "off", 3), direct(loopback, "off", 3)}},
		{name: "many clients", mode: "off", trusted: "none", outcomes: counts{"direct": 9}, more: true, peers: []Peer{direct(private, "off", 9)}},
		{name: "clients with and without a header", mode: "unspecified", outcomes: counts{"direct": 9, "marked": 9}, peers: []Peer{peer(private, "unspecified", "", 0, 9)}},
		{name: "only a monitor under off", mode: "on", outcomes: counts{"direct": 9}, peers: []Peer{direct(private, "off", 9)}},
		{name: "a peer without an IP address", mode: "off", trusted: "none", outcomes: counts{"direct": 9}},
		{name: "nothing but silent connections", mode: "off", trusted: "none", outcomes: counts{"silent": 9}, peers: []Peer{direct(private, "off", 9)}},

		{name: "TLS on a port for plain HTTP, and the reverse", outcomes: counts{"client": 3, "local": 1}, payloads: &WrongPayloads{TLS: 2, HTTP: 3},
			want: []string{"TLS arrives behind the header, but this port is for plain HTTP (connections: 2)", "plain HTTP arrives behind the header, but this port is for TLS (connections: 3)"}},
		{name: "only TLS on a port for plain HTTP", outcomes: counts{"client": 4}, payloads: &WrongPayloads{TLS: 2}, want: []string{"TLS arrives"}},
		{name: "only plain HTTP on a port for TLS", outcomes: counts{"client": 2}, payloads: &WrongPayloads{HTTP: 2}, want: []string{"plain HTTP arrives"}},
		{name: "some clients use the wrong scheme", outcomes: counts{"client": 5}, payloads: &WrongPayloads{TLS: 2, HTTP: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := Listener{Outcomes: tt.outcomes, Refusals: tt.refusals, WrongPayloads: tt.payloads}
			l.Mode, l.TrustedProxies = "on", "any"
			if tt.mode != "" {
				l.Mode = tt.mode
			}
			if tt.trusted != "" {
				l.TrustedProxies = tt.trusted
			}
			l.Peers = Peers{Count: len(tt.peers), More: tt.more, Details: tt.peers}
			got := l.FindHints()
			if assert.Len(t, got, len(tt.want), strings.Join(got, "\n")) {
				for i := range got {
					assert.Contains(t, got[i], tt.want[i])
				}
			}
		})
	}
}
