package proxyprotocol

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// connCase is a whole connection: what is said, under which rules, and what the timeout
// does to it.
type connCase struct {
	in       string
	mode     Mode
	version  uint8
	maxSize  int
	mayTrust bool // the peer may send a header
	// mismatched says that a destination of another family is allowed.
	mismatched bool
	late       int // the timeout passes when this many bytes have come, or never if negative
	// failed: a call that is not a read is the first, and the socket fails at once.
	failed bool
}

// connModel is what must become of a connection: the decision table, written down a second
// time, for bytes that are all there.
func connModel(c connCase) connOutcome {
	in := []byte(c.in)
	signature, version := wire.Signature(in)
	if c.mode == Off {
		if signature == wire.Partial {
			return connRefused("forbidden")
		}
		return connServed(c.in)
	}
	if c.mode == On && !c.mayTrust {
		return connRefused("untrusted")
	}
	if c.failed {
		return connRefused("silent")
	}
	if c.late >= 0 && c.late < connDecided(c) {
		begun, _ := wire.Signature(in[:c.late])
		switch {
		case c.mode == On && c.late == 0:
			return connRefused("silent")
		case c.mode == On, begun == wire.Partial, signature == wire.Partial:
			return connRefused("timeout")
		default:
			return connServed(c.in)
		}
	}
	if signature == wire.Partial {
		switch {
		case c.version != 0 && c.version != version:
			return connRefused("version")
		case !c.mayTrust:
			return connRefused("untrusted")
		}
	}
	switch r := c.decode(in); r.State {
	case wire.Complete:
		rest := in[r.Size:]
		if second, _ := wire.Signature(rest); second == wire.Partial {
			return connRefused("duplicate")
		}
		o := connServed(string(rest))
		if !r.Header.HasAddrs() {
			return o
		}
		src, dst := r.Header.Source(), r.Header.Destination()
		if c.mode == Unspecified {
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
			return connRefused("checksum")
		case wire.ProblemTooLarge:
			return connRefused("too_large")
		}
		return connRefused("malformed")
	case wire.Partial: // and no more comes
		return connRefused("malformed")
	default:
		switch {
		case c.mode == On && c.in == "":
			return connRefused("silent")
		case c.mode == On:
			return connRefused("missing")
		}
		return connServed(c.in)
	}
}

func (c connCase) decode(in []byte) wire.Result {
	return wire.Options{MaxSize: c.maxSize, MismatchedDestination: c.mismatched}.Decode(in)
}

// connDecided is how many bytes decide what the beginning is; more than there are if it
// stays open.
func connDecided(c connCase) int {
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

// connCut cuts s in pieces of these sizes, over and over.
func connCut(s string, sizes []byte) []string {
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

// FuzzConn: whatever comes over a connection and however it is cut in pieces, nothing
// panics, and what becomes of it is what the decision table says.
func FuzzConn(f *testing.F) {
	const (
		optMode         = 3 << 0 // one of connModes
		optVersion      = 3 << 2 // 0 and 3: both
		optSize         = 3 << 4 // one of connSizes
		optTrust        = 3 << 6 // one of three
		optLate         = 1 << 8 // the timeout passes in the middle, at lateAt
		optInterrupted  = 1 << 9 // every read ends early a few times
		optAddrFirst    = 1 << 10
		optEndWithBytes = 1 << 11 // the end comes with the last bytes
		optWriteFirst   = 1 << 12
		optMismatched   = 1 << 13
	)
	modes := []Mode{On, Off, Unspecified, Unspecified}
	maxSizes := []int{wire.MinMaxSize, defaultMaxHeaderSize, wire.MaxSize, 1000}

	var seeds []string
	for _, headers := range []map[string]string{connNaming, connNameless} {
		for _, header := range headers {
			seeds = append(seeds, header, header+connGET, header+connV1, header+connV2, header[:len(header)-1])
		}
	}
	seeds = append(seeds, caddytest.NginxOverIPv4, caddytest.NginxOverIPv6+connGET, caddytest.NginxOverUnix+connGET, caddytest.NginxOverUnix+connV2)
	seeds = append(seeds, connAlike...)
	seeds = append(seeds, "", connHeader(2, wire.Stream, connClient, "0.0.0.0:443"), connBlock(1, 0x11, strings.Repeat("\x00", 600)))
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
		tt := connCase{
			in:       string(in),
			mode:     modes[options&optMode],
			version:  uint8(options&optVersion>>2) % 3,
			maxSize:  maxSizes[options&optSize>>4],
			mayTrust: options&optTrust>>6 != 0,
			late:     -1,

			mismatched: options&optMismatched != 0,
		}
		trust := trusted
		switch options & optTrust >> 6 {
		case 0:
			trust = untrusted
		case 2:
			if options&optLate == 0 { // after the timeout nobody asks a source
				trust = unasked
			}
		}

		writeFirst, addrFirst := options&optWriteFirst != 0, options&optAddrFirst != 0
		interrupted := options&optInterrupted != 0 && options&optLate == 0
		tt.failed = interrupted && (addrFirst || writeFirst) && len(in) > 0
		script := new(connScript)
		say := func(s string) {
			for _, piece := range connCut(s, sizes) {
				if interrupted {
					script.events = append(script.events, connEvent{err: errConnTimeout}, connEvent{})
				}
				script.events = append(script.events, connEvent{data: piece})
			}
		}
		accepted := time.Now()
		if options&optLate != 0 {
			accepted = accepted.Add(-24 * time.Hour) // so that every interruption is the timeout
			tt.late = int(lateAt) % (len(in) + 1)
			say(tt.in[:tt.late])
			script.events = append(script.events, connEvent{err: errConnTimeout})
			say(tt.in[tt.late:])
		} else {
			say(tt.in)
		}
		if n := len(script.events); options&optEndWithBytes != 0 && n > 0 && script.events[n-1].err == nil {
			script.events[n-1].err = io.EOF
		}

		rules, logs := connRules(tt.mode, func(r *rules) {
			r.version, r.maxHeaderSize, r.mismatchedDestination = tt.version, tt.maxSize, tt.mismatched
			r.source = connSource(func(*http.Request) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
		})
		c := newConn(script, rules, tt.mode, trust, monotime.Of(accepted))
		if writeFirst {
			c.Write([]byte("x"))
		}
		got := connOutcomeOf(t, c, logs, 1+int(readSize), addrFirst)
		require.Equal(t, connModel(tt), got, "%+v", tt)
		require.Equal(t, got.reason != "", script.closed)
	})
}
