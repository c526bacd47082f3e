package wire_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// seeds returns the cases of the tables except the largest, and the accepted ones also with
// bytes behind them.
func seeds() []string {
	var all []string
	for _, tc := range allCases() {
		if len(tc.in) <= 2048 {
			all = append(all, tc.in)
		}
	}
	for i, tc := range allAccepted() {
		if len(tc.in) <= 2048 {
			all = append(all, tc.in+garbage[i%len(garbage)])
		}
	}
	for _, tc := range notHeaders {
		all = append(all, tc.in)
	}
	return all
}

func FuzzDecode(f *testing.F) {
	for i, s := range seeds() {
		f.Add([]byte(s), uint16(i))
	}
	f.Add([]byte(seeds()[0]), uint16(0xffff))
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		maxSize := min(wire.MinMaxSize+int(limit), wire.MaxSize)
		before := bytes.Clone(b)
		strict := wire.Options{MaxSize: maxSize}
		got := strict.Decode(b)
		require.Equal(t, got, wire.Decode(b, maxSize))
		require.Equal(t, before, b, "the input was written to")
		requireSane(t, b, maxSize, got)
		requireSplitsDoNotMatter(t, b, strict, got)
		requireLenientAgrees(t, b, wire.Options{MaxSize: maxSize, MismatchedDestination: true})
		switch {
		case got.State == wire.Complete && got.Version == 1:
			requireLineAgrees(t, b[:got.Size], got.Header)
		case got.State == wire.Complete:
			requireTLVsCover(t, b, got)
		}
	})
}

// requireSane checks that a result is one that Decode may return.
func requireSane(t *testing.T, b []byte, maxSize int, got wire.Result) {
	v1, v2 := bytes.HasPrefix(b, []byte(wire.SignatureV1)), bytes.HasPrefix(b, []byte(wire.SignatureV2))
	begins := strings.HasPrefix(wire.SignatureV1, string(b)) || strings.HasPrefix(wire.SignatureV2, string(b))
	if v1 || v2 {
		begins = false
	}
	version := uint8(0)
	switch {
	case v1:
		version = 1
	case v2:
		version = 2
	}
	require.Equal(t, version, got.Version)

	state, signed := wire.Signature(b)
	require.Equal(t, version, signed)
	switch got.State {
	case wire.Undecided:
		require.True(t, begins)
		require.Equal(t, wire.Undecided, state)
		require.Equal(t, wire.Result{State: wire.Undecided}, got)
	case wire.Absent:
		require.False(t, begins || v1 || v2)
		require.Equal(t, wire.Absent, state)
		require.Equal(t, wire.Result{State: wire.Absent}, got)
	case wire.Partial:
		require.True(t, v1 || v2)
		require.Equal(t, wire.Partial, state)
		require.Equal(t, wire.Result{State: wire.Partial, Version: version}, got)
		if v1 {
			require.Less(t, len(b), wire.MaxSizeV1)
		} else {
			require.Less(t, len(b), maxSize)
		}
	case wire.Complete:
		require.True(t, v1 || v2)
		require.LessOrEqual(t, got.Size, len(b))
		if v1 {
			require.LessOrEqual(t, got.Size, wire.MaxSizeV1)
			require.Empty(t, got.TLVs)
		} else {
			require.LessOrEqual(t, got.Size, maxSize)
		}
		require.Equal(t, version, got.Header.Version())
		require.Zero(t, got.Err)
		require.Equal(t, got.Header.HasAddrs(), got.Header.Source().IsValid())
		require.Equal(t, got.Header.HasAddrs(), got.Header.Destination().IsValid())
	case wire.Invalid:
		require.True(t, v1 || v2)
		require.Equal(t, wire.Result{State: wire.Invalid, Version: version, Err: got.Err}, got)
		require.Contains(t, allProblems, got.Err.Problem)
		require.GreaterOrEqual(t, got.Err.Offset, len(wire.SignatureV1))
		require.Less(t, got.Err.Offset, len(b), "the wrong byte must be one that was seen")
	default:
		require.Fail(t, "no state", "%d", got.State)
	}
}

// requireSplitsDoNotMatter checks that the result for every shorter piece is either the
// same, or that more bytes are needed.
func requireSplitsDoNotMatter(t *testing.T, b []byte, options wire.Options, got wire.Result) {
	rank := func(r wire.Result) int {
		switch r.State {
		case wire.Undecided:
			return 0
		case wire.Partial:
			return 1
		default:
			return 2
		}
	}
	final := rank(got) == 2
	decided := len(b) + 1 // the smallest number of bytes with a final result
	last := 0
	for n := range len(b) + 1 {
		if n > 1024 && n < len(b) { // of a large input, only its beginning is split
			continue
		}
		piece := options.Decode(slices.Clip(b[:n]))
		now := rank(piece)
		if now < last || now == 2 && !same(got, piece) {
			require.Equal(t, got, piece, "after %d bytes, an answer is taken back", n)
		}
		if now == 2 {
			decided = min(decided, n)
		}
		last = now
	}
	if got.State == wire.Complete {
		require.Equal(t, got, options.Decode(b[:got.Size:got.Size]), "something behind the header was looked at")
		piece := options.Decode(b[:got.Size-1])
		require.Equal(t, wire.Result{State: wire.Partial, Version: got.Version}, piece, "the last byte is needed")
		require.GreaterOrEqual(t, decided, got.Size)
	}
	if final {
		// Bytes behind the deciding byte do not change the result.
		other := bytes.Clone(b)
		for i := min(decided, len(other)); i < len(other); i++ {
			other[i] ^= 0x55
		}
		again := options.Decode(append(other, "\r\n:.0 "...))
		if got.State != wire.Complete {
			require.Equal(t, got, again)
			return
		}
		require.Equal(t, got.Header, again.Header)
		require.Equal(t, got.Size, again.Size)
		require.Equal(t, got.TLVs, again.TLVs)
	}
}

// requireLenientAgrees checks a receiver that accepts a mismatched destination: it accepts
// the lines that a model finds, and gets the same result as a strict receiver for all others.
func requireLenientAgrees(t *testing.T, b []byte, lenient wire.Options) {
	strict := wire.Options{MaxSize: lenient.MaxSize}.Decode(b)
	got := lenient.Decode(b)
	src, size, ok := mismatchedLine(b)
	if !ok {
		require.NotEqual(t, wire.ProblemDestination, strict.Err.Problem, "%q", b)
		if !same(strict, got) {
			require.Equal(t, strict, got, "%q", b)
		}
		return
	}
	require.Equal(t, wire.ProblemDestination, strict.Err.Problem, "%q", b)
	require.Equal(t, wire.Complete, got.State, "%q: %v", b, got.Err)
	require.Equal(t, size, got.Size)
	require.Nil(t, got.TLVs)
	family := wire.IPv4
	if src.Addr().Is6() {
		family = wire.IPv6
	}
	require.Equal(t, withoutDestination(family, src.String()), headOf(got.Header))
	requireSplitsDoNotMatter(t, b, lenient, got)
}

// mismatchedLine is the model: it finds a v1 line with a mismatched destination with packages
// strings, netip and strconv.
func mismatchedLine(b []byte) (src netip.AddrPort, size int, ok bool) {
	text, _, ok := strings.Cut(string(b), "\r\n")
	size = len(text) + len("\r\n")
	fields := strings.Split(text, " ")
	if !ok || size > wire.MaxSizeV1 || len(fields) != 6 || fields[0] != "PROXY" || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return src, 0, false
	}
	addr, err := netip.ParseAddr(fields[2])
	if err != nil || addr.Zone() != "" || addr.Is4() != (fields[1] == "TCP4") || strings.Contains(fields[2], ".") && addr.Is6() && !addr.Is4In6() {
		return src, 0, false
	}
	var ports [2]uint16
	for i := range ports {
		port, err := strconv.ParseUint(fields[4+i], 10, 16)
		if err != nil || strconv.FormatUint(port, 10) != fields[4+i] {
			return src, 0, false
		}
		ports[i] = uint16(port)
	}
	if strings.HasPrefix(fields[3], "unix:") && ports[1] != 0 {
		return src, 0, false
	}
	return netip.AddrPortFrom(addr, ports[0]), size, mismatches(fields[1], fields[3])
}

// requireLineAgrees checks a v1 line against the field splitting of package
// strings and the address parsing of package netip.
func requireLineAgrees(t *testing.T, line []byte, h wire.Header) {
	text, ok := strings.CutSuffix(string(line), "\r\n")
	require.True(t, ok)
	fields := strings.Split(text, " ")
	require.Equal(t, "PROXY", fields[0])
	if !h.HasAddrs() {
		require.Equal(t, "UNKNOWN", fields[1])
		require.Equal(t, unknown1, headOf(h))
		require.Equal(t, 1, strings.Count(text+"\r\n", "\r\n"), "it ends at the first CRLF")
		return
	}
	require.Len(t, fields, 6)
	for i, got := range []netip.AddrPort{h.Source(), h.Destination()} {
		addr, err := netip.ParseAddr(fields[2+i])
		require.NoError(t, err)
		require.Equal(t, addr, got.Addr())
		require.Equal(t, fields[1] == "TCP4", addr.Is4())
		require.Equal(t, fields[4+i], strconv.Itoa(int(got.Port())))
	}
	require.Contains(t, []string{"TCP4", "TCP6"}, fields[1])
}

// requireTLVsCover checks that the addresses and TLVs fill a v2 header exactly, and that
// its checksum, if there is one, is what another implementation computes.
func requireTLVsCover(t *testing.T, b []byte, got wire.Result) {
	addrs := 0
	switch h := got.Header; {
	case h.Command() == wire.Local, h.Family() == wire.FamilyUnspec, h.Transport() == wire.TransportUnspec:
		require.Empty(t, got.TLVs)
		require.False(t, h.HasAddrs())
		return
	case h.Family() == wire.Unix:
		addrs = 216
		require.False(t, h.HasAddrs())
	case h.Family() == wire.IPv4:
		addrs = 12
		require.True(t, h.Source().Addr().Is4())
	case h.Family() == wire.IPv6:
		addrs = 36
		require.True(t, h.Source().Addr().Is6())
	}
	require.Equal(t, got.Size, 16+addrs+len(got.TLVs))
	require.Equal(t, b[16+addrs:got.Size], []byte(got.TLVs))

	covered, sums := 0, 0
	first := map[wire.Type][]byte{}
	for tlv := range got.TLVs.All() {
		if tlv.Type == wire.TypeCRC32C {
			sums++
			require.Len(t, tlv.Value, 4)
			at := 16 + addrs + covered + 3
			zeroed := string(b[:at]) + "\x00\x00\x00\x00" + string(b[at+4:got.Size])
			require.Equal(t, crc32c(zeroed), uint32(tlv.Value[0])<<24|uint32(tlv.Value[1])<<16|uint32(tlv.Value[2])<<8|uint32(tlv.Value[3]))
		}
		if tlv.Type == wire.TypeUniqueID {
			require.LessOrEqual(t, len(tlv.Value), 128)
		}
		if _, ok := first[tlv.Type]; !ok {
			first[tlv.Type] = tlv.Value
		}
		covered += 3 + len(tlv.Value)
	}
	require.Equal(t, len(got.TLVs), covered)
	require.LessOrEqual(t, sums, 1)
	for typ := range 256 {
		value, ok := got.TLVs.First(wire.Type(typ))
		want, has := first[wire.Type(typ)]
		require.Equal(t, has, ok)
		require.Equal(t, want, value)
	}
}

func FuzzEncodeDecode(f *testing.F) {
	for _, tc := range allAccepted() {
		got := wire.Decode([]byte(tc.in), wire.MaxSize)
		if !got.Header.HasAddrs() || len(tc.in) > 2048 {
			continue
		}
		h := got.Header
		for _, checksum := range []bool{false, true} {
			f.Add(h.Version(), byte(h.Transport()), h.Source().Addr().AsSlice(), h.Destination().Addr().AsSlice(),
				h.Source().Port(), h.Destination().Port(), []byte(got.TLVs), uint32(0), checksum)
		}
	}
	v4 := []byte{192, 0, 2, 1}
	f.Add(byte(2), byte(wire.Stream), v4, v4, uint16(1), uint16(2), []byte("\x04\x00\x00"), uint32(1<<16-1-12-3-3), false)
	f.Add(byte(2), byte(wire.Stream), v4, v4, uint16(1), uint16(2), []byte("\x04\x00\x00"), uint32(1<<16-12-3-3), false)
	f.Add(byte(2), byte(wire.Stream), v4, v4, uint16(1), uint16(2), []byte{}, uint32(1<<16), true)
	f.Add(byte(3), byte(9), []byte{1}, []byte{}, uint16(1), uint16(2), []byte{}, uint32(0), false)

	f.Fuzz(func(t *testing.T, version, transport byte, src, dst []byte, srcPort, dstPort uint16, raw []byte, padding uint32, checksum bool) {
		srcAddr, _ := netip.AddrFromSlice(src)
		dstAddr, _ := netip.AddrFromSlice(dst)
		from, to := netip.AddrPortFrom(srcAddr, srcPort), netip.AddrPortFrom(dstAddr, dstPort)
		h, err := wire.NewProxy(version, wire.Transport(transport), from, to)
		valid := (version == 1 && transport == 1 || version == 2 && (transport == 1 || transport == 2)) &&
			from.IsValid() && to.IsValid() && srcAddr.Is4() == dstAddr.Is4()
		require.Equal(t, valid, err == nil, "%v", err)
		if !valid {
			require.Zero(t, h)
			return
		}
		require.Equal(t, from, h.Source())
		require.Equal(t, to, h.Destination())

		// Append leaves the rules for unique IDs and checksums to its caller.
		var tlvs []wire.TLV
		size := 16 + 12
		if srcAddr.Is6() {
			size = 16 + 36
		}
		for tlv := range wire.TLVs(raw).All() {
			if tlv.Type == wire.TypeCRC32C || tlv.Type == wire.TypeUniqueID && len(tlv.Value) > 128 {
				continue
			}
			tlvs = append(tlvs, tlv)
			size += 3 + len(tlv.Value)
		}
		if padding > 0 {
			padding %= 1<<16 + 2
			tlvs = append(tlvs, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, padding)})
			size += 3 + int(padding)
		}
		if checksum {
			size += 7
		}

		b, err := wire.Append(nil, h, tlvs, checksum)
		if version == 1 && (len(tlvs) > 0 || checksum) || size > wire.MaxSize {
			require.Error(t, err)
			require.Empty(t, b)
			return
		}
		require.NoError(t, err)

		got := wire.Decode(b, wire.MaxSize)
		require.Equal(t, wire.Complete, got.State, "%v", got.Err)
		require.Equal(t, h, got.Header)
		require.Equal(t, len(b), got.Size)
		if version == 1 {
			require.LessOrEqual(t, got.Size, wire.MaxSizeV1)
			return
		}
		require.Equal(t, size, got.Size)

		again := slices.Collect(got.TLVs.All())
		if checksum {
			require.Equal(t, wire.TypeCRC32C, again[len(again)-1].Type)
			again = again[:len(again)-1]
		}
		require.Len(t, again, len(tlvs))
		for i := range tlvs {
			require.Equal(t, tlvs[i].Type, again[i].Type)
			require.True(t, bytes.Equal(tlvs[i].Value, again[i].Value))
		}

		// And once more from what was decoded: the same bytes.
		second, err := wire.Append(nil, got.Header, slices.Collect(got.TLVs.All()), false)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, second))
	})
}

// FuzzAddress compares the addresses of v1 lines with those of package netip, which
// takes zones, and dotted forms that are not IPv4-mapped, besides.
func FuzzAddress(f *testing.F) {
	for _, tc := range v1Accepted {
		if h := wire.Decode([]byte(tc.in), wire.MaxSize).Header; h.HasAddrs() {
			fields := strings.Fields(tc.in)
			f.Add(fields[2])
			f.Add(fields[3])
		}
	}
	for _, family := range badAddresses {
		for _, bad := range family {
			f.Add(bad.addr)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsAny(s, " \r\n") || len(s) > 45 {
			return
		}
		addr, err := netip.ParseAddr(s)
		valid := err == nil && addr.Zone() == ""
		for _, tc := range []struct {
			keyword, other string
			want           bool
		}{
			{"TCP4", "0.0.0.0", valid && addr.Is4()},
			{"TCP6", "::", valid && addr.Is6() && (addr.Is4In6() || !strings.Contains(s, "."))},
		} {
			other := netip.MustParseAddr(tc.other)
			for _, line := range []struct {
				text     string
				src, dst netip.Addr
			}{
				{"PROXY " + tc.keyword + " " + s + " " + tc.other + " 1 2\r\n", addr, other},
				{"PROXY " + tc.keyword + " " + tc.other + " " + s + " 1 2\r\n", other, addr},
			} {
				got := wire.Decode([]byte(line.text), wire.MaxSize)
				if !tc.want {
					require.Equal(t, wire.Invalid, got.State, "%q", line.text)
					continue
				}
				require.Equal(t, wire.Complete, got.State, "%q: %v", line.text, got.Err)
				require.Equal(t, netip.AddrPortFrom(line.src, 1), got.Header.Source(), "%q", line.text)
				require.Equal(t, netip.AddrPortFrom(line.dst, 2), got.Header.Destination(), "%q", line.text)
			}
		}
	})
}
