package proxyprotocol

import (
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// connAddr is an address of a type of its own.
type connAddr string

func (a connAddr) Network() string { return "test" }
func (a connAddr) String() string  { return string(a) }

func connTCPAddr(s string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))
}

func TestPolicyPeerIP(t *testing.T) {
	tests := []struct {
		name string
		peer net.Addr
		want string // or none
	}{
		{"IPv4", connTCPAddr("192.0.2.1:80"), "192.0.2.1"},
		{"IPv4 in 16 bytes", &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 80}, "192.0.2.1"},
		{"IPv4 in 4 bytes", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4()}, "192.0.2.1"},
		{"IPv6", connTCPAddr("[2001:db8::1]:80"), "2001:db8::1"},
		{"IPv6 with a zone", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "fe80::1"},
		{"IPv4-mapped", connTCPAddr("[::ffff:192.0.2.1]:80"), "192.0.2.1"},
		{"IPv4-mapped with a zone", connAddr("[::ffff:192.0.2.1%eth0]:80"), "192.0.2.1"},
		{"UDP", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80")), "192.0.2.1"},
		{"UDP, IPv4-mapped with a zone", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[::ffff:192.0.2.1%eth0]:80")), "192.0.2.1"},
		{"UDP, IPv6 with a zone", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[fe80::1%eth0]:80")), "fe80::1"},
		{"nil UDP address", (*net.UDPAddr)(nil), ""},
		{"empty UDP address", &net.UDPAddr{}, ""},
		{"type of its own", connAddr("192.0.2.1:80"), "192.0.2.1"},
		{"type of its own, IPv6 with a zone", connAddr("[fe80::1%eth0]:80"), "fe80::1"},
		{"type of its own, IPv4-mapped", connAddr("[::ffff:192.0.2.1]:80"), "192.0.2.1"},
		{"IP address without a port", &net.IPAddr{IP: net.ParseIP("192.0.2.1")}, ""},
		{"host name", connAddr("example.com:80"), ""},
		{"no text", connAddr(""), ""},
		{"Unix socket", &net.UnixAddr{Name: "/run/s", Net: "unix"}, ""},
		{"Unix socket named like an address", &net.UnixAddr{Name: "192.0.2.1:80", Net: "unix"}, ""},
		{"unnamed Unix socket", &net.UnixAddr{Net: "unix"}, ""},
		{"pipe", connAddr("pipe"), ""},
		{"none", nil, ""},
		{"nil TCP address", (*net.TCPAddr)(nil), ""},
		{"empty TCP address", &net.TCPAddr{}, ""},
		{"TCP address of a wrong size", &net.TCPAddr{IP: net.IP{1, 2, 3}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want netip.Addr
			if tt.want != "" {
				want = netip.MustParseAddr(tt.want)
			}
			assert.Equal(t, want, peerIP(tt.peer))
		})
	}
}

func TestAddressesOfSocketsAreReadWithoutText(t *testing.T) {
	for _, peer := range []net.Addr{connTCPAddr("192.0.2.1:80"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80"))} {
		assert.Zero(t, testing.AllocsPerRun(10, func() { peerIP(peer) }), "%T", peer)
	}
}

// The peer of a Unix socket chooses the name of its end.
func TestPolicyPeerAddrHidesNamesOfUnixSockets(t *testing.T) {
	for _, name := range []string{"", "@", "/run/s", "192.0.2.1:80"} {
		assert.Equal(t, &net.UnixAddr{Name: "@", Net: "unix"}, peerAddr(&net.UnixAddr{Name: name, Net: "unix"}))
	}
	for _, addr := range []net.Addr{connPeer, connAddr("pipe"), nil} {
		assert.Equal(t, addr, peerAddr(addr))
	}
}

func TestPolicyIsSocketFile(t *testing.T) {
	tests := []struct {
		name  string
		local net.Addr
		want  bool
	}{
		{"path", &net.UnixAddr{Name: "/run/caddy.sock", Net: "unix"}, true},
		{"relative path", &net.UnixAddr{Name: "caddy.sock", Net: "unix"}, true},
		{"abstract", &net.UnixAddr{Name: "@caddy", Net: "unix"}, false},
		{"abstract, as the kernel has it", &net.UnixAddr{Name: "\x00caddy", Net: "unix"}, false},
		{"unnamed", &net.UnixAddr{Net: "unix"}, false},
		{"TCP", connTCPAddr("192.0.2.1:80"), false},
		{"type of its own", connAddr("/run/caddy.sock"), false},
		{"none", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, isSocketFile(tt.local))
		})
	}
}

func TestPolicyParseRange(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8":              "10.0.0.0/8",
		"10.1.2.3/8":              "10.0.0.0/8",
		"10.1.2.3":                "10.1.2.3/32",
		"0.0.0.0/0":               "0.0.0.0/0",
		"2001:db8::/32":           "2001:db8::/32",
		"2001:db8:1::1/32":        "2001:db8::/32",
		"::1":                     "::1/128",
		"::/0":                    "::/0",
		"::ffff:10.1.2.3":         "10.1.2.3/32",
		"::ffff:10.1.2.3/104":     "10.0.0.0/8",
		"::ffff:0:0/96":           "0.0.0.0/0",
		"::ffff:10.1.2.3/95":      "::fffe:0:0/95",
		"::ffff:0:0/0":            "::/0",
		"::ffff:a01:203/128":      "10.1.2.3/32",
		"0:0:0:0:0:FFFF:a00:0/97": "0.0.0.0/1",
	} {
		got, err := parseRange(in)
		if assert.NoError(t, err, in) {
			assert.Equal(t, netip.MustParsePrefix(want), got, in)
		}
	}
	for in, want := range map[string]string{
		"":                  "'' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"example.com":       "'example.com' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"10.0.0.0/33":       "'10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"10.0.0.0/":         "'10.0.0.0/' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"10.0.0":            "'10.0.0' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"010.0.0.1":         "'010.0.0.1' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"10.0.0.0/08":       "'10.0.0.0/08' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"10.0.0.0 - 10.1":   "'10.0.0.0 - 10.1' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"2001:db8::/129":    "'2001:db8::/129' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		"fe80::1%eth0":      "'fe80::1%eth0' has a zone: use an IP address or CIDR range without one",
		"fe80::%eth0/64":    "'fe80::%eth0/64' has a zone: use an IP address or CIDR range without one",
		"::ffff:1.2.3.4%e0": "'::ffff:1.2.3.4%e0' has a zone: use an IP address or CIDR range without one",
	} {
		_, err := parseRange(in)
		assert.EqualError(t, err, want)
	}
}

func TestParsePrefixAcceptsWhatCaddyDoes(t *testing.T) {
	var accepted, refused int
	for _, s := range []string{
		"10.0.0.0/8", "10.1.2.3/8", "10.1.2.3", "0.0.0.0/0", "255.255.255.255/32", "0.0.0.0",
		"2001:db8::/32", "2001:db8:1::1/32", "2001:DB8::A", "::", "::/0", "::1/128", "1:2:3:4:5:6:7:8",
		"::ffff:10.1.2.3", "::ffff:10.1.2.3/104", "::ffff:0:0/96", "::ffff:a01:203", "::FFFF:10.1.2.3/128", "64:ff9b::10.0.0.1",
		"fe80::1%eth0", "fe80::%eth0/64", "fe80::1%", "::ffff:1.2.3.4%e0", "%eth0", "10.0.0.1%eth0",
		" 10.0.0.1", "10.0.0.1 ", "10.0.0.0 /8", "10.0.0.0/ 8", "10.0.0.0/8 ", "\t::1", "10.0.0.1\n", "10.0.0.1,10.0.0.2",
		"010.0.0.1", "10.0.0.01", "10.0.0.0/08", "10.0.0.0/00", "0x0a.0.0.1", "00001::", "0001::", "2001:db8::/032",
		"", "/", "/8", "10.0.0.0/", "10.0.0/8", "10/8", "10.0.0", "10.0.0.0.0", "256.0.0.1", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8",
		"10.0.0.0/8/8", "2001:db8::/129", "2001:db8:::1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "[::1]", "[::1]/128", "10.0.0.1:80",
		"example.com", "localhost", "private_ranges", "10.0.0.0-10.0.0.9", "10.0.0.*", "10.0.0.0/255.0.0.0", "unix", "\x00", "１0.0.0.1",
	} {
		want, wantErr := caddyhttp.CIDRExpressionToPrefix(s)
		got, err := parsePrefix(s)
		if wantErr != nil {
			refused++
			assert.Error(t, err, "%q", s)
			continue
		}
		accepted++
		assert.NoError(t, err, "%q", s)
		assert.Equal(t, want, got, "%q", s)
	}
	assert.NotZero(t, accepted)
	assert.NotZero(t, refused)
}

func TestPolicyNormalizeOfNoRangeIsNone(t *testing.T) {
	assert.False(t, normalize(netip.Prefix{}).IsValid())
}

// connTable has the modes of ranges, connSet the ranges.
func connTable(t testing.TB, modes map[string]Mode) *bart.Table[Mode] {
	table := new(bart.Table[Mode])
	for s, mode := range modes {
		prefix, err := parseRange(s)
		require.NoError(t, err)
		table.Insert(prefix, mode)
	}
	return table
}

func connSet(t testing.TB, ranges ...string) *bart.Lite {
	table := new(bart.Lite)
	for _, s := range ranges {
		prefix, err := parseRange(s)
		require.NoError(t, err)
		table.Insert(prefix)
	}
	return table
}

// The peer of a Unix socket has no IP address.
func TestRangesDoNotContainAnInvalidAddress(t *testing.T) {
	all := []string{"0.0.0.0/0", "::/0", "0.0.0.0", "::", "::ffff:0:0/96"}
	modes := make(map[string]Mode)
	for _, s := range all {
		modes[s] = On
	}
	for _, ranges := range [][]string{nil, all} {
		assert.False(t, connSet(t, ranges...).Contains(netip.Addr{}))
	}
	for _, table := range []*bart.Table[Mode]{new(bart.Table[Mode]), connTable(t, modes)} {
		_, ok := table.Lookup(netip.Addr{})
		assert.False(t, ok)
	}
}

func TestPolicyJudge(t *testing.T) {
	ranges := connTable(t, map[string]Mode{
		"10.0.0.0/8": On, "10.1.0.0/16": Off, "10.1.2.0/24": Unspecified, "10.1.2.3": On,
		"2001:db8::/32": Off, "2001:db8::1": On, "::ffff:198.51.100.0/120": Off, "fe80::/10": Off,
	})
	all6 := connTable(t, map[string]Mode{"::/0": Off})
	all4 := connTable(t, map[string]Mode{"0.0.0.0/0": Off})
	source := connSource(func(*http.Request) []netip.Prefix { panic("asked in the accept loop") })
	file := &net.UnixAddr{Name: "/run/s", Net: "unix"}
	abstract := &net.UnixAddr{Name: "@s", Net: "unix"}
	tests := []struct {
		name   string
		policy policy
		peer   net.Addr
		local  net.Addr
		mode   Mode
		trust  trust
	}{
		{"everyone is trusted by default", policy{mode: On}, connPeer, connLocal, On, trusted},
		{"a Unix peer too", policy{mode: On}, abstract, abstract, On, trusted},
		{"an unknown peer too", policy{mode: On}, connAddr("pipe"), connLocal, On, trusted},
		{"no peer too", policy{mode: On}, nil, nil, On, trusted},

		{"the widest range", policy{mode: Unspecified, ranges: ranges}, connTCPAddr("10.9.0.1:1"), connLocal, On, trusted},
		{"a narrower range wins", policy{mode: Unspecified, ranges: ranges}, connTCPAddr("10.1.9.1:1"), connLocal, Off, trusted},
		{"the next narrower one", policy{mode: On, ranges: ranges}, connTCPAddr("10.1.2.9:1"), connLocal, Unspecified, trusted},
		{"a single address", policy{mode: Off, ranges: ranges}, connTCPAddr("10.1.2.3:1"), connLocal, On, trusted},
		{"outside of all ranges", policy{mode: Off, ranges: ranges}, connTCPAddr("11.0.0.1:1"), connLocal, Off, trusted},
		{"IPv6", policy{mode: On, ranges: ranges}, connTCPAddr("[2001:db8::2]:1"), connLocal, Off, trusted},
		{"a single IPv6 address", policy{mode: Off, ranges: ranges}, connTCPAddr("[2001:db8::1]:1"), connLocal, On, trusted},
		{"an IPv4-mapped peer", policy{mode: Off, ranges: ranges}, connTCPAddr("[::ffff:10.1.2.3]:1"), connLocal, On, trusted},
		{"an IPv4-mapped range", policy{mode: On, ranges: ranges}, connTCPAddr("198.51.100.255:1"), connLocal, Off, trusted},
		{"a peer with a zone", policy{mode: On, ranges: ranges}, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, connLocal, Off, trusted},
		{"a peer of another type", policy{mode: Off, ranges: ranges}, connAddr("10.1.2.3:1"), connLocal, On, trusted},
		{"a Unix peer is in no range", policy{mode: On, ranges: all6}, file, file, On, trusted},
		{"an unknown peer is in no range", policy{mode: On, ranges: all4}, connAddr("pipe"), connLocal, On, trusted},
		{"::/0 does not cover IPv4", policy{mode: On, ranges: all6}, connPeer, connLocal, On, trusted},
		{"::/0 does not cover IPv4-mapped peers", policy{mode: On, ranges: all6}, connTCPAddr("[::ffff:192.0.2.1]:1"), connLocal, On, trusted},
		{"::/0 covers IPv6", policy{mode: On, ranges: all6}, connTCPAddr("[2001:db8::1]:1"), connLocal, Off, trusted},
		{"0.0.0.0/0 covers IPv4-mapped peers", policy{mode: On, ranges: all4}, connTCPAddr("[::ffff:192.0.2.1]:1"), connLocal, Off, trusted},
		{"0.0.0.0/0 does not cover IPv6", policy{mode: On, ranges: all4}, connTCPAddr("[2001:db8::1]:1"), connLocal, On, trusted},

		{"trusted", policy{mode: On, trusted: connSet(t, "192.0.2.0/24")}, connPeer, connLocal, On, trusted},
		{"untrusted", policy{mode: On, trusted: connSet(t, "198.51.100.0/24")}, connPeer, connLocal, On, untrusted},
		{"untrusted under unspecified", policy{mode: Unspecified, trusted: connSet(t, "198.51.100.0/24")}, connPeer, connLocal, Unspecified, untrusted},
		{"nobody is trusted", policy{mode: On, trusted: connSet(t)}, connPeer, connLocal, On, untrusted},
		{"an IPv4-mapped peer is trusted", policy{mode: On, trusted: connSet(t, "192.0.2.0/24")}, connTCPAddr("[::ffff:192.0.2.9]:1"), connLocal, On, trusted},
		{"trusted by an IPv4-mapped range", policy{mode: On, trusted: connSet(t, "::ffff:192.0.2.0/120")}, connPeer, connLocal, On, trusted},
		{"a peer with a zone is trusted", policy{mode: On, trusted: connSet(t, "fe80::/10")}, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, connLocal, On, trusted},
		{"::/0 does not trust IPv4", policy{mode: On, trusted: connSet(t, "::/0")}, connPeer, connLocal, On, untrusted},
		{"0.0.0.0/0 does not trust IPv6", policy{mode: On, trusted: connSet(t, "0.0.0.0/0")}, connTCPAddr("[2001:db8::1]:1"), connLocal, On, untrusted},
		{"peers of a range of their own are trusted", policy{mode: Off, ranges: ranges, trusted: connSet(t)}, connTCPAddr("10.1.2.3:1"), connLocal, On, trusted},
		{"others are not", policy{mode: On, ranges: ranges, trusted: connSet(t)}, connTCPAddr("11.1.2.3:1"), connLocal, On, untrusted},
		{"peers of a socket file are trusted", policy{mode: On, trusted: connSet(t)}, &net.UnixAddr{Net: "unix"}, file, On, trusted},
		{"peers of an abstract socket are not", policy{mode: On, trusted: connSet(t, "0.0.0.0/0", "::/0")}, &net.UnixAddr{Net: "unix"}, abstract, On, untrusted},
		{"unknown peers are not", policy{mode: On, trusted: connSet(t, "0.0.0.0/0", "::/0")}, connAddr("pipe"), connLocal, On, untrusted},
		{"no peer is not", policy{mode: On, trusted: connSet(t, "0.0.0.0/0", "::/0")}, nil, connLocal, On, untrusted},

		{"a source is not asked yet", policy{mode: On, source: source}, connPeer, connLocal, On, unasked},
		{"nor for a peer of a range", policy{mode: On, source: source, ranges: ranges}, connTCPAddr("10.1.2.3:1"), connLocal, On, trusted},
		{"nor for a socket file", policy{mode: On, source: source}, &net.UnixAddr{Net: "unix"}, file, On, trusted},
		{"nor for an abstract socket", policy{mode: On, source: source}, &net.UnixAddr{Net: "unix"}, abstract, On, untrusted},
		{"nor for an unknown peer", policy{mode: On, source: source}, connAddr("pipe"), connLocal, On, untrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mode, trust := tt.policy.judge(tt.peer, tt.local)
			assert.Equal(t, tt.mode, mode)
			assert.Equal(t, tt.trust, trust)
		})
	}
}

func TestPolicyAsk(t *testing.T) {
	tests := []struct {
		name   string
		peer   net.Addr
		ranges []netip.Prefix
		want   trust
	}{
		{"in a range", connPeer, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}, trusted},
		{"in none", connPeer, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, untrusted},
		{"there are none", connPeer, nil, untrusted},
		{"not masked", connPeer, []netip.Prefix{netip.MustParsePrefix("192.0.2.77/24")}, trusted},
		{"IPv4-mapped", connPeer, []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")}, trusted},
		{"peer IPv4-mapped", connTCPAddr("[::ffff:192.0.2.1]:1"), []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, trusted},
		{"peer with a zone", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, []netip.Prefix{netip.MustParsePrefix("fe80::/10")}, trusted},
		{"::/0 does not cover IPv4", connPeer, []netip.Prefix{netip.MustParsePrefix("::/0")}, untrusted},
		{"0.0.0.0/0", connPeer, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, trusted},
		{"a range that is none", connPeer, []netip.Prefix{{}}, untrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := policy{asking: make(chan struct{}, 1), source: connSource(func(*http.Request) []netip.Prefix { return tt.ranges })}
			got, err := p.ask(t.Context(), tt.peer)
			assert.Equal(t, tt.want, got)
			if len(tt.ranges) == 0 {
				assert.ErrorIs(t, err, errSourceEmpty)
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

func TestPolicyAskTellsSourceOfTheConnection(t *testing.T) {
	server := new(caddyhttp.Server)
	var got *http.Request
	p := policy{asking: make(chan struct{}, 1), source: askSource(ipSource(func(r *http.Request) []netip.Prefix {
		got = r
		// What sources and the modules they use do with a request.
		caddyhttp.SetVar(r.Context(), "key", "value")
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.request.remote}", "")
		return nil
	}), server)}
	_, _ = p.ask(t.Context(), connPeer)
	require.NotNil(t, got)
	assert.Equal(t, connPeer.String(), got.RemoteAddr)
	assert.Same(t, server, got.Context().Value(caddyhttp.ServerCtxKey))
	assert.Equal(t, "value", caddyhttp.GetVar(got.Context(), "key"))
	assert.NotNil(t, got.URL)
	assert.NotNil(t, got.Header)

	first := got
	_, _ = p.ask(t.Context(), connPeer)
	assert.NotSame(t, first.Context().Value(caddy.ReplacerCtxKey), got.Context().Value(caddy.ReplacerCtxKey), "nothing is left from another connection")
}
