package proxyprotocol

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// connOutcome is what became of a connection.
type connOutcome struct {
	reason   string // why it was refused, if it was
	remote   string
	local    string
	handedOn string
}

// connRefused is what becomes of a connection that is refused.
func connRefused(why string) connOutcome {
	return connOutcome{reason: why, remote: connPeer.String(), local: connLocal.String()}
}

// connServed is what becomes of a connection that is served as its peer's.
func connServed(handedOn string) connOutcome {
	return connOutcome{remote: connPeer.String(), local: connLocal.String(), handedOn: handedOn}
}

// connOutcomeOf reads a scripted connection to its end, with reads of this size, and past
// timeouts. It looks at the addresses before, or only behind.
func connOutcomeOf(t testing.TB, c *conn, logs *connLogs, size int, addrFirst bool) connOutcome {
	if addrFirst {
		c.RemoteAddr()
	}
	var o connOutcome
	for {
		r := connRead(c, size)
		o.handedOn += r.data
		if r.err != nil && !isTimeout(r.err) {
			if r.err != io.EOF {
				require.ErrorIs(t, r.err, errRefused)
				require.Empty(t, o.handedOn, "refused when something had been handed on")
			}
			break
		}
	}
	o.remote, o.local = c.RemoteAddr().String(), c.LocalAddr().String()
	switch reasons := connReasons(logs); len(reasons) {
	case 0:
		require.NotEqual(t, stateRefused, c.state.Load(), "refused without a log line")
	case 1:
		require.Equal(t, stateRefused, c.state.Load())
		o.reason, o.local = reasons[0], connLocal.String() // nobody asks a refused one for it
	default:
		require.Fail(t, "refused more than once", "%q", reasons)
	}
	return o
}

// Headers that name a client, all the same one, and headers that name none.
var (
	connNaming = map[string]string{
		"v1":                         connV1,
		"v1 TCP6 with IPv4-mapped":   "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 56324 8443\r\n",
		"v2":                         connV2,
		"v2 datagrams":               connHeader(2, wire.Dgram, connClient, connServer),
		"v2 IPv4-mapped":             connHeader(2, wire.Stream, "[::ffff:203.0.113.7]:56324", "[::ffff:198.51.100.9]:8443"),
		"v2 IPv4-mapped datagrams":   connHeader(2, wire.Dgram, "[::ffff:203.0.113.7]:56324", "[::ffff:198.51.100.9]:8443"),
		"v2 with TLVs":               connHeader(2, wire.Stream, connClient, connServer, wire.TLV{Type: wire.TypeAuthority, Value: []byte("example.com")}, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")}),
		"v2 with a checksum":         connChecked(connClient, connServer),
		"v2 with an unknown TLV":     connHeader(2, wire.Stream, connClient, connServer, wire.TLV{Type: 0x7f}),
		"v2 with a signature inside": connHeader(2, wire.Stream, connClient, connServer, wire.TLV{Type: wire.TypeNoop, Value: []byte(wire.SignatureV2 + connV1)}),
	}
	connNameless = map[string]string{
		"v1 UNKNOWN":                  "PROXY UNKNOWN\r\n",
		"v1 UNKNOWN with addresses":   "PROXY UNKNOWN ffff:f:f::1 ::1 65535 65535\r\n",
		"v2 LOCAL":                    connBlock(0, 0x00, ""),
		"v2 LOCAL with addresses":     connBlock(0, 0x11, connV2[16:]),
		"v2 LOCAL with TLVs instead":  connBlock(0, 0x11, "\x03\x00\x04\xa9\xb8\x7e\x8f"),
		"v2 UNSPEC":                   connBlock(1, 0x00, ""),
		"v2 UNSPEC with a block":      connBlock(1, 0x00, "anything"),
		"v2 IPv4 without a transport": connBlock(1, 0x10, connV2[16:]),
		"v2 stream without a family":  connBlock(1, 0x01, connV2[16:]),
		"v2 AF_UNIX":                  connBlock(1, 0x31, strings.Repeat("\x00", 216)),
		"v2 AF_UNIX datagrams":        connBlock(1, 0x32, strings.Repeat("/", 216)),
	}
)

// connChecked is a v2 header with a checksum.
func connChecked(src, dst string, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Stream, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	if err != nil {
		panic(err)
	}
	b, err := wire.Append(nil, h, tlvs, true)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// connEach judges what is said in every way to cut it in pieces, to read it, and to ask.
func connEach(t *testing.T, in string, mode Mode, want connOutcome, options ...func(*rules)) {
	t.Helper()
	for _, pieces := range connSplits(in) {
		for _, size := range []int{1, 4096} {
			for _, addrFirst := range []bool{true, false} {
				rules, logs := connRules(mode, options...)
				c := connOf(connSays(pieces...), rules)
				got := connOutcomeOf(t, c, logs, size, addrFirst)
				require.Equal(t, want, got, "%q read by %d", pieces, size)
			}
		}
	}
}

func TestJudgeDecisionTable(t *testing.T) {
	client := func(handedOn string) map[Mode]connOutcome {
		return map[Mode]connOutcome{
			On:          {remote: connClient, local: connServer, handedOn: handedOn},
			Off:         connRefused("forbidden"),
			Unspecified: {remote: "203.0.113.7:0", local: connLocal.String(), handedOn: handedOn},
		}
	}
	peer := func(handedOn string) map[Mode]connOutcome {
		return map[Mode]connOutcome{On: connServed(handedOn), Off: connRefused("forbidden"), Unspecified: connServed(handedOn)}
	}
	none := func(handedOn string) map[Mode]connOutcome {
		return map[Mode]connOutcome{On: connRefused("missing"), Off: connServed(handedOn), Unspecified: connServed(handedOn)}
	}
	refusal := func(why string) map[Mode]connOutcome {
		return map[Mode]connOutcome{On: connRefused(why), Off: connRefused("forbidden"), Unspecified: connRefused(why)}
	}
	type row struct {
		name, in string
		want     map[Mode]connOutcome
	}
	var rows []row
	data := []string{"", connGET, "PROPFIND", "P", "\r\n\r\nGET", wire.SignatureV2[:11], "\x16\x03\x01"}
	for name, header := range connNaming {
		for _, data := range data {
			rows = append(rows, row{fmt.Sprintf("%s, then %q", name, data), header + data, client(data)})
		}
		for second, again := range map[string]string{"v1": connV1, "v2": connV2, "LOCAL": connBlock(0, 0, ""), "UNKNOWN": "PROXY UNKNOWN\r\n", "a signature": "PROXY"} {
			rows = append(rows, row{name + ", then " + second, header + again, refusal("duplicate")})
		}
	}
	for name, header := range connNameless {
		for _, data := range data {
			rows = append(rows, row{fmt.Sprintf("%s, then %q", name, data), header + data, peer(data)})
		}
		for second, again := range map[string]string{"v1": connV1, "v2": connV2, "LOCAL": connBlock(0, 0, "")} {
			rows = append(rows, row{name + ", then " + second, header + again, refusal("duplicate")})
		}
	}
	for _, in := range connAlike {
		rows = append(rows, row{fmt.Sprintf("no header: %q", in), in, none(in)})
	}
	for name, in := range map[string]string{
		"v1 without a space":      "PROXYTCP4 203.0.113.7 198.51.100.9 56324 8443\r\n",
		"v1 with a bad address":   "PROXY TCP4 203.0.113.256 198.51.100.9 56324 8443\r\n",
		"v1 without an end":       "PROXY UNKNOWN " + strings.Repeat("x", 200),
		"v1 with a lone LF":       "PROXY TCP4 203.0.113.7 198.51.100.9 56324 8443\n",
		"v1 of the wrong family":  "PROXY TCP6 203.0.113.7 198.51.100.9 56324 8443\r\n",
		"v2 of version 3":         wire.SignatureV2 + "\x31\x11\x00\x00",
		"v2 of an unknown kind":   connBlock(2, 0x11, connV2[16:]),
		"v2 of an unknown family": connBlock(1, 0x41, connV2[16:]),
		"v2 too short":            connBlock(1, 0x11, "short"),
		"v2 with a TLV too long":  connBlock(1, 0x11, connV2[16:]+"\x01\xff\xff"),
		"v1 cut off":              connV1[:len(connV1)-1],
		"v1 cut off early":        "PROXY",
		"v2 cut off":              connV2[:len(connV2)-1],
		"v2 cut off early":        wire.SignatureV2,
	} {
		rows = append(rows, row{name, in, refusal("malformed")})
	}
	rows = append(rows,
		row{"v2 with a wrong checksum", strings.Replace(connChecked(connClient, connServer), "\x21\x11", "\x21\x12", 1), refusal("checksum")},
		row{"v2 larger than allowed", connBlock(1, 0x11, strings.Repeat("\x00", 5000)), refusal("too_large")},
	)
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			for mode, want := range tt.want {
				if len(tt.in) < 400 {
					connEach(t, tt.in, mode, want)
				}
				rules, logs := connRules(mode)
				c := connOf(connSays(tt.in), rules)
				assert.Equal(t, want, connOutcomeOf(t, c, logs, 100, true), "%s", mode)
			}
		})
	}
}

func TestJudgeVersionNotAllowedIsRefusedInEveryMode(t *testing.T) {
	for version, other := range map[uint8][]string{1: {connV2, connBlock(0, 0, ""), wire.SignatureV2 + "nonsense", wire.SignatureV2}, 2: {connV1, "PROXY UNKNOWN\r\n", "PROXYnonsense", "PROXY"}} {
		only := func(r *rules) { r.version = version }
		for _, in := range other {
			connEach(t, in, On, connRefused("version"), only)
			connEach(t, in, Unspecified, connRefused("version"), only)
			connEach(t, in, Off, connRefused("forbidden"), only)
		}
		connEach(t, connGET, Unspecified, connServed(connGET), only)
		connEach(t, connGET, On, connRefused("missing"), only)
		allowed := map[uint8]string{1: connV1, 2: connV2}[version]
		connEach(t, allowed+"data", On, connOutcome{remote: connClient, local: connServer, handedOn: "data"}, only)
		for _, second := range []string{connV1, connV2} {
			connEach(t, allowed+second, On, connRefused("duplicate"), only)
		}
	}
}

func TestJudgeHeaderSize(t *testing.T) {
	for _, maxSize := range []int{wire.MinMaxSize, 4096, wire.MaxSize} {
		t.Run(fmt.Sprint(maxSize), func(t *testing.T) {
			limit := func(r *rules) { r.maxHeaderSize = maxSize }
			fill := maxSize - len(connV2) - 3
			largest := connHeader(2, wire.Stream, connClient, connServer, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, fill)})
			require.Len(t, largest, maxSize)
			for _, size := range []int{1, 2, 3, 100, 4095, 4096, 4097, maxSize - 1, maxSize, maxSize + 1, 2 * maxSize} {
				rules, logs := connRules(On, limit)
				in := largest + connGET
				var pieces []string
				for len(in) > 0 {
					n := min(size, len(in))
					pieces, in = append(pieces, in[:n]), in[n:]
				}
				c := connOf(connSays(pieces...), rules)
				got := connOutcomeOf(t, c, logs, 100, true)
				assert.Equal(t, connOutcome{remote: connClient, local: connServer, handedOn: connGET}, got, "pieces of %d", size)
				assert.Len(t, c.tlvs.raw, fill+3)
			}
			if maxSize < wire.MaxSize {
				tooLarge := connBlock(1, 0x11, strings.Repeat("\x00", maxSize+1-16))
				rules, logs := connRules(On, limit)
				script := connSays(tooLarge[:16], tooLarge[16:])
				c := connOf(script, rules)
				assert.Equal(t, connRefused("too_large"), connOutcomeOf(t, c, logs, 100, true))
				assert.Equal(t, 1, script.reads, "refused for its length, not for its bytes")
			}
		})
	}
}

// A header costs what has come of it, not what it announces, and no more than allowed.
func TestJudgeDribblerCostsWhatItSent(t *testing.T) {
	for _, maxSize := range []int{wire.MinMaxSize, 4096, wire.MaxSize} {
		t.Run(fmt.Sprint(maxSize), func(t *testing.T) {
			header := connBlock(1, 0x11, connV2[16:]+"\x04"+string([]byte{byte((maxSize - 31) >> 8), byte(maxSize - 31)})+strings.Repeat("x", maxSize-31))
			require.Len(t, header, maxSize)
			rules, logs := connRules(On, func(r *rules) { r.maxHeaderSize = maxSize })
			var c *conn
			dribble := &connDribble{connScript: connSays(), data: header + "GET", look: func(sent int) {
				if sent == 0 {
					assert.Nil(t, c.buffer)
					return
				}
				require.Len(t, c.buffered(), sent)
				require.LessOrEqual(t, cap(c.buffered()), max(2*sent, 2))
				require.LessOrEqual(t, cap(c.buffered()), maxSize)
				require.False(t, c.buffer.pooled, "the shared room is not held while waiting")
			}}
			c = connOf(dribble, rules)
			assert.Equal(t, connClient, c.RemoteAddr().String())
			dribble.look = func(int) {}
			assert.Equal(t, connOutcome{remote: connClient, local: connServer, handedOn: "GET"}, connOutcomeOf(t, c, logs, 1, false))
		})
	}
}

// connDribble is a connection that says one byte a read, and lets the test look before.
type connDribble struct {
	*connScript
	data string
	sent int
	look func(sent int)
}

func (c *connDribble) Read(p []byte) (int, error) {
	c.look(c.sent)
	if c.sent == len(c.data) {
		return 0, io.EOF
	}
	p[0] = c.data[c.sent]
	c.sent++
	return 1, nil
}

func TestJudgeMarkIsThePolicysAlone(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		mode     Mode
		marked   bool
	}{
		{"a client under on", connV1, On, false},
		{"a client under unspecified", connV1, Unspecified, true},
		{"port 0 under on", connHeader(2, wire.Stream, "203.0.113.7:0", connServer), On, false},
		{"port 0 under unspecified", connHeader(2, wire.Stream, "203.0.113.7:0", connServer), Unspecified, true},
		{"LOCAL under unspecified", connBlock(0, 0, ""), Unspecified, false},
		{"no header under unspecified", connGET, Unspecified, false},
		{"no header under off", connGET, Off, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := connRules(tt.mode)
			c := connOf(connSays(tt.in), rules)
			connReadAll(c)
			assert.Equal(t, tt.marked, c.Marked())
		})
	}
}

// ipSource is a module that is a source of ranges.
type ipSource func(*http.Request) []netip.Prefix

func (s ipSource) GetIPRanges(r *http.Request) []netip.Prefix { return s(r) }

// connSource is a source of ranges.
func connSource(answer ipSource) source { return askSource(answer, nil) }

// connTrusted is a source that trusts these ranges; asked counts.
func connTrusted(asked *atomic.Int32, ranges ...string) source {
	return connSource(func(*http.Request) []netip.Prefix {
		asked.Add(1)
		var prefixes []netip.Prefix
		for _, s := range ranges {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		return prefixes
	})
}

// connTrusting are rules whose source trusts these ranges; asked counts.
func connTrusting(asked *atomic.Int32, ranges ...string) func(*rules) {
	return func(r *rules) { r.source = connTrusted(asked, ranges...) }
}

func TestJudgeAsksSourceOnceAConnection(t *testing.T) {
	tests := []struct {
		name, in string
		mode     Mode
		ranges   []string
		asked    int32
		want     connOutcome
	}{
		{"trusted under on", connV1 + "data", On, []string{"192.0.2.0/24"}, 1, connOutcome{remote: connClient, local: connServer, handedOn: "data"}},
		{"untrusted under on", connV1, On, []string{"198.51.100.0/24"}, 1, connRefused("untrusted")},
		{"nobody trusted under on", connV1, On, nil, 1, connRefused("untrusted")},
		{"trusted without a header under on", connGET, On, []string{"192.0.2.0/24"}, 1, connRefused("missing")},
		{"untrusted without a header under on", connGET, On, nil, 1, connRefused("untrusted")},
		{"trusted under unspecified", connV1 + "data", Unspecified, []string{"192.0.2.0/24"}, 1, connOutcome{remote: "203.0.113.7:0", local: connLocal.String(), handedOn: "data"}},
		{"untrusted under unspecified", connV1, Unspecified, nil, 1, connRefused("untrusted")},
		{"without a header under unspecified", "PROPFIND", Unspecified, nil, 0, connServed("PROPFIND")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range connSplits(tt.in) {
				for _, addrFirst := range []bool{true, false} {
					var asked atomic.Int32
					rules, logs := connRules(tt.mode, connTrusting(&asked, tt.ranges...))
					script := new(connScript)
					for _, piece := range pieces {
						if !addrFirst { // every read that ends early begins anew
							script.events = append(script.events, connEvent{err: errConnTimeout})
						}
						script.events = append(script.events, connEvent{data: piece})
					}
					c := newConn(script, rules, tt.mode, unasked, monotime.Now())
					assert.Zero(t, asked.Load(), "not in the accept loop")
					require.Equal(t, tt.want, connOutcomeOf(t, c, logs, 100, addrFirst), "%q", pieces)
					io.WriteString(c, "answer")
					require.Equal(t, tt.asked, asked.Load(), "%q", pieces)
					if tt.want.reason == "untrusted" && tt.mode == On {
						require.Zero(t, script.reads, "refused before a byte is read")
					}
				}
			}
		})
	}
}

func TestJudgeAsksSourceOnceHoweverManyWantToKnow(t *testing.T) {
	var asked atomic.Int32
	rules, _ := connRules(On, connTrusting(&asked, "192.0.2.0/24"))
	c := newConn(connSays(connV1+"data"), rules, On, unasked, monotime.Now())
	var wg sync.WaitGroup
	for _, call := range connCalls {
		for range 4 {
			wg.Go(func() { call(c) })
		}
	}
	connSoon(t, func() bool { wg.Wait(); return true })
	assert.Equal(t, int32(1), asked.Load())
	assert.Equal(t, connClient, c.RemoteAddr().String())
}

func TestJudgePanicOfSourceIsARefusal(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		for name, call := range connCalls {
			t.Run(mode.String()+"/"+name, func(t *testing.T) {
				rules, logs := connRules(mode, func(r *rules) {
					r.source = connSource(func(*http.Request) []netip.Prefix { panic("source is broken") })
				})
				script := connSays(connV1)
				c := newConn(script, rules, mode, unasked, monotime.Now())
				require.NotPanics(t, func() { call(c) })
				assert.Equal(t, []string{"io"}, connReasons(logs))
				assert.Contains(t, logs.All()[0].ContextMap()["error"], "source is broken")
				assert.True(t, script.closed)
				assert.Empty(t, script.written)
				assert.Equal(t, connPeer, c.RemoteAddr())
				assert.ErrorIs(t, connCalls["Read"](c), errRefused)
			})
		}
	}
}

// Who was once found untrusted stays it, even if the ranges change.
func TestJudgeTrustIsDecidedOnce(t *testing.T) {
	var asked atomic.Int32
	rules, _ := connRules(Unspecified)
	rules.source = connSource(func(*http.Request) []netip.Prefix {
		if asked.Add(1) == 1 {
			return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}
		return nil
	})
	script := &connScript{events: []connEvent{{connV2[:20], errConnTimeout}, {connV2[20:], nil}}}
	c := newConn(script, rules, Unspecified, unasked, monotime.Now())
	assert.ErrorIs(t, connRead(c, 10).err, errConnTimeout)
	assert.Equal(t, connResult{"", io.EOF}, connRead(c, 10))
	assert.Equal(t, "203.0.113.7:0", c.RemoteAddr().String())
	assert.Equal(t, int32(1), asked.Load())
}

func TestJudgeUntrustedPeerUnderUnspecified(t *testing.T) {
	run := func(in string) connOutcome {
		rules, logs := connRules(Unspecified)
		c := newConn(connSays(in), rules, Unspecified, untrusted, monotime.Now())
		return connOutcomeOf(t, c, logs, 100, true)
	}
	assert.Equal(t, connServed(connGET), run(connGET))
	assert.Equal(t, connServed("PROPFIND"), run("PROPFIND"))
	for _, in := range []string{connV1, connV2, connBlock(0, 0, ""), "PROXY", "PROXYnonsense"} {
		assert.Equal(t, connRefused("untrusted"), run(in), "%q", in)
	}
}

// Whatever is said, and however it is cut, nothing of it may come out twice or out of order.
func TestJudgeHandsOnAllBytesInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		mode := []Mode{On, Off, Unspecified}[random.IntN(3)]
		body := connAlike[random.IntN(len(connAlike))] + strings.Repeat("0123456789", random.IntN(1000))
		if mode != Off && random.IntN(2) == 0 {
			body = "x" + body
		}
		in := body
		if mode == On || mode == Unspecified && random.IntN(2) == 0 {
			in = connV2 + body
		}
		if state, _ := wire.Signature([]byte(body)); state == wire.Partial {
			continue
		}
		script := new(connScript)
		for rest := in; len(rest) > 0; {
			n := min(1+random.IntN(200), len(rest))
			event := connEvent{data: rest[:n]}
			if random.IntN(5) == 0 {
				event.err = errConnTimeout
			}
			script.events, rest = append(script.events, event), rest[n:]
		}
		rules, logs := connRules(mode)
		got := connOutcomeOf(t, connOf(script, rules), logs, 1+random.IntN(100), false)
		require.Equal(t, body, got.handedOn)
	}
}
