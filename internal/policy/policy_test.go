package policy

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"testing"

	"github.com/gaissmai/bart"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The ends of a connection.
var testPeer, testLocal net.Addr = tcpAddr("192.0.2.1:4711"), tcpAddr("192.0.2.2:443")

// otherAddr is an address of a type of its own.
type otherAddr string

func (a otherAddr) Network() string { return "test" }
func (a otherAddr) String() string  { return string(a) }

func tcpAddr(s string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))
}

func TestPeerIP_LeavesOutMappingAndZone(t *testing.T) {
	tests := []struct {
		name string
		peer net.Addr
		want string // or none
	}{
		{"IPv4", tcpAddr("192.0.2.1:80"), "192.0.2.1"},
		{"IPv4 in 16 bytes", &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 80}, "192.0.2.1"},
		{"IPv4 in 4 bytes", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4()}, "192.0.2.1"},
		{"IPv6", tcpAddr("[2001:db8::1]:80"), "2001:db8::1"},
		{"IPv6 with a zone", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "fe80::1"},
		{"IPv4-mapped", tcpAddr("[::ffff:192.0.2.1]:80"), "192.0.2.1"},
		{"IPv4-mapped with a zone", otherAddr("[::ffff:192.0.2.1%eth0]:80"), "192.0.2.1"},
		{"UDP", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80")), "192.0.2.1"},
		{"UDP, IPv4-mapped with a zone", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[::ffff:192.0.2.1%eth0]:80")), "192.0.2.1"},
		{"UDP, IPv6 with a zone", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[fe80::1%eth0]:80")), "fe80::1"},
		{"nil UDP address", (*net.UDPAddr)(nil), ""},
		{"empty UDP address", &net.UDPAddr{}, ""},
		{"type of its own", otherAddr("192.0.2.1:80"), "192.0.2.1"},
		{"type of its own, IPv6 with a zone", otherAddr("[fe80::1%eth0]:80"), "fe80::1"},
		{"type of its own, IPv4-mapped", otherAddr("[::ffff:192.0.2.1]:80"), "192.0.2.1"},
		{"IP address without a port", &net.IPAddr{IP: net.ParseIP("192.0.2.1")}, ""},
		{"host name", otherAddr("example.com:80"), ""},
		{"no text", otherAddr(""), ""},
		{"Unix socket", &net.UnixAddr{Name: "/run/s", Net: "unix"}, ""},
		{"Unix socket named like an address", &net.UnixAddr{Name: "192.0.2.1:80", Net: "unix"}, ""},
		{"unnamed Unix socket", &net.UnixAddr{Net: "unix"}, ""},
		{"pipe", otherAddr("pipe"), ""},
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
			assert.Equal(t, want, PeerIP(tt.peer))
		})
	}
}

func TestPeerIP_OfSocketsNeedsNoText(t *testing.T) {
	for _, peer := range []net.Addr{tcpAddr("192.0.2.1:80"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80"))} {
		assert.Zero(t, testing.AllocsPerRun(10, func() { PeerIP(peer) }), "%T", peer)
	}
}

// The peer of a Unix socket chooses the name of its end.
func TestPeerAddr_HidesNamesOfUnixSockets(t *testing.T) {
	for _, name := range []string{"", "@", "/run/s", "192.0.2.1:80"} {
		assert.Equal(t, &net.UnixAddr{Name: "@", Net: "unix"}, PeerAddr(&net.UnixAddr{Name: name, Net: "unix"}))
	}
	for _, addr := range []net.Addr{testPeer, otherAddr("pipe"), nil} {
		assert.Equal(t, addr, PeerAddr(addr))
	}
}

func TestIsSocketFile(t *testing.T) {
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
		{"TCP", tcpAddr("192.0.2.1:80"), false},
		{"type of its own", otherAddr("/run/caddy.sock"), false},
		{"none", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, isSocketFile(tt.local))
		})
	}
}

func TestParseRange(t *testing.T) {
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
		got, err := ParseRange(in)
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
		_, err := ParseRange(in)
		assert.EqualError(t, err, want)
	}
}

func TestNormalize_OfNoRangeIsNone(t *testing.T) {
	assert.False(t, Normalize(netip.Prefix{}).IsValid())
}

// newTable has the modes of ranges, newSet the ranges.
func newTable(t testing.TB, modes map[string]Mode) *bart.Table[Mode] {
	table := new(bart.Table[Mode])
	for s, mode := range modes {
		prefix, err := ParseRange(s)
		require.NoError(t, err)
		table.Insert(prefix, mode)
	}
	return table
}

func newSet(t testing.TB, ranges ...string) *bart.Lite {
	table := new(bart.Lite)
	for _, s := range ranges {
		prefix, err := ParseRange(s)
		require.NoError(t, err)
		table.Insert(prefix)
	}
	return table
}

// The peer of a Unix socket has no IP address.
func TestRanges_DoNotContainAnInvalidAddress(t *testing.T) {
	all := []string{"0.0.0.0/0", "::/0", "0.0.0.0", "::", "::ffff:0:0/96"}
	modes := make(map[string]Mode)
	for _, s := range all {
		modes[s] = On
	}
	for _, ranges := range [][]string{nil, all} {
		assert.False(t, newSet(t, ranges...).Contains(netip.Addr{}))
	}
	for _, table := range []*bart.Table[Mode]{new(bart.Table[Mode]), newTable(t, modes)} {
		_, ok := table.Lookup(netip.Addr{})
		assert.False(t, ok)
	}
}

func TestPolicy_For(t *testing.T) {
	ranges := newTable(t, map[string]Mode{
		"10.0.0.0/8": On, "10.1.0.0/16": Off, "10.1.2.0/24": Unspecified, "10.1.2.3": On,
		"2001:db8::/32": Off, "2001:db8::1": On, "::ffff:198.51.100.0/120": Off, "fe80::/10": Off,
	})
	all6 := newTable(t, map[string]Mode{"::/0": Off})
	all4 := newTable(t, map[string]Mode{"0.0.0.0/0": Off})
	source := Source(func(context.Context, net.Addr) []netip.Prefix { panic("asked in the accept loop") })
	file := &net.UnixAddr{Name: "/run/s", Net: "unix"}
	abstract := &net.UnixAddr{Name: "@s", Net: "unix"}
	tests := []struct {
		name   string
		policy Policy
		peer   net.Addr
		local  net.Addr
		mode   Mode
		trust  Trust
	}{
		{"everyone is trusted by default", Policy{Mode: On}, testPeer, testLocal, On, Trusted},
		{"a Unix peer too", Policy{Mode: On}, abstract, abstract, On, Trusted},
		{"an unknown peer too", Policy{Mode: On}, otherAddr("pipe"), testLocal, On, Trusted},
		{"no peer too", Policy{Mode: On}, nil, nil, On, Trusted},

		{"the widest range", Policy{Mode: Unspecified, Ranges: ranges}, tcpAddr("10.9.0.1:1"), testLocal, On, Trusted},
		{"a narrower range wins", Policy{Mode: Unspecified, Ranges: ranges}, tcpAddr("10.1.9.1:1"), testLocal, Off, Trusted},
		{"the next narrower one", Policy{Mode: On, Ranges: ranges}, tcpAddr("10.1.2.9:1"), testLocal, Unspecified, Trusted},
		{"a single address", Policy{Mode: Off, Ranges: ranges}, tcpAddr("10.1.2.3:1"), testLocal, On, Trusted},
		{"outside of all ranges", Policy{Mode: Off, Ranges: ranges}, tcpAddr("11.0.0.1:1"), testLocal, Off, Trusted},
		{"IPv6", Policy{Mode: On, Ranges: ranges}, tcpAddr("[2001:db8::2]:1"), testLocal, Off, Trusted},
		{"a single IPv6 address", Policy{Mode: Off, Ranges: ranges}, tcpAddr("[2001:db8::1]:1"), testLocal, On, Trusted},
		{"an IPv4-mapped peer", Policy{Mode: Off, Ranges: ranges}, tcpAddr("[::ffff:10.1.2.3]:1"), testLocal, On, Trusted},
		{"an IPv4-mapped range", Policy{Mode: On, Ranges: ranges}, tcpAddr("198.51.100.255:1"), testLocal, Off, Trusted},
		{"a peer with a zone", Policy{Mode: On, Ranges: ranges}, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, testLocal, Off, Trusted},
		{"a peer of another type", Policy{Mode: Off, Ranges: ranges}, otherAddr("10.1.2.3:1"), testLocal, On, Trusted},
		{"a Unix peer is in no range", Policy{Mode: On, Ranges: all6}, file, file, On, Trusted},
		{"an unknown peer is in no range", Policy{Mode: On, Ranges: all4}, otherAddr("pipe"), testLocal, On, Trusted},
		{"::/0 does not cover IPv4", Policy{Mode: On, Ranges: all6}, testPeer, testLocal, On, Trusted},
		{"::/0 does not cover IPv4-mapped peers", Policy{Mode: On, Ranges: all6}, tcpAddr("[::ffff:192.0.2.1]:1"), testLocal, On, Trusted},
		{"::/0 covers IPv6", Policy{Mode: On, Ranges: all6}, tcpAddr("[2001:db8::1]:1"), testLocal, Off, Trusted},
		{"0.0.0.0/0 covers IPv4-mapped peers", Policy{Mode: On, Ranges: all4}, tcpAddr("[::ffff:192.0.2.1]:1"), testLocal, Off, Trusted},
		{"0.0.0.0/0 does not cover IPv6", Policy{Mode: On, Ranges: all4}, tcpAddr("[2001:db8::1]:1"), testLocal, On, Trusted},

		{"trusted", Policy{Mode: On, Trusted: newSet(t, "192.0.2.0/24")}, testPeer, testLocal, On, Trusted},
		{"untrusted", Policy{Mode: On, Trusted: newSet(t, "198.51.100.0/24")}, testPeer, testLocal, On, Untrusted},
		{"untrusted under unspecified", Policy{Mode: Unspecified, Trusted: newSet(t, "198.51.100.0/24")}, testPeer, testLocal, Unspecified, Untrusted},
		{"nobody is trusted", Policy{Mode: On, Trusted: newSet(t)}, testPeer, testLocal, On, Untrusted},
		{"an IPv4-mapped peer is trusted", Policy{Mode: On, Trusted: newSet(t, "192.0.2.0/24")}, tcpAddr("[::ffff:192.0.2.9]:1"), testLocal, On, Trusted},
		{"trusted by an IPv4-mapped range", Policy{Mode: On, Trusted: newSet(t, "::ffff:192.0.2.0/120")}, testPeer, testLocal, On, Trusted},
		{"a peer with a zone is trusted", Policy{Mode: On, Trusted: newSet(t, "fe80::/10")}, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, testLocal, On, Trusted},
		{"::/0 does not trust IPv4", Policy{Mode: On, Trusted: newSet(t, "::/0")}, testPeer, testLocal, On, Untrusted},
		{"0.0.0.0/0 does not trust IPv6", Policy{Mode: On, Trusted: newSet(t, "0.0.0.0/0")}, tcpAddr("[2001:db8::1]:1"), testLocal, On, Untrusted},
		{"peers of a range of their own are trusted", Policy{Mode: Off, Ranges: ranges, Trusted: newSet(t)}, tcpAddr("10.1.2.3:1"), testLocal, On, Trusted},
		{"others are not", Policy{Mode: On, Ranges: ranges, Trusted: newSet(t)}, tcpAddr("11.1.2.3:1"), testLocal, On, Untrusted},
		{"peers of a socket file are trusted", Policy{Mode: On, Trusted: newSet(t)}, &net.UnixAddr{Net: "unix"}, file, On, Trusted},
		{"peers of an abstract socket are not", Policy{Mode: On, Trusted: newSet(t, "0.0.0.0/0", "::/0")}, &net.UnixAddr{Net: "unix"}, abstract, On, Untrusted},
		{"unknown peers are not", Policy{Mode: On, Trusted: newSet(t, "0.0.0.0/0", "::/0")}, otherAddr("pipe"), testLocal, On, Untrusted},
		{"no peer is not", Policy{Mode: On, Trusted: newSet(t, "0.0.0.0/0", "::/0")}, nil, testLocal, On, Untrusted},

		{"a source is not asked yet", Policy{Mode: On, Source: source}, testPeer, testLocal, On, AskSource},
		{"nor for a peer of a range", Policy{Mode: On, Source: source, Ranges: ranges}, tcpAddr("10.1.2.3:1"), testLocal, On, Trusted},
		{"nor for a socket file", Policy{Mode: On, Source: source}, &net.UnixAddr{Net: "unix"}, file, On, Trusted},
		{"nor for an abstract socket", Policy{Mode: On, Source: source}, &net.UnixAddr{Net: "unix"}, abstract, On, Untrusted},
		{"nor for an unknown peer", Policy{Mode: On, Source: source}, otherAddr("pipe"), testLocal, On, Untrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mode, trust := tt.policy.For(tt.peer, tt.local)
			assert.Equal(t, tt.mode, mode)
			assert.Equal(t, tt.trust, trust)
		})
	}
}

func TestPolicy_Ask(t *testing.T) {
	tests := []struct {
		name   string
		peer   net.Addr
		ranges []netip.Prefix
		want   Trust
	}{
		{"in a range", testPeer, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}, Trusted},
		{"in none", testPeer, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Untrusted},
		{"there are none", testPeer, nil, Untrusted},
		{"not masked", testPeer, []netip.Prefix{netip.MustParsePrefix("192.0.2.77/24")}, Trusted},
		{"IPv4-mapped", testPeer, []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")}, Trusted},
		{"peer IPv4-mapped", tcpAddr("[::ffff:192.0.2.1]:1"), []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Trusted},
		{"peer with a zone", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, []netip.Prefix{netip.MustParsePrefix("fe80::/10")}, Trusted},
		{"::/0 does not cover IPv4", testPeer, []netip.Prefix{netip.MustParsePrefix("::/0")}, Untrusted},
		{"0.0.0.0/0", testPeer, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Trusted},
		{"a range that is none", testPeer, []netip.Prefix{{}}, Untrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Policy{asking: make(chan struct{}, 1), Source: Source(func(context.Context, net.Addr) []netip.Prefix { return tt.ranges })}
			got, err := p.Ask(t.Context(), tt.peer)
			assert.Equal(t, tt.want, got)
			if len(tt.ranges) == 0 {
				assert.ErrorIs(t, err, ErrSourceEmpty)
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

func TestMode_InJSON(t *testing.T) {
	for in, want := range map[string]string{
		`"on"`:    "",
		`null`:    "",
		`"maybe"`: "mode: unknown mode 'maybe': use on, off or unspecified",
		`true`:    `mode: true is not a mode: write "on", "off" or "unspecified", with the quotes; YAML reads on and off without quotes as true and false`,
		`1`:       `mode: 1 is not a mode: write "on", "off" or "unspecified", with the quotes; YAML reads on and off without quotes as true and false`,
	} {
		var v struct{ Mode Mode }
		err := json.Unmarshal([]byte(`{"mode":`+in+`}`), &v)
		if want == "" {
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, want)
		}
	}
}

func TestPolicy_Uses(t *testing.T) {
	ranges := newTable(t, map[string]Mode{"10.0.0.0/8": Off, "10.1.0.0/16": Unspecified})
	for _, tt := range []struct {
		policy Policy
		want   []Mode
	}{
		{Policy{Mode: On}, []Mode{On}},
		{Policy{Mode: Off}, []Mode{Off}},
		{Policy{Mode: On, Ranges: ranges}, []Mode{On, Off, Unspecified}},
		{Policy{Mode: Off, Ranges: newTable(t, map[string]Mode{"10.0.0.0/8": On})}, []Mode{On, Off}},
	} {
		var got []Mode
		for _, mode := range []Mode{On, Off, Unspecified} {
			if tt.policy.Uses(mode) {
				got = append(got, mode)
			}
		}
		assert.Equal(t, tt.want, got)
	}
}

func TestNewSet_RefusesWhatIsNoRange(t *testing.T) {
	set, err := NewSet([]string{"10.0.0.0/8", "::1"})
	require.NoError(t, err)
	assert.True(t, set.Contains(netip.MustParseAddr("10.1.2.3")))
	assert.True(t, set.Contains(netip.MustParseAddr("::1")))
	assert.False(t, set.Contains(netip.MustParseAddr("::2")))
	set, err = NewSet([]string{"10.0.0.0/8", "10.0.0.0/33"})
	assert.ErrorContains(t, err, "'10.0.0.0/33' is not an IP address or CIDR range")
	assert.Nil(t, set)
}

func TestInsertRange_RefusesASecondMode(t *testing.T) {
	table := new(bart.Table[Mode])
	wide, narrow := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/16")
	require.NoError(t, InsertRange(table, wide, On))
	require.NoError(t, InsertRange(table, wide, On), "the same again")
	require.NoError(t, InsertRange(table, narrow, Off))
	assert.EqualError(t, InsertRange(table, wide, Off), "10.0.0.0/8 already has mode 'on' and cannot also have mode 'off': remove one")
	for prefix, want := range map[netip.Prefix]Mode{wide: On, narrow: Off} {
		mode, ok := table.Get(prefix)
		assert.True(t, ok)
		assert.Equal(t, want, mode)
	}
}

func TestPolicy_ListedPeersAreNamedByTheConfiguration(t *testing.T) {
	table := new(bart.Table[Mode])
	require.NoError(t, InsertRange(table, netip.MustParsePrefix("10.0.0.0/8"), On))
	trusted, err := NewSet([]string{"192.0.2.0/24"})
	require.NoError(t, err)
	tcp, file, abstract := &net.TCPAddr{}, &net.UnixAddr{Name: "/run/caddy.sock"}, &net.UnixAddr{Name: "@caddy"}
	in, out, none := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1"), netip.Addr{}
	source := new(Policy)
	source.SetSource(func(context.Context, net.Addr) []netip.Prefix { return nil })
	for name, test := range map[string]struct {
		policy *Policy
		peer   netip.Addr
		local  net.Addr
		want   bool
	}{
		"nothing is named":                        {new(Policy), out, tcp, false},
		"in a range":                              {&Policy{Ranges: table}, in, tcp, true},
		"in no range":                             {&Policy{Ranges: table}, out, tcp, false},
		"in the list, as it may send a header":    {&Policy{Trusted: trusted}, out, tcp, true},
		"by the source, as it may send a header":  {source, out, tcp, true},
		"through a socket file":                   {new(Policy), none, file, true},
		"through an abstract socket":              {new(Policy), none, abstract, false},
		"through an abstract socket, with ranges": {&Policy{Ranges: table}, none, abstract, false},
		"no local address":                        {new(Policy), out, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, test.policy.Listed(test.peer, test.local))
		})
	}
}
