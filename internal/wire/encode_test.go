package wire_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func newProxy(t testing.TB, version uint8, transport wire.Transport, src, dst string) wire.Header {
	h, err := wire.NewProxy(version, transport, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	require.NoError(t, err)
	return h
}

// decoded returns a header that no constructor makes, by decoding it.
func decoded(t testing.TB, s string) wire.Header {
	got := wire.Decode([]byte(s), wire.MaxSize)
	require.Equal(t, wire.Complete, got.State, "%v", got.Err)
	return got.Header
}

func TestAppend_HeadersAreEncodedToTheseBytes(t *testing.T) {
	authority := wire.TLV{Type: wire.TypeAuthority, Value: []byte("example.com")}
	for _, tc := range []struct {
		name     string
		header   wire.Header
		tlvs     []wire.TLV
		checksum bool
		want     string
	}{
		{name: "the example of section 2.1",
			header: newProxy(t, 1, wire.Stream, "192.168.0.1:56324", "192.168.0.11:443"),
			want:   "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"},
		{name: "the longest TCP4 line",
			header: newProxy(t, 1, wire.Stream, "255.255.255.255:65535", "255.255.255.255:65535"),
			want:   "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"},
		{name: "the longest TCP6 line",
			header: newProxy(t, 1, wire.Stream, "["+longest6+"]:65535", "["+longest6+"]:65535"),
			want:   "PROXY TCP6 " + longest6 + " " + longest6 + " 65535 65535\r\n"},
		{name: "TCP6 with zeros replaced, in lower case",
			header: newProxy(t, 1, wire.Stream, "[2001:DB8:0:0:0:0:0:1]:0", "[::]:1"),
			want:   "PROXY TCP6 2001:db8::1 :: 0 1\r\n"},
		{name: "TCP6 with an IPv4-mapped address, which stays one",
			header: newProxy(t, 1, wire.Stream, "[::ffff:192.0.2.1]:1", "[2001:db8::1]:2"),
			want:   "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"},
		{name: "UNKNOWN in its short form", header: wire.NewUnknown(1), want: "PROXY UNKNOWN\r\n"},

		{name: "LOCAL", header: wire.NewLocal(),
			want: "\r\n\r\n\x00\r\nQUIT\n" + "\x20\x00\x00\x00"},
		{name: "an unspecified header", header: wire.NewUnknown(2),
			want: "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x00\x00\x00"},
		{name: "TCP over IPv4",
			header: newProxy(t, 2, wire.Stream, "192.168.0.1:56324", "192.168.0.11:443"),
			want: "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + "\x21\x11\x00\x0c" +
				"\xc0\xa8\x00\x01" + "\xc0\xa8\x00\x0b" + "\xdc\x04" + "\x01\xbb"},
		{name: "UDP over IPv4",
			header: newProxy(t, 2, wire.Dgram, "1.2.3.4:258", "5.6.7.8:772"),
			want: "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + "\x21\x12\x00\x0c" +
				"\x01\x02\x03\x04" + "\x05\x06\x07\x08" + "\x01\x02" + "\x03\x04"},
		{name: "TCP over IPv6",
			header: newProxy(t, 2, wire.Stream, "[2001:db8::1]:56324", "[fe80::1234:5678]:443"),
			want: "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + "\x21\x21\x00\x24" +
				"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
				"\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x12\x34\x56\x78" + "\xdc\x04" + "\x01\xbb"},
		{name: "UDP over IPv6",
			header: newProxy(t, 2, wire.Dgram, "[::ffff:1.2.3.4]:1", "[::]:0"),
			want: "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + "\x21\x22\x00\x24" +
				"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x01\x02\x03\x04" +
				strings.Repeat("\x00", 16) + "\x00\x01" + "\x00\x00"},
		{name: "Unix paths, which are sent empty", header: decoded(t, v2(proxy, 0x31, addrsUnix)),
			want: "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x31\x00\xd8" + strings.Repeat("\x00", 216)},
		{name: "a half-unspecified header, whose block is sent empty", header: decoded(t, v2(proxy, 0x10, addrs4)),
			want: "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x10\x00\x00"},
		{name: "a Unix family over an unspecified transport, whose block is sent empty", header: decoded(t, v2(proxy, 0x30, addrsUnix)),
			want: "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x30\x00\x00"},

		{name: "TLVs in their order",
			header: newProxy(t, 2, wire.Stream, "1.2.3.4:1", "5.6.7.8:2"),
			tlvs:   []wire.TLV{authority, {Type: wire.TypeNoop}, {Type: 0xea, Value: []byte("\x01vpce")}},
			want: "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x11\x00\x25" + "\x01\x02\x03\x04" + "\x05\x06\x07\x08" + "\x00\x01" + "\x00\x02" +
				"\x02\x00\x0bexample.com" + "\x04\x00\x00" + "\xea\x00\x05\x01vpce"},
		{name: "a checksum behind the TLVs",
			header: newProxy(t, 2, wire.Stream, "192.0.2.1:56324", "198.51.100.27:443"),
			tlvs:   []wire.TLV{authority}, checksum: true,
			want: sealed(inTCP4(tlv(wire.TypeAuthority, "example.com") + noSum))},
		{name: "a checksum alone over IPv6",
			header:   newProxy(t, 2, wire.Stream, "[2001:db8::1]:56324", "[2001:db8::2]:443"),
			checksum: true, want: sealed(v2(proxy, 0x21, addrs6+noSum))},
		{name: "the example of AWS, whose checksum is its caller's",
			header: newProxy(t, 2, wire.Stream, "172.31.7.113:51442", "172.31.10.31:80"),
			tlvs: []wire.TLV{{Type: wire.TypeCRC32C, Value: []byte("\xe8\xd6\x89\x2d")},
				{Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")}, {Type: wire.TypeNoop, Value: make([]byte, 36)}},
			want: awsVPCE},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := wire.Append(nil, tc.header, tc.tlvs, tc.checksum)
			require.NoError(t, err)
			assert.Equal(t, tc.want, string(got))

			again := wire.Decode(got, wire.MaxSize)
			require.Equal(t, wire.Complete, again.State, "%v", again.Err)
			assert.Equal(t, tc.header, again.Header)
			assert.Equal(t, len(got), again.Size)

			behind, err := wire.Append([]byte("before "), tc.header, tc.tlvs, tc.checksum)
			require.NoError(t, err)
			assert.Equal(t, "before "+tc.want, string(behind), "what was there stays")
		})
	}
}

func TestAppend_EncodesWhatDecodeAccepts(t *testing.T) {
	for _, tc := range allAccepted() {
		t.Run(tc.name, func(t *testing.T) {
			first := wire.Decode([]byte(tc.in), wire.MaxSize)
			var tlvs []wire.TLV
			if first.Header.Family() != wire.Unix { // whose paths, and so checksums, are not kept
				for tlv := range first.TLVs.All() {
					tlvs = append(tlvs, tlv)
				}
			}
			b, err := wire.Append(nil, first.Header, tlvs, false)
			require.NoError(t, err)
			second := wire.Decode(b, wire.MaxSize)
			require.Equal(t, wire.Complete, second.State, "%v", second.Err)
			assert.Equal(t, first.Header, second.Header)
			if first.Version == 2 && first.Header.HasAddrs() {
				assert.Equal(t, tc.in, string(b), "the same bytes")
			}
		})
	}
}

func TestAppend_ConstructorsTellWhatTheyWereGiven(t *testing.T) {
	assert.Equal(t, tcp4("192.0.2.1:0", "192.0.2.2:65535"), headOf(newProxy(t, 1, wire.Stream, "192.0.2.1:0", "192.0.2.2:65535")))
	assert.Equal(t, tcp6("[2001:db8::1]:1", "[::]:2"), headOf(newProxy(t, 1, wire.Stream, "[2001:db8::1]:1", "[::]:2")))
	for _, transport := range []wire.Transport{wire.Stream, wire.Dgram} {
		assert.Equal(t, ip4(2, transport, "192.0.2.1:1", "192.0.2.2:2"), headOf(newProxy(t, 2, transport, "192.0.2.1:1", "192.0.2.2:2")))
		assert.Equal(t, ip6(2, transport, "[::ffff:192.0.2.1]:1", "[2001:db8::2]:2"), headOf(newProxy(t, 2, transport, "[::ffff:192.0.2.1]:1", "[2001:db8::2]:2")))
	}
	assert.Equal(t, local2, headOf(wire.NewLocal()))
	assert.Equal(t, unknown1, headOf(wire.NewUnknown(1)))
	assert.Equal(t, bare(2, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec), headOf(wire.NewUnknown(2)))
}

func TestAppend_ConstructorsRefuseWhatNoHeaderCanSay(t *testing.T) {
	src4, dst4 := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	src6, dst6 := netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2")
	mapped, zoned := netip.MustParseAddrPort("[::ffff:192.0.2.1]:1"), netip.MustParseAddrPort("[fe80::1%eth0]:1")
	none := netip.AddrPortFrom(netip.Addr{}, 1)
	for _, tc := range []struct {
		name      string
		version   uint8
		transport wire.Transport
		src, dst  netip.AddrPort
		err       string
	}{
		{"version 0", 0, wire.Stream, src4, dst4, "unknown version 0"},
		{"version 3", 3, wire.Stream, src4, dst4, "unknown version 3"},
		{"an unspecified transport", 2, wire.TransportUnspec, src4, dst4, "unknown transport 0"},
		{"a transport that is none", 2, 3, src4, dst4, "unknown transport 3"},
		{"an unspecified transport in version 1", 1, wire.TransportUnspec, src4, dst4, "unknown transport 0"},
		{"datagrams in version 1", 1, wire.Dgram, src4, dst4, "version 1 supports TCP only"},
		{"no source", 2, wire.Stream, none, dst4, "source and destination must be IP addresses without a zone"},
		{"no destination", 2, wire.Stream, src6, none, "source and destination must be IP addresses without a zone"},
		{"no addresses", 1, wire.Stream, netip.AddrPort{}, netip.AddrPort{}, "source and destination must be IP addresses without a zone"},
		{"a source with a zone", 2, wire.Stream, zoned, dst6, "source and destination must be IP addresses without a zone"},
		{"a destination with a zone", 1, wire.Stream, src6, zoned, "source and destination must be IP addresses without a zone"},
		{"IPv4 to IPv6", 2, wire.Stream, src4, dst6, "source and destination must be of one address family"},
		{"IPv6 to IPv4", 1, wire.Stream, src6, dst4, "source and destination must be of one address family"},
		{"IPv4-mapped to IPv4", 1, wire.Stream, mapped, dst4, "source and destination must be of one address family"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, err := wire.NewProxy(tc.version, tc.transport, tc.src, tc.dst)
			assert.EqualError(t, err, tc.err)
			assert.Zero(t, h)
		})
	}
}

func TestAppend_AppendRefusesWhatNoHeaderCanHold(t *testing.T) {
	line := newProxy(t, 1, wire.Stream, "192.0.2.1:1", "192.0.2.2:2")
	binary4 := newProxy(t, 2, wire.Stream, "192.0.2.1:1", "192.0.2.2:2")
	binary6 := newProxy(t, 2, wire.Stream, "[2001:db8::1]:1", "[2001:db8::2]:2")
	unix := decoded(t, v2(proxy, 0x31, addrsUnix))
	one := []wire.TLV{{Type: wire.TypeALPN, Value: []byte("h2")}}
	filling := func(n int) []wire.TLV { return []wire.TLV{{Type: wire.TypeNoop, Value: make([]byte, n)}} }

	const (
		notV1   = "version 1 has no TLVs and no checksum"
		skipped = "a header without addresses has no TLVs and no checksum"
		tooLong = "addresses and TLVs are longer than 65535 bytes"
	)
	for _, tc := range []struct {
		name     string
		header   wire.Header
		tlvs     []wire.TLV
		checksum bool
		err      string
	}{
		{"no header", wire.Header{}, nil, false, "not a header"},
		{"an unknown header of no version", wire.NewUnknown(0), nil, false, "not a header"},
		{"an unknown header of version 3", wire.NewUnknown(3), nil, false, "not a header"},
		{"TLVs in version 1", line, one, false, notV1},
		{"a checksum in version 1", line, nil, true, notV1},
		{"TLVs in UNKNOWN", wire.NewUnknown(1), one, false, notV1},
		{"TLVs in LOCAL", wire.NewLocal(), one, false, skipped},
		{"a checksum in LOCAL", wire.NewLocal(), nil, true, skipped},
		{"TLVs in an unspecified header", wire.NewUnknown(2), one, false, skipped},
		{"a checksum in an unspecified header", wire.NewUnknown(2), nil, true, skipped},
		{"TLVs in a half-unspecified header", decoded(t, v2(proxy, 0x10, "")), one, false, skipped},
		{"TLVs under an unspecified family", decoded(t, v2(proxy, 0x01, "")), one, false, skipped},
		{"TLVs in a Unix header over an unspecified transport", decoded(t, v2(proxy, 0x30, "")), one, false, skipped},
		{"a checksum in a Unix header over an unspecified transport", decoded(t, v2(proxy, 0x30, "")), nil, true, skipped},
		{"a TLV of 65536 bytes", binary4, filling(1 << 16), false, tooLong},
		{"a TLV of 65536 bytes behind another", binary4, append(one, filling(1<<16)...), false, tooLong},
		{"one byte too many behind IPv4", binary4, filling(1<<16 - 12 - 3), false, tooLong},
		{"one byte too many behind IPv6", binary6, filling(1<<16 - 36 - 3), false, tooLong},
		{"one byte too many behind Unix paths", unix, filling(1<<16 - 216 - 3), false, tooLong},
		{"one byte too many with the checksum", binary4, filling(1<<16 - 12 - 3 - 7), true, tooLong},
		{"many TLVs of one byte too many", binary4, append(filling(1<<15), filling(1<<15-12-3-3)...), false, tooLong},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := []byte("before")
			got, err := wire.Append(before, tc.header, tc.tlvs, tc.checksum)
			assert.EqualError(t, err, tc.err)
			assert.Equal(t, "before", string(got), "what was there is all that is there")
		})
	}
}

func TestAppend_TheLargestHeadersAreEncoded(t *testing.T) {
	for _, tc := range []struct {
		name     string
		header   wire.Header
		addrs    int
		checksum bool
	}{
		{"IPv4", newProxy(t, 2, wire.Stream, "192.0.2.1:1", "192.0.2.2:2"), 12, false},
		{"IPv4 with a checksum", newProxy(t, 2, wire.Dgram, "192.0.2.1:1", "192.0.2.2:2"), 12, true},
		{"IPv6", newProxy(t, 2, wire.Stream, "[2001:db8::1]:1", "[2001:db8::2]:2"), 36, false},
		{"IPv6 with a checksum", newProxy(t, 2, wire.Stream, "[2001:db8::1]:1", "[2001:db8::2]:2"), 36, true},
		{"Unix", decoded(t, v2(proxy, 0x31, addrsUnix)), 216, false},
		{"Unix with a checksum", decoded(t, v2(proxy, 0x32, addrsUnix)), 216, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			padding := 1<<16 - 1 - tc.addrs - 3
			if tc.checksum {
				padding -= len(noSum)
			}
			tlvs := []wire.TLV{{Type: wire.TypeNoop, Value: make([]byte, padding)}}
			b, err := wire.Append(nil, tc.header, tlvs, tc.checksum)
			require.NoError(t, err)
			require.Len(t, b, wire.MaxSize)
			assert.Equal(t, uint16(1<<16-1), binary.BigEndian.Uint16(b[14:]))
			got := wire.Decode(b, wire.MaxSize)
			require.Equal(t, wire.Complete, got.State, "%v", got.Err)
			assert.Equal(t, tc.header, got.Header)
			_, has := got.TLVs.First(wire.TypeCRC32C)
			assert.Equal(t, tc.checksum, has)
		})
	}
}

func TestAppend_AWrongTLVMayBeSent(t *testing.T) {
	h := newProxy(t, 2, wire.Stream, "192.0.2.1:1", "192.0.2.2:2")
	for _, tc := range []struct {
		name     string
		tlv      wire.TLV
		checksum bool
		problem  wire.Problem
	}{
		{"a wrong checksum", wire.TLV{Type: wire.TypeCRC32C, Value: make([]byte, 4)}, false, wire.ProblemChecksum},
		{"a checksum of a wrong size", wire.TLV{Type: wire.TypeCRC32C, Value: make([]byte, 5)}, false, wire.ProblemCRC32CSize},
		{"a second checksum", wire.TLV{Type: wire.TypeCRC32C, Value: make([]byte, 4)}, true, wire.ProblemCRC32CTwice},
		{"a unique ID that is too long", wire.TLV{Type: wire.TypeUniqueID, Value: make([]byte, 129)}, true, wire.ProblemUniqueID},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := wire.Append(nil, h, []wire.TLV{tc.tlv}, tc.checksum)
			require.NoError(t, err)
			got := wire.Decode(b, wire.MaxSize)
			assert.Equal(t, wire.Invalid, got.State)
			assert.Equal(t, tc.problem, got.Err.Problem)
		})
	}
}

func TestAppend_EncodingIntoARoomyBufferAllocatesNothing(t *testing.T) {
	buffer := make([]byte, 0, 512)
	tlvs := []wire.TLV{{Type: wire.TypeALPN, Value: []byte("h2")}}
	line := newProxy(t, 1, wire.Stream, "[2001:db8::1]:1", "[::ffff:192.0.2.1]:2")
	header := newProxy(t, 2, wire.Stream, "[2001:db8::1]:1", "[2001:db8::2]:2")
	unix := decoded(t, v2(proxy, 0x31, addrsUnix))
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = wire.Append(buffer, line, nil, false)
		_, _ = wire.Append(buffer, header, tlvs, true)
		_, _ = wire.Append(buffer, unix, tlvs, true)
	}))
}
