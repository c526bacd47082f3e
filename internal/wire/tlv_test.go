package wire_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// withTLVs returns a case of a TCP4 header with these TLVs, sealed if one is noSum.
func withTLVs(name string, tlvs ...string) accepted {
	block := strings.Join(tlvs, "")
	in := v2(proxy, 0x11, addrs4+block)
	if slices.Contains(tlvs, noSum) {
		in = sealed(in)
	}
	return accepted{name: name, in: in, want: addrs4Of(wire.Stream), tlvs: in[16+len(addrs4):]}
}

// awsVPCE is the example of a Network Load Balancer's header that AWS publishes
// (elastic-load-balancing-tools, ProProt): checksum, VPC endpoint ID, padding. AWS
// computed the checksum.
var awsVPCE = v2(proxy, 0x11, "\xac\x1f\x07\x71"+"\xac\x1f\x0a\x1f"+"\xc8\xf2"+"\x00\x50"+
	"\x03\x00\x04\xe8\xd6\x89\x2d"+
	tlv(0xea, "\x01vpce-08d2bf15fac5001c9")+
	tlv(wire.TypeNoop, strings.Repeat("\x00", 36)))

var tlvAccepted = []accepted{
	{name: "the example of AWS, whose checksum is right", in: awsVPCE,
		want: ip4(2, wire.Stream, "172.31.7.113:51442", "172.31.10.31:80"), tlvs: awsVPCE[28:]},
	withTLVs("one TLV", tlv(wire.TypeAuthority, "example.com")),
	withTLVs("one TLV without a value", tlv(wire.TypeALPN, "")),
	withTLVs("every registered type", tlv(wire.TypeALPN, "h2"), tlv(wire.TypeAuthority, "example.com"), noSum,
		tlv(wire.TypeNoop, "\x00"), tlv(wire.TypeUniqueID, "id"), tlv(wire.TypeSSL, "\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.3"),
		tlv(wire.TypeNetNS, "blue")),
	withTLVs("types that the specification does not know", tlv(0x00, "x"), tlv(0x06, ""), tlv(0x7f, "y"), tlv(0xdf, "z")),
	withTLVs("types of the reserved ranges", tlv(0xe0, "x"), tlv(0xea, "\x01vpce"), tlv(0xf0, "y"), tlv(0xff, "z")),
	withTLVs("values that are not text", tlv(wire.TypeAuthority, "\x00\xff\r\n"), tlv(wire.TypeSSL, "")),
	withTLVs("types that come twice", tlv(wire.TypeAuthority, "first.example"), tlv(wire.TypeALPN, "h2"),
		tlv(wire.TypeAuthority, "second.example"), tlv(wire.TypeALPN, "h2")),
	withTLVs("padding, empty and not, several times", tlv(wire.TypeNoop, ""), tlv(wire.TypeNoop, "\x00"), tlv(wire.TypeNoop, strings.Repeat("x", 300))),
	withTLVs("a unique ID of no byte", tlv(wire.TypeUniqueID, "")),
	withTLVs("a unique ID of 128 bytes", tlv(wire.TypeUniqueID, strings.Repeat("x", 128))),
	withTLVs("two unique IDs of 128 bytes", tlv(wire.TypeUniqueID, strings.Repeat("x", 128)), tlv(wire.TypeUniqueID, strings.Repeat("y", 128))),
	withTLVs("another type of 129 bytes", tlv(wire.TypeAuthority, strings.Repeat("x", 129))),
	withTLVs("a value of 256 bytes, whose length needs both bytes", tlv(wire.TypeSSL, strings.Repeat("x", 256))),

	withTLVs("a checksum alone", noSum),
	withTLVs("a checksum first", noSum, tlv(wire.TypeAuthority, "example.com"), tlv(wire.TypeALPN, "h2")),
	withTLVs("a checksum in the middle", tlv(wire.TypeAuthority, "example.com"), noSum, tlv(wire.TypeALPN, "h2")),
	withTLVs("a checksum last", tlv(wire.TypeAuthority, "example.com"), tlv(wire.TypeALPN, "h2"), noSum),
	withTLVs("a checksum behind a value that looks like one", tlv(0xe0, "\x03\x00\x04\x01\x02\x03\x04"), noSum),
	withTLVs("a value that looks like a wrong checksum", tlv(0xe0, "\x03\x00\x04\x01\x02\x03\x04")),

	{name: "a checksum over IPv6", in: sealed(v2(proxy, 0x21, addrs6+noSum)), want: addrs6Of(wire.Stream),
		tlvs: sealed(v2(proxy, 0x21, addrs6+noSum))[16+36:]},
	{name: "a checksum over UDP", in: sealed(v2(proxy, 0x22, addrs6+noSum)), want: addrs6Of(wire.Dgram),
		tlvs: sealed(v2(proxy, 0x22, addrs6+noSum))[16+36:]},
	{name: "a checksum over Unix paths", in: sealed(v2(proxy, 0x31, addrsUnix+noSum)), want: unixOf(wire.Stream),
		tlvs: sealed(v2(proxy, 0x31, addrsUnix+noSum))[16+216:]},
	{name: "TLVs behind Unix paths", in: v2(proxy, 0x32, addrsUnix+tlv(wire.TypeALPN, "h2")), want: unixOf(wire.Dgram),
		tlvs: tlv(wire.TypeALPN, "h2")},
}

// inTCP4 returns a header whose TLVs begin at byte 28.
func inTCP4(tlvs string) string { return v2(proxy, 0x11, addrs4+tlvs) }

// changed returns s with other bytes from at on.
func changed(s string, at int, to string) string { return s[:at] + to + s[at+len(to):] }

var (
	sealedTCP4 = sealed(inTCP4(noSum))
	h2         = tlv(wire.TypeALPN, "h2")
	crc        = crc32c(inTCP4(noSum))
)

var tlvRejected = []rejected{
	// "following the length field is the number of bytes specified by the length"
	{name: "one byte behind the addresses", in: inTCP4("x"), problem: wire.ProblemTLVOverrun, offset: 28},
	{name: "one NUL behind the addresses", in: inTCP4("\x00"), problem: wire.ProblemTLVOverrun, offset: 28},
	{name: "two bytes behind the addresses", in: inTCP4("\x01\x00"), problem: wire.ProblemTLVOverrun, offset: 28},
	{name: "one byte behind the last TLV", in: inTCP4(h2 + "\x04"), problem: wire.ProblemTLVOverrun, offset: 33},
	{name: "two bytes behind the last TLV", in: inTCP4(h2 + "\x04\x00"), problem: wire.ProblemTLVOverrun, offset: 33},
	{name: "one byte behind the checksum", in: sealed(inTCP4(noSum + "\x00")), problem: wire.ProblemTLVOverrun, offset: 35},
	{name: "a length of one byte too many", in: inTCP4("\x01\x00\x03h2"), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "a length of one and no value", in: inTCP4("\x04\x00\x01"), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "the largest length", in: inTCP4("\x04\xff\xff"), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "a length whose high byte is too much", in: inTCP4("\x01\x01\x02h2"), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "a second TLV that is too long by one", in: inTCP4(h2 + "\x01\x00\x03h2"), problem: wire.ProblemTLVOverrun, offset: 34},
	{name: "padding that is too long by one", in: inTCP4("\x04\x00\x05\x00\x00\x00\x00"), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "a unique ID that is too long for both", in: inTCP4("\x05\x00\x82" + strings.Repeat("x", 129)), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "a checksum that is cut off", in: inTCP4("\x03\x00\x04\x00\x00\x00"), problem: wire.ProblemTLVOverrun, offset: 29},
	{name: "one byte behind IPv6 addresses", in: v2(proxy, 0x21, addrs6+"\x00"), problem: wire.ProblemTLVOverrun, offset: 52},
	{name: "two bytes behind IPv6 addresses", in: v2(proxy, 0x22, addrs6+"\x00\x00"), problem: wire.ProblemTLVOverrun, offset: 52},
	{name: "one byte behind Unix paths", in: v2(proxy, 0x31, addrsUnix+"\x00"), problem: wire.ProblemTLVOverrun, offset: 232},
	{name: "two bytes behind Unix paths", in: v2(proxy, 0x32, addrsUnix+"\x00\x00"), problem: wire.ProblemTLVOverrun, offset: 232},

	// "up to 128 bytes"
	{name: "a unique ID of 129 bytes", in: inTCP4(tlv(wire.TypeUniqueID, strings.Repeat("x", 129))), problem: wire.ProblemUniqueID, offset: 29},
	{name: "a unique ID of 384 bytes, whose length's low byte is 128", in: inTCP4(tlv(wire.TypeUniqueID, strings.Repeat("x", 384))), problem: wire.ProblemUniqueID, offset: 29},
	{name: "a second unique ID of 129 bytes", in: inTCP4(tlv(wire.TypeUniqueID, "x") + tlv(wire.TypeUniqueID, strings.Repeat("x", 129))), problem: wire.ProblemUniqueID, offset: 33},
	{name: "a unique ID of 129 bytes behind Unix paths", in: v2(proxy, 0x31, addrsUnix+tlv(wire.TypeUniqueID, strings.Repeat("x", 129))), problem: wire.ProblemUniqueID, offset: 233},
	{name: "a unique ID of 129 bytes under a right checksum", in: sealed(inTCP4(noSum + tlv(wire.TypeUniqueID, strings.Repeat("x", 129)))), problem: wire.ProblemUniqueID, offset: 36},

	// "a 32-bit number"
	{name: "a checksum of no byte", in: inTCP4(tlv(wire.TypeCRC32C, "")), problem: wire.ProblemCRC32CSize, offset: 29},
	{name: "a checksum of three bytes", in: inTCP4(tlv(wire.TypeCRC32C, "\x00\x00\x00")), problem: wire.ProblemCRC32CSize, offset: 29},
	{name: "a checksum of five bytes", in: inTCP4(tlv(wire.TypeCRC32C, "\x00\x00\x00\x00\x00")), problem: wire.ProblemCRC32CSize, offset: 29},
	{name: "a checksum of 260 bytes, whose length's low byte is 4", in: inTCP4(tlv(wire.TypeCRC32C, strings.Repeat("\x00", 260))), problem: wire.ProblemCRC32CSize, offset: 29},
	{name: "a second checksum of five bytes", in: sealed(inTCP4(noSum + tlv(wire.TypeCRC32C, "\x00\x00\x00\x00\x00"))), problem: wire.ProblemCRC32CSize, offset: 36},
	{name: "a checksum of five bytes behind Unix paths", in: v2(proxy, 0x31, addrsUnix+tlv(wire.TypeCRC32C, "\x00\x00\x00\x00\x00")), problem: wire.ProblemCRC32CSize, offset: 233},

	// "the 32 bits of the checksum field": there is one
	{name: "two checksums, the first over the second as zeros", in: sealed(inTCP4(noSum + noSum)), problem: wire.ProblemCRC32CTwice, offset: 35},
	{name: "two checksums, the second of which is wrong", in: sealed(inTCP4(noSum + tlv(wire.TypeCRC32C, "\x01\x02\x03\x04"))), problem: wire.ProblemCRC32CTwice, offset: 35},
	{name: "two checksums, the first of which is wrong", in: sealed(inTCP4(tlv(wire.TypeCRC32C, "\x01\x02\x03\x04") + noSum)), problem: wire.ProblemCRC32CTwice, offset: 35},
	{name: "two checksums with a TLV between them", in: sealed(inTCP4(noSum + h2 + noSum)), problem: wire.ProblemCRC32CTwice, offset: 40},
	{name: "three checksums", in: sealed(inTCP4(noSum + noSum + noSum)), problem: wire.ProblemCRC32CTwice, offset: 35},

	// "If it is not, the receiver MUST treat the TCP connection [...] as invalid."
	{name: "a checksum of zero", in: inTCP4(noSum), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum with its bytes reversed", in: changed(inTCP4(noSum), 31, string(binary.LittleEndian.AppendUint32(nil, crc))), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum with its bits inverted", in: changed(inTCP4(noSum), 31, string(binary.BigEndian.AppendUint32(nil, ^crc))), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum over its own value", in: changed(inTCP4(noSum), 31, string(binary.BigEndian.AppendUint32(nil, crc32c(sealedTCP4)))), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum of the bytes before it", in: changed(inTCP4(noSum), 31, string(binary.BigEndian.AppendUint32(nil, crc32c(sealedTCP4[:31])))), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum of another source", in: changed(sealedTCP4, 16, "\xc0\x00\x02\x02"), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum of another source port", in: changed(sealedTCP4, 24, "\xdc\x05"), problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum of a header before a TLV was added", in: sealedTCP4[:14] + "\x00\x18" + sealedTCP4[16:] + h2, problem: wire.ProblemChecksum, offset: 31},
	{name: "a checksum of another transport", in: changed(sealedTCP4, 13, "\x12"), problem: wire.ProblemChecksum, offset: 31},
	{name: "a wrong checksum in the middle", in: inTCP4(h2 + noSum + h2), problem: wire.ProblemChecksum, offset: 36},
	{name: "a wrong checksum over IPv6", in: v2(proxy, 0x21, addrs6+noSum), problem: wire.ProblemChecksum, offset: 55},
	{name: "a wrong checksum over Unix paths", in: v2(proxy, 0x31, addrsUnix+noSum), problem: wire.ProblemChecksum, offset: 235},
	{name: "a checksum of other Unix paths", in: changed(sealed(v2(proxy, 0x31, addrsUnix+noSum)), 16, "\x00"), problem: wire.ProblemChecksum, offset: 235},
}

func TestTLVs_TLVsThatFollowTheRulesAreAccepted(t *testing.T) { testAccepted(t, tlvAccepted) }
func TestTLVs_TLVsThatBreakARuleAreRejected(t *testing.T)     { testRejected(t, 2, tlvRejected) }

func TestTLVs_TheChecksumsOfTheseTestsAreRight(t *testing.T) {
	// The check value of CRC-32C, in every catalogue of checksums.
	assert.Equal(t, uint32(0xe3069283), crc32c("123456789"))
	// RFC 3720, appendix B.4.
	assert.Equal(t, uint32(0x8a9136aa), crc32c(strings.Repeat("\x00", 32)))
	// The checksum that AWS computed, with zeros in its place.
	assert.Equal(t, uint32(0xe8d6892d), crc32c(changed(awsVPCE, 31, "\x00\x00\x00\x00")))
}

func TestTLVs_NoHeaderWithOneBitFlippedKeepsItsChecksum(t *testing.T) {
	// Only these flipped bits leave a valid header. Either the header then has no
	// addresses, so that nothing in it can be wrong. Or the type of the checksum is no
	// longer that of a checksum: no receiver can tell this from a header without one.
	toLocal := 12*8 + 0
	toUnspecTransport := func(famProto byte) int { return 13*8 + map[byte]int{0x11: 0, 0x21: 0, 0x31: 0, 0x12: 1}[famProto] }
	for _, tc := range []struct {
		name, addrs string
		famProto    byte
		toUnspec    []int // the bits that make family or transport unspecified
	}{
		{"IPv4", addrs4, 0x11, []int{13*8 + 4, toUnspecTransport(0x11)}},
		{"IPv4 over datagrams", addrs4, 0x12, []int{13*8 + 4, toUnspecTransport(0x12)}},
		{"IPv6", addrs6, 0x21, []int{13*8 + 5, toUnspecTransport(0x21)}},
		{"Unix", addrsUnix, 0x31, []int{toUnspecTransport(0x31)}}, // one bit makes 3 only 1 or 2
	} {
		t.Run(tc.name, func(t *testing.T) {
			header := sealed(v2(proxy, tc.famProto, tc.addrs+tlv(wire.TypeAuthority, "example.com")+noSum+tlv(wire.TypeUniqueID, "0123456789")))
			original := wire.Decode([]byte(header), wire.MaxSize)
			require.Equal(t, wire.Complete, original.State, "%v", original.Err)
			atType := strings.Index(header, "example.com") + len("example.com")

			for bit := range len(header) * 8 {
				b := []byte(header)
				b[bit/8] ^= 1 << (bit % 8)
				got := wire.Decode(b, wire.MaxSize)
				switch {
				case bit/8 < len(wire.SignatureV2):
					assert.Equal(t, wire.Absent, got.State, "bit %d", bit)
				case bit == toLocal || slices.Contains(tc.toUnspec, bit):
					assert.Equal(t, wire.Complete, got.State, "bit %d: %v", bit, got.Err)
					assert.False(t, got.Header.HasAddrs(), "bit %d", bit)
					assert.Empty(t, got.TLVs, "bit %d", bit)
				case bit/8 == atType:
					assert.Equal(t, wire.Complete, got.State, "bit %d: %v", bit, got.Err)
					_, has := got.TLVs.First(wire.TypeCRC32C)
					assert.False(t, has, "bit %d", bit)
				case (bit/8 == 14 || bit/8 == 15) && b[bit/8] > header[bit/8]:
					assert.Equal(t, wire.Partial, got.State, "bit %d: a larger length waits for more", bit)
				default:
					assert.Equal(t, wire.Invalid, got.State, "bit %d", bit)
				}
			}
		})
	}
}

func TestTLVs_EveryWrongChecksumOfOneByteIsRejected(t *testing.T) {
	for at := 31; at < 35; at++ {
		for delta := 1; delta < 256; delta++ {
			b := []byte(sealedTCP4)
			b[at] += byte(delta)
			assert.Equal(t, wire.Error{Problem: wire.ProblemChecksum, Offset: 31}, wire.Decode(b, wire.MaxSize).Err)
		}
	}
}

func TestTLVs_TypesAreTheRegisteredOnes(t *testing.T) {
	for typ, value := range map[wire.Type]byte{
		wire.TypeALPN: 0x01, wire.TypeAuthority: 0x02, wire.TypeCRC32C: 0x03, wire.TypeNoop: 0x04,
		wire.TypeUniqueID: 0x05, wire.TypeSSL: 0x20, wire.TypeNetNS: 0x30,
	} {
		assert.Equal(t, value, byte(typ))
	}
}

func TestTLVs_AllYieldsEveryTLVInOrder(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   string
		want []wire.TLV
	}{
		{"nothing", "", nil},
		{"one", h2, []wire.TLV{{Type: wire.TypeALPN, Value: []byte("h2")}}},
		{"repeated types, padding and unknown types",
			tlv(wire.TypeNoop, "") + h2 + tlv(0xea, "x") + tlv(wire.TypeNoop, "\x00") + tlv(wire.TypeALPN, "http/1.1"),
			[]wire.TLV{{Type: wire.TypeNoop, Value: []byte{}}, {Type: wire.TypeALPN, Value: []byte("h2")}, {Type: 0xea, Value: []byte("x")},
				{Type: wire.TypeNoop, Value: []byte{0}}, {Type: wire.TypeALPN, Value: []byte("http/1.1")}}},
		{"one byte too many", h2 + "\x01", []wire.TLV{{Type: wire.TypeALPN, Value: []byte("h2")}}},
		{"two bytes too many", h2 + "\x01\x00", []wire.TLV{{Type: wire.TypeALPN, Value: []byte("h2")}}},
		{"one that overruns the end by one", h2 + "\x01\x00\x03h2", []wire.TLV{{Type: wire.TypeALPN, Value: []byte("h2")}}},
		{"one that overruns the end and hides another", "\x01\xff\xff" + h2, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, tc.want, slices.Collect(wire.TLVs(tc.in).All()))
		})
	}
}

func TestTLVs_AllYieldsTheTLVsOfADecodedHeader(t *testing.T) {
	got := wire.Decode([]byte(awsVPCE), wire.MaxSize)
	assert.Equal(t, []wire.TLV{
		{Type: wire.TypeCRC32C, Value: []byte("\xe8\xd6\x89\x2d")},
		{Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
		{Type: wire.TypeNoop, Value: make([]byte, 36)},
	}, slices.Collect(got.TLVs.All()))
}

func TestTLVs_AllMayBeWalkedAgain(t *testing.T) {
	all := wire.TLVs(h2 + tlv(wire.TypeAuthority, "example.com")).All()
	first := slices.Collect(all)
	assert.Len(t, first, 2)
	assert.Equal(t, first, slices.Collect(all), "from its beginning once more")
}

func TestTLVs_AllMayBeLeftEarly(t *testing.T) {
	all := wire.TLVs(h2 + tlv(wire.TypeAuthority, "example.com")).All()
	for range 2 {
		for got := range all {
			assert.Equal(t, wire.TypeALPN, got.Type)
			break
		}
	}
	next := 0
	all(func(wire.TLV) bool { next++; return false })
	assert.Equal(t, 1, next)
}

func TestTLVs_WalkingTLVsAllocatesNothing(t *testing.T) {
	tlvs := wire.Decode([]byte(awsVPCE), wire.MaxSize).TLVs
	sum := 0
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for tlv := range tlvs.All() {
			sum += len(tlv.Value)
		}
		value, _ := tlvs.First(0xea)
		sum += len(value)
	}))
	assert.NotZero(t, sum)
}

func TestTLVs_OfRepeatedTLVsTheFirstCounts(t *testing.T) {
	got := wire.Decode([]byte(inTCP4(
		tlv(0xea, "")+tlv(wire.TypeAuthority, "first.example")+h2+tlv(0xea, "not empty")+tlv(wire.TypeAuthority, "second.example"))), wire.MaxSize)
	require.Equal(t, wire.Complete, got.State)

	value, ok := got.TLVs.First(wire.TypeAuthority)
	assert.True(t, ok)
	assert.Equal(t, "first.example", string(value))

	value, ok = got.TLVs.First(0xea)
	assert.True(t, ok, "an empty value is one")
	assert.Empty(t, value)

	value, ok = got.TLVs.First(wire.TypeUniqueID)
	assert.False(t, ok)
	assert.Nil(t, value)

	_, ok = wire.TLVs(nil).First(wire.TypeALPN)
	assert.False(t, ok)
}

func TestTLVs_AValueCannotBeAppendedOverItsNeighbour(t *testing.T) {
	b := []byte(inTCP4(h2 + tlv(wire.TypeAuthority, "example.com")))
	value, _ := wire.Decode(b, wire.MaxSize).TLVs.First(wire.TypeALPN)
	_ = append(value, "overwritten"...)
	assert.Equal(t, inTCP4(h2+tlv(wire.TypeAuthority, "example.com")), string(b))
}

func TestTLVs_TLVsArePartOfTheDecodedBytes(t *testing.T) {
	b := []byte(inTCP4(h2))
	got := wire.Decode(b, wire.MaxSize)
	b[len(b)-1] = '3'
	value, _ := got.TLVs.First(wire.TypeALPN)
	assert.Equal(t, "h3", string(value))
}
