package wire_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The 13th byte: version and command.
const (
	local = 0x20
	proxy = 0x21
)

// Address blocks.
const (
	addrs4 = "\xc0\x00\x02\x01" + "\xc6\x33\x64\x1b" + "\xdc\x04" + "\x01\xbb"
	addrs6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\xdc\x04" + "\x01\xbb"
)

var addrsUnix = "/run/client.sock" + strings.Repeat("\x00", 108-16) + "/run/server.sock" + strings.Repeat("\x00", 108-16)

// The heads of headers with these address blocks.
func addrs4Of(transport wire.Transport) head {
	return ip4(2, transport, "192.0.2.1:56324", "198.51.100.27:443")
}

func addrs6Of(transport wire.Transport) head {
	return ip6(2, transport, "[2001:db8::1]:56324", "[2001:db8::2]:443")
}

func unixOf(transport wire.Transport) head { return bare(2, wire.Proxy, wire.Unix, transport) }

var local2 = bare(2, wire.Local, wire.FamilyUnspec, wire.TransportUnspec)

// badTLVs are TLVs that break rules. A header whose TLVs are decoded is malformed with them.
const badTLVs = "\x03\x00\x04\xde\xad\xbe\xef" + "\x03\x00\x01\x00" + "\x05\xff\xff"

var v2Accepted = []accepted{
	{name: "TCP over IPv4", in: v2(proxy, 0x11, addrs4), want: addrs4Of(wire.Stream)},
	{name: "UDP over IPv4", in: v2(proxy, 0x12, addrs4), want: addrs4Of(wire.Dgram)},
	{name: "TCP over IPv6", in: v2(proxy, 0x21, addrs6), want: addrs6Of(wire.Stream)},
	{name: "UDP over IPv6", in: v2(proxy, 0x22, addrs6), want: addrs6Of(wire.Dgram)},
	{name: "a Unix stream socket", in: v2(proxy, 0x31, addrsUnix), want: unixOf(wire.Stream)},
	{name: "a Unix datagram socket", in: v2(proxy, 0x32, addrsUnix), want: unixOf(wire.Dgram)},
	{name: "Unix paths of all 108 bytes", in: v2(proxy, 0x31, strings.Repeat("x", 216)), want: unixOf(wire.Stream)},
	{name: "ports at both ends of their range",
		in:   v2(proxy, 0x11, "\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\xff\xff"),
		want: ip4(2, wire.Stream, "0.0.0.0:0", "255.255.255.255:65535")},
	{name: "IPv6 addresses at both ends of their range",
		in:   v2(proxy, 0x21, strings.Repeat("\x00", 16)+strings.Repeat("\xff", 16)+"\xff\xff\x00\x00"),
		want: ip6(2, wire.Stream, "[::]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:0")},
	{name: "an IPv4-mapped address, which stays one",
		in:   v2(proxy, 0x21, strings.Repeat("\x00", 10)+"\xff\xff\xc0\x00\x02\x01"+strings.Repeat("\x00", 10)+"\xff\xff\xc0\x00\x02\x02"+"\x00\x01\x00\x02"),
		want: ip6(2, wire.Stream, "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")},

	// "must use the real connection endpoints and discard the protocol block
	// including the family which is ignored"
	{name: "LOCAL", in: v2(local, 0x00, ""), want: local2},
	{name: "LOCAL with a family and no addresses", in: v2(local, 0x11, ""), want: local2},
	{name: "LOCAL with addresses", in: v2(local, 0x11, addrs4), want: local2},
	{name: "LOCAL with IPv6 addresses", in: v2(local, 0x21, addrs6), want: local2},
	{name: "LOCAL with Unix paths", in: v2(local, 0x31, addrsUnix), want: local2},
	{name: "LOCAL with half an address", in: v2(local, 0x11, addrs4[:7]), want: local2},
	{name: "LOCAL with one byte", in: v2(local, 0x00, "x"), want: local2},
	{name: "LOCAL with TLVs where its addresses would be, as AWS checks health",
		in: sealed(v2(local, 0x11, noSum+tlv(0xea, "\x01vpce-08d2bf15fac5001c9"))), want: local2},
	{name: "LOCAL with TLVs behind its addresses", in: v2(local, 0x11, addrs4+tlv(wire.TypeAuthority, "example.com")), want: local2},
	{name: "LOCAL with a wrong checksum where its addresses would be", in: v2(local, 0x11, noSum), want: local2},
	{name: "LOCAL with a wrong checksum behind its addresses", in: v2(local, 0x11, addrs4+noSum), want: local2},
	{name: "LOCAL with TLVs that are none", in: v2(local, 0x11, addrs4+badTLVs), want: local2},
	{name: "LOCAL with an undefined family", in: v2(local, 0x41, addrs4), want: local2},
	{name: "LOCAL with an undefined transport", in: v2(local, 0x13, addrs4), want: local2},
	{name: "LOCAL with nothing defined", in: v2(local, 0xff, badTLVs), want: local2},
	{name: "LOCAL as long as can be", in: v2(local, 0x00, strings.Repeat("x", 1<<16-1)), want: local2},

	// "The receiver is free to accept the connection anyway and use the real
	// endpoint addresses"
	{name: "an unspecified header", in: v2(proxy, 0x00, ""), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec)},
	{name: "an unspecified header with addresses", in: v2(proxy, 0x00, addrs4), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec)},
	{name: "an unspecified header with one byte", in: v2(proxy, 0x00, "x"), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec)},
	{name: "an unspecified header with a wrong checksum", in: v2(proxy, 0x00, noSum), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec)},
	{name: "an unspecified header with TLVs that are none", in: v2(proxy, 0x00, badTLVs), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.TransportUnspec)},
	{name: "an unspecified family over a stream", in: v2(proxy, 0x01, ""), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.Stream)},
	{name: "an unspecified family over a stream with addresses", in: v2(proxy, 0x01, addrs4), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.Stream)},
	{name: "an unspecified family over datagrams", in: v2(proxy, 0x02, ""), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.Dgram)},
	{name: "an unspecified family over datagrams with TLVs that are none", in: v2(proxy, 0x02, badTLVs), want: bare(2, wire.Proxy, wire.FamilyUnspec, wire.Dgram)},
	{name: "IPv4 over an unspecified transport", in: v2(proxy, 0x10, ""), want: bare(2, wire.Proxy, wire.IPv4, wire.TransportUnspec)},
	{name: "IPv4 over an unspecified transport with addresses", in: v2(proxy, 0x10, addrs4), want: bare(2, wire.Proxy, wire.IPv4, wire.TransportUnspec)},
	{name: "IPv4 over an unspecified transport with addresses and a wrong checksum", in: v2(proxy, 0x10, addrs4+noSum), want: bare(2, wire.Proxy, wire.IPv4, wire.TransportUnspec)},
	{name: "IPv6 over an unspecified transport", in: v2(proxy, 0x20, ""), want: bare(2, wire.Proxy, wire.IPv6, wire.TransportUnspec)},
	{name: "IPv6 over an unspecified transport with addresses and bad TLVs", in: v2(proxy, 0x20, addrs6+badTLVs), want: bare(2, wire.Proxy, wire.IPv6, wire.TransportUnspec)},
	{name: "Unix over an unspecified transport", in: v2(proxy, 0x30, ""), want: bare(2, wire.Proxy, wire.Unix, wire.TransportUnspec)},
	{name: "Unix over an unspecified transport with paths and bad TLVs", in: v2(proxy, 0x30, addrsUnix+badTLVs), want: bare(2, wire.Proxy, wire.Unix, wire.TransportUnspec)},
	{name: "Unix over an unspecified transport with half a path", in: v2(proxy, 0x30, addrsUnix[:54]), want: bare(2, wire.Proxy, wire.Unix, wire.TransportUnspec)},
}

func v2Rejected() []rejected {
	var all []rejected
	add := func(name, in string, problem wire.Problem, offset int) {
		all = append(all, rejected{name: name, in: in, problem: problem, offset: offset})
	}
	// "it must always be sent as \x2 and the receiver must only accept this value"
	for version := range byte(16) {
		if version != 2 {
			add(fmt.Sprintf("version %d", version), wire.SignatureV2+string([]byte{version<<4 | 1}), wire.ProblemVersion, 12)
			add(fmt.Sprintf("LOCAL of version %d", version), wire.SignatureV2+string([]byte{version << 4}), wire.ProblemVersion, 12)
		}
	}
	// "Receivers must drop connections presenting unexpected values here."
	for command := byte(2); command < 16; command++ {
		add(fmt.Sprintf("command %d", command), wire.SignatureV2+string([]byte{2<<4 | command}), wire.ProblemCommand, 12)
	}
	add("neither the version nor the command", wire.SignatureV2+"\xff", wire.ProblemVersion, 12)
	// "must be rejected as invalid by receivers", for the family and for the transport
	for family := byte(4); family < 16; family++ {
		for transport := range byte(3) {
			add(fmt.Sprintf("family %d over transport %d", family, transport),
				wire.SignatureV2+string([]byte{proxy, family<<4 | transport}), wire.ProblemFamily, 13)
		}
	}
	for transport := byte(3); transport < 16; transport++ {
		for family := range byte(4) {
			add(fmt.Sprintf("transport %d under family %d", transport, family),
				wire.SignatureV2+string([]byte{proxy, family<<4 | transport}), wire.ProblemTransport, 13)
		}
	}
	add("neither the family nor the transport", wire.SignatureV2+"\x21\xff", wire.ProblemFamily, 13)
	// "Address length is 2*4 + 2*2 = 12 bytes", 36, 216
	for family, size := range map[byte]int{1: 12, 2: 36, 3: 216} {
		for transport := byte(1); transport < 3; transport++ {
			for _, length := range []int{size - 1, size / 2, 1, 0} {
				add(fmt.Sprintf("family %d over transport %d with %d bytes of addresses", family, transport, length),
					v2Announcing(proxy, family<<4|transport, length), wire.ProblemLength, 14)
			}
		}
	}
	add("IPv6 with IPv4 addresses", v2Announcing(proxy, 0x21, len(addrs4)), wire.ProblemLength, 14)
	add("Unix with IPv6 addresses", v2Announcing(proxy, 0x31, len(addrs6)), wire.ProblemLength, 14)
	// A limit of the receiver's own.
	for _, limit := range []struct{ maxSize, length int }{
		{wire.MinMaxSize, wire.MinMaxSize - 16 + 1},
		{wire.MinMaxSize, 1<<16 - 1},
		{4096, 4096 - 16 + 1},
		{wire.MaxSize - 1, 1<<16 - 1},
		{27, 12}, {16, 12}, {15, 12}, {-1, 12},
	} {
		all = append(all, rejected{
			name: fmt.Sprintf("%d bytes where %d are allowed", 16+limit.length, limit.maxSize),
			in:   v2Announcing(proxy, 0x11, limit.length), maxSize: limit.maxSize,
			problem: wire.ProblemTooLarge, offset: 14,
		})
	}
	for _, skipped := range []struct {
		name             string
		verCmd, famProto byte
	}{{"LOCAL", local, 0x00}, {"LOCAL of an undefined family", local, 0xff}, {"unspecified", proxy, 0x00}, {"half-unspecified", proxy, 0x10}} {
		all = append(all, rejected{
			name: skipped.name + ", larger than allowed",
			in:   v2Announcing(skipped.verCmd, skipped.famProto, 4096-16+1), maxSize: 4096,
			problem: wire.ProblemTooLarge, offset: 14,
		})
	}
	return all
}

func TestV2_HeadersThatFollowTheRulesAreAccepted(t *testing.T) { testAccepted(t, v2Accepted) }
func TestV2_HeadersThatBreakARuleAreRejected(t *testing.T)     { testRejected(t, 2, v2Rejected()) }

func TestV2_EveryValueOfTheTwoBytesBehindTheSignature(t *testing.T) {
	// The 180 zeros behind an IPv6 block are 60 TLVs without a value, and the 204 behind
	// an IPv4 block are 68.
	header := []byte(v2(proxy, 0x11, strings.Repeat("\x00", 216)))
	zero4, zero6 := netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:0")
	for verCmd := range 1 << 8 {
		for famProto := range 1 << 8 {
			version, command := verCmd>>4, verCmd&0xf
			family, transport := wire.Family(famProto>>4), wire.Transport(famProto&0xf)

			want := wire.Error{}
			wantHead, tlvs := bare(2, wire.Proxy, family, transport), 0
			switch {
			case version != 2:
				want = wire.Error{Problem: wire.ProblemVersion, Offset: 12}
			case command > 1:
				want = wire.Error{Problem: wire.ProblemCommand, Offset: 12}
			case command == 0:
				wantHead = local2
			case family > 3:
				want = wire.Error{Problem: wire.ProblemFamily, Offset: 13}
			case transport > 2:
				want = wire.Error{Problem: wire.ProblemTransport, Offset: 13}
			case family == wire.IPv4 && transport > 0:
				wantHead.hasAddrs, wantHead.src, wantHead.dst, tlvs = true, zero4, zero4, 204
			case family == wire.IPv6 && transport > 0:
				wantHead.hasAddrs, wantHead.src, wantHead.dst, tlvs = true, zero6, zero6, 180
			}

			header[12], header[13] = byte(verCmd), byte(famProto)
			got := wire.Decode(header, wire.MaxSize)
			if want.Problem != 0 {
				if got.State != wire.Invalid || got.Err != want {
					require.Equal(t, wire.Result{State: wire.Invalid, Version: 2, Err: want}, got, "%#x %#x", verCmd, famProto)
				}
				continue
			}
			require.Equal(t, wire.Complete, got.State, "%#x %#x: %v", verCmd, famProto, got.Err)
			require.Equal(t, wantHead, headOf(got.Header), "%#x %#x", verCmd, famProto)
			require.Equal(t, 16+216, got.Size)
			require.Len(t, got.TLVs, tlvs, "%#x %#x", verCmd, famProto)
		}
	}
}

func TestV2_AHeaderAsLargeAsAllowedIsAcceptedAndNoneLarger(t *testing.T) {
	for _, size := range []int{wire.MinMaxSize, 4096, wire.MaxSize - 1, wire.MaxSize} {
		padding := size - 16 - len(addrs4) - 3
		for name, header := range map[string]string{
			"with TLVs": v2(proxy, 0x11, addrs4+tlv(wire.TypeNoop, strings.Repeat("\x00", padding))),
			"LOCAL":     v2(local, 0x00, strings.Repeat("\x00", size-16)),
		} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				require.Len(t, header, size)
				got := wire.Decode([]byte(header), size)
				assert.Equal(t, wire.Complete, got.State, "%v", got.Err)
				assert.Equal(t, size, got.Size)

				tooLarge := wire.Result{
					State: wire.Invalid, Version: 2,
					Err: wire.Error{Problem: wire.ProblemTooLarge, Offset: 14},
				}
				assert.Equal(t, tooLarge, wire.Decode([]byte(header), size-1))
				assert.Equal(t, tooLarge, wire.Decode([]byte(header[:16]), size-1), "known as soon as the length is")
			})
		}
	}
}

func TestV2_TheLargestHeaderAtEveryByteThatCouldMatter(t *testing.T) {
	header := sealed(v2(proxy, 0x11, addrs4+noSum+tlv(wire.TypeNoop, strings.Repeat("x", 1<<16-1-len(addrs4)-len(noSum)-3))))
	require.Len(t, header, 65551)
	b := []byte(header)
	for n := len(wire.SignatureV2); n < len(b); n++ {
		if got := wire.Decode(b[:n], wire.MaxSize); got.State != wire.Partial || got.Version != 2 {
			require.Equal(t, wire.Partial, got.State, "after %d bytes", n)
		}
	}
	got := wire.Decode(b, wire.MaxSize)
	require.Equal(t, wire.Complete, got.State, "%v", got.Err)
	assert.Equal(t, addrs4Of(wire.Stream), headOf(got.Header))
	assert.Equal(t, 65551, got.Size)

	b[len(b)-1] ^= 1
	assert.Equal(t, wire.ProblemChecksum, wire.Decode(b, wire.MaxSize).Err.Problem)
}

func TestV2_AnAnnouncedLengthAloneIsNoHeader(t *testing.T) {
	for _, tc := range v2Accepted {
		length := int(binary.BigEndian.Uint16([]byte(tc.in[14:])))
		require.Equal(t, len(tc.in), 16+length)
		if length == 0 {
			continue
		}
		assert.Equal(t, wire.Result{State: wire.Partial, Version: 2}, wire.Decode([]byte(tc.in[:16]), wire.MaxSize), tc.name)
		assert.Equal(t, wire.Result{State: wire.Partial, Version: 2}, wire.Decode([]byte(tc.in[:len(tc.in)-1]), wire.MaxSize), tc.name)
	}
}
