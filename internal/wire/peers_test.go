package wire_test

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/mastercactapus/proxyprotocol"
	proxyproto "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// verdict is a decoder's result for a header: ok is false if the decoder refuses it. src and
// dst are its addresses, unmapped, or zero if there are none.
type verdict struct {
	ok       bool
	src, dst netip.AddrPort
}

var refused = verdict{}

func named(src, dst string) verdict {
	return verdict{true, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)}
}

// withoutAddrs is the verdict on LOCAL, UNKNOWN and the like.
var withoutAddrs = verdict{ok: true}

func byWire(b []byte) verdict {
	got := wire.Decode(b, wire.MaxSize)
	if got.State != wire.Complete {
		return refused
	}
	return verdict{true, unmap(got.Header.Source()), unmap(got.Header.Destination())}
}

// byPires reads with pires/go-proxyproto as its own connections do: through a buffer of
// 256 bytes.
func byPires(b []byte) verdict {
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), 256))
	switch {
	case err != nil:
		return refused
	case h.Command.IsLocal(): // its addresses, if it has any, are not used
		return withoutAddrs
	}
	return verdict{true, addrPortOf(h.SourceAddr), addrPortOf(h.DestinationAddr)}
}

func byMastercactapus(b []byte) verdict {
	h, err := proxyprotocol.Parse(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return refused
	}
	return verdict{true, addrPortOf(h.SrcAddr()), addrPortOf(h.DestAddr())}
}

// addrPortOf returns the IP address and port of a TCP or UDP address, and otherwise zero.
func addrPortOf(addr net.Addr) netip.AddrPort {
	switch addr := addr.(type) {
	case *net.TCPAddr:
		return unmap(addr.AddrPort())
	case *net.UDPAddr:
		return unmap(addr.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	if !ap.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func TestPeers_AllThreeDecodersAgree(t *testing.T) {
	var (
		at4 = named("192.0.2.1:56324", "198.51.100.27:443")
		at6 = named("[2001:db8::1]:56324", "[2001:db8::2]:443")
	)
	for _, tc := range []struct {
		name string
		in   string
		want verdict
	}{
		{"the example of section 2.1", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", named("192.168.0.1:56324", "192.168.0.11:443")},
		{"the longest TCP4 line", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", named("255.255.255.255:65535", "255.255.255.255:65535")},
		{"the longest TCP6 line", "PROXY TCP6 " + longest6 + " " + longest6 + " 65535 65535\r\n", named("["+longest6+"]:65535", "["+longest6+"]:65535")},
		{"port 0", "PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", named("192.0.2.1:0", "192.0.2.2:0")},
		{"TCP6 with double colons", "PROXY TCP6 :: 2001:db8::1 1 2\r\n", named("[::]:1", "[2001:db8::1]:2")},
		{"TCP6 in upper case", "PROXY TCP6 2001:DB8::A 2001:DB8::B 1 2\r\n", named("[2001:db8::a]:1", "[2001:db8::b]:2")},
		{"TCP6 with IPv4-mapped addresses in dotted form", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", named("192.0.2.1:1", "192.0.2.2:2")},
		{"TCP6 with IPv4-mapped addresses in hex", "PROXY TCP6 ::ffff:c000:201 0:0:0:0:0:ffff:c000:202 1 2\r\n", named("192.0.2.1:1", "192.0.2.2:2")},
		{"v2 TCP over IPv4", v2(proxy, 0x11, addrs4), at4},
		{"v2 UDP over IPv4", v2(proxy, 0x12, addrs4), at4},
		{"v2 TCP over IPv6", v2(proxy, 0x21, addrs6), at6},
		{"v2 UDP over IPv6", v2(proxy, 0x22, addrs6), at6},
		{"v2 Unix stream", v2(proxy, 0x31, addrsUnix), withoutAddrs},
		{"v2 Unix datagram", v2(proxy, 0x32, addrsUnix), withoutAddrs},
		{"v2 LOCAL", v2(local, 0x00, ""), withoutAddrs},
		{"v2 LOCAL with addresses", v2(local, 0x11, addrs4), withoutAddrs},

		{"no header", "GET / HTTP/1.1\r\n\r\n", refused},
		{"PROXY in lower case", "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", refused},
		{"a keyword in lower case", "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", refused},
		{"another protocol", "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", refused},
		{"a cut-off line", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2", refused},
		{"a lone LF and nothing behind it", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", refused},
		{"a field too many", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", refused},
		{"a field too few", "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", refused},
		{"port 65536", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", refused},
		{"a negative port", "PROXY TCP4 192.0.2.1 192.0.2.2 1 -1\r\n", refused},
		{"256 in an address", "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", refused},
		{"a leading zero in an address", "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", refused},
		{"a zone", "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", refused},
		{"TCP4 with an IPv6 address", "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", refused},
		{"v2 of version 1", "\r\n\r\n\x00\r\nQUIT\n\x11\x11\x00\x0c" + addrs4, refused},
		{"v2 with command 2", v2(0x22, 0x11, addrs4), refused},
		{"v2 with family 4", v2(proxy, 0x41, addrs4), refused},
		{"v2 with transport 3", v2(proxy, 0x13, addrs4), refused},
		{"v2 with too short a length", v2(proxy, 0x21, addrs6[:35]), refused},
		{"v2 cut off", v2(proxy, 0x11, addrs4)[:27], refused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, tc.want, byWire([]byte(tc.in)), "wire")
			assert.Equal(t, tc.want, byPires([]byte(tc.in)), "pires/go-proxyproto")
			assert.Equal(t, tc.want, byMastercactapus([]byte(tc.in)), "mastercactapus/proxyprotocol")
		})
	}
}

// difference is a header on which the three decoders differ, and the sentence of the
// specification that supports our result.
type difference struct {
	name                        string
	in                          string
	ours, pires, mastercactapus verdict
	rule                        string
}

// The sentences that support our result in more than one difference.
const (
	ruleIPv6   = `section 2.1: "IPv6 addresses must be indicated as series of sets of 4 hexadecimal digits (upper or lower case) delimited by colons between each other"`
	ruleFamily = `section 2.1: "The advertised protocol family dictates what format to use."`
	ruleSpace  = `section 2.1: "exactly one space"`
	ruleExact  = `section 2.1: "Any sequence which does not exactly match the protocol must be discarded and cause the receiver to abort the connection."`
	rulePort   = `section 2.1: "a decimal integer in the range [0..65535] inclusive. Heading zeroes are not permitted in front of numbers"`
	ruleIgnore = `section 2.1: "For "UNKNOWN", the rest of the line before the CRLF may be omitted by the sender, and the receiver must ignore anything presented before the CRLF is found."`
	ruleSingle = `section 2.1: "The receiver must not tolerate a single CR or LF character to end the line when a complete CRLF sequence is expected."`
	ruleUnspec = `section 2.2: "The receiver is free to accept the connection anyway and use the real endpoint addresses or to reject it. The receiver should ignore address information."`
	ruleLocal  = `section 2.2: "The receiver must accept this connection as valid and must use the real connection endpoints and discard the protocol block including the family which is ignored."`
	ruleSkip   = `section 2.2: "Receivers MUST always consider this field to skip the appropriate number of bytes and must not assume zero is presented for LOCAL connections."`
	ruleTLVs   = `section 2.2: "A receiver may choose to skip over and ignore the TLVs it is not interested in or it does not understand."`
	ruleValue  = `section 2.2: "following the length field is the number of bytes specified by the length."`
	ruleSum    = `section 2.2.3: "verify that the calculated CRC32c checksum is the same as the received CRC32c checksum. If it is not, the receiver MUST treat the TCP connection providing the header as invalid."`
)

var differences = func() []difference {
	var (
		at4  = named("192.0.2.1:56324", "198.51.100.27:443")
		line = named("192.0.2.1:1", "192.0.2.2:2")
		none = withoutAddrs
	)
	return []difference{
		{"an IPv4-compatible address in dotted form", "PROXY TCP6 ::192.0.2.1 ::192.0.2.2 1 2\r\n",
			refused, named("[::c000:201]:1", "[::c000:202]:2"), named("[::c000:201]:1", "[::c000:202]:2"), ruleIPv6},
		{"a NAT64 address in dotted form", "PROXY TCP6 64:ff9b::192.0.2.1 :: 1 2\r\n",
			refused, named("[64:ff9b::c000:201]:1", "[::]:2"), named("[64:ff9b::c000:201]:1", "[::]:2"), ruleIPv6},
		{"IPv4 addresses in TCP6", "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", refused, refused, line, ruleFamily},
		{"IPv4-mapped addresses in TCP4", "PROXY TCP4 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", refused, refused, line, ruleFamily},
		{"two spaces", "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", refused, refused, line, ruleSpace},
		{"a tab", "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n", refused, refused, line, ruleSpace},
		{"a space before the CRLF", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", refused, refused, line, ruleExact},
		{"a CR before the CRLF", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n", refused, refused, line, ruleSingle},
		{"an LF before the CRLF", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n", refused, refused, line, ruleSingle},
		{"a port with a leading zero", "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", refused, refused, line, rulePort},
		{"a port with a sign", "PROXY TCP4 192.0.2.1 192.0.2.2 1 +2\r\n", refused, refused, line, rulePort},
		{"another word that begins with UNKNOWN", "PROXY UNKNOWNS\r\n", refused, refused, none, ruleSpace},
		{"UNKNOWN and a CR before the CRLF", "PROXY UNKNOWN\r\r\n", refused, refused, none, ruleSingle},
		{"a line of 108 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", refused, refused, none,
			`section 2.1: "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the line invalid."`},
		{"a lone LF in what UNKNOWN ignores", "PROXY UNKNOWN a\nb\r\n", none, refused, none, ruleIgnore},

		{"an unspecified header", v2(proxy, 0x00, ""), none, refused, none, ruleUnspec},
		{"an unspecified header with addresses", v2(proxy, 0x00, addrs4), none, refused, refused, ruleUnspec},
		{"an unspecified family over a stream", v2(proxy, 0x01, ""), none, refused, none, ruleUnspec},
		{"IPv4 over an unspecified transport", v2(proxy, 0x10, addrs4), none, refused, none, ruleUnspec},
		{"IPv4 over an unspecified transport without addresses", v2(proxy, 0x10, ""), none, refused, refused, ruleUnspec},
		{"LOCAL of a half-unspecified family", v2(local, 0x10, addrs4), none, refused, none, ruleLocal},
		{"LOCAL of an undefined family", v2(local, 0xff, ""), none, refused, refused, ruleLocal},
		{"LOCAL of a family without addresses", v2(local, 0x11, ""), none, none, refused, ruleLocal},
		{"LOCAL with TLVs where its addresses would be", sealed(v2(local, 0x11, noSum)), none, none, refused, ruleSkip},
		{"LOCAL with a block", v2(local, 0x00, "x"), none, none, refused, ruleSkip},

		{"TLVs", v2(proxy, 0x11, addrs4+h2), at4, at4, refused, ruleTLVs},
		{"the example of AWS", awsVPCE, named("172.31.7.113:51442", "172.31.10.31:80"),
			named("172.31.7.113:51442", "172.31.10.31:80"), refused, ruleTLVs},
		{"a header of more than 4112 bytes", inTCP4(tlv(wire.TypeNoop, strings.Repeat("\x00", 4096-12-3+1))), at4, refused, refused,
			`section 2.2: "Thus the length of the protocol header in bytes is always exactly 16 + this value."`},
		{"one byte behind the addresses", inTCP4("\x00"), refused, at4, refused, ruleValue},
		{"a TLV that overruns the header", inTCP4("\x04\x00\x01"), refused, at4, refused, ruleValue},
		{"a wrong checksum", inTCP4(noSum), refused, at4, refused, ruleSum},
		{"two checksums", sealed(inTCP4(noSum + noSum)), refused, at4, refused,
			`section 2.2.3: "replace the 32 bits of the checksum field in the received PROXY header with all '0's"`},
		{"a checksum of five bytes", inTCP4(tlv(wire.TypeCRC32C, "\x00\x00\x00\x00\x00")), refused, at4, refused,
			`section 2.2.3: "The value of the type PP2_TYPE_CRC32C is a 32-bit number"`},
		{"a unique ID of 129 bytes", inTCP4(tlv(wire.TypeUniqueID, strings.Repeat("x", 129))), refused, at4, refused,
			`section 2.2.5: "an opaque byte sequence of up to 128 bytes"`},
	}
}()

func TestPeers_WhereDecodersDifferTheSpecificationDecides(t *testing.T) {
	for _, tc := range differences {
		t.Run(tc.name, func(t *testing.T) {
			b := []byte(tc.in)
			assert.Equal(t, tc.ours, byWire(b), "wire, by %s", tc.rule)
			assert.Equal(t, tc.pires, byPires(b), "pires/go-proxyproto")
			assert.Equal(t, tc.mastercactapus, byMastercactapus(b), "mastercactapus/proxyprotocol")
			assert.False(t, tc.ours == tc.pires && tc.ours == tc.mastercactapus, "no difference")
		})
	}
}

func TestPeers_WhatIsEncodedHereIsDecodedThere(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		header                wire.Header
		tlvs                  []wire.TLV
		checksum              bool
		pires, mastercactapus verdict
	}{
		{name: "v1 TCP4", header: newProxy(t, 1, wire.Stream, "192.0.2.1:1", "192.0.2.2:65535"),
			pires: named("192.0.2.1:1", "192.0.2.2:65535"), mastercactapus: named("192.0.2.1:1", "192.0.2.2:65535")},
		{name: "v1 TCP6", header: newProxy(t, 1, wire.Stream, "[2001:db8::1]:1", "[::]:0"),
			pires: named("[2001:db8::1]:1", "[::]:0"), mastercactapus: named("[2001:db8::1]:1", "[::]:0")},
		{name: "v1 TCP6 with an IPv4-mapped address", header: newProxy(t, 1, wire.Stream, "[::ffff:192.0.2.1]:1", "[2001:db8::2]:2"),
			pires: named("192.0.2.1:1", "[2001:db8::2]:2"), mastercactapus: named("192.0.2.1:1", "[2001:db8::2]:2")},
		{name: "v1 UNKNOWN", header: wire.NewUnknown(1), pires: withoutAddrs,
			// mastercactapus returns invalid addresses for UNKNOWN.
			mastercactapus: withoutAddrs},
		{name: "v2 TCP over IPv4", header: newProxy(t, 2, wire.Stream, "192.0.2.1:1", "192.0.2.2:65535"),
			pires: named("192.0.2.1:1", "192.0.2.2:65535"), mastercactapus: named("192.0.2.1:1", "192.0.2.2:65535")},
		{name: "v2 UDP over IPv6", header: newProxy(t, 2, wire.Dgram, "[2001:db8::1]:1", "[::]:0"),
			pires: named("[2001:db8::1]:1", "[::]:0"), mastercactapus: named("[2001:db8::1]:1", "[::]:0")},
		{name: "v2 Unix", header: decoded(t, v2(proxy, 0x31, addrsUnix)), pires: withoutAddrs, mastercactapus: withoutAddrs},
		{name: "v2 LOCAL", header: wire.NewLocal(), pires: withoutAddrs, mastercactapus: withoutAddrs},
		{name: "v2 without addresses, which pires refuses", header: wire.NewUnknown(2), pires: refused, mastercactapus: withoutAddrs},
		{name: "v2 with TLVs and a checksum, which mastercactapus refuses", header: newProxy(t, 2, wire.Stream, "[2001:db8::1]:1", "[2001:db8::2]:2"),
			tlvs: []wire.TLV{{Type: wire.TypeAuthority, Value: []byte("example.com")}}, checksum: true,
			pires: named("[2001:db8::1]:1", "[2001:db8::2]:2"), mastercactapus: refused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := wire.Append(nil, tc.header, tc.tlvs, tc.checksum)
			require.NoError(t, err)
			assert.Equal(t, tc.pires, byPires(b), "pires/go-proxyproto")
			assert.Equal(t, tc.mastercactapus, byMastercactapus(b), "mastercactapus/proxyprotocol")
		})
	}
}

func TestPeers_TLVsEncodedHereAreSplitThere(t *testing.T) {
	b, err := wire.Append(nil, newProxy(t, 2, wire.Stream, "192.0.2.1:1", "192.0.2.2:2"), []wire.TLV{
		{Type: wire.TypeAuthority, Value: []byte("example.com")}, {Type: 0xea, Value: []byte{}},
	}, true)
	require.NoError(t, err)
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
	require.NoError(t, err)
	tlvs, err := h.TLVs()
	require.NoError(t, err)
	assert.Equal(t, []proxyproto.TLV{
		{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("example.com")},
		{Type: 0xea, Value: []byte{}},
		{Type: proxyproto.PP2_TYPE_CRC32C, Value: b[len(b)-4:]},
	}, tlvs)
}

func TestPeers_WhatIsEncodedThereIsDecodedHere(t *testing.T) {
	tcp := func(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	udp := func(s string) *net.UDPAddr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	unix := func(network, s string) *net.UnixAddr { return &net.UnixAddr{Net: network, Name: s} }
	for _, tc := range []struct {
		name     string
		src, dst net.Addr
		v1, v2   verdict
		// The verdicts on headers from mastercactapus, where they are others.
		mastercactapusV1, mastercactapusV2 *verdict
	}{
		{name: "TCP over IPv4", src: tcp("192.0.2.1:1"), dst: tcp("192.0.2.2:65535"),
			v1: named("192.0.2.1:1", "192.0.2.2:65535"), v2: named("192.0.2.1:1", "192.0.2.2:65535")},
		{name: "TCP over IPv6", src: tcp("[2001:db8::1]:0"), dst: tcp("[fe80::2]:2"),
			v1: named("[2001:db8::1]:0", "[fe80::2]:2"), v2: named("[2001:db8::1]:0", "[fe80::2]:2")},
		// pires writes this address in dotted form, mastercactapus writes no address.
		{name: "TCP from IPv4 to IPv6", src: tcp("192.0.2.1:1"), dst: tcp("[2001:db8::2]:2"),
			v1: named("192.0.2.1:1", "[2001:db8::2]:2"), v2: named("192.0.2.1:1", "[2001:db8::2]:2"),
			mastercactapusV1: &withoutAddrs, mastercactapusV2: &withoutAddrs},
		{name: "UDP over IPv4", src: udp("192.0.2.1:1"), dst: udp("192.0.2.2:2"),
			v1: withoutAddrs, v2: named("192.0.2.1:1", "192.0.2.2:2")},
		{name: "UDP over IPv6", src: udp("[2001:db8::1]:1"), dst: udp("[2001:db8::2]:2"),
			v1: withoutAddrs, v2: named("[2001:db8::1]:1", "[2001:db8::2]:2")},
		{name: "a Unix stream", src: unix("unix", "/run/client.sock"), dst: unix("unix", "/run/server.sock"), v1: withoutAddrs, v2: withoutAddrs},
		{name: "Unix datagrams", src: unix("unixgram", "/run/client.sock"), dst: unix("unixgram", "/run/server.sock"), v1: withoutAddrs, v2: withoutAddrs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for version, want := range map[byte]verdict{1: tc.v1, 2: tc.v2} {
				h := proxyproto.HeaderProxyFromAddrs(version, tc.src, tc.dst)
				b, err := h.Format()
				require.NoError(t, err)
				assert.Equal(t, want, byWire(b), "pires/go-proxyproto: %q", b)

				if version == 2 && h.Command.IsProxy() {
					require.NoError(t, h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte("h2")}}))
					b, err = h.Format()
					require.NoError(t, err)
					assert.Equal(t, want, byWire(b), "pires/go-proxyproto with TLVs: %q", b)
					value, _ := wire.Decode(b, wire.MaxSize).TLVs.First(wire.TypeALPN)
					assert.Equal(t, "h2", string(value))
				}
			}

			want := tc.v2
			if tc.mastercactapusV2 != nil {
				want = *tc.mastercactapusV2
			}
			var b bytes.Buffer
			_, err := proxyprotocol.HeaderV2{Command: proxyprotocol.CmdProxy, Src: tc.src, Dest: tc.dst}.WriteTo(&b)
			require.NoError(t, err)
			assert.Equal(t, want, byWire(b.Bytes()), "mastercactapus/proxyprotocol v2: %q", b.Bytes())

			src, isTCP := tc.src.(*net.TCPAddr)
			if !isTCP {
				return
			}
			want = tc.v1
			if tc.mastercactapusV1 != nil {
				want = *tc.mastercactapusV1
			}
			dst := tc.dst.(*net.TCPAddr)
			b.Reset()
			_, err = proxyprotocol.HeaderV1{SrcIP: src.IP, SrcPort: src.Port, DestIP: dst.IP, DestPort: dst.Port}.WriteTo(&b)
			require.NoError(t, err)
			assert.Equal(t, want, byWire(b.Bytes()), "mastercactapus/proxyprotocol v1: %q", b.Bytes())
		})
	}
	t.Run("LOCAL", func(t *testing.T) {
		b, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}).Format()
		require.NoError(t, err)
		assert.Equal(t, withoutAddrs, byWire(b))
		var buffer bytes.Buffer
		_, err = proxyprotocol.HeaderV2{Command: proxyprotocol.CmdLocal}.WriteTo(&buffer)
		require.NoError(t, err)
		assert.Equal(t, withoutAddrs, byWire(buffer.Bytes()))
	})
}

// dottedNotMapped reports whether b is a v1 line with an address that ends in dotted form
// and is not IPv4-mapped. Only such lines are accepted by both other decoders and refused
// by ours.
func dottedNotMapped(b []byte) bool {
	fields := strings.Fields(string(b))
	if len(fields) < 4 || fields[1] != "TCP6" {
		return false
	}
	for _, field := range fields[2:4] {
		addr, err := netip.ParseAddr(field)
		if err == nil && strings.Contains(field, ".") && !addr.Is4In6() {
			return true
		}
	}
	return false
}

func FuzzPeers(f *testing.F) {
	for _, s := range seeds() {
		f.Add([]byte(s))
	}
	for _, tc := range differences {
		f.Add([]byte(tc.in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, pires, mastercactapus := byWire(b), byPires(b), byMastercactapus(b)

		// Our decoder accepts a header that both others accept, with the same addresses.
		if pires.ok && mastercactapus.ok && !dottedNotMapped(b) {
			require.Equal(t, pires, mastercactapus, "the others do not agree on %q", b)
			require.Equal(t, pires, ours, "%q", b)
		}

		// If our decoder finds IP addresses, each of the others finds the same, within its
		// limits: mastercactapus refuses TLVs, and pires refuses more than 4096 bytes.
		got := wire.Decode(b, wire.MaxSize)
		if got.State != wire.Complete || !got.Header.HasAddrs() {
			return
		}
		if got.Size <= 16+4096 {
			require.Equal(t, ours, pires, "pires/go-proxyproto on %q", b)
		}
		if len(got.TLVs) == 0 {
			require.Equal(t, ours, mastercactapus, "mastercactapus/proxyprotocol on %q", b)
		}
	})
}
