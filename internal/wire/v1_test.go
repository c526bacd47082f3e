package wire_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// unknown1 is the head of every v1 UNKNOWN line.
var unknown1 = bare(1, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec)

func tcp4(src, dst string) head { return ip4(1, wire.Stream, src, dst) }
func tcp6(src, dst string) head { return ip6(1, wire.Stream, src, dst) }

const longest6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

var v1Accepted = []accepted{
	{name: "the example of section 2.1",
		in:   "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
		want: tcp4("192.168.0.1:56324", "192.168.0.11:443")},
	{name: "the longest TCP4 line, 56 bytes",
		in:   "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
		want: tcp4("255.255.255.255:65535", "255.255.255.255:65535")},
	{name: "the shortest TCP4 line",
		in:   "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
		want: tcp4("0.0.0.0:0", "0.0.0.0:0")},
	{name: "zeros and tens that are no leading zeros",
		in:   "PROXY TCP4 10.0.100.200 0.10.20.30 10 100\r\n",
		want: tcp4("10.0.100.200:10", "0.10.20.30:100")},
	{name: "ports at both ends of their range",
		in:   "PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\n",
		want: tcp4("192.0.2.1:0", "192.0.2.2:65535")},

	{name: "the longest TCP6 line, 104 bytes",
		in:   "PROXY TCP6 " + longest6 + " " + longest6 + " 65535 65535\r\n",
		want: tcp6("["+longest6+"]:65535", "["+longest6+"]:65535")},
	{name: "the shortest TCP6 line",
		in:   "PROXY TCP6 :: :: 0 0\r\n",
		want: tcp6("[::]:0", "[::]:0")},
	{name: "upper-case and lower-case hex digits",
		in:   "PROXY TCP6 2001:DB8::ABCD 2001:db8::abCD 1 2\r\n",
		want: tcp6("[2001:db8::abcd]:1", "[2001:db8::abcd]:2")},
	{name: "every hex digit",
		in:   "PROXY TCP6 0123:4567:89ab:cdef:0123:4567:89AB:CDEF :: 1 2\r\n",
		want: tcp6("[123:4567:89ab:cdef:123:4567:89ab:cdef]:1", "[::]:2")},
	{name: "groups written with all four digits",
		in:   "PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 0000::0001 1 2\r\n",
		want: tcp6("[2001:db8::1]:1", "[::1]:2")},
	{name: "groups of zeros that no double colon replaces",
		in:   "PROXY TCP6 0:0:0:0:0:0:0:0 2001:db8:0:0:0:0:0:1 1 2\r\n",
		want: tcp6("[::]:1", "[2001:db8::1]:2")},
	{name: "a double colon in front and behind",
		in:   "PROXY TCP6 ::1 1:: 1 2\r\n",
		want: tcp6("[::1]:1", "[1::]:2")},
	{name: "a double colon that replaces one group in front and behind",
		in:   "PROXY TCP6 ::2:3:4:5:6:7:8 1:2:3:4:5:6:7:: 1 2\r\n",
		want: tcp6("[0:2:3:4:5:6:7:8]:1", "[1:2:3:4:5:6:7:0]:2")},
	{name: "a double colon that replaces one group in the middle",
		in:   "PROXY TCP6 1:2:3::5:6:7:8 1::3:4:5:6:7:8 1 2\r\n",
		want: tcp6("[1:2:3:0:5:6:7:8]:1", "[1:0:3:4:5:6:7:8]:2")},
	{name: "a double colon that replaces a shorter run of zeros than there is",
		in:   "PROXY TCP6 1::2:0:0:0:3 1:0:0:0:2::3 1 2\r\n",
		want: tcp6("[1:0:0:2:0:0:0:3]:1", "[1:0:0:0:2:0:0:3]:2")},
	{name: "a source that must not show through a destination with fewer groups",
		in:   "PROXY TCP6 " + longest6 + " ::1 1 2\r\n",
		want: tcp6("["+longest6+"]:1", "[::1]:2")},
	{name: "a double colon between many groups, moved to the end",
		in:   "PROXY TCP6 1:2:3::7:8 1::4:5:6:7:8 1 2\r\n",
		want: tcp6("[1:2:3:0:0:0:7:8]:1", "[1:0:0:4:5:6:7:8]:2")},

	{name: "an IPv4-mapped address in dotted form, as real senders write it",
		in:   "PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:255.255.255.255 1 2\r\n",
		want: tcp6("[::ffff:192.0.2.1]:1", "[::ffff:255.255.255.255]:2")},
	{name: "an IPv4-mapped address in hex",
		in:   "PROXY TCP6 ::ffff:c000:201 0:0:0:0:0:ffff:c000:202 1 2\r\n",
		want: tcp6("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")},
	{name: "an IPv4-mapped address whose zeros are written out",
		in:   "PROXY TCP6 0:0:0:0:0:ffff:192.0.2.1 0000:0000:0000:0000:0000:ffff:192.0.2.2 1 2\r\n",
		want: tcp6("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")},
	{name: "an IPv4-mapped address with some zeros written out in front",
		in:   "PROXY TCP6 0::ffff:192.0.2.1 0:0:0:0::ffff:192.0.2.2 1 2\r\n",
		want: tcp6("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")},
	{name: "an IPv4-mapped address with some zeros written out behind",
		in:   "PROXY TCP6 ::0:ffff:192.0.2.1 ::0:0:0:0:ffff:192.0.2.2 1 2\r\n",
		want: tcp6("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")},
	{name: "an IPv4-mapped address with some zeros written out on both sides",
		in:   "PROXY TCP6 0:0::0:0:ffff:192.0.2.1 0::0:ffff:192.0.2.2 1 2\r\n",
		want: tcp6("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")},
	{name: "an IPv4-mapped source and another destination",
		in:   "PROXY TCP6 ::ffff:0.0.0.0 2001:db8::1 1 2\r\n",
		want: tcp6("[::ffff:0.0.0.0]:1", "[2001:db8::1]:2")},

	{name: "UNKNOWN in its short form, 15 bytes", in: "PROXY UNKNOWN\r\n", want: unknown1},
	{name: "UNKNOWN in its long form, the worst case of 107 bytes",
		in: "PROXY UNKNOWN " + longest6 + " " + longest6 + " 65535 65535\r\n", want: unknown1},
	{name: "UNKNOWN with 107 bytes of anything",
		in: "PROXY UNKNOWN " + strings.Repeat("x", 107-14-2) + "\r\n", want: unknown1},
	{name: "UNKNOWN with addresses of no family", in: "PROXY UNKNOWN nowhere 256.256.256.256 -1 99999\r\n", want: unknown1},
	{name: "UNKNOWN and a space", in: "PROXY UNKNOWN \r\n", want: unknown1},
	{name: "UNKNOWN and spaces", in: "PROXY UNKNOWN    \r\n", want: unknown1},
	{name: "UNKNOWN with a lone CR in what is ignored", in: "PROXY UNKNOWN a\rb\r\n", want: unknown1},
	{name: "UNKNOWN with a lone LF in what is ignored", in: "PROXY UNKNOWN a\nb\r\n", want: unknown1},
	{name: "UNKNOWN with an LF CR in what is ignored", in: "PROXY UNKNOWN \n\rb\r\n", want: unknown1},
	{name: "UNKNOWN with many lone CRs before the CRLF", in: "PROXY UNKNOWN \r\r\r\r\r\n", want: unknown1},
	{name: "UNKNOWN with a CR as the 105th byte", in: "PROXY UNKNOWN " + strings.Repeat("x", 90) + "\r\r\n", want: unknown1},
	{name: "UNKNOWN with NULs, tabs and bytes that are not ASCII", in: "PROXY UNKNOWN \x00\t\xff\xfe\u00e9\r\n", want: unknown1},
	{name: "UNKNOWN with a header in what is ignored", in: "PROXY UNKNOWN PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", want: unknown1},
}

// v1Mismatched are lines that are accepted with the option MismatchedDestination. Without the
// option they break one rule, at the destination.
var v1Mismatched = []accepted{
	{name: "nginx between an IPv6 client and an IPv4 hop",
		in:   "PROXY TCP6 2001:db8::7 127.0.0.1 51234 21120\r\n",
		want: withoutDestination(wire.IPv6, "[2001:db8::7]:51234")},
	{name: "nginx between an IPv6 client and a Unix socket",
		in:   "PROXY TCP6 2001:db8::7 unix:/run/nginx/chain.sock 51234 0\r\n",
		want: withoutDestination(wire.IPv6, "[2001:db8::7]:51234")},
	{name: "nginx between an IPv4 client and an IPv6 hop",
		in:   "PROXY TCP4 203.0.113.7 2001:db8::1b 51234 443\r\n",
		want: withoutDestination(wire.IPv4, "203.0.113.7:51234")},
	{name: "nginx between an IPv4 client and a Unix socket",
		in:   "PROXY TCP4 203.0.113.7 unix:/run/nginx/chain.sock 51234 0\r\n",
		want: withoutDestination(wire.IPv4, "203.0.113.7:51234")},
	{name: "an IPv4-mapped client and an IPv4 destination",
		in:   "PROXY TCP6 ::ffff:203.0.113.7 10.0.0.1 51234 443\r\n",
		want: withoutDestination(wire.IPv6, "[::ffff:203.0.113.7]:51234")},
	{name: "an IPv4 client and an IPv4-mapped destination",
		in:   "PROXY TCP4 203.0.113.7 ::ffff:10.0.0.1 51234 443\r\n",
		want: withoutDestination(wire.IPv4, "203.0.113.7:51234")},
	{name: "ports at both ends of their range",
		in:   "PROXY TCP6 2001:db8::7 127.0.0.1 0 65535\r\n",
		want: withoutDestination(wire.IPv6, "[2001:db8::7]:0")},
	{name: "an unspecified source and destination",
		in:   "PROXY TCP4 0.0.0.0 :: 0 0\r\n",
		want: withoutDestination(wire.IPv4, "0.0.0.0:0")},
	{name: "the longest IPv4 destination of an IPv6 client",
		in:   "PROXY TCP6 " + longest6 + " 255.255.255.255 65535 65535\r\n",
		want: withoutDestination(wire.IPv6, "["+longest6+"]:65535")},
	{name: "the longest IPv6 destination of an IPv4 client",
		in:   "PROXY TCP4 255.255.255.255 " + longest6 + " 65535 65535\r\n",
		want: withoutDestination(wire.IPv4, "255.255.255.255:65535")},
	{name: "a Unix socket without a name in the file system",
		in:   "PROXY TCP6 2001:db8::7 unix: 51234 0\r\n",
		want: withoutDestination(wire.IPv6, "[2001:db8::7]:51234")},
	{name: "a relative path, with colons, dots and bytes that are not ASCII",
		in:   "PROXY TCP6 2001:db8::7 unix:a:b/../::1/\u00e9\xff~! 51234 0\r\n",
		want: withoutDestination(wire.IPv6, "[2001:db8::7]:51234")},
	{name: "a path like an address",
		in:   "PROXY TCP4 203.0.113.7 unix:192.0.2.1 51234 0\r\n",
		want: withoutDestination(wire.IPv4, "203.0.113.7:51234")},
	{name: "the longest path behind the longest client, 107 bytes",
		in:   "PROXY TCP6 " + longest6 + " unix:" + strings.Repeat("p", 41) + " 65535 0\r\n",
		want: withoutDestination(wire.IPv6, "["+longest6+"]:65535")},
	{name: "the longest path behind the shortest client, 107 bytes",
		in:   "PROXY TCP6 :: unix:" + strings.Repeat("p", 82) + " 1 0\r\n",
		want: withoutDestination(wire.IPv6, "[::]:1")},
}

// withoutDestination returns the head of a v1 line whose destination is not known.
func withoutDestination(family wire.Family, src string) head {
	return head{1, wire.Proxy, family, wire.Stream, true, netip.MustParseAddrPort(src), netip.AddrPort{}}
}

var lenient = wire.Options{MaxSize: wire.MaxSize, MismatchedDestination: true}

func TestV1_LinesThatFollowTheRulesAreAccepted(t *testing.T) { testAccepted(t, v1Accepted) }

func TestV1_MismatchedDestinationIsAcceptedIfAllowed(t *testing.T) {
	for _, tc := range v1Mismatched {
		t.Run(tc.name, func(t *testing.T) {
			got := lenient.Decode([]byte(tc.in))
			require.Equal(t, wire.Complete, got.State, "%v", got.Err)
			assert.Equal(t, tc.want, headOf(got.Header))
			assert.Equal(t, uint8(1), got.Version)
			assert.Equal(t, len(tc.in), got.Size)
			assert.Nil(t, got.TLVs)
			assert.Zero(t, got.Err)
			assert.Equal(t, tc.want.src.Addr().Unmap(), netip.MustParseAddr(got.Header.SourceIP().String()).Unmap())

			b, err := wire.Append([]byte("before"), got.Header, nil, false)
			assert.EqualError(t, err, "a header with a source and no destination cannot be written")
			assert.Equal(t, "before", string(b))
		})
	}
}

func TestV1_MismatchedDestinationErrorNamesCauseAndOption(t *testing.T) {
	err := wire.Decode([]byte(v1Mismatched[0].in), wire.MaxSize).Err
	assert.EqualError(t, err, "byte 23: destination is not of the announced family; nginx writes this if it took the client's address from the header of another load balancer; to accept the client without the destination, add 'mismatched_destination allow' to 'proxy_protocol_mode'")
}

// A header without a destination differs from one with an unspecified destination.
func TestV1_HeaderWithoutDestinationDiffersFromOneWith(t *testing.T) {
	decode := func(s string) wire.Header { return lenient.Decode([]byte(s)).Header }
	one := decode("PROXY TCP6 2001:db8::7 unix:/a 1 0\r\n")
	assert.True(t, one == decode("PROXY TCP6 2001:db8::7 127.0.0.1 1 2\r\n"), "nothing is kept of the destination")
	assert.False(t, one == decode("PROXY TCP6 2001:db8::7 :: 1 0\r\n"), "which is known to be unspecified")
}
func TestV1_LinesThatBreakARuleAreRejected(t *testing.T) { testRejected(t, 1, v1Rejected()) }

var v1RejectedLines = []rejected{
	// "a string identifying the protocol: "PROXY", exactly one space"
	{name: "no space behind PROXY", in: "PROXYT", problem: wire.ProblemSpace, offset: 5},
	{name: "another space character behind PROXY", in: "PROXY\t", problem: wire.ProblemSpace, offset: 5},
	{name: "CR behind PROXY", in: "PROXY\r", problem: wire.ProblemSpace, offset: 5},
	{name: "LF behind PROXY", in: "PROXY\n", problem: wire.ProblemSpace, offset: 5},
	{name: "NUL behind PROXY", in: "PROXY\x00", problem: wire.ProblemSpace, offset: 5},
	{name: "PROXY twice", in: "PROXYP", problem: wire.ProblemSpace, offset: 5},

	// "only "TCP4" [...] and "TCP6" [...] are allowed. Other [...] must be reported with the name "UNKNOWN""
	{name: "an empty line", in: "PROXY \r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "another protocol", in: "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "another number", in: "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "no number", in: "PROXY TCP 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "a keyword in lower case", in: "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "unknown in lower case", in: "PROXY unknown\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "a keyword and more", in: "PROXY TCP46 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "a keyword without its last byte", in: "PROXY UNKNOW\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "UNKNOWN and more without a space", in: "PROXY UNKNOWNS\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "UNKNOWN and a tab", in: "PROXY UNKNOWN\t\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "no keyword", in: "PROXY 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "a keyword alone", in: "PROXY TCP4\r\n", problem: wire.ProblemKeyword, offset: 6},

	// "exactly one space", five times
	{name: "two spaces before the keyword", in: "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "two spaces before UNKNOWN", in: "PROXY  UNKNOWN\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "two spaces before the source", in: "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "two spaces before the destination", in: "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "two spaces before the source port", in: "PROXY TCP4 192.0.2.1 192.0.2.2  1 2\r\n", problem: wire.ProblemPort, offset: 31},
	{name: "two spaces before the destination port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1  2\r\n", problem: wire.ProblemPort, offset: 33},
	{name: "two spaces before a TCP6 destination", in: "PROXY TCP6 ::1  ::2 1 2\r\n", problem: wire.ProblemAddress, offset: 15},
	{name: "a tab before the source", in: "PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "a tab before the destination", in: "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n", problem: wire.ProblemSpace, offset: 20},
	{name: "a tab before a TCP6 destination", in: "PROXY TCP6 ::1\t::2 1 2\r\n", problem: wire.ProblemSpace, offset: 14},
	{name: "a tab before the source port", in: "PROXY TCP4 192.0.2.1 192.0.2.2\t1 2\r\n", problem: wire.ProblemSpace, offset: 30},
	{name: "a tab before the destination port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1\t2\r\n", problem: wire.ProblemSpace, offset: 32},
	{name: "a no-break space before the destination", in: "PROXY TCP4 192.0.2.1\u00a0192.0.2.2 1 2\r\n", problem: wire.ProblemSpace, offset: 20},
	{name: "a space and a tab before the destination", in: "PROXY TCP4 192.0.2.1 \t192.0.2.2 1 2\r\n", problem: wire.ProblemAddress, offset: 21},

	// Missing fields.
	{name: "a keyword and a space alone", in: "PROXY TCP4 \r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "a TCP6 keyword and a space alone", in: "PROXY TCP6 \r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "no destination", in: "PROXY TCP4 192.0.2.1\r\n", problem: wire.ProblemSpace, offset: 20},
	{name: "an empty destination", in: "PROXY TCP4 192.0.2.1 \r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "no ports", in: "PROXY TCP4 192.0.2.1 192.0.2.2\r\n", problem: wire.ProblemSpace, offset: 30},
	{name: "an empty source port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 \r\n", problem: wire.ProblemPort, offset: 31},
	{name: "one port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", problem: wire.ProblemSpace, offset: 32},
	{name: "an empty destination port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n", problem: wire.ProblemPort, offset: 33},
	{name: "no TCP6 destination", in: "PROXY TCP6 2001:db8::1\r\n", problem: wire.ProblemSpace, offset: 22},
	{name: "no TCP6 destination behind eight groups", in: "PROXY TCP6 1:2:3:4:5:6:7:8\r\n", problem: wire.ProblemSpace, offset: 26},
	{name: "no TCP6 destination behind a double colon", in: "PROXY TCP6 ::\r\n", problem: wire.ProblemSpace, offset: 13},
	{name: "no TCP6 destination behind a mapped address", in: "PROXY TCP6 ::ffff:192.0.2.1\r\n", problem: wire.ProblemSpace, offset: 27},
	{name: "a line that ends in a group", in: "PROXY TCP6 2001:db8\r\n", problem: wire.ProblemAddress, offset: 19},
	{name: "a line that ends in a colon", in: "PROXY TCP6 2001:db8:\r\n", problem: wire.ProblemAddress, offset: 20},
	{name: "a line that ends in a dot", in: "PROXY TCP6 ::ffff:192.\r\n", problem: wire.ProblemAddress, offset: 22},
	{name: "one address", in: "PROXY TCP4 192.0.2.1 1 2\r\n", problem: wire.ProblemAddress, offset: 22},

	// Lines like those that nginx writes for a destination of another family.
	{name: "a source of the other family", in: "PROXY TCP6 192.0.2.1 2001:db8::1 1 2\r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "a TCP4 source of the other family", in: "PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n", problem: wire.ProblemAddress, offset: 14},
	{name: "both of the other family", in: "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "both of the other family, TCP4", in: "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", problem: wire.ProblemAddress, offset: 14},
	{name: "a Unix socket as the source", in: "PROXY TCP6 unix:/a 2001:db8::1 1 2\r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "a Unix socket as the TCP4 source", in: "PROXY TCP4 unix:/a 192.0.2.1 0 2\r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "Unix sockets as both", in: "PROXY TCP6 unix: unix:/a 0 0\r\n", problem: wire.ProblemAddress, offset: 11},
	{name: "a Unix socket under a keyword of its own", in: "PROXY UNIX unix: unix:/a 0 0\r\n", problem: wire.ProblemKeyword, offset: 6},
	{name: "UNIX in upper case", in: "PROXY TCP6 2001:db8::7 UNIX:/a 1 0\r\n", problem: wire.ProblemAddress, offset: 23},
	{name: "unix without its colon", in: "PROXY TCP6 2001:db8::7 unix/a 1 0\r\n", problem: wire.ProblemAddress, offset: 23},
	{name: "unix alone", in: "PROXY TCP4 192.0.2.1 unix 1 0\r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "a path alone", in: "PROXY TCP4 192.0.2.1 /run/a.sock 1 0\r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "a file descriptor", in: "PROXY TCP4 192.0.2.1 fd@3 1 0\r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "a host name as the destination", in: "PROXY TCP4 192.0.2.1 localhost 1 0\r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "a path with a space", in: "PROXY TCP6 2001:db8::7 unix:/a b 1 0\r\n", problem: wire.ProblemPort, offset: 31},
	{name: "a path with a space before a digit", in: "PROXY TCP6 2001:db8::7 unix:/a 1 0 0\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a path with two spaces behind it", in: "PROXY TCP6 2001:db8::7 unix:/a  1 0\r\n", problem: wire.ProblemPort, offset: 31},
	{name: "a path with a tab", in: "PROXY TCP6 2001:db8::7 unix:/a\tb 1 0\r\n", problem: wire.ProblemSpace, offset: 30},
	{name: "a path with a NUL", in: "PROXY TCP6 2001:db8::7 unix:\x00a 1 0\r\n", problem: wire.ProblemSpace, offset: 28},
	{name: "a path with a unit separator", in: "PROXY TCP6 2001:db8::7 unix:\x1fa 1 0\r\n", problem: wire.ProblemSpace, offset: 28},
	{name: "a path with a DEL", in: "PROXY TCP6 2001:db8::7 unix:/\x7f 1 0\r\n", problem: wire.ProblemSpace, offset: 29},
	{name: "a path with an LF", in: "PROXY TCP6 2001:db8::7 unix:/a\n", problem: wire.ProblemLoneCRLF, offset: 30},
	{name: "a path with a CR", in: "PROXY TCP6 2001:db8::7 unix:/a\rb", problem: wire.ProblemLoneCRLF, offset: 30},
	{name: "a path with a CRLF", in: "PROXY TCP6 2001:db8::7 unix:/a\r\n", problem: wire.ProblemSpace, offset: 30},
	{name: "a path that ends the line", in: "PROXY TCP6 2001:db8::7 unix:\r\n", problem: wire.ProblemSpace, offset: 28},
	{name: "a path and one port", in: "PROXY TCP6 2001:db8::7 unix:/a 1\r\n", problem: wire.ProblemSpace, offset: 32},
	{name: "a path and no second port", in: "PROXY TCP6 2001:db8::7 unix:/a 1 \r\n", problem: wire.ProblemUnixPort, offset: 33},
	{name: "a path and a source port with a leading zero", in: "PROXY TCP6 2001:db8::7 unix:/a 01 0\r\n", problem: wire.ProblemPort, offset: 32},
	{name: "a path and a source port too large", in: "PROXY TCP6 2001:db8::7 unix:/a 65536 0\r\n", problem: wire.ProblemPort, offset: 35},
	{name: "a path with a port", in: "PROXY TCP6 2001:db8::7 unix:/a 1 443\r\n", problem: wire.ProblemUnixPort, offset: 33},
	{name: "a path with port 00", in: "PROXY TCP6 2001:db8::7 unix:/a 1 00\r\n", problem: wire.ProblemUnixPort, offset: 34},
	{name: "a path with port -0", in: "PROXY TCP6 2001:db8::7 unix:/a 1 -0\r\n", problem: wire.ProblemUnixPort, offset: 33},
	{name: "a path and a space behind the last port", in: "PROXY TCP6 2001:db8::7 unix:/a 1 0 \r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a path and letters behind the last port", in: "PROXY TCP6 2001:db8::7 unix:/a 1 0x\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a path of 42 bytes behind the longest client", in: "PROXY TCP6 " + longest6 + " unix:" + strings.Repeat("p", 42) + " 65535 0", problem: wire.ProblemNoCRLF, offset: 105},
	{name: "a path that reaches behind the 107 bytes", in: "PROXY TCP6 2001:db8::7 unix:" + strings.Repeat("p", 78), problem: wire.ProblemNoCRLF, offset: 105},
	{name: "an IPv4 destination and a second port too large", in: "PROXY TCP6 2001:db8::7 127.0.0.1 1 65536\r\n", problem: wire.ProblemPort, offset: 39},
	{name: "an IPv4 destination and a source port with a leading zero", in: "PROXY TCP6 2001:db8::7 127.0.0.1 01 2\r\n", problem: wire.ProblemPort, offset: 34},
	{name: "an IPv4 destination and no ports", in: "PROXY TCP6 2001:db8::7 127.0.0.1\r\n", problem: wire.ProblemSpace, offset: 32},
	{name: "an IPv4 destination and one port", in: "PROXY TCP6 2001:db8::7 127.0.0.1 1\r\n", problem: wire.ProblemSpace, offset: 34},
	{name: "an IPv4 destination and a space behind the last port", in: "PROXY TCP6 2001:db8::7 127.0.0.1 1 2 \r\n", problem: wire.ProblemTrailing, offset: 36},
	{name: "an IPv4 destination with a leading zero", in: "PROXY TCP6 2001:db8::7 127.0.0.01 1 2\r\n", problem: wire.ProblemAddress, offset: 23},
	{name: "an IPv4 destination with a port", in: "PROXY TCP6 2001:db8::7 127.0.0.1:80 1 2\r\n", problem: wire.ProblemSpace, offset: 32},
	{name: "an IPv4 destination of three numbers", in: "PROXY TCP6 2001:db8::7 127.0.1 1 2\r\n", problem: wire.ProblemAddress, offset: 23},
	{name: "an IPv6 destination with a zone", in: "PROXY TCP4 192.0.2.1 fe80::1%eth0 1 2\r\n", problem: wire.ProblemSpace, offset: 28},
	{name: "an IPv6 destination in brackets", in: "PROXY TCP4 192.0.2.1 [2001:db8::1] 1 2\r\n", problem: wire.ProblemAddress, offset: 21},
	{name: "an IPv6 destination with two double colons", in: "PROXY TCP4 192.0.2.1 1::2::3 1 2\r\n", problem: wire.ProblemAddress, offset: 22},
	{name: "an IPv6 destination in dotted form that is not IPv4-mapped", in: "PROXY TCP4 192.0.2.1 ::192.0.2.1 1 2\r\n", problem: wire.ProblemAddress, offset: 21},

	// "Any sequence which does not exactly match the protocol must be discarded"
	{name: "a space behind the last port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a tab behind the last port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\t\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a NUL behind the last port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\x00\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "another field", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a last port that goes on in letters", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2x\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a last port with a fraction", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2.0\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a last port with an exponent", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2e1\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a hexadecimal last port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 0x2\r\n", problem: wire.ProblemTrailing, offset: 34},
	{name: "a source port that goes on in letters", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1x 2\r\n", problem: wire.ProblemSpace, offset: 32},
	{name: "a hexadecimal source port", in: "PROXY TCP4 192.0.2.1 192.0.2.2 0x1 2\r\n", problem: wire.ProblemSpace, offset: 32},

	// "must not tolerate a single CR or LF character to end the line"
	{name: "a TCP4 line that ends in a lone LF", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", problem: wire.ProblemLoneCRLF, offset: 34},
	{name: "a TCP4 line that ends in a lone CR", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rG", problem: wire.ProblemLoneCRLF, offset: 34},
	{name: "a TCP4 line that ends in CR CR LF", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r", problem: wire.ProblemLoneCRLF, offset: 34},
	{name: "a TCP4 line that ends in LF CR", in: "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", problem: wire.ProblemLoneCRLF, offset: 34},
	{name: "a TCP6 line that ends in a lone LF", in: "PROXY TCP6 ::1 ::2 1 2\n", problem: wire.ProblemLoneCRLF, offset: 22},
	{name: "a lone LF between fields", in: "PROXY TCP4 192.0.2.1\n", problem: wire.ProblemLoneCRLF, offset: 20},
	{name: "a lone CR between fields", in: "PROXY TCP4 192.0.2.1\r1", problem: wire.ProblemLoneCRLF, offset: 20},
	{name: "a lone LF as the keyword", in: "PROXY \n", problem: wire.ProblemLoneCRLF, offset: 6},
	{name: "a lone CR as the keyword", in: "PROXY \rx", problem: wire.ProblemLoneCRLF, offset: 6},
	{name: "a lone CR in the keyword", in: "PROXY TC\rP", problem: wire.ProblemLoneCRLF, offset: 8},
	{name: "a short UNKNOWN line that ends in a lone LF", in: "PROXY UNKNOWN\n", problem: wire.ProblemLoneCRLF, offset: 13},
	{name: "a short UNKNOWN line that ends in a lone CR", in: "PROXY UNKNOWN\rG", problem: wire.ProblemLoneCRLF, offset: 13},
	{name: "a short UNKNOWN line that ends in CR CR LF", in: "PROXY UNKNOWN\r\r", problem: wire.ProblemLoneCRLF, offset: 13},
	{name: "a keyword like UNKNOWN, then a lone LF", in: "PROXY UNKNOWNS \n", problem: wire.ProblemLoneCRLF, offset: 15},
	{name: "a lone LF as the 106th byte", in: "PROXY TCP4 " + strings.Repeat("x", 94) + "\n", problem: wire.ProblemLoneCRLF, offset: 105},
	{name: "a lone CR as the 106th byte", in: "PROXY TCP4 " + strings.Repeat("x", 94) + "\rx", problem: wire.ProblemLoneCRLF, offset: 105},

	// "If the CRLF sequence is not found in the first 107 characters": the wrong byte is
	// the 106th if it is not a CR, and otherwise the 107th.
	{name: "a TCP4 line of 108 bytes", in: "PROXY TCP4 " + strings.Repeat("x", 95), problem: wire.ProblemNoCRLF, offset: 105},
	{name: "a TCP6 line of 108 bytes", in: "PROXY TCP6 " + longest6 + " " + longest6 + " 65535 65535    ", problem: wire.ProblemNoCRLF, offset: 105},
	{name: "an UNKNOWN line of 108 bytes", in: "PROXY UNKNOWN " + longest6 + " " + longest6 + " 65535 65535 ", problem: wire.ProblemNoCRLF, offset: 105},
	{name: "an UNKNOWN line whose 106th byte is CR and whose 107th is not LF", in: "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\rx", problem: wire.ProblemNoCRLF, offset: 106},
	{name: "an UNKNOWN line whose CRLF is one byte late", in: "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\r", problem: wire.ProblemNoCRLF, offset: 106},
	{name: "an UNKNOWN line with lone LFs but no CRLF", in: "PROXY UNKNOWN " + strings.Repeat("\n", 92), problem: wire.ProblemNoCRLF, offset: 105},
}

// badAddresses are addresses that break a rule. at is the offset of the wrong byte in the
// address.
var badAddresses = map[string][]struct {
	name, addr string
	problem    wire.Problem
	at         int
}{
	"TCP4": {
		{"one number", "1", wire.ProblemAddress, 1},
		{"an address as one number", "3221225985", wire.ProblemAddress, 2},
		{"two numbers", "127.1", wire.ProblemAddress, 5},
		{"three numbers", "192.0.2", wire.ProblemAddress, 7},
		{"three numbers and a dot", "192.0.2.", wire.ProblemAddress, 8},
		{"five numbers", "192.0.2.1.5", wire.ProblemSpace, 9},
		{"four numbers and a dot", "192.0.2.1.", wire.ProblemSpace, 9},
		{"two dots", "192..0.2.1", wire.ProblemAddress, 4},
		{"a dot in front", ".192.0.2.1", wire.ProblemAddress, 0},
		{"commas", "192,0,2,1", wire.ProblemAddress, 3},
		{"256", "256.0.2.1", wire.ProblemAddress, 2},
		{"256 as the last number", "192.0.2.256", wire.ProblemAddress, 10},
		{"999", "192.0.999.1", wire.ProblemAddress, 8},
		{"four digits", "192.0.2.1000", wire.ProblemAddress, 11},
		{"a number that overflows an int", "192.0.2.18446744073709551617", wire.ProblemAddress, 11},
		{"a leading zero", "192.0.2.01", wire.ProblemAddress, 9},
		{"a leading zero in front", "010.0.2.1", wire.ProblemAddress, 1},
		{"zero twice", "192.00.2.1", wire.ProblemAddress, 5},
		{"a plus sign", "+192.0.2.1", wire.ProblemAddress, 0},
		{"a minus sign", "192.0.2.-1", wire.ProblemAddress, 8},
		{"a hexadecimal number", "0xc0.0.2.1", wire.ProblemAddress, 1},
		{"hex digits", "c0.0.2.1", wire.ProblemAddress, 0},
		{"digits that are not ASCII", "19\uff12.0.2.1", wire.ProblemAddress, 2},
		{"a prefix length", "192.0.2.1/32", wire.ProblemSpace, 9},
		{"a port", "192.0.2.1:80", wire.ProblemSpace, 9},
		{"a zone", "192.0.2.1%eth0", wire.ProblemSpace, 9},
		{"brackets", "[192.0.2.1]", wire.ProblemAddress, 0},
		{"a host name", "localhost", wire.ProblemAddress, 0},
		{"a NUL", "192.0.2.1\x00", wire.ProblemSpace, 9},
		{"an IPv6 address", "2001:db8::1", wire.ProblemAddress, 3},
		{"a short IPv6 address", "::1", wire.ProblemAddress, 0},
		{"an IPv4-mapped IPv6 address", "::ffff:192.0.2.1", wire.ProblemAddress, 0},
	},
	"TCP6": {
		{"a colon", ":", wire.ProblemAddress, 0},
		{"three colons", ":::", wire.ProblemSpace, 2},
		{"three colons in the middle", "1:::2", wire.ProblemSpace, 3},
		{"a colon in front", ":1:2:3:4:5:6:7", wire.ProblemAddress, 0},
		{"a colon in front of eight groups", ":1:2:3:4:5:6:7:8", wire.ProblemAddress, 0},
		{"a colon behind", "1:2:3:4:5:6:7:", wire.ProblemAddress, 14},
		{"a colon behind a double colon's group", "::1:", wire.ProblemAddress, 4},
		{"a colon behind eight groups", "1:2:3:4:5:6:7:8:", wire.ProblemSpace, 15},
		{"one group", "1", wire.ProblemAddress, 1},
		{"seven groups", "1:2:3:4:5:6:7", wire.ProblemAddress, 13},
		{"nine groups", "1:2:3:4:5:6:7:8:9", wire.ProblemSpace, 15},
		{"a double colon behind eight groups", "1:2:3:4:5:6:7:8::", wire.ProblemSpace, 15},
		{"a double colon in front of eight groups", "::1:2:3:4:5:6:7:8", wire.ProblemAddress, 17},
		{"a double colon between eight groups", "1:2:3:4::5:6:7:8", wire.ProblemAddress, 16},
		{"a double colon before the last of eight groups", "1:2:3:4:5:6:7::8", wire.ProblemAddress, 16},
		{"two double colons", "1::2::3", wire.ProblemAddress, 5},
		{"two double colons, one in front", "::1::", wire.ProblemAddress, 4},
		{"five digits in a group", "12345::", wire.ProblemAddress, 4},
		{"five digits in the last group", "1:2:3:4:5:6:7:12345", wire.ProblemSpace, 18},
		{"five digits in a group behind a double colon", "::12345", wire.ProblemSpace, 6},
		{"five digits with leading zeros", "::00001", wire.ProblemSpace, 6},
		{"a letter that is no hex digit", "2001:dbg::1", wire.ProblemAddress, 7},
		{"a letter that is no hex digit in front", "g::", wire.ProblemAddress, 0},
		{"a letter that is no hex digit behind a double colon", "::g", wire.ProblemSpace, 2},
		{"a plus sign", "+1::", wire.ProblemAddress, 0},
		{"a minus sign", "::-1", wire.ProblemSpace, 2},
		{"a hexadecimal prefix", "0x1::", wire.ProblemAddress, 1},
		{"digits that are not ASCII", "\uff11::", wire.ProblemAddress, 0},
		{"a zone", "fe80::1%eth0", wire.ProblemSpace, 7},
		{"an empty zone", "fe80::1%", wire.ProblemSpace, 7},
		{"a prefix length", "2001:db8::/32", wire.ProblemSpace, 10},
		{"brackets", "[2001:db8::1]", wire.ProblemAddress, 0},
		{"a host name", "localhost", wire.ProblemAddress, 0},
		{"a NUL", "2001:db8::1\x00", wire.ProblemSpace, 11},
		{"an IPv4 address", "192.0.2.1", wire.ProblemAddress, 0},
		{"an IPv4 address with a short first number", "1.2.3.4", wire.ProblemAddress, 0},

		{"an IPv4-compatible address in dotted form", "::192.0.2.1", wire.ProblemAddress, 2},
		{"an IPv4-translated address in dotted form", "::ffff:0:192.0.2.1", wire.ProblemAddress, 9},
		{"a NAT64 address in dotted form", "64:ff9b::192.0.2.1", wire.ProblemAddress, 9},
		{"a global address in dotted form", "2001:db8::ffff:192.0.2.1", wire.ProblemAddress, 15},
		{"dotted form behind eight bytes too few", "0:0:ffff:192.0.2.1", wire.ProblemAddress, 9},
		{"dotted form one group too early", "0:0:0:0:ffff:192.0.2.1", wire.ProblemAddress, 13},
		{"dotted form one group too late", "0:0:0:0:0:0:ffff:192.0.2.1", wire.ProblemAddress, 17},
		{"dotted form behind seven groups", "0:0:0:0:0:0:0:192.0.2.1", wire.ProblemAddress, 14},
		{"dotted form with a double colon too many", "0:0:0:0:0::ffff:192.0.2.1", wire.ProblemAddress, 16},
		{"dotted form with a double colon too many in front", "::0:0:0:0:0:ffff:192.0.2.1", wire.ProblemAddress, 17},
		{"dotted form behind a double colon that replaces nothing", "0:0:0:0:0:ffff::192.0.2.1", wire.ProblemAddress, 16},
		{"dotted form with a double colon behind ffff", "::ffff::192.0.2.1", wire.ProblemAddress, 7},
		{"dotted form of ffff in front", "ffff::192.0.2.1", wire.ProblemAddress, 6},
		{"dotted form with a group of fff", "::fff:192.0.2.1", wire.ProblemAddress, 6},
		{"dotted form with ffff twice", "::ffff:ffff:192.0.2.1", wire.ProblemAddress, 12},
		{"a mapped address with three numbers", "::ffff:192.0.2", wire.ProblemAddress, 14},
		{"a mapped address with five numbers", "::ffff:192.0.2.1.5", wire.ProblemSpace, 16},
		{"a mapped address with a number too large", "::ffff:192.0.2.256", wire.ProblemAddress, 17},
		{"a mapped address with a first number too large", "::ffff:999.0.2.1", wire.ProblemAddress, 9},
		{"a mapped address with a leading zero", "::ffff:192.0.2.01", wire.ProblemAddress, 16},
		{"a mapped address with hex digits", "::ffff:c0.0.2.1", wire.ProblemAddress, 7},
		{"a mapped address and another group", "::ffff:192.0.2.1:1", wire.ProblemSpace, 16},
		{"a mapped address and a double colon", "::ffff:192.0.2.1::", wire.ProblemSpace, 16},
		{"a mapped address with a zone", "::ffff:192.0.2.1%eth0", wire.ProblemSpace, 16},
	},
}

// badPorts are texts that are not decimal numbers from 0 to 65535.
var badPorts = []struct {
	name, port string
	at         int
}{
	{"65536", "65536", 4},
	{"99999", "99999", 4},
	{"six digits", "100000", 5},
	{"a number that overflows an int", "18446744073709551617", 5},
	{"a leading zero", "080", 1},
	{"zero twice", "00", 1},
	{"a zero in front of the largest", "065535", 1},
	{"a plus sign", "+80", 0},
	{"a minus sign", "-1", 0},
	{"minus zero", "-0", 0},
	{"a name", "http", 0},
	{"hex digits", "ff", 0},
	{"digits that are not ASCII", "\uff11", 0},
	{"a NUL", "\x001", 0},
}

func v1Rejected() []rejected {
	all := slices.Clone(v1RejectedLines)
	for _, keyword := range []string{"TCP4", "TCP6"} {
		good := map[string]string{"TCP4": "192.0.2.9", "TCP6": "2001:db8::9"}[keyword]
		front := "PROXY " + keyword + " "
		for _, bad := range badAddresses[keyword] {
			all = append(all,
				rejected{
					name: keyword + " source with " + bad.name, in: front + bad.addr + " " + good + " 1 2\r\n",
					problem: bad.problem, offset: len(front) + bad.at,
				},
				destinationRejected(keyword, bad.name, front+good+" ", bad.addr, bad.problem, bad.at))
		}
		front += good + " " + good + " "
		for _, bad := range badPorts {
			all = append(all,
				rejected{
					name: keyword + " source port with " + bad.name, in: front + bad.port + " 2\r\n",
					problem: wire.ProblemPort, offset: len(front) + bad.at,
				},
				rejected{
					name: keyword + " destination port with " + bad.name, in: front + "1 " + bad.port + "\r\n",
					problem: wire.ProblemPort, offset: len(front) + len("1 ") + bad.at,
				})
		}
	}
	return all
}

// destinationRejected returns a line with a bad destination, which may be an address of the
// other family.
func destinationRejected(keyword, name, front, addr string, problem wire.Problem, at int) rejected {
	if mismatches(keyword, addr) {
		problem, at = wire.ProblemDestination, 0
	}
	return rejected{
		name: keyword + " destination with " + name, in: front + addr + " 1 2\r\n",
		problem: problem, offset: len(front) + at,
	}
}

// mismatches reports whether a destination is an address of another family than the announced
// one. It uses package netip, and looks at each byte of a path.
func mismatches(keyword, dst string) bool {
	if path, ok := strings.CutPrefix(dst, "unix:"); ok {
		for i := range len(path) {
			if path[i] <= ' ' || path[i] == 0x7f {
				return false
			}
		}
		return true
	}
	addr, err := netip.ParseAddr(dst)
	switch {
	case err != nil || addr.Zone() != "":
		return false
	case keyword == "TCP4":
		return addr.Is6() && (addr.Is4In6() || !strings.Contains(dst, "."))
	default:
		return addr.Is4()
	}
}

func TestV1_EveryV1PortIsDecoded(t *testing.T) {
	for port := range 1 << 16 {
		src, dst := uint16(port), uint16(^port)
		line := fmt.Appendf(nil, "PROXY TCP4 192.0.2.1 192.0.2.2 %d %d\r\n", src, dst)
		got := wire.Decode(line, wire.MaxSize)
		if got.State != wire.Complete || got.Header.Source().Port() != src || got.Header.Destination().Port() != dst {
			require.Equal(t, ip4(1, wire.Stream, fmt.Sprintf("192.0.2.1:%d", src), fmt.Sprintf("192.0.2.2:%d", dst)),
				headOf(got.Header), "%q: %v", line, got.Err)
		}
	}
}

func TestV1_ALineWithOneByteChangedIsRejectedOrDecodedAsWritten(t *testing.T) {
	for _, line := range []string{
		"PROXY TCP4 192.0.2.1 198.51.100.27 56324 443\r\n",
		"PROXY TCP6 2001:db8::1 fe80::cafe:27 56324 443\r\n",
		"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.27 1 2\r\n",
		"PROXY TCP6 2001:db8::7 127.0.0.1 51234 21120\r\n",
		"PROXY TCP4 203.0.113.7 fe80::cafe:27 51234 443\r\n",
		"PROXY TCP6 2001:db8::7 unix:/run/a.sock 51234 0\r\n",
	} {
		for at := range len(line) {
			for value := range 256 {
				b := []byte(line)
				b[at] = byte(value)
				if got := wire.Decode(b, wire.MaxSize); got.State == wire.Complete {
					requireLineAgrees(t, b[:got.Size], got.Header)
				}
				requireLenientAgrees(t, b, lenient)
			}
		}
	}
}

func TestV1_ALineCutAnywhereAndThenEndedIsRejected(t *testing.T) {
	for _, tc := range slices.Concat(v1Accepted, v1Mismatched) {
		if !tc.want.hasAddrs {
			continue
		}
		lastPort := strings.LastIndex(tc.in, " ") + 1
		for n := len("PROXY "); n <= lastPort; n++ {
			got := lenient.Decode([]byte(tc.in[:n] + "\r\n"))
			require.Equal(t, wire.Invalid, got.State, "%q", tc.in[:n])
			require.LessOrEqual(t, got.Err.Offset, n, "%q: the wrong byte is the CR or stands before it", tc.in[:n])
		}
		for n := lastPort + 1; n < len(tc.in)-2; n++ {
			got := lenient.Decode([]byte(tc.in[:n] + "\r\n"))
			require.Equal(t, wire.Complete, got.State, "%q: with a shorter port", tc.in[:n])
		}
	}
}

func TestV1_TheLimitForV2HeadersLeavesV1LinesAlone(t *testing.T) {
	for _, tc := range v1Accepted {
		assert.Equal(t, wire.Complete, wire.Decode([]byte(tc.in), wire.MinMaxSize).State, "%s", tc.name)
	}
}

func TestV1_OfTwoLoneLineEndsTheFirstIsNamed(t *testing.T) {
	for _, in := range []string{"PROXY TCP4 1\n2\r3", "PROXY TCP4 1\r2\n3"} {
		got := wire.Decode([]byte(in), wire.MaxSize)
		assert.Equal(t, wire.Error{Problem: wire.ProblemLoneCRLF, Offset: 12}, got.Err, "%q", in)
	}
}

func TestV1_LineThatEndsBehindItsFirstAddressLacksASpace(t *testing.T) {
	got := wire.Decode([]byte("PROXY TCP6 1::\r\n"), wire.MaxSize)
	assert.Equal(t, wire.Error{Problem: wire.ProblemSpace, Offset: 14}, got.Err)
}
