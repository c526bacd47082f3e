package wire_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// accepted is a case of a valid header, with no bytes behind it.
type accepted struct {
	name string
	in   string
	want head
	tlvs string
}

// rejected is a case of an invalid header, up to and including the byte that proves it
// wrong: with every shorter piece of it, more bytes are needed.
type rejected struct {
	name    string
	in      string
	maxSize int // 0 stands for the largest size
	problem wire.Problem
	offset  int
}

// head has the contents of a Header, as its methods return them.
type head struct {
	version   uint8
	command   wire.Command
	family    wire.Family
	transport wire.Transport
	hasAddrs  bool
	src, dst  netip.AddrPort
}

func headOf(h wire.Header) head {
	return head{h.Version(), h.Command(), h.Family(), h.Transport(), h.HasAddrs(), h.Source(), h.Destination()}
}

// ip4 and ip6 return the head of a header with these addresses.
func ip4(version uint8, transport wire.Transport, src, dst string) head {
	return head{version, wire.Proxy, wire.IPv4, transport, true, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)}
}

func ip6(version uint8, transport wire.Transport, src, dst string) head {
	return head{version, wire.Proxy, wire.IPv6, transport, true, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)}
}

// bare returns the head of a header without IP addresses.
func bare(version uint8, command wire.Command, family wire.Family, transport wire.Transport) head {
	return head{version: version, command: command, family: family, transport: transport}
}

// v2 builds a header from its 13th and 14th byte and the block behind the length.
func v2(verCmd, famProto byte, block string) string {
	b := append([]byte(wire.SignatureV2), verCmd, famProto)
	b = binary.BigEndian.AppendUint16(b, uint16(len(block)))
	return string(b) + block
}

// v2Announcing builds the first 16 bytes of a header that announces a length.
func v2Announcing(verCmd, famProto byte, length int) string {
	b := append([]byte(wire.SignatureV2), verCmd, famProto)
	return string(binary.BigEndian.AppendUint16(b, uint16(length)))
}

func tlv(typ wire.Type, value string) string {
	b := binary.BigEndian.AppendUint16([]byte{byte(typ)}, uint16(len(value)))
	return string(b) + value
}

// noSum is a CRC32C TLV before its value is known.
var noSum = tlv(wire.TypeCRC32C, "\x00\x00\x00\x00")

// sealed puts the checksum into the first CRC32C TLV that looks like noSum.
func sealed(header string) string {
	at := strings.Index(header, noSum) + len(noSum) - 4
	b := []byte(header)
	binary.BigEndian.PutUint32(b[at:], crc32c(header))
	return string(b)
}

// crc32c returns the checksum of RFC 4960, appendix B. It works on one bit at a time, and
// shares no code with the package.
func crc32c(s string) uint32 {
	sum := ^uint32(0)
	for i := range len(s) {
		sum ^= uint32(s[i])
		for range 8 {
			if sum&1 == 1 {
				sum = sum>>1 ^ 0x82f63b78
			} else {
				sum >>= 1
			}
		}
	}
	return ^sum
}

func allAccepted() []accepted { return slices.Concat(v1Accepted, v2Accepted, tlvAccepted) }

func allRejected() []rejected {
	rejected := slices.Concat(v1Rejected(), v2Rejected(), tlvRejected)
	for _, tc := range v1Mismatched {
		rejected = append(rejected, rejectedMismatch(tc))
	}
	return rejected
}

// rejectedMismatch returns the case of a mismatched destination without the option that
// accepts it.
func rejectedMismatch(tc accepted) rejected {
	dst := len("PROXY TCP4 ") + strings.IndexByte(tc.in[len("PROXY TCP4 "):], ' ') + 1
	return rejected{name: tc.name, in: tc.in, problem: wire.ProblemDestination, offset: dst}
}

func testAccepted(t *testing.T, cases []accepted) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got := wire.Decode([]byte(tc.in), wire.MaxSize)
			require.Equal(t, wire.Complete, got.State, "%v", got.Err)
			assert.Equal(t, tc.want, headOf(got.Header))
			assert.Equal(t, tc.want.version, got.Version)
			assert.Equal(t, len(tc.in), got.Size)
			assert.Equal(t, tc.tlvs, string(got.TLVs))
			assert.Zero(t, got.Err)
		})
	}
}

func testRejected(t *testing.T, version uint8, cases []rejected) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			want := wire.Result{
				State: wire.Invalid, Version: version,
				Err: wire.Error{Problem: tc.problem, Offset: tc.offset},
			}
			got := wire.Decode([]byte(tc.in), tc.max())
			assert.Equal(t, want, got, "%q: %v", tc.in, got.Err)
			assert.Less(t, tc.offset, len(tc.in), "the wrong byte must be one that was seen")
			if tc.problem != wire.ProblemDestination {
				got := wire.Options{MaxSize: tc.max(), MismatchedDestination: true}.Decode([]byte(tc.in))
				assert.Equal(t, want, got, "%q: %v with the option", tc.in, got.Err)
			}
		})
	}
}

func (tc rejected) max() int {
	if tc.maxSize == 0 {
		return wire.MaxSize
	}
	return tc.maxSize
}

// same reports whether two results are equal. It is faster than assert.Equal, for loops of
// many thousand rounds.
func same(a, b wire.Result) bool {
	return a.State == b.State && a.Version == b.Version && a.Header == b.Header && a.Size == b.Size &&
		(a.TLVs == nil) == (b.TLVs == nil) && bytes.Equal(a.TLVs, b.TLVs) && a.Err == b.Err
}

// anyCase is a case for the properties that every header has, valid or not.
type anyCase struct {
	name, in string
	options  wire.Options
}

func allCases() []anyCase {
	var all []anyCase
	for _, mismatched := range []bool{false, true} {
		option := map[bool]string{true: " with the option"}[mismatched]
		for _, tc := range allAccepted() {
			all = append(all, anyCase{"accepted/" + tc.name + option, tc.in, wire.Options{MaxSize: wire.MaxSize, MismatchedDestination: mismatched}})
		}
		for _, tc := range allRejected() {
			all = append(all, anyCase{"rejected/" + tc.name + option, tc.in, wire.Options{MaxSize: tc.max(), MismatchedDestination: mismatched}})
		}
	}
	return all
}

func TestDecode_NothingIsDecidedBeforeTheLastByteOfACase(t *testing.T) {
	for _, tc := range allCases() {
		t.Run(tc.name, func(t *testing.T) {
			signature := len(wire.SignatureV1)
			version := uint8(1)
			if tc.in[0] == wire.SignatureV2[0] {
				signature, version = len(wire.SignatureV2), 2
			}
			b := []byte(tc.in)
			for n := range len(b) {
				want := wire.Result{State: wire.Undecided}
				if n >= signature {
					want = wire.Result{State: wire.Partial, Version: version}
				}
				if got := tc.options.Decode(slices.Clip(b[:n])); !same(want, got) {
					require.Equal(t, want, got, "after %d bytes of %d: %q", n, len(b), b[:n])
				}
			}
			final := tc.options.Decode(b).State
			assert.True(t, final == wire.Complete || final == wire.Invalid, "state %d", final)
		})
	}
}

// garbage are bytes that may follow a header. Each would change the result of a decoder that
// looked at these bytes or counted them.
var garbage = []string{
	"\x00", "\n", "\r", "\r\n", " ", "0", "9", ".1", ":1", "::", "f",
	"GET / HTTP/1.1\r\n\r\n",
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
	wire.SignatureV2,
	wire.SignatureV2 + "\x20\x00\x00\x00",
	strings.Repeat("\xff", 300),
	strings.Repeat("\x00", 300),
}

func TestDecode_NothingBehindTheDecidingByteIsLookedAt(t *testing.T) {
	for _, tc := range allCases() {
		t.Run(tc.name, func(t *testing.T) {
			exact := slices.Clip([]byte(tc.in))
			want := tc.options.Decode(exact)
			for _, behind := range garbage {
				whole := []byte(tc.in + behind)
				assert.Equal(t, want, tc.options.Decode(whole), "with %q behind", behind)
				// The same bytes behind the end of the slice, in its capacity.
				assert.Equal(t, want, tc.options.Decode(whole[:len(tc.in)]), "with %q in the capacity", behind)
				assert.Equal(t, tc.in+behind, string(whole), "the input was written to")
			}
			assert.Equal(t, tc.in, string(exact), "the input was written to")
		})
	}
}

func TestDecode_NothingAllocates(t *testing.T) {
	inputs := allCases()
	for _, tc := range notHeaders {
		inputs = append(inputs, anyCase{"not a header/" + tc.name, tc.in, lenient})
	}
	for _, tc := range inputs {
		t.Run(tc.name, func(t *testing.T) {
			b := []byte(tc.in)
			var result wire.Result
			assert.Zero(t, testing.AllocsPerRun(10, func() { result = tc.options.Decode(b) }), "whole")
			half := b[:len(b)/2]
			assert.Zero(t, testing.AllocsPerRun(10, func() { result = tc.options.Decode(half) }), "cut in the middle")
			_ = result
		})
	}
}

var notHeaders = []struct {
	name, in string
	state    wire.State
}{
	{"nothing at all", "", wire.Undecided},
	{"the first byte of PROXY", "P", wire.Undecided},
	{"PROXY but for its last byte", "PROX", wire.Undecided},
	{"a lone CR", "\r", wire.Undecided},
	{"a lone CRLF", "\r\n", wire.Undecided},
	{"two CRLFs", "\r\n\r\n", wire.Undecided},
	{"the v2 signature but for its last byte", "\r\n\r\n\x00\r\nQUIT", wire.Undecided},

	{"a PUT request", "PUT / HTTP/1.1\r\n\r\n", wire.Absent},
	{"a PUT request's second byte", "PU", wire.Absent},
	{"a PROPFIND request", "PROPFIND / HTTP/1.1\r\n\r\n", wire.Absent},
	{"a PROPFIND request's fourth byte", "PROP", wire.Absent},
	{"a POST request", "POST / HTTP/1.1\r\n\r\n", wire.Absent},
	{"a PATCH request", "PATCH / HTTP/1.1\r\n\r\n", wire.Absent},
	{"a GET request", "GET / HTTP/1.1\r\n\r\n", wire.Absent},
	{"the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", wire.Absent},
	{"a CRLF before a request", "\r\nGET / HTTP/1.1\r\n\r\n", wire.Absent},
	{"two CRLFs before a request", "\r\n\r\nGET / HTTP/1.1\r\n\r\n", wire.Absent},
	{"a TLS ClientHello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", wire.Absent},
	{"an SSH banner", "SSH-2.0-OpenSSH_9.9\r\n", wire.Absent},
	{"a NUL", "\x00", wire.Absent},
	{"PROXY in lower case", "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", wire.Absent},
	{"PROXY in mixed case", "PROXy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", wire.Absent},
	{"a space before PROXY", " PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", wire.Absent},
	{"a line break before PROXY", "\r\nPROXY UNKNOWN\r\n", wire.Absent},
	{"a UTF-8 byte order mark before PROXY", "\ufeffPROXY UNKNOWN\r\n", wire.Absent},
	{"a v2 signature with a wrong last byte", "\r\n\r\n\x00\r\nQUIT\r\x21\x11\x00\x0c", wire.Absent},
	{"a v2 signature without its NUL", "\r\n\r\n\r\nQUIT\n\x21\x11\x00\x0c", wire.Absent},
	{"a v2 signature in lower case", "\r\n\r\n\x00\r\nquit\n\x21\x11\x00\x0c", wire.Absent},
}

func TestDecode_WhatIsNoHeaderIsKnownAtItsFirstWrongByte(t *testing.T) {
	for _, tc := range notHeaders {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, wire.Result{State: tc.state}, wire.Decode([]byte(tc.in), wire.MaxSize))
			state, version := wire.Signature([]byte(tc.in))
			assert.Equal(t, tc.state, state)
			assert.Zero(t, version)

			for n := range len(tc.in) {
				want := wire.Absent
				if prefix := tc.in[:n]; strings.HasPrefix(wire.SignatureV1, prefix) || strings.HasPrefix(wire.SignatureV2, prefix) {
					want = wire.Undecided
				}
				assert.Equal(t, wire.Result{State: want}, wire.Decode([]byte(tc.in[:n]), wire.MaxSize), "after %d bytes", n)
			}
		})
	}
}

func TestDecode_ASignatureIsEnoughToKnowAHeaderAndItsVersion(t *testing.T) {
	for version, signature := range map[uint8]string{1: "PROXY", 2: "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"} {
		for _, behind := range append([]string{""}, garbage...) {
			state, got := wire.Signature([]byte(signature + behind))
			assert.Equal(t, wire.Partial, state)
			assert.Equal(t, version, got)
		}
		assert.Equal(t, wire.Result{State: wire.Partial, Version: version}, wire.Decode([]byte(signature), wire.MaxSize))
	}
}

func TestDecode_ASignatureWithOneByteWrongIsNone(t *testing.T) {
	for _, signature := range []string{wire.SignatureV1, wire.SignatureV2} {
		for at := range len(signature) {
			for bit := range 8 {
				b := []byte(signature)
				b[at] ^= 1 << bit
				state, version := wire.Signature(b)
				assert.Equal(t, wire.Absent, state, "%q", b)
				assert.Zero(t, version)
			}
		}
	}
}

func TestDecode_SizesAreTheSpecificationsOwn(t *testing.T) {
	assert.Equal(t, 107, wire.MaxSizeV1)
	assert.Equal(t, 576-40, wire.MinMaxSize)
	assert.Equal(t, 65551, wire.MaxSize)
	assert.Equal(t, 128, wire.MaxUniqueIDSize)
}

var allProblems = []wire.Problem{
	wire.ProblemSpace, wire.ProblemKeyword, wire.ProblemLoneCRLF, wire.ProblemNoCRLF, wire.ProblemAddress,
	wire.ProblemDestination, wire.ProblemUnixPort,
	wire.ProblemPort, wire.ProblemTrailing, wire.ProblemVersion, wire.ProblemCommand, wire.ProblemFamily,
	wire.ProblemTransport, wire.ProblemLength, wire.ProblemTooLarge, wire.ProblemTLVOverrun, wire.ProblemUniqueID,
	wire.ProblemCRC32CSize, wire.ProblemCRC32CTwice, wire.ProblemChecksum,
}

func TestDecode_EveryProblemIsProvokedByACase(t *testing.T) {
	provoked := map[wire.Problem]bool{}
	for _, tc := range allRejected() {
		provoked[tc.problem] = true
	}
	for _, problem := range allProblems {
		assert.True(t, provoked[problem], "%v", problem)
	}
	assert.Len(t, provoked, len(allProblems))
}

func TestDecode_EveryProblemSaysWhatIsWrongAndCitesTheRule(t *testing.T) {
	said := map[string]wire.Problem{}
	for _, problem := range allProblems {
		text := problem.String()
		assert.NotEmpty(t, text)
		assert.NotContains(t, said, text, "said by two problems")
		said[text] = problem
		assert.Regexp(t, `^section 2(\.[1-9])*: ".+"`, problem.Rule(), "%v", problem)
	}
	assert.Empty(t, wire.Problem(0).String())
	assert.Empty(t, wire.Problem(0).Rule())
}

func TestDecode_AnErrorSaysWhereAndWhat(t *testing.T) {
	err := wire.Decode([]byte("PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n"), wire.MaxSize).Err
	var asError error = err
	assert.EqualError(t, asError, "byte 21: malformed address, or not of the announced family")
	assert.Equal(t, wire.ProblemAddress, err.Problem)
}

func TestDecode_HeadersAreComparable(t *testing.T) {
	decode := func(s string) wire.Header { return wire.Decode([]byte(s), wire.MaxSize).Header }
	one := decode("PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n")
	assert.True(t, one == decode("PROXY TCP6 2001:DB8:0:0:0:0:0:1 2001:db8::0:2 1 2\r\n"), "the same in another spelling")
	assert.False(t, one == decode("PROXY TCP6 2001:db8::1 2001:db8::2 1 3\r\n"), "another port")
	assert.False(t, one == decode("PROXY TCP6 2001:db8::3 2001:db8::2 1 2\r\n"), "another address")
	assert.Equal(t, head{}, headOf(wire.Header{}), "the zero Header is no header")
}

func TestDecode_TheSourcesIPIsShortIfItIsIPv4OrMapped(t *testing.T) {
	for addr, want := range map[string]net.IP{
		"192.0.2.1":        {192, 0, 2, 1},
		"::ffff:192.0.2.1": {192, 0, 2, 1},
		"::fffe:192.0.2.1": net.ParseIP("::fffe:c000:201"),
		"2001:db8::1":      net.ParseIP("2001:db8::1"),
	} {
		src := netip.AddrPortFrom(netip.MustParseAddr(addr), 1234)
		h, err := wire.NewProxy(2, wire.Stream, src, src)
		require.NoError(t, err)
		assert.Equal(t, want, h.SourceIP(), addr)
		assert.Equal(t, 1234, h.SourcePort(), addr)
	}
	for _, h := range []wire.Header{{}, wire.NewLocal(), wire.NewUnknown(1), wire.NewUnknown(2)} {
		assert.Nil(t, h.SourceIP())
		assert.Zero(t, h.SourcePort())
	}
}
