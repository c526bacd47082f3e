package stream

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// fuzzCase is a whole connection: its bytes, its configuration, and when the timeout passes.
type fuzzCase struct {
	in       string
	mode     policy.Mode
	version  uint8
	maxSize  int
	mayTrust bool // the peer may send a header
	// mismatched says that a destination of another family is allowed.
	mismatched bool
	late       int // the timeout passes when this many bytes have come, or never if negative
	// failed says that the first call is not a read, and that the socket fails at once.
	failed bool
}

// model returns the outcome that a connection must have. It is a second version of the decision
// table, for input that is complete.
func model(c fuzzCase) outcome {
	in := []byte(c.in)
	signature, version := wire.Signature(in)
	if c.mode == policy.Off {
		if signature == wire.Partial {
			return refused("forbidden")
		}
		return served(c.in)
	}
	if c.mode == policy.On && !c.mayTrust {
		return refused("untrusted")
	}
	if c.failed {
		return refused("silent")
	}
	if c.late >= 0 && c.late < decided(c) {
		begun, _ := wire.Signature(in[:c.late])
		switch {
		case c.mode == policy.On && c.late == 0:
			return refused("silent")
		case c.mode == policy.On, begun == wire.Partial, signature == wire.Partial:
			return refused("timeout")
		default:
			return served(c.in)
		}
	}
	if signature == wire.Partial {
		switch {
		case c.version != 0 && c.version != version:
			return refused("version")
		case !c.mayTrust:
			return refused("untrusted")
		}
	}
	switch r := c.decode(in); r.State {
	case wire.Complete:
		rest := in[r.Size:]
		if second, _ := wire.Signature(rest); second == wire.Partial {
			return refused("duplicate")
		}
		o := served(string(rest))
		if !r.Header.HasAddrs() {
			return o
		}
		src, dst := r.Header.Source(), r.Header.Destination()
		if c.mode == policy.Unspecified {
			o.remote = netip.AddrPortFrom(src.Addr().Unmap(), 0).String()
			return o
		}
		o.remote = netip.AddrPortFrom(src.Addr().Unmap(), src.Port()).String()
		if dst.IsValid() && !dst.Addr().Unmap().IsUnspecified() {
			o.local = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()).String()
		}
		return o
	case wire.Invalid:
		switch r.Err.Problem {
		case wire.ProblemChecksum:
			return refused("checksum")
		case wire.ProblemTooLarge:
			return refused("too_large")
		}
		return refused("malformed")
	case wire.Partial: // and no more comes
		return refused("malformed")
	default:
		switch {
		case c.mode == policy.On && c.in == "":
			return refused("silent")
		case c.mode == policy.On:
			return refused("missing")
		}
		return served(c.in)
	}
}

func (c fuzzCase) decode(in []byte) wire.Result {
	return wire.Options{MaxSize: c.maxSize, MismatchedDestination: c.mismatched}.Decode(in)
}

// decided returns how many bytes decide whether the input begins with a header, or more than there
// are if they do not decide.
func decided(c fuzzCase) int {
	for n := range len(c.in) + 1 {
		in := []byte(c.in[:n])
		r := c.decode(in)
		if r.Version != 0 && (!c.mayTrust || c.version != 0 && c.version != r.Version) {
			return n
		}
		if r.State != wire.Undecided && r.State != wire.Partial {
			return n
		}
	}
	return len(c.in) + 1
}

// cut cuts s into pieces of these sizes, which it repeats.
func cut(s string, sizes []byte) []string {
	var pieces []string
	for i := 0; len(s) > 0; i++ {
		n := len(s)
		if len(sizes) > 0 {
			n = min(n, 1+int(sizes[i%len(sizes)]))
		}
		pieces, s = append(pieces, s[:n]), s[n:]
	}
	return pieces
}

// FuzzConn compares connections with a model of the decision table, for any input in any pieces.
// Nothing may panic.
func FuzzConn(f *testing.F) {
	const (
		optMode         = 3 << 0 // one of modes
		optVersion      = 3 << 2 // 0 and 3: both
		optSize         = 3 << 4 // one of maxSizes
		optTrust        = 3 << 6 // one of trusted, untrusted and the source's answer
		optLate         = 1 << 8 // the timeout passes in the middle, at lateAt
		optInterrupted  = 1 << 9 // every read ends early a few times
		optAddrFirst    = 1 << 10
		optEndWithBytes = 1 << 11 // the end comes with the last bytes
		optWriteFirst   = 1 << 12
		optMismatched   = 1 << 13
	)
	modes := []policy.Mode{policy.On, policy.Off, policy.Unspecified, policy.Unspecified}
	maxSizes := []int{wire.MinMaxSize, 4096, wire.MaxSize, 1000}

	var seeds []string
	for _, headers := range []map[string]string{namingHeaders, namelessHeaders} {
		for _, header := range headers {
			seeds = append(seeds, header, header+getRequest, header+headerV1, header+headerV2, header[:len(header)-1])
		}
	}
	seeds = append(seeds, headertest.NginxOverIPv4, headertest.NginxOverIPv6+getRequest, headertest.NginxOverUnix+getRequest, headertest.NginxOverUnix+headerV2)
	seeds = append(seeds, lookalikes...)
	seeds = append(seeds, "", headerText(2, wire.Stream, clientAddr, "0.0.0.0:443"), headertest.Raw(0x21, 0x11, strings.Repeat("\x00", 600)))
	for i, seed := range seeds {
		f.Add([]byte(seed), []byte{}, uint16(i), uint16(len(seed)/2), byte(100))
		f.Add([]byte(seed), []byte{0}, uint16(0), uint16(0), byte(0))
		f.Add([]byte(seed), []byte{3, 0, 7}, uint16(2|optLate), uint16(len(seed)/2), byte(10))
		f.Add([]byte(seed), []byte{4}, uint16(1|optInterrupted|optAddrFirst), uint16(3), byte(11))
		f.Add([]byte(seed), []byte{100}, uint16(optEndWithBytes|optWriteFirst), uint16(3), byte(255))
		f.Add([]byte(seed), []byte{5}, uint16(optMismatched|2<<6), uint16(0), byte(100))
		f.Add([]byte(seed), []byte{0}, uint16(optMismatched|2|1<<6), uint16(0), byte(3))
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte, options, lateAt uint16, readSize byte) {
		tt := fuzzCase{
			in:       string(in),
			mode:     modes[options&optMode],
			version:  uint8(options&optVersion>>2) % 3,
			maxSize:  maxSizes[options&optSize>>4],
			mayTrust: options&optTrust>>6 != 0,
			late:     -1,

			mismatched: options&optMismatched != 0,
		}
		trust := policy.Trusted
		switch options & optTrust >> 6 {
		case 0:
			trust = policy.Untrusted
		case 2:
			if options&optLate == 0 { // after the timeout the source is not asked
				trust = policy.AskSource
			}
		}

		writeFirst, addrFirst := options&optWriteFirst != 0, options&optAddrFirst != 0
		interrupted := options&optInterrupted != 0 && options&optLate == 0
		tt.failed = interrupted && (addrFirst || writeFirst) && len(in) > 0
		socket := new(script)
		say := func(s string) {
			for _, piece := range cut(s, sizes) {
				if interrupted {
					socket.events = append(socket.events, event{err: errDeadline}, event{})
				}
				socket.events = append(socket.events, event{data: piece})
			}
		}
		accepted := time.Now()
		if options&optLate != 0 {
			accepted = accepted.Add(-24 * time.Hour) // so that every interruption is the timeout
			tt.late = int(lateAt) % (len(in) + 1)
			say(tt.in[:tt.late])
			socket.events = append(socket.events, event{err: errDeadline})
			say(tt.in[tt.late:])
		} else {
			say(tt.in)
		}
		if n := len(socket.events); options&optEndWithBytes != 0 && n > 0 && socket.events[n-1].err == nil {
			socket.events[n-1].err = io.EOF
		}

		config, logs := testConfig(tt.mode, func(config *Config) {
			config.Version, config.MaxHeaderSize, config.MismatchedDestination = tt.version, tt.maxSize, tt.mismatched
			config.SetSource(func(_ context.Context, _ net.Addr) []netip.Prefix {
				return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			})
		})
		c := newConn(socket, config, tt.mode, trust, monotime.Of(accepted))
		if writeFirst {
			c.Write([]byte("x"))
		}
		got := outcomeOf(t, c, logs, 1+int(readSize), addrFirst)
		require.Equal(t, model(tt), got, "%+v", tt)
		require.Equal(t, got.reason != "", socket.closed)
	})
}
