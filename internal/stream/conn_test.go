package stream

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestConn_ReadsTheHeaderOnFirstUse(t *testing.T) {
	for _, network := range networks {
		for name, call := range calls {
			t.Run(network+"/"+name, func(t *testing.T) {
				config, _ := testConfig(policy.On)
				client, c := dial(t, network, config)
				assert.Equal(t, statePending, c.state.Load(), "before the first use")

				done := async(func() error { return call(c) })
				untilHeaderIsRead(t, c)
				send(client, headerV1+"data")

				assert.NoError(t, wait(t, done))
				assert.NotEqual(t, statePending, c.state.Load())
				assert.Equal(t, clientAddr, c.RemoteAddr().String())
				assert.Equal(t, serverAddr, c.LocalAddr().String())
			})
		}
	}
}

func TestConn_UnderOffChecksReadsOnly(t *testing.T) {
	t.Run("scripted", func(t *testing.T) {
		config, _ := testConfig(policy.Off)
		socket := says(headerV1)
		c := wrapTrusted(socket, config)
		for name, call := range calls {
			if name != "Read" {
				assert.NoError(t, call(c), name)
			}
		}
		assert.Equal(t, peerAddr, c.RemoteAddr())
		assert.Equal(t, socketAddr.String(), c.LocalAddr().String())
		assert.Zero(t, socket.reads)
		assert.ErrorIs(t, calls["Read"](c), record.ErrRefused)
	})
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			config, _ := testConfig(policy.Off)
			client, c := dial(t, network, config)
			assert.Equal(t, c.NetConn().RemoteAddr().String(), soon(t, c.RemoteAddr).String())
			assert.Equal(t, client.RemoteAddr().String(), soon(t, c.LocalAddr).String())
			n, err := c.Write([]byte("hello"))
			assert.NoError(t, err)
			assert.Equal(t, result{"hello", nil}, soon(t, func() result { return readOnce(client, 100) }))
			assert.Equal(t, 5, n)
		})
	}
}

// A Read that waits for the client's first bytes must not delay calls that need the addresses only,
// or that write first.
func TestConn_AddressesDoNotWaitForAReadBehindTheHeader(t *testing.T) {
	for _, name := range []string{"RemoteAddr", "LocalAddr", "Write"} {
		t.Run(name, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			client, c := dial(t, "tcp4", config)
			read := async(func() result { return readOnce(c, 100) })
			untilHeaderIsRead(t, c)
			called := make(chan struct{})
			done := async(func() error { close(called); return calls[name](c) })
			<-called

			_, err := io.WriteString(client, headerV1)
			require.NoError(t, err)
			untilWatching(t, c)
			assert.NoError(t, wait(t, done))

			_, err = io.WriteString(client, "data")
			require.NoError(t, err)
			assert.Equal(t, result{"data", nil}, wait(t, read))
		})
	}
}

func TestConn_TakesHeaderAndDataInOneRead(t *testing.T) {
	tests := []struct {
		name, in, rest string
		mode           policy.Mode
	}{
		{"v1 under on", headerV1 + getRequest, getRequest, policy.On},
		{"v2 under on", headerV2 + getRequest, getRequest, policy.On},
		{"v1 under unspecified", headerV1 + getRequest, getRequest, policy.Unspecified},
		{"LOCAL under on", headertest.Raw(0x20, 0, "") + getRequest, getRequest, policy.On},
		{"no header under unspecified", getRequest, getRequest, policy.Unspecified},
		{"no header under off", getRequest, getRequest, policy.Off},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 5, len(getRequest) - 1, len(getRequest), 4096} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, size), func(t *testing.T) {
				config, _ := testConfig(tt.mode)
				socket := says(tt.in)
				c := wrapTrusted(socket, config)
				c.RemoteAddr()
				var got string
				for len(got) < len(tt.rest) {
					if tt.mode != policy.Off {
						assert.NotEqual(t, stateOpen, c.state.Load(), "bytes are left")
					}
					r := readOnce(c, size)
					require.NoError(t, r.err)
					got += r.data
				}
				assert.Equal(t, tt.rest, got)
				if size >= len(tt.rest) || tt.mode != policy.Off {
					assert.Equal(t, 1, socket.reads)
				}

				// From here on the socket reads into the caller's own buffer.
				assert.Equal(t, stateOpen, c.state.Load())
				assert.Nil(t, c.buffer, "it is given back")
				socket.events = []event{{data: "more"}}
				p := make([]byte, 10)
				n, err := c.Read(p)
				assert.NoError(t, err)
				assert.Equal(t, "more", string(p[:n]))
				assert.Same(t, &p[0], &socket.into[0])
				assert.Len(t, socket.into, len(p))
			})
		}
	}
}

func TestConn_ReturnsEveryByteBehindTheHeaderOnce(t *testing.T) {
	data := strings.Repeat("0123456789", 100_000)
	for _, network := range networks {
		for _, mode := range []policy.Mode{policy.On, policy.Off, policy.Unspecified} {
			t.Run(network+"/"+mode.String(), func(t *testing.T) {
				config, _ := testConfig(mode)
				client, c := dial(t, network, config)
				go func() {
					if mode != policy.Off {
						io.WriteString(client, headerV2)
					}
					io.WriteString(client, data)
					client.Close()
				}()
				got := soon(t, func() result { return readAll(c) })
				assert.NoError(t, got.err)
				assert.True(t, got.data == data, "%d bytes", len(got.data))
				assert.Equal(t, stateOpen, c.state.Load())
			})
		}
	}
}

// No byte is returned twice or out of order, however the input is cut into reads.
func TestConn_ReturnsAllBytesInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		mode := []policy.Mode{policy.On, policy.Off, policy.Unspecified}[random.IntN(3)]
		body := lookalikes[random.IntN(len(lookalikes))] + strings.Repeat("0123456789", random.IntN(1000))
		if mode != policy.Off && random.IntN(2) == 0 {
			body = "x" + body
		}
		in := body
		if mode == policy.On || mode == policy.Unspecified && random.IntN(2) == 0 {
			in = headerV2 + body
		}
		if state, _ := wire.Signature([]byte(body)); state == wire.Partial {
			continue
		}
		socket := new(script)
		for rest := in; len(rest) > 0; {
			n := min(1+random.IntN(200), len(rest))
			next := event{data: rest[:n]}
			if random.IntN(5) == 0 {
				next.err = errDeadline
			}
			socket.events, rest = append(socket.events, next), rest[n:]
		}
		config, logs := testConfig(mode)
		got := outcomeOf(t, wrapTrusted(socket, config), logs, 1+random.IntN(100), false)
		require.Equal(t, body, got.handedOn)
	}
}

func TestConn_SocketErrorsBehindTheHeaderAreNotSticky(t *testing.T) {
	reset := errReset
	tests := []struct {
		name string
		mode policy.Mode
		in   []event // each but the last with an error
		want string
	}{
		{"behind a header", policy.On, []event{{headerV1, nil}, {"", reset}, {"data", nil}}, "data"},
		{"with what may be a second signature", policy.On, []event{{headerV1, nil}, {"PRO", reset}, {"PFIND", nil}}, "PROPFIND"},
		{"behind what may be a second signature", policy.On, []event{{headerV1 + "PRO", nil}, {"", reset}, {"PFIND", nil}}, "PROPFIND"},
		{"under off", policy.Off, []event{{"", reset}, {"PRO", nil}, {"", reset}, {"PFIND", nil}}, "PROPFIND"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, logs := testConfig(tt.mode)
			c := wrapTrusted(&script{events: tt.in}, config)
			errs, got := 0, ""
			for range 10 {
				r := readOnce(c, 100)
				got += r.data
				if r.err == io.EOF {
					break
				}
				if r.err != nil {
					assert.Equal(t, error(reset), r.err)
					errs++
				}
			}
			assert.Equal(t, tt.want, got)
			assert.NotZero(t, errs)
			assert.Empty(t, logs.Reasons())
		})
	}
}

func TestConn_EndOfConnection(t *testing.T) {
	tests := []struct {
		name, in string
		want     map[policy.Mode]string // the reason, or else the bytes handed on after a ':'
	}{
		{"at once", "", map[policy.Mode]string{policy.On: "silent", policy.Off: ":", policy.Unspecified: ":"}},
		{"in a v1 signature", "PROX", map[policy.Mode]string{policy.On: "missing", policy.Off: ":PROX", policy.Unspecified: ":PROX"}},
		{"in a v2 signature", wire.SignatureV2[:11], map[policy.Mode]string{policy.On: "missing", policy.Off: ":" + wire.SignatureV2[:11], policy.Unspecified: ":" + wire.SignatureV2[:11]}},
		{"behind a v1 signature", "PROXY", map[policy.Mode]string{policy.On: "malformed", policy.Off: "forbidden", policy.Unspecified: "malformed"}},
		{"behind a v2 signature", wire.SignatureV2, map[policy.Mode]string{policy.On: "malformed", policy.Off: "forbidden", policy.Unspecified: "malformed"}},
		{"in a v1 header", headerV1[:len(headerV1)-1], map[policy.Mode]string{policy.On: "malformed", policy.Off: "forbidden", policy.Unspecified: "malformed"}},
		{"in a v2 header", headerV2[:len(headerV2)-1], map[policy.Mode]string{policy.On: "malformed", policy.Off: "forbidden", policy.Unspecified: "malformed"}},
		{"behind a header", headerV1, map[policy.Mode]string{policy.On: ":", policy.Off: "forbidden", policy.Unspecified: ":"}},
		{"in what may be a second signature", headerV1 + "PROX", map[policy.Mode]string{policy.On: ":PROX", policy.Off: "forbidden", policy.Unspecified: ":PROX"}},
		{"behind data", headerV1 + "data", map[policy.Mode]string{policy.On: ":data", policy.Off: "forbidden", policy.Unspecified: ":data"}},
		{"behind a request", getRequest, map[policy.Mode]string{policy.On: "missing", policy.Off: ":" + getRequest, policy.Unspecified: ":" + getRequest}},
	}
	check := func(t *testing.T, c *conn, logs *listenertest.Logs, want string) {
		got := soon(t, func() result { return readAll(c) })
		if handedOn, ok := strings.CutPrefix(want, ":"); ok {
			assert.Equal(t, result{handedOn, nil}, got)
			assert.Empty(t, logs.Reasons())
			assert.Equal(t, result{"", io.EOF}, readOnce(c, 10), "the end stays the end")
		} else {
			assert.ErrorIs(t, got.err, record.ErrRefused)
			assert.Empty(t, got.data)
			assert.Equal(t, []string{want}, logs.Reasons())
		}
	}
	for _, tt := range tests {
		for mode, want := range tt.want {
			t.Run(tt.name+"/"+mode.String(), func(t *testing.T) {
				t.Run("scripted", func(t *testing.T) {
					config, logs := testConfig(mode)
					check(t, wrapTrusted(says(tt.in), config), logs, want)
				})
				t.Run("with the last byte", func(t *testing.T) {
					config, logs := testConfig(mode)
					check(t, wrapTrusted(&script{events: []event{{tt.in, io.EOF}}}, config), logs, want)
				})
				for _, network := range networks {
					t.Run(network, func(t *testing.T) {
						config, logs := testConfig(mode)
						client, c := dial(t, network, config)
						_, err := io.WriteString(client, tt.in)
						require.NoError(t, err)
						require.NoError(t, client.Close())
						check(t, c, logs, want)
					})
				}
			})
		}
	}
}

func TestConn_EmptyReturnsEOFAtOnce(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	n, err := wrapTrusted(says(), config).Read(make([]byte, 10))
	assert.Zero(t, n)
	assert.Equal(t, io.EOF, err)
}

func TestConn_EmptyReadsOfTheSocketEnd(t *testing.T) {
	tests := []struct {
		name   string
		mode   policy.Mode
		before []string
	}{
		{"before a header", policy.On, nil},
		{"in a header", policy.On, []string{"PROXY"}},
		{"behind a header", policy.On, []string{headerV1}},
		{"under off", policy.Off, nil},
		{"under unspecified", policy.Unspecified, []string{"P"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, _ := testConfig(tt.mode)
			socket := says(tt.before...)
			socket.events = append(socket.events, make([]event, 1000)...)
			c := wrapTrusted(socket, config)
			got := readOnce(c, 100)
			assert.Empty(t, got.data)
			assert.True(t, got.err == nil || got.err == io.ErrNoProgress, "%v", got.err)
			if got.err == io.ErrNoProgress {
				assert.Equal(t, len(tt.before)+maxEmptyReads, socket.reads)
			} else {
				assert.LessOrEqual(t, socket.reads, 2, "the caller may read again")
			}
		})
	}
}

func TestConn_FewEmptyReadsOfTheSocketDoNotMatter(t *testing.T) {
	config, _ := testConfig(policy.On)
	socket := new(script)
	for _, b := range []byte(headerV1 + "PRdata") {
		socket.events = append(socket.events, make([]event, 5)...)
		socket.events = append(socket.events, event{data: string(b)})
	}
	c := wrapTrusted(socket, config)
	got := readAll(c)
	assert.Equal(t, result{"PRdata", nil}, got)
	assert.Equal(t, clientAddr, c.RemoteAddr().String())
}

func TestConn_ReadOfNoBytesLosesNothing(t *testing.T) {
	tests := []struct {
		name, want string
		mode       policy.Mode
		in         []string
	}{
		{"behind a header", "data", policy.On, []string{headerV1, "data"}},
		{"with a header", "data", policy.On, []string{headerV1 + "data"}},
		{"in a request that begins like a header", "PROPFIND", policy.On, []string{headerV1 + "PRO", "PFIND"}},
		{"under off", "PROPFIND", policy.Off, []string{"P", "RO", "PFIND"}},
		{"under unspecified", "PROPFIND", policy.Unspecified, []string{"P", "RO", "PFIND"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, _ := testConfig(tt.mode)
			c := wrapTrusted(says(tt.in...), config)
			var got string
			for range len(tt.want) {
				n, err := c.Read(nil)
				assert.NoError(t, err)
				assert.Zero(t, n)
				got += readOnce(c, 1).data
			}
			assert.Equal(t, tt.want, got)
			n, err := c.Read(nil)
			assert.Zero(t, n)
			assert.True(t, err == nil || err == io.EOF)
		})
	}
	t.Run("waits for nothing behind a header", func(t *testing.T) {
		config, _ := testConfig(policy.On)
		client, c := dial(t, "tcp4", config)
		send(client, headerV1)
		assert.Equal(t, result{}, soon(t, func() result { return readOnce(c, 0) }))
	})
}

func TestFromLocalAddr_LeadsToTheConnection(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrapTrusted(says(headerV1), config)
	unread, ok := FromLocalAddr((*localAddr)(c))
	assert.True(t, ok)
	assert.Nil(t, unread, "its header has not been read")

	found, ok := FromLocalAddr(c.LocalAddr())
	assert.True(t, ok)
	require.NotNil(t, found)
	assert.Equal(t, clientAddr, found.RemoteAddr().String())
	assert.Same(t, &c.info, found.Info())
	assert.Same(t, &c.cache, found.Lookups())

	for _, other := range []any{nil, socketAddr, "text", (*conn)(nil)} {
		found, ok := FromLocalAddr(other)
		assert.False(t, ok)
		assert.Nil(t, found)
	}
}

// A larger conn would cost memory on every connection: this is a size class of the allocator.
func TestConn_Size(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(conn{}), uintptr(224))
}

func TestConn_HoldsNoBufferWhileItWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   policy.Mode
		events []event
	}{
		"behind its header":           {policy.On, []event{{data: headerV1}}},
		"behind a part of a second":   {policy.On, []event{{data: headerV1 + "PRO"}}},
		"after the timeout":           {policy.Unspecified, []event{{data: "PRO"}, {err: errDeadline}}},
		"after the timeout, in pairs": {policy.Unspecified, []event{{data: "PR"}, {data: "O"}, {err: errDeadline}}},
		"refused":                     {policy.Off, []event{{data: headerV1}}},
		"with the timeout":            {policy.Unspecified, []event{{data: "PRO", err: errDeadline}}},
	} {
		t.Run(name, func(t *testing.T) {
			config, _ := testConfig(tt.mode)
			c := newConn(&script{events: tt.events}, config, tt.mode, policy.Trusted, monotime.Now().Add(-2*config.Timeout))
			c.RemoteAddr()
			if tt.mode == policy.Off {
				readOnce(c, 100)
			}
			if c.buffer != nil {
				assert.False(t, c.buffer.pooled)
				assert.LessOrEqual(t, cap(c.buffer.buf), 16, "room for the beginning of a signature")
			}
		})
	}
}

func TestConn_AddressesOfTheHeader(t *testing.T) {
	socket := socketAddr.String()
	tests := []struct {
		name, in string
		mode     policy.Mode
		remote   string
		local    string
		marked   bool
	}{
		{"v1", headerV1, policy.On, clientAddr, serverAddr, false},
		{"v2", headerV2, policy.On, clientAddr, serverAddr, false},
		{"v2 over IPv6", headerText(2, wire.Stream, "[2001:db8::7]:1", "[2001:db8::9]:2"), policy.On, "[2001:db8::7]:1", "[2001:db8::9]:2", false},
		{"v2 datagrams", headerText(2, wire.Dgram, clientAddr, serverAddr), policy.On, clientAddr, serverAddr, false},
		{"IPv4-mapped addresses are unmapped", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 56324 8443\r\n", policy.On, clientAddr, serverAddr, false},
		{"an IPv4-mapped source alone is unmapped", "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::9 56324 8443\r\n", policy.On, clientAddr, "[2001:db8::9]:8443", false},
		{"a marked connection keeps the socket's address", headerV1, policy.Unspecified, "203.0.113.7:0", socket, true},
		{"a marked IPv6 connection", headerText(2, wire.Stream, "[2001:db8::7]:1", "[2001:db8::9]:2"), policy.Unspecified, "[2001:db8::7]:0", socket, true},
		{"port 0 of a hop before is no mark", headerText(2, wire.Stream, "203.0.113.7:0", serverAddr), policy.On, "203.0.113.7:0", serverAddr, false},
		{"port 0 under unspecified is marked all the same", headerText(2, wire.Stream, "203.0.113.7:0", serverAddr), policy.Unspecified, "203.0.113.7:0", socket, true},
		{"unspecified IPv4 destination", headerText(2, wire.Stream, clientAddr, "0.0.0.0:443"), policy.On, clientAddr, socket, false},
		{"unspecified IPv6 destination", headerText(2, wire.Stream, "[2001:db8::7]:1", "[::]:443"), policy.On, "[2001:db8::7]:1", socket, false},
		{"unspecified IPv4-mapped destination", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:0.0.0.0 56324 443\r\n", policy.On, clientAddr, socket, false},
		{"destination port 0", headerText(2, wire.Stream, clientAddr, "198.51.100.9:0"), policy.On, clientAddr, "198.51.100.9:0", false},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", policy.On, peerAddr.String(), socket, false},
		{"UNKNOWN under unspecified", "PROXY UNKNOWN ::1 ::1 1 2\r\n", policy.Unspecified, peerAddr.String(), socket, false},
		{"LOCAL", headertest.Raw(0x20, 0, ""), policy.On, peerAddr.String(), socket, false},
		{"LOCAL with addresses", headertest.Raw(0x20, 0x11, headerV2[16:]), policy.Unspecified, peerAddr.String(), socket, false},
		{"no header", getRequest, policy.Unspecified, peerAddr.String(), socket, false},
		{"no header under off", getRequest, policy.Off, peerAddr.String(), socket, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, logs := testConfig(tt.mode)
			c := wrapTrusted(says(tt.in+"data"), config)
			for range 2 {
				assert.Equal(t, tt.remote, c.RemoteAddr().String())
				assert.Equal(t, tt.local, c.LocalAddr().String())
				assert.Equal(t, tt.marked, c.info.Marked())
				require.IsType(t, (*net.TCPAddr)(nil), c.RemoteAddr())
				assert.Equal(t, "tcp", c.RemoteAddr().Network())
				assert.Equal(t, "tcp", c.LocalAddr().Network())
				readAll(c)
			}
			remote := c.RemoteAddr().(*net.TCPAddr)
			assert.False(t, remote.AddrPort().Addr().Is4In6() && len(remote.IP) == net.IPv6len)
			config.Log.Flush()
			assert.Len(t, logs.FilterMessageSnippet("a client address is unverified").All(), map[bool]int{true: 1}[tt.marked])
		})
	}
}

func TestConn_WithoutAHeaderHasTheSocketsAddresses(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			config, _ := testConfig(policy.Unspecified)
			client, c := dial(t, network, config)
			send(client, getRequest)
			assert.Equal(t, c.NetConn().RemoteAddr(), soon(t, c.RemoteAddr))
			assert.Equal(t, c.NetConn().LocalAddr().String(), c.LocalAddr().String())
			assert.Equal(t, c.NetConn().LocalAddr().Network(), c.LocalAddr().Network())
		})
	}
}

// The values of a header must not be kept in a buffer that other connections use.
func TestConn_InfoSurvivesTheBuffer(t *testing.T) {
	tlvs := []wire.TLV{{Type: wire.TypeAuthority, Value: []byte("example.com")}, {Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")}}
	in := headerText(2, wire.Stream, clientAddr, serverAddr, tlvs...)
	for _, pieces := range [][]string{{in}, {in + "data"}, {in[:20], in[20:] + "data"}} {
		config, _ := testConfig(policy.On)
		socket := says(pieces...)
		c := wrapTrusted(socket, config)
		c.RemoteAddr()
		used := socket.into[:cap(socket.into)]
		if len(pieces) == 1 {
			readAll(c)
			assert.Len(t, used, bufferSize, "the pool's")
		}
		for i := range used {
			used[i] = 0xff
		}
		for _, tlv := range tlvs {
			assert.Equal(t, hex.EncodeToString(tlv.Value), c.info.TLVs().Values[fmt.Sprintf("0x%02x", byte(tlv.Type))])
		}
		assert.Equal(t, clientAddr, c.RemoteAddr().String())
		assert.Equal(t, serverAddr, c.LocalAddr().String())
		assert.Equal(t, clientAddr, c.info.Header.Source().String())
	}
}

func TestConn_HalfClose(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			client, c := dial(t, network, config)
			_, err := io.WriteString(client, headerV1+"question")
			require.NoError(t, err)
			require.NoError(t, client.(interface{ CloseWrite() error }).CloseWrite())
			assert.Equal(t, result{"question", nil}, soon(t, func() result { return readAll(c) }))

			_, err = io.WriteString(c, "answer")
			require.NoError(t, err)
			require.NoError(t, c.CloseWrite())
			assert.Equal(t, result{"answer", nil}, soon(t, func() result { return readAll(client) }))
			_, err = io.WriteString(c, "more")
			assert.Error(t, err)
		})
		t.Run(network+"/reads only", func(t *testing.T) {
			config, _ := testConfig(policy.On)
			client, c := dial(t, network, config)
			_, err := io.WriteString(client, headerV1)
			require.NoError(t, err)
			soon(t, c.RemoteAddr)
			require.NoError(t, c.CloseRead())
			assert.Equal(t, result{"", io.EOF}, soon(t, func() result { return readOnce(c, 10) }))
			_, err = io.WriteString(c, "answer")
			assert.NoError(t, err)
		})
	}
	t.Run("not supported below", func(t *testing.T) {
		config, _ := testConfig(policy.On)
		c := wrapTrusted(says(), config)
		assert.ErrorIs(t, c.CloseRead(), errors.ErrUnsupported)
		assert.ErrorIs(t, c.CloseWrite(), errors.ErrUnsupported)
		_, err := c.SyscallConn()
		assert.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

// readerFrom is a connection that has a method ReadFrom.
type readerFrom struct {
	*script
	from io.Reader
}

func (c *readerFrom) ReadFrom(r io.Reader) (int64, error) {
	c.from = r
	return io.Copy(struct{ io.Writer }{c.script}, r)
}

func TestConn_ReadFrom(t *testing.T) {
	t.Run("the socket's own gets the reader", func(t *testing.T) {
		config, _ := testConfig(policy.On)
		below := &readerFrom{script: says(headerV1)}
		c := wrapTrusted(below, config)
		from := io.LimitReader(strings.NewReader("hello"), 100)
		n, err := c.ReadFrom(from)
		assert.NoError(t, err)
		assert.Equal(t, int64(5), n)
		assert.Same(t, from, below.from)
		assert.Equal(t, "hello", string(below.written))
	})
	t.Run("a socket without its own gets the bytes", func(t *testing.T) {
		config, _ := testConfig(policy.On)
		below := says(headerV1)
		n, err := wrapTrusted(below, config).ReadFrom(strings.NewReader("hello"))
		assert.NoError(t, err)
		assert.Equal(t, int64(5), n)
		assert.Equal(t, "hello", string(below.written))
	})
	for _, network := range networks {
		t.Run("a file over "+network, func(t *testing.T) {
			content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			file, err := os.Open(path)
			require.NoError(t, err)
			defer file.Close()

			config, _ := testConfig(policy.On)
			client, c := dial(t, network, config)
			send(client, headerV1)
			sent := async(func() error {
				defer c.CloseWrite()
				_, err := io.Copy(c, file)
				return err
			})
			got := soon(t, func() result { return readAll(client) })
			assert.NoError(t, wait(t, sent))
			assert.True(t, got.data == string(content), "%d bytes", len(got.data))
		})
	}
}

func TestConn_LeadsToTheSocket(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			_, c := dial(t, network, config)
			var fd uintptr
			assert.NoError(t, soon(t, func() error {
				raw, err := c.SyscallConn()
				if err != nil {
					return err
				}
				return raw.Control(func(f uintptr) { fd = f })
			}))
			assert.NotZero(t, fd)
			if network == "unix" {
				assert.IsType(t, (*net.UnixConn)(nil), c.NetConn())
			} else {
				assert.IsType(t, (*net.TCPConn)(nil), c.NetConn())
			}
			assert.Equal(t, statePending, c.state.Load(), "none of these waits for a header")
		})
	}
}

// os.File copies without Read and Write if it gets the descriptor.
func TestConn_FilesDoNotBypassIt(t *testing.T) {
	for _, network := range networks {
		t.Run(network+"/to a file", func(t *testing.T) {
			config, _ := testConfig(policy.On)
			client, c := dial(t, network, config)
			_, err := io.WriteString(client, headerV1+"data")
			require.NoError(t, err)
			require.NoError(t, client.Close())
			file, err := os.Create(filepath.Join(t.TempDir(), "file"))
			require.NoError(t, err)
			defer file.Close()
			assert.NoError(t, soon(t, func() error { _, err := io.Copy(file, c); return err }))
			got, err := os.ReadFile(file.Name())
			assert.NoError(t, err)
			assert.Equal(t, "data", string(got))
		})
		t.Run(network+"/from a file", func(t *testing.T) {
			config, _ := testConfig(policy.On)
			client, c := dial(t, network, config)
			_, err := io.WriteString(client, getRequest)
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, []byte("secret"), 0o600))
			file, err := os.Open(path)
			require.NoError(t, err)
			defer file.Close()
			assert.ErrorIs(t, soon(t, func() error { _, err := io.Copy(c, file); return err }), record.ErrRefused)
			assert.Empty(t, soon(t, func() result { return readAll(client) }).data)
		})
	}
}

// net/http would take it for a TLS connection.
func TestConn_HasNoConnectionState(t *testing.T) {
	config, _ := testConfig(policy.On)
	var c any = wrapTrusted(says(), config)
	_, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	assert.False(t, ok)
}

// failing is a connection whose methods fail, except Read.
type failing struct{ *script }

var errFailing = errors.New("fails")

func (failing) Close() error                     { return errFailing }
func (failing) CloseRead() error                 { return errFailing }
func (failing) CloseWrite() error                { return errFailing }
func (failing) SetReadDeadline(time.Time) error  { return nil }
func (failing) SetWriteDeadline(time.Time) error { return errFailing }
func (failing) LocalAddr() net.Addr              { return nil }

func TestConn_ReturnsErrorsOfTheSocket(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	c := wrapTrusted(failing{says("GET")}, config)
	assert.Equal(t, "tcp", c.LocalAddr().Network(), "of no address")
	assert.Empty(t, c.LocalAddr().String())
	assert.Equal(t, errFailing, c.SetDeadline(time.Now()))
	assert.Equal(t, errFailing, c.CloseRead())
	assert.Equal(t, errFailing, c.CloseWrite())
	assert.Equal(t, errFailing, c.Close())
}

// noRaw is a connection whose method SyscallConn fails.
type noRaw struct{ *script }

func (noRaw) SyscallConn() (syscall.RawConn, error) { return nil, errFailing }

func TestConn_ReturnsTheErrorOfSyscallConn(t *testing.T) {
	config, _ := testConfig(policy.On)
	raw, err := wrapTrusted(noRaw{says()}, config).SyscallConn()
	assert.Nil(t, raw)
	assert.Equal(t, errFailing, err)
}
