package stream

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// outcome is the observed result of a connection.
type outcome struct {
	reason   string // the reason for a refusal, or empty
	remote   string
	local    string
	handedOn string
}

// refused returns the outcome of a refused connection.
func refused(reason string) outcome {
	return outcome{reason: reason, remote: peerAddr.String(), local: socketAddr.String()}
}

// served returns the outcome of a connection that has its peer's address.
func served(handedOn string) outcome {
	return outcome{remote: peerAddr.String(), local: socketAddr.String(), handedOn: handedOn}
}

// outcomeOf reads a scripted connection to its end, with reads of this size, and goes on after
// timeouts. It asks for the address before the first read if addrFirst is set.
func outcomeOf(t testing.TB, c *conn, logs *listenertest.Logs, size int, addrFirst bool) outcome {
	if addrFirst {
		c.RemoteAddr()
	}
	var o outcome
	for {
		r := readOnce(c, size)
		o.handedOn += r.data
		if r.err != nil && !isTimeout(r.err) {
			if r.err != io.EOF {
				require.ErrorIs(t, r.err, record.ErrRefused)
				require.Empty(t, o.handedOn, "refused when something had been handed on")
			}
			break
		}
	}
	o.remote, o.local = c.RemoteAddr().String(), c.LocalAddr().String()
	switch reasons := logs.Reasons(); len(reasons) {
	case 0:
		require.NotEqual(t, stateRefused, c.state.Load(), "refused without a log line")
	case 1:
		require.Equal(t, stateRefused, c.state.Load())
		o.reason, o.local = reasons[0], socketAddr.String() // not used once refused
	default:
		require.Fail(t, "refused more than once", "%q", reasons)
	}
	return o
}

// Headers that name a client, always the same one, and headers that name none.
var (
	namingHeaders = map[string]string{
		"v1":                         headerV1,
		"v1 TCP6 with IPv4-mapped":   "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 56324 8443\r\n",
		"v2":                         headerV2,
		"v2 datagrams":               headerText(2, wire.Dgram, clientAddr, serverAddr),
		"v2 IPv4-mapped":             headerText(2, wire.Stream, "[::ffff:203.0.113.7]:56324", "[::ffff:198.51.100.9]:8443"),
		"v2 IPv4-mapped datagrams":   headerText(2, wire.Dgram, "[::ffff:203.0.113.7]:56324", "[::ffff:198.51.100.9]:8443"),
		"v2 with TLVs":               headerText(2, wire.Stream, clientAddr, serverAddr, wire.TLV{Type: wire.TypeAuthority, Value: []byte("example.com")}, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")}),
		"v2 with a checksum":         headerWithChecksum(clientAddr, serverAddr),
		"v2 with an unknown TLV":     headerText(2, wire.Stream, clientAddr, serverAddr, wire.TLV{Type: 0x7f}),
		"v2 with a signature inside": headerText(2, wire.Stream, clientAddr, serverAddr, wire.TLV{Type: wire.TypeNoop, Value: []byte(wire.SignatureV2 + headerV1)}),
	}
	namelessHeaders = map[string]string{
		"v1 UNKNOWN":                  "PROXY UNKNOWN\r\n",
		"v1 UNKNOWN with addresses":   "PROXY UNKNOWN ffff:f:f::1 ::1 65535 65535\r\n",
		"v2 LOCAL":                    headertest.Raw(0x20, 0x00, ""),
		"v2 LOCAL with addresses":     headertest.Raw(0x20, 0x11, headerV2[16:]),
		"v2 LOCAL with TLVs instead":  headertest.Raw(0x20, 0x11, "\x03\x00\x04\xa9\xb8\x7e\x8f"),
		"v2 UNSPEC":                   headertest.Raw(0x21, 0x00, ""),
		"v2 UNSPEC with a block":      headertest.Raw(0x21, 0x00, "anything"),
		"v2 IPv4 without a transport": headertest.Raw(0x21, 0x10, headerV2[16:]),
		"v2 stream without a family":  headertest.Raw(0x21, 0x01, headerV2[16:]),
		"v2 AF_UNIX":                  headertest.Raw(0x21, 0x31, strings.Repeat("\x00", 216)),
		"v2 AF_UNIX datagrams":        headertest.Raw(0x21, 0x32, strings.Repeat("/", 216)),
	}
)

// everyWay tests the outcome of an input for every way to cut it, for reads of different sizes, and
// with and without a call of RemoteAddr first.
func everyWay(t *testing.T, in string, mode policy.Mode, want outcome, options ...func(*Config)) {
	t.Helper()
	for _, pieces := range waysToCut(in) {
		for _, size := range []int{1, 4096} {
			for _, addrFirst := range []bool{true, false} {
				config, logs := testConfig(mode, options...)
				c := wrapTrusted(says(pieces...), config)
				got := outcomeOf(t, c, logs, size, addrFirst)
				require.Equal(t, want, got, "%q read by %d", pieces, size)
			}
		}
	}
}

func TestHeader_DecisionTable(t *testing.T) {
	client := func(handedOn string) map[policy.Mode]outcome {
		return map[policy.Mode]outcome{
			policy.On:          {remote: clientAddr, local: serverAddr, handedOn: handedOn},
			policy.Off:         refused("forbidden"),
			policy.Unspecified: {remote: "203.0.113.7:0", local: socketAddr.String(), handedOn: handedOn},
		}
	}
	peer := func(handedOn string) map[policy.Mode]outcome {
		return map[policy.Mode]outcome{policy.On: served(handedOn), policy.Off: refused("forbidden"), policy.Unspecified: served(handedOn)}
	}
	none := func(handedOn string) map[policy.Mode]outcome {
		return map[policy.Mode]outcome{policy.On: refused("missing"), policy.Off: served(handedOn), policy.Unspecified: served(handedOn)}
	}
	refusal := func(reason string) map[policy.Mode]outcome {
		return map[policy.Mode]outcome{policy.On: refused(reason), policy.Off: refused("forbidden"), policy.Unspecified: refused(reason)}
	}
	type row struct {
		name, in string
		want     map[policy.Mode]outcome
	}
	var rows []row
	data := []string{"", getRequest, "PROPFIND", "P", "\r\n\r\nGET", wire.SignatureV2[:11], "\x16\x03\x01"}
	for name, header := range namingHeaders {
		for _, data := range data {
			rows = append(rows, row{fmt.Sprintf("%s, then %q", name, data), header + data, client(data)})
		}
		for second, again := range map[string]string{"v1": headerV1, "v2": headerV2, "LOCAL": headertest.Raw(0x20, 0, ""), "UNKNOWN": "PROXY UNKNOWN\r\n", "a signature": "PROXY"} {
			rows = append(rows, row{name + ", then " + second, header + again, refusal("duplicate")})
		}
	}
	for name, header := range namelessHeaders {
		for _, data := range data {
			rows = append(rows, row{fmt.Sprintf("%s, then %q", name, data), header + data, peer(data)})
		}
		for second, again := range map[string]string{"v1": headerV1, "v2": headerV2, "LOCAL": headertest.Raw(0x20, 0, "")} {
			rows = append(rows, row{name + ", then " + second, header + again, refusal("duplicate")})
		}
	}
	for _, in := range lookalikes {
		rows = append(rows, row{fmt.Sprintf("no header: %q", in), in, none(in)})
	}
	for name, in := range map[string]string{
		"v1 without a space":      "PROXYTCP4 203.0.113.7 198.51.100.9 56324 8443\r\n",
		"v1 with a bad address":   "PROXY TCP4 203.0.113.256 198.51.100.9 56324 8443\r\n",
		"v1 without an end":       "PROXY UNKNOWN " + strings.Repeat("x", 200),
		"v1 with a lone LF":       "PROXY TCP4 203.0.113.7 198.51.100.9 56324 8443\n",
		"v1 of the wrong family":  "PROXY TCP6 203.0.113.7 198.51.100.9 56324 8443\r\n",
		"v2 of version 3":         wire.SignatureV2 + "\x31\x11\x00\x00",
		"v2 of an unknown kind":   headertest.Raw(0x22, 0x11, headerV2[16:]),
		"v2 of an unknown family": headertest.Raw(0x21, 0x41, headerV2[16:]),
		"v2 too short":            headertest.Raw(0x21, 0x11, "short"),
		"v2 with a TLV too long":  headertest.Raw(0x21, 0x11, headerV2[16:]+"\x01\xff\xff"),
		"v1 cut off":              headerV1[:len(headerV1)-1],
		"v1 cut off early":        "PROXY",
		"v2 cut off":              headerV2[:len(headerV2)-1],
		"v2 cut off early":        wire.SignatureV2,
	} {
		rows = append(rows, row{name, in, refusal("malformed")})
	}
	rows = append(rows,
		row{"v2 with a wrong checksum", strings.Replace(headerWithChecksum(clientAddr, serverAddr), "\x21\x11", "\x21\x12", 1), refusal("checksum")},
		row{"v2 larger than allowed", headertest.Raw(0x21, 0x11, strings.Repeat("\x00", 5000)), refusal("too_large")},
	)
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			for mode, want := range tt.want {
				if len(tt.in) < 400 {
					everyWay(t, tt.in, mode, want)
				}
				config, logs := testConfig(mode)
				c := wrapTrusted(says(tt.in), config)
				assert.Equal(t, want, outcomeOf(t, c, logs, 100, true), "%s", mode)
			}
		})
	}
}

func TestHeader_OfAVersionNotAllowedIsRefused(t *testing.T) {
	for version, other := range map[uint8][]string{1: {headerV2, headertest.Raw(0x20, 0, ""), wire.SignatureV2 + "nonsense", wire.SignatureV2}, 2: {headerV1, "PROXY UNKNOWN\r\n", "PROXYnonsense", "PROXY"}} {
		only := func(config *Config) { config.Version = version }
		for _, in := range other {
			everyWay(t, in, policy.On, refused("version"), only)
			everyWay(t, in, policy.Unspecified, refused("version"), only)
			everyWay(t, in, policy.Off, refused("forbidden"), only)
		}
		everyWay(t, getRequest, policy.Unspecified, served(getRequest), only)
		everyWay(t, getRequest, policy.On, refused("missing"), only)
		allowed := map[uint8]string{1: headerV1, 2: headerV2}[version]
		everyWay(t, allowed+"data", policy.On, outcome{remote: clientAddr, local: serverAddr, handedOn: "data"}, only)
		for _, second := range []string{headerV1, headerV2} {
			everyWay(t, allowed+second, policy.On, refused("duplicate"), only)
		}
	}
}

func TestHeader_OfAnUntrustedPeerUnderUnspecified(t *testing.T) {
	run := func(in string) outcome {
		config, logs := testConfig(policy.Unspecified)
		c := newConn(says(in), config, policy.Unspecified, policy.Untrusted, monotime.Now())
		return outcomeOf(t, c, logs, 100, true)
	}
	assert.Equal(t, served(getRequest), run(getRequest))
	assert.Equal(t, served("PROPFIND"), run("PROPFIND"))
	for _, in := range []string{headerV1, headerV2, headertest.Raw(0x20, 0, ""), "PROXY", "PROXYnonsense"} {
		assert.Equal(t, refused("untrusted"), run(in), "%q", in)
	}
}

func TestHeader_MarkDependsOnTheModeAlone(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		mode     policy.Mode
		marked   bool
	}{
		{"a client under on", headerV1, policy.On, false},
		{"a client under unspecified", headerV1, policy.Unspecified, true},
		{"port 0 under on", headerText(2, wire.Stream, "203.0.113.7:0", serverAddr), policy.On, false},
		{"port 0 under unspecified", headerText(2, wire.Stream, "203.0.113.7:0", serverAddr), policy.Unspecified, true},
		{"LOCAL under unspecified", headertest.Raw(0x20, 0, ""), policy.Unspecified, false},
		{"no header under unspecified", getRequest, policy.Unspecified, false},
		{"no header under off", getRequest, policy.Off, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, _ := testConfig(tt.mode)
			c := wrapTrusted(says(tt.in), config)
			readAll(c)
			assert.Equal(t, tt.marked, c.info.Marked())
		})
	}
}

func TestHeader_Size(t *testing.T) {
	for _, maxSize := range []int{wire.MinMaxSize, 4096, wire.MaxSize} {
		t.Run(fmt.Sprint(maxSize), func(t *testing.T) {
			limit := func(config *Config) { config.MaxHeaderSize = maxSize }
			fill := maxSize - len(headerV2) - 3
			largest := headerText(2, wire.Stream, clientAddr, serverAddr, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, fill)})
			require.Len(t, largest, maxSize)
			for _, size := range []int{1, 2, 3, 100, 4095, 4096, 4097, maxSize - 1, maxSize, maxSize + 1, 2 * maxSize} {
				config, logs := testConfig(policy.On, limit)
				in := largest + getRequest
				var pieces []string
				for len(in) > 0 {
					n := min(size, len(in))
					pieces, in = append(pieces, in[:n]), in[n:]
				}
				c := wrapTrusted(says(pieces...), config)
				got := outcomeOf(t, c, logs, 100, true)
				assert.Equal(t, outcome{remote: clientAddr, local: serverAddr, handedOn: getRequest}, got, "pieces of %d", size)
				assert.Len(t, c.info.TLVs().Values["0x04"], 2*fill, "in hexadecimal")
			}
			if maxSize < wire.MaxSize {
				tooLarge := headertest.Raw(0x21, 0x11, strings.Repeat("\x00", maxSize+1-16))
				config, logs := testConfig(policy.On, limit)
				socket := says(tooLarge[:16], tooLarge[16:])
				c := wrapTrusted(socket, config)
				assert.Equal(t, refused("too_large"), outcomeOf(t, c, logs, 100, true))
				assert.Equal(t, 1, socket.reads, "refused for its length, not for its bytes")
			}
		})
	}
}

// dribbler is a connection that returns one byte for each read, and calls look before.
type dribbler struct {
	*script
	data string
	sent int
	look func(sent int)
}

func (c *dribbler) Read(p []byte) (int, error) {
	c.look(c.sent)
	if c.sent == len(c.data) {
		return 0, io.EOF
	}
	p[0] = c.data[c.sent]
	c.sent++
	return 1, nil
}

// The buffer of a header grows with the bytes received, not with the announced length.
func TestBuffer_GrowsWithTheBytesReceived(t *testing.T) {
	for _, maxSize := range []int{wire.MinMaxSize, 4096, wire.MaxSize} {
		t.Run(fmt.Sprint(maxSize), func(t *testing.T) {
			header := headertest.Raw(0x21, 0x11, headerV2[16:]+"\x04"+string([]byte{byte((maxSize - 31) >> 8), byte(maxSize - 31)})+strings.Repeat("x", maxSize-31))
			require.Len(t, header, maxSize)
			config, logs := testConfig(policy.On, func(config *Config) { config.MaxHeaderSize = maxSize })
			var c *conn
			dribble := &dribbler{script: says(), data: header + "GET", look: func(sent int) {
				if sent == 0 {
					assert.Nil(t, c.buffer)
					return
				}
				require.Len(t, c.buffered(), sent)
				require.LessOrEqual(t, cap(c.buffered()), max(2*sent, 2))
				require.LessOrEqual(t, cap(c.buffered()), maxSize)
				require.False(t, c.buffer.pooled, "the shared room is not held while waiting")
			}}
			c = wrapTrusted(dribble, config)
			assert.Equal(t, clientAddr, c.RemoteAddr().String())
			dribble.look = func(int) {}
			assert.Equal(t, outcome{remote: clientAddr, local: serverAddr, handedOn: "GET"}, outcomeOf(t, c, logs, 1, false))
		})
	}
}

func TestHeader_TimeRunsFromAccept(t *testing.T) {
	for _, timed := range []bool{true, false} {
		config, _ := testConfig(policy.On, func(config *Config) { config.MeasureHeaderTime = timed })
		config.Stats = record.NewStats()
		newConn(says(headerV1), config, policy.On, policy.Trusted, monotime.Now().Add(-time.Minute)).RemoteAddr()
		n, sum, buckets := config.Stats.HeaderTimes()
		if !timed {
			assert.Zero(t, n)
			assert.Zero(t, sum)
			continue
		}
		assert.GreaterOrEqual(t, sum, time.Minute)
		assert.Less(t, sum, time.Minute+bound)
		assert.EqualValues(t, 1, n)
		for bound, counted := range buckets {
			assert.Zero(t, counted, "beyond all bounds: %v", bound)
		}
	}
}
