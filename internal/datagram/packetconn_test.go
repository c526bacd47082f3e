package datagram

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// quicLike is a datagram that QUIC takes for one of a connection it does not know.
var quicLike = "\x40" + strings.Repeat("x", 1199)

// unixDatagram is a v2 header of a Unix datagram socket.
var unixDatagram = wire.SignatureV2 + "\x21\x32\x00\xd8" + strings.Repeat("x", 216)

func TestPacketConn_LogsWhyADatagramIsDropped(t *testing.T) {
	for _, test := range []struct{ name, datagram, err string }{
		{"missing", "x", ""},
		{"a signature", wire.SignatureV2, errTruncated.Error()},
		{"half a size", wire.SignatureV2 + "\x21\x12\x00", errTruncated.Error()},
		{"cut off", headertest.UDP(headertest.Client4, headertest.Server4)[:20], errTruncated.Error()},
		{"STREAM", headertest.V2(headertest.Client4, headertest.Server4), errNotDgram.Error()},
		{"Unix", unixDatagram, errNotDgram.Error()},
		{"two", headertest.Local() + headertest.Local(), ""},
		{"nothing behind it", headertest.Local(), errNoPayload.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, logs := testConfig(policy.On)
			c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.1")
			_, err := peer.WriteTo([]byte(test.datagram), c.LocalAddr())
			require.NoError(t, err)
			pass(t, peer, c, "127.0.0.1", headertest.Local()+"x")
			require.Len(t, logs.All(), 1)
			said, _ := logs.All()[0].ContextMap()["error"].(string)
			assert.Equal(t, test.err, said)
		})
	}
}

func TestPacketConn_LogsThatAClientIsMarked(t *testing.T) {
	config, logs := testConfig(policy.Unspecified)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.1")
	pass(t, peer, c, "127.0.0.1", headertest.Local()+"x")
	require.Empty(t, logs.All())
	pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"x")
	config.Log.Flush()
	require.Equal(t, 1, logs.FilterMessageSnippet("a client address is unverified").Len())
	assert.Equal(t, headertest.Client4.String(), logs.All()[0].ContextMap()["claimed"])
}

func TestPacketConn_OfAllAddressesKnowsWhereADatagramWasSentTo(t *testing.T) {
	for _, test := range []struct{ network, address, to string }{
		{"udp4", "0.0.0.0:0", "127.0.0.7"},
		{"udp6", "[::]:0", "::1"},
		{"udp", ":0", "127.0.0.7"},
		{"udp", ":0", "::1"},
	} {
		t.Run(test.network+" "+test.to, func(t *testing.T) {
			from := "127.0.0.2"
			if test.to == "::1" {
				needIPv6(t)
				from = test.to
			}
			config, _ := testConfig(policy.On)
			c, peer := wrappedSocket(t, test.network, test.address, config), listenUDP(t, from)
			_, addr := pass(t, peer, c, test.to, headertest.Local()+"x")
			want := netip.AddrPortFrom(netip.MustParseAddr(test.to), c.addr.Port())
			assert.Equal(t, want, addr.local)
			_, err := c.WriteTo([]byte("reply"), addr)
			require.NoError(t, err)
			var p [10]byte
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(patience)))
			n, replied, err := peer.ReadFromUDPAddrPort(p[:])
			require.NoError(t, err)
			assert.Equal(t, "reply", string(p[:n]))
			assert.Equal(t, want, unmapped(replied))
		})
	}
}

// The kernel's control messages say where to, or something else.
func TestPacketConn_ControlMessagesMakeControlMessages(t *testing.T) {
	c := &packetConn{addr: netip.MustParseAddrPort("[::]:443")}
	for _, test := range []struct {
		name           string
		control, reply []byte
		local          string
	}{
		{"none", nil, nil, "[::]:443"},
		{"another", (&ipv6.ControlMessage{TrafficClass: 1}).Marshal(), nil, "[::]:443"},
		{"cut off", []byte{1}, nil, "[::]:443"},
		{
			"IPv6", (&ipv6.ControlMessage{Src: headertest.Client6.Addr().AsSlice(), IfIndex: 7}).Marshal(),
			(&ipv6.ControlMessage{Src: headertest.Client6.Addr().AsSlice()}).Marshal(), netip.AddrPortFrom(headertest.Client6.Addr(), 443).String(),
		},
		{
			"mapped", bytes.Replace((&ipv6.ControlMessage{Src: headertest.Client6.Addr().AsSlice(), IfIndex: 7}).Marshal(), headertest.Client6.Addr().AsSlice(), net.ParseIP("192.0.2.1"), 1),
			(&ipv4.ControlMessage{Src: net.ParseIP("192.0.2.1")}).Marshal(), "192.0.2.1:443",
		},
	} {
		local, reply := c.parseOOB(test.control)
		assert.Equal(t, test.local, local.String(), test.name)
		assert.Equal(t, test.reply, reply, test.name)
	}
}

// Costs

func TestPacketConn_AllocatesNothingOnTheGoodPath(t *testing.T) {
	for _, test := range []struct {
		mode  policy.Mode
		bytes string
	}{
		{policy.On, headertest.UDP(headertest.Client4, headertest.Server4) + quicLike},
		{policy.On, headertest.UDP(headertest.Client6, headertest.Server6, wire.TLV{Type: 0xe1, Value: make([]byte, 300)}) + quicLike},
		{policy.Unspecified, headertest.UDP(headertest.Client4, headertest.Server4) + quicLike},
		{policy.Off, quicLike},
	} {
		udp := listenUDP(t, "127.0.0.1")
		c := newPacketConn(udp, true).forQUIC().(udpPacketConn)
		config := quietConfig(test.mode)
		config.Stats = record.NewStats()
		c.config.Store(config)
		sender := listenUDP(t, "127.0.0.1")
		var p [2000]byte
		answers := make([]byte, 2000)
		to, bytes := udp.LocalAddr().(*net.UDPAddr).AddrPort(), []byte(test.bytes)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if _, err := sender.WriteToUDPAddrPort(bytes, to); err != nil {
				t.Fatal(err)
			}
			n, addr, err := c.ReadFrom(p[:])
			if err != nil || n != len(quicLike) {
				t.Fatal(n, err)
			}
			if _, err := c.WriteTo(p[:n], addr); err != nil {
				t.Fatal(err)
			}
			if n, _, err := sender.ReadFromUDPAddrPort(answers); err != nil || n != len(quicLike) {
				t.Fatal(n, err)
			}
		}))
	}
}

func TestPacketConn_DropsWhatBreaksThePolicy(t *testing.T) {
	const self, other = "127.0.0.1/32", "127.0.0.2/32"
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	for _, test := range []struct {
		name, datagram string
		mode           policy.Mode
		trusts         string
		reason, err    string // or accepted
	}{
		{"header under on", header + quicLike, policy.On, self, "", ""},
		{"header under unspecified", header + quicLike, policy.Unspecified, self, "", ""},
		{"LOCAL", headertest.Local() + quicLike, policy.On, self, "", ""},
		{"no header under unspecified", quicLike, policy.Unspecified, other, "", ""},
		{"no header under off", quicLike, policy.Off, other, "", ""},

		{"no header under on", quicLike, policy.On, self, "missing", ""},
		{"header under off", header + quicLike, policy.Off, self, "forbidden", ""},
		{"untrusted under on", header + quicLike, policy.On, other, "untrusted", ""},
		{"untrusted without a header under on", quicLike, policy.On, other, "untrusted", ""},
		{"untrusted under unspecified", header + quicLike, policy.Unspecified, other, "untrusted", ""},
		{"cut off", header[:len(header)-1], policy.On, self, "malformed", errTruncated.Error()},
		{"of a stream", headertest.V2(headertest.Client4, headertest.Server4) + quicLike, policy.On, self, "malformed", errNotDgram.Error()},
		{"UNKNOWN", headertest.Unknown(2) + quicLike, policy.On, self, "malformed", errNotDgram.Error()},
		{"nothing behind it", header, policy.On, self, "malformed", errNoPayload.Error()},
		{"nothing behind LOCAL", headertest.Local(), policy.On, self, "malformed", errNoPayload.Error()},
		{"wrong checksum", strings.Replace(header, "\x21\x12", "\x21\x11", 1) + quicLike, policy.On, self, "checksum", ""},
		{"too large", headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, 4096)}) + quicLike, policy.On, self, "too_large", ""},
		{"second header", header + header + quicLike, policy.On, self, "duplicate", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, logs := testConfig(test.mode)
			config.Trusted, _ = policy.NewSet([]string{test.trusts})
			c := newPacketConn(listenUDP(t, "127.0.0.1"), true)
			c.config.Store(config)
			d := datagram{bytes: []byte(test.datagram), from: netip.MustParseAddrPort("127.0.0.1:7")}
			assert.Equal(t, test.reason == "", c.accept(&d) != nil)
			if test.reason == "" {
				assert.Empty(t, logs.Reasons())
				return
			}
			require.Equal(t, []string{test.reason}, logs.Reasons())
			if test.err != "" {
				assert.Equal(t, test.err, logs.All()[0].ContextMap()["error"])
			}
		})
	}
}

// A datagram that is dropped costs what its record costs.
func TestPacketConn_DroppedDatagramsAllocateForTheirRecordOnly(t *testing.T) {
	for _, test := range []struct {
		name, datagram string
		mode           policy.Mode
		trusts         string
	}{
		{"missing", quicLike, policy.On, "127.0.0.1/32"},
		{"untrusted", headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, policy.On, "127.0.0.2/32"},
		{"malformed", headertest.V2(headertest.Client4, headertest.Server4) + quicLike, policy.On, "127.0.0.1/32"},
		{"duplicate", headertest.Local() + headertest.Local(), policy.Unspecified, "127.0.0.1/32"},
		{"forbidden", headertest.Local() + quicLike, policy.Off, "127.0.0.1/32"},
	} {
		config := quietConfig(test.mode)
		config.Stats = record.NewStats()
		config.Trusted, _ = policy.NewSet([]string{test.trusts})
		c := newPacketConn(listenUDP(t, "127.0.0.1"), true)
		c.config.Store(config)
		d := datagram{bytes: []byte(test.datagram), from: netip.MustParseAddrPort("127.0.0.1:7")}
		for range record.RefusalsLogged {
			assert.Nil(t, c.accept(&d)) // what is logged costs more
		}
		record := testing.AllocsPerRun(100, func() {
			config.Refuse(record.Refusal{Peer: d.peer(), Local: c.LocalAddr(), Mode: test.mode, Reason: record.Missing}, d.bytes)
		})
		config.Log.Flush() // what is logged is written by another goroutine
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { c.accept(&d) }), record+1, test.name)
	}
}

// Replies of many to many keep their order and their bounds, whatever leaves together.
func TestPacketConn_RepliesArriveWholeAndInOrder(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	c := newPacketConn(udp, true).forQUIC().(udpPacketConn)
	c.config.Store(quietConfig(policy.On))
	c.config.Load().Stats = record.NewStats()
	var wait sync.WaitGroup
	for i := range 4 {
		client := listenUDP(t, "127.0.0.1")
		require.NoError(t, client.SetReadBuffer(1<<22))
		_, err := client.WriteTo([]byte(headertest.UDP(netip.AddrPortFrom(headertest.Client4.Addr(), uint16(i+1)), headertest.Server4)+quicLike), udp.LocalAddr())
		require.NoError(t, err)
		var p [2000]byte
		_, addr, err := c.ReadFrom(p[:])
		require.NoError(t, err)
		const replies = 500
		sizeOf := func(n int) int { return []int{1200, 1200, 1200, 600, 1452, 8, 1200}[n%7] }
		wait.Go(func() {
			for n := range replies {
				b := make([]byte, sizeOf(n))
				binary.BigEndian.PutUint32(b, uint32(n))
				_, err := c.WriteTo(b, addr)
				assert.NoError(t, err)
			}
		})
		wait.Go(func() {
			var p [1 << 16]byte
			for n := range replies {
				_ = client.SetReadDeadline(time.Now().Add(patience))
				size, _, err := client.ReadFrom(p[:])
				if !assert.NoError(t, err) || !assert.EqualValues(t, n, binary.BigEndian.Uint32(p[:])) {
					return
				}
				assert.Equal(t, sizeOf(n), size)
			}
		})
	}
	wait.Wait()
}

// QUIC learns of the end of the socket, and only of that.
func TestPacketConn_OnlyTheSocketsOwnErrorsSurface(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	c := newPacketConn(udp, true).forQUIC()
	c.(udpPacketConn).config.Store(quietConfig(policy.On))
	c.(udpPacketConn).config.Load().Stats = record.NewStats()
	sender := listenUDP(t, "127.0.0.1")
	for _, bad := range []string{"", "x", quicLike, wire.SignatureV2, headertest.UDP(headertest.Client4, headertest.Server4)} {
		_, err := sender.WriteTo([]byte(bad), udp.LocalAddr())
		require.NoError(t, err)
	}
	_, err := sender.WriteTo([]byte(headertest.UDP(headertest.Client4, headertest.Server4)+"good"), udp.LocalAddr())
	require.NoError(t, err)
	var p [100]byte
	n, addr, err := c.ReadFrom(p[:])
	require.NoError(t, err)
	assert.Equal(t, "good", string(p[:n]))
	assert.Equal(t, headertest.Client4.String(), addr.String())

	_, err = c.WriteTo(p[:], sender.LocalAddr())
	assert.ErrorIs(t, err, errForeignAddr)
	require.NoError(t, c.Close())
	_, _, err = c.ReadFrom(p[:])
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.ErrorIs(t, c.(udpPacketConn).SetReadBuffer(1<<16), net.ErrClosed)
	assert.ErrorIs(t, c.(udpPacketConn).SetWriteBuffer(1<<16), net.ErrClosed)
	_, oob := c.(quic.OOBCapablePacketConn)
	assert.False(t, oob, "QUIC would read past ReadFrom")
}

// Fuzzing

// FuzzDatagram compares what becomes of a datagram with the decision table, written down a
// second time.
func FuzzDatagram(f *testing.F) {
	for _, seed := range []string{"", quicLike, wire.SignatureV2, headertest.Local() + "x", headertest.UDP(headertest.Client4, headertest.Server4), headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, headertest.UDP(headertest.Client6, headertest.Server6) + "x", headertest.V2(headertest.Client4, headertest.Server4) + "x", headertest.V1(headertest.Client4, headertest.Server4), headertest.Unknown(2), headertest.Local() + headertest.Local()} {
		for mode := range policy.Modes {
			f.Add([]byte(seed), uint8(mode), true)
			f.Add([]byte(seed), uint8(mode), false)
		}
	}
	f.Fuzz(func(t *testing.T, says []byte, m uint8, trusting bool) {
		says = says[:min(len(says), maxDatagram)]
		mode := policy.Mode(m % uint8(policy.Modes))
		config := quietConfig(mode)
		config.Stats = record.NewStats()
		config.Trusted, _ = policy.NewSet([]string{"192.0.2.0/24"})
		peer := "198.51.100.1:7"
		if trusting {
			peer = "192.0.2.1:7"
		}
		c := newPacketConn(&listenertest.OneDatagram{Data: string(says), From: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(peer))}, false)
		c.config.Store(config)
		var p [2000]byte
		n, addr, err := c.ReadFrom(p[:])

		payload, client, ok := datagramModel(says, mode, trusting, peer, config.MaxHeaderSize)
		if !ok || len(payload) == 0 {
			require.ErrorIs(t, err, net.ErrClosed)
			return
		}
		require.NoError(t, err)
		require.Equal(t, payload[:min(len(payload), len(p))], p[:n])
		require.Equal(t, client, addr.String())
		require.Equal(t, strings.HasSuffix(client, ":0") && mode == policy.Unspecified, addr.(*Addr).info.Marked())
	})
}

// datagramModel is the decision table.
func datagramModel(b []byte, mode policy.Mode, trusting bool, peer string, maxSize int) (payload []byte, client string, ok bool) {
	header := bytes.HasPrefix(b, []byte(wire.SignatureV2))
	switch {
	case mode == policy.On && (!trusting || !header), mode == policy.Off && header, header && !trusting:
		return nil, "", false
	case !header:
		return b, peer, true
	}
	r := wire.Decode(b, maxSize)
	if r.State != wire.Complete || bytes.HasPrefix(b[r.Size:], []byte(wire.SignatureV2)) {
		return nil, "", false
	}
	client = peer
	switch h := r.Header; {
	case h.Command() == wire.Local:
	case !h.HasAddrs() || h.Transport() != wire.Dgram:
		return nil, "", false
	case mode == policy.Unspecified:
		client = netip.AddrPortFrom(h.Source().Addr().Unmap(), 0).String()
	default:
		client = netip.AddrPortFrom(h.Source().Addr().Unmap(), h.Source().Port()).String()
	}
	return b[r.Size:], client, true
}

func TestPacketConn_UsesTheUDPSocketBelowIfAllowed(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	for _, tt := range []struct {
		name   string
		socket net.PacketConn
		unwrap bool
		found  bool
	}{
		{"a UDP socket", udp, false, true},
		{"below one wrapper", unwrapper{udp}, true, true},
		{"below two wrappers", unwrapper{unwrapper{udp}}, true, true},
		{"below a wrapper that must not be skipped", unwrapper{udp}, false, false},
		{"below a wrapper that hides it", opaque{udp}, true, false},
		{"below a wrapper and one that hides it", unwrapper{opaque{udp}}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newPacketConn(tt.socket, tt.unwrap)
			_, isUDP := c.forQUIC().(interface{ SetReadBuffer(int) error })
			assert.Equal(t, tt.found, isUDP)
			if tt.found {
				assert.Same(t, udp, c.udp)
			} else {
				assert.Nil(t, c.udp)
			}
		})
	}
}

// The datagrams of an announced check are decided as any other's, and recorded apart, as long as
// the announcement is valid.
func TestPacketConn_RecordsAnnouncedPeersApart(t *testing.T) {
	sender := netip.MustParseAddrPort("127.0.0.1:7")
	for _, test := range []struct {
		mode    policy.Mode
		bytes   string
		outcome record.Outcome
	}{
		{policy.On, headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, record.Client},
		{policy.Unspecified, headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, record.Marked},
		{policy.Off, quicLike, record.Direct},
		{policy.On, quicLike, record.Missing},
	} {
		config, logs := testConfig(test.mode)
		c := newPacketConn(listenUDP(t, "127.0.0.1"), true)
		c.config.Store(config)
		accept := func() *Addr { return c.accept(&datagram{bytes: []byte(test.bytes), from: sender}) }

		require.NoError(t, record.Announced.Announce([]netip.AddrPort{sender}, true))
		during := []*Addr{accept(), accept()}
		assert.Equal(t, test.outcome.IsRefusal(), during[0] == nil)
		assert.EqualValues(t, 2, config.Stats.Checks().Total(test.outcome))
		assert.Zero(t, config.Stats.Total(test.outcome))
		peers, _ := config.Stats.SeenPeers()
		assert.Empty(t, peers)
		assert.Empty(t, config.Stats.LastRefusals())
		for _, entry := range logs.TakeAll() {
			assert.Equal(t, true, entry.ContextMap()["check"])
			assert.LessOrEqual(t, entry.Level, zapcore.InfoLevel)
		}

		record.Announced.Withdraw([]netip.AddrPort{sender}, true)
		after := accept()
		assert.Equal(t, test.outcome.IsRefusal(), after == nil)
		assert.EqualValues(t, 2, config.Stats.Checks().Total(test.outcome))
		assert.EqualValues(t, 1, config.Stats.Total(test.outcome), "the port may be another's now")
		peers, _ = config.Stats.SeenPeers()
		assert.Len(t, peers, 1)
	}
}
