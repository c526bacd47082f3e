package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestRefuse_IsStickyAndSilent(t *testing.T) {
	tests := []struct {
		name, in string
		mode     policy.Mode
		reason   string
		option   func(*Config)
	}{
		{"no header", getRequest, policy.On, "missing", nil},
		{"forbidden header", headerV1, policy.Off, "forbidden", nil},
		{"malformed header", "PROXY TCP4 nonsense\r\n", policy.Unspecified, "malformed", nil},
		{"wrong checksum", headerText(2, wire.Stream, clientAddr, serverAddr, wire.TLV{Type: wire.TypeCRC32C, Value: make([]byte, 4)}), policy.On, "checksum", nil},
		{"too large a header", headertest.Raw(0x21, 0x11, strings.Repeat("\x00", 600)), policy.On, "too_large", func(config *Config) { config.MaxHeaderSize = 536 }},
		{"second header", headerV1 + headerV2, policy.On, "duplicate", nil},
		{"second header, marked", headerV2 + headerV1, policy.Unspecified, "duplicate", nil},
		{"version not allowed", headerV1, policy.On, "version", func(config *Config) { config.Version = 2 }},
		{"a timeout", "PRO", policy.On, "timeout", func(config *Config) { config.Timeout = 100 * time.Millisecond }},
		{"a late header", headerV2[:len(headerV2)-1], policy.Unspecified, "timeout", func(config *Config) { config.Timeout = 100 * time.Millisecond }},
	}
	for _, network := range networks {
		for _, tt := range tests {
			for _, first := range []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"} {
				if tt.mode == policy.Off && first != "Read" {
					continue // does not check for a header
				}
				t.Run(network+"/"+tt.name+"/"+first, func(t *testing.T) {
					config, logs := testConfig(tt.mode)
					if tt.option != nil {
						tt.option(config)
					}
					client, c := dial(t, network, config)
					_, err := io.WriteString(client, tt.in)
					require.NoError(t, err)
					soon(t, func() error { return calls[first](c) })

					for range 2 {
						for name, op := range map[string]string{"Read": "read", "Write": "write", "ReadFrom": "write"} {
							err := soon(t, func() error { return calls[name](c) })
							assert.ErrorIs(t, err, record.ErrRefused, name)
							var opErr *net.OpError
							if assert.True(t, errors.As(err, &opErr), name) {
								assert.Equal(t, op, opErr.Op, name)
								assert.False(t, opErr.Timeout(), name)
							}
						}
						assert.Equal(t, c.NetConn().RemoteAddr().String(), c.RemoteAddr().String())
					}
					assert.Equal(t, stateRefused, c.state.Load())

					got := soon(t, func() result {
						client.SetReadDeadline(time.Now().Add(bound))
						return readAll(client)
					})
					assert.Empty(t, got.data, "the peer is told nothing")
					assert.NotErrorIs(t, got.err, os.ErrDeadlineExceeded, "the connection is closed")

					require.Equal(t, []string{tt.reason}, logs.Reasons(), "logged once")
					entry := logs.FilterMessageSnippet("refused connection").All()[0]
					fields := entry.ContextMap()
					assert.Equal(t, zap.WarnLevel, entry.Level)
					assert.Equal(t, c.NetConn().RemoteAddr().String(), fields["peer"])
					assert.Equal(t, client.RemoteAddr().String(), fields["local"], "the address the peer connected to")
					assert.Equal(t, tt.mode.String(), fields["mode"])
				})
			}
		}
	}
}

// A health check that only connects is not worth a warning.
func TestRefuse_EmptyConnectionIsNoWarning(t *testing.T) {
	config, logs := testConfig(policy.On)
	c := wrapTrusted(says(), config)
	c.RemoteAddr()
	require.Equal(t, []string{"silent"}, logs.Reasons())
	assert.Equal(t, zap.DebugLevel, logs.All()[0].Level)
}

func TestRefuse_EndWithinASignatureIsMissing(t *testing.T) {
	for _, said := range []string{"P", "\r", "PROX", "\r\n\r\n"} {
		config, logs := testConfig(policy.On)
		readAll(wrapTrusted(says(said), config))
		assert.Equal(t, []string{"missing"}, logs.Reasons(), "%q", said)
	}
}

func TestRefuse_AfterTheHeaderRestoresTheSocketsAddresses(t *testing.T) {
	config, logs := testConfig(policy.On)
	c := wrapTrusted(says(headerV1, headerV2), config)
	assert.Equal(t, serverAddr, c.LocalAddr().String())
	local := c.LocalAddr()
	_, err := c.Read(make([]byte, 100))
	require.ErrorIs(t, err, record.ErrRefused)
	assert.Equal(t, []string{"duplicate"}, logs.Reasons())
	assert.Equal(t, socketAddr.String(), local.String())
	assert.Equal(t, peerAddr.String(), c.RemoteAddr().String())
}

// A socket that fails before the header is complete is refused, also if more bytes follow the error.
func TestRefuse_SocketErrorBeforeTheHeader(t *testing.T) {
	etimedout := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	require.True(t, etimedout.Timeout(), "it looks like a deadline")
	for _, tt := range []struct {
		name string
		in   []event
		want string
	}{
		{"before a header", []event{{"", errReset}, {headerV1 + "data", nil}}, "silent"},
		{"in a signature", []event{{"PRO", nil}, {"", errReset}, {headerV1[3:] + "data", nil}}, "io"},
		{"in a header", []event{{headerV2[:20], nil}, {"", errReset}}, "io"},
		{"with bytes of a header", []event{{headerV2[:20], errReset}, {headerV2[20:] + "data", nil}}, "io"},
		{"a peer that no longer answers, before a header", []event{{"", etimedout}}, "silent"},
		{"a peer that no longer answers, in a header", []event{{headerV1[:20], nil}, {"", etimedout}}, "io"},
		{"a plain error", []event{{"PROXY", nil}, {"", errors.New("broken")}}, "io"},
		{"neither bytes nor an error, for ever", append([]event{{"PROXY", nil}}, make([]event, 200)...), "io"},
	} {
		for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
			for name, call := range calls {
				t.Run(fmt.Sprintf("%s/%s/%s", tt.name, mode, name), func(t *testing.T) {
					config, logs := testConfig(mode)
					config.Stats = record.NewStats()
					socket := &script{events: slices.Clone(tt.in)}
					c := wrapTrusted(socket, config)
					err := call(c)
					if name != "RemoteAddr" && name != "LocalAddr" {
						assert.Error(t, err)
					}
					assert.Equal(t, stateRefused, c.state.Load())
					assert.True(t, socket.closed)
					assert.Equal(t, peerAddr, c.RemoteAddr())
					assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
					require.NoError(t, c.Close())

					require.Equal(t, []string{tt.want}, logs.Reasons())
					assert.NotEmpty(t, logs.All()[0].ContextMap()["error"], "it says how the socket failed")
					assert.EqualValues(t, 1, config.Stats.Total(outcomeNamed(tt.want)))
					assert.Len(t, config.Stats.LastRefusals(), map[bool]int{true: 1}[tt.want == "io"])
				})
			}
		}
	}
}

// panicking is a connection whose methods of these names panic.
type panicking struct {
	net.Conn
	names string
}

func (c panicking) may(name string) {
	if strings.Contains(c.names+" ", name+" ") {
		panic("connection is broken")
	}
}

func (c panicking) Read(p []byte) (int, error)        { c.may("Read"); return c.Conn.Read(p) }
func (c panicking) Close() error                      { c.may("Close"); return c.Conn.Close() }
func (c panicking) RemoteAddr() net.Addr              { c.may("RemoteAddr"); return c.Conn.RemoteAddr() }
func (c panicking) LocalAddr() net.Addr               { c.may("LocalAddr"); return c.Conn.LocalAddr() }
func (c panicking) SetReadDeadline(t time.Time) error { c.may("SetReadDeadline"); return nil }

func TestRefuse_PanicOfTheSocket(t *testing.T) {
	tests := []struct {
		name  string
		mode  policy.Mode
		in    string
		calls []string
	}{
		{"Read", policy.On, headerV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Read", policy.Unspecified, headerV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Read", policy.Off, headerV1, []string{"Read"}},
		{"SetReadDeadline", policy.On, headerV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Close", policy.On, getRequest, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
		{"Close", policy.Off, headerV1, []string{"Read"}},
		{"Read Close", policy.On, headerV1, []string{"RemoteAddr", "LocalAddr", "Read", "Write", "ReadFrom"}},
	}
	for _, tt := range tests {
		for _, name := range tt.calls {
			t.Run(tt.name+"/"+tt.mode.String()+"/"+name, func(t *testing.T) {
				config, logs := testConfig(tt.mode)
				c := wrapTrusted(panicking{says(tt.in), tt.name}, config)
				var err error
				require.NotPanics(t, func() { err = calls[name](c) })
				if name != "RemoteAddr" && name != "LocalAddr" {
					assert.ErrorIs(t, err, record.ErrRefused)
				}
				assert.Equal(t, stateRefused, c.state.Load())
				assert.Equal(t, peerAddr, c.RemoteAddr())
				assert.ErrorIs(t, calls["Read"](c), record.ErrRefused)
				assert.Len(t, logs.Reasons(), 1)
			})
		}
	}
}

// brokenByRead is a connection whose Read panics, and whose LocalAddr panics afterwards.
type brokenByRead struct {
	net.Conn
	read bool
}

func (c *brokenByRead) Read([]byte) (int, error) { c.read = true; panic("read") }

func (c *brokenByRead) LocalAddr() net.Addr {
	if c.read {
		panic("local")
	}
	return socketAddr
}

func TestRefuse_PanicOfLocalAddr(t *testing.T) {
	config, logs := testConfig(policy.Unspecified)
	c := newConn(&brokenByRead{Conn: says()}, config, policy.Unspecified, policy.Trusted, monotime.Now())
	assert.NotPanics(t, func() { c.RemoteAddr() })
	assert.Equal(t, []string{"io"}, logs.Reasons())
}

// wearingOut is a connection whose SetReadDeadline panics after some calls.
type wearingOut struct {
	*script
	left int
}

func (c *wearingOut) SetReadDeadline(t time.Time) error {
	if c.left == 0 {
		panic("deadline")
	}
	c.left--
	return c.script.SetReadDeadline(t)
}

// A read that ended at the caller's deadline is refused all the same, and does not report the deadline.
func TestRefuse_PanicBehindTheDeadlineOfTheCaller(t *testing.T) {
	config, logs := testConfig(policy.On)
	c := wrapTrusted(&wearingOut{&script{events: []event{{"", errDeadline}}}, 2}, config)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
	assert.Equal(t, []string{"io"}, logs.Reasons())
}

// liar is a connection whose Read reports more bytes than fit, or fewer than none.
type liar struct {
	net.Conn
	before string // the bytes of reads that report the truth, before the others
	excess int
}

func (c *liar) Read(p []byte) (int, error) {
	if c.before == "" {
		return len(p) + c.excess, nil
	}
	n := copy(p, c.before)
	c.before = c.before[n:]
	return n, nil
}

// A panic where it is not recovered would end the process.
func TestRefuse_SocketThatReadsTheImpossible(t *testing.T) {
	tests := []struct {
		mode   policy.Mode
		before string
	}{
		{policy.On, ""}, {policy.On, "PROXY"}, {policy.On, headerV1}, {policy.On, headerV1 + "PRO"}, {policy.Off, ""}, {policy.Off, "PRO"},
	}
	for _, tt := range tests {
		for _, excess := range []int{1, -10_000} {
			t.Run(fmt.Sprint(tt.mode, tt.before, excess), func(t *testing.T) {
				config, logs := testConfig(tt.mode)
				c := wrapTrusted(&liar{says(), tt.before, excess}, config)
				require.NotPanics(t, func() { c.RemoteAddr() })
				room := make([]byte, 4096)
				n, err := c.Read(room[:100])
				assert.Zero(t, n)
				assert.ErrorIs(t, err, record.ErrRefused)
				assert.Equal(t, stateRefused, c.state.Load())
				assert.Equal(t, []string{"io"}, logs.Reasons())
			})
		}
	}
}

// forgetful is a connection whose addresses become after once it was read or closed.
type forgetful struct {
	*script
	after net.Addr
}

func (c forgetful) addr(before net.Addr) net.Addr {
	if c.reads > 0 || c.closed {
		return c.after
	}
	return before
}

func (c forgetful) RemoteAddr() net.Addr { return c.addr(peerAddr) }
func (c forgetful) LocalAddr() net.Addr  { return c.addr(socketAddr) }

// badAddr is an address whose String method panics.
type badAddr struct{ net.Addr }

func (badAddr) Network() string { return "tcp" }
func (badAddr) String() string  { panic("no address") }

// A socket has no address any more after a reset by the peer.
func TestConn_KeepsThePeerItWasAcceptedFrom(t *testing.T) {
	tests := []struct {
		name string
		mode policy.Mode
		in   string
	}{
		{"refused", policy.On, getRequest},
		{"no header", policy.Unspecified, getRequest},
		{"no header under off", policy.Off, getRequest},
		{"LOCAL", policy.On, headertest.Raw(0x20, 0, "") + getRequest},
	}
	for _, tt := range tests {
		for name, after := range map[string]net.Addr{"nil": nil, "panics": badAddr{}, "nil TCP address": (*net.TCPAddr)(nil)} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				config, logs := testConfig(tt.mode)
				c := wrapTrusted(forgetful{says(tt.in), after}, config)
				require.NotPanics(t, func() { readOnce(c, 100) })
				assert.Equal(t, peerAddr, c.RemoteAddr())
				for _, entry := range logs.All() {
					assert.Equal(t, peerAddr.String(), entry.ContextMap()["peer"])
				}
				if tt.name == "refused" {
					assert.Equal(t, []string{"missing"}, logs.Reasons())
					assert.Equal(t, peerAddr, config.Stats.LastRefusals()[0].Peer)
				}
			})
		}
	}
}
