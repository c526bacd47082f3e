package proxyprotocol

// What a packetConn remembers from one datagram to the next, and what it must not take for it.

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// packetRules are rules of datagrams that log everything, with stats of their own.
func packetRules(mode Mode, options ...func(*packetConfig)) (*packetConfig, *connLogs) {
	core, logs := observer.New(zap.DebugLevel)
	config := &packetConfig{
		policy:        policy{mode: mode},
		maxHeaderSize: defaultMaxHeaderSize,
		recorder:      recorder{newConnLog(zap.New(core), true), newStats()},
	}
	for _, option := range options {
		option(config)
	}
	if config.source != nil {
		config.list = newTrustedList(context.Background(), config.source, zap.NewNop())
	}
	return config, &connLogs{logs, config.log}
}

// packetQuiet are rules as in production, where a header is nothing to log.
func packetQuiet(mode Mode) *packetConfig {
	config, _ := packetRules(mode)
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	config.log = newConnLog(zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel)), true)
	return config
}

// packetTrusting are rules whose source trusts these ranges; asked counts.
func packetTrusting(asked *atomic.Int32, ranges ...string) func(*packetConfig) {
	return func(c *packetConfig) { c.source = connTrusted(asked, ranges...) }
}

// wrappedSocket is a wrapped socket at an address of this machine, under rules.
func wrappedSocket(t *testing.T, network, address string, rules *packetConfig) *packetConn {
	t.Helper()
	socket, err := net.ListenPacket(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	c := newPacketConn(socket, true)
	c.config.Store(rules)
	return c
}

// pass sends a datagram to a socket at this IP address, and returns what QUIC reads next, and
// its address.
func pass(t *testing.T, from *net.UDPConn, c *packetConn, ip, datagram string) (string, *quicAddr) {
	t.Helper()
	_, err := from.WriteToUDPAddrPort([]byte(datagram), netip.AddrPortFrom(netip.MustParseAddr(ip), c.addr.Port()))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(caddytest.Patience)))
	var p [maxDatagram]byte
	n, addr, err := c.ReadFrom(p[:])
	require.NoError(t, err)
	return string(p[:n]), addr.(*quicAddr)
}

func TestAddressStaysTheSameAsLongAsDatagramsSayTheSame(t *testing.T) {
	ofSize := func(size int) string {
		empty := caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4, wire.TLV{Type: wire.TypeNoop})
		return caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, size-len(empty))})
	}
	for _, test := range []struct {
		name          string
		mode          Mode
		first, second string // headers
		same          bool
	}{
		{"no header", Off, "", "", true},
		{"a header", On, caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), true},
		{"a marked client", Unspecified, caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), true},
		{"another client", On, caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6), false},
		{"a header no more", Unspecified, caddytest.HeaderLocal(), "", false},
		{"a header of the size that is kept", On, ofSize(recentHeader), ofSize(recentHeader), true},
		{"a larger one", On, ofSize(recentHeader + 1), ofSize(recentHeader + 1), false},
		{"a much larger one", On, ofSize(2000), ofSize(2000), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules, _ := packetRules(test.mode)
			c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.1")
			_, first := pass(t, peer, c, "127.0.0.1", test.first+"a")
			payload, second := pass(t, peer, c, "127.0.0.1", test.second+"b")
			assert.Equal(t, "b", payload)
			assert.Equal(t, test.same, first == second)
			assert.Nil(t, first.trustedBy, "nobody was asked")
			assert.Empty(t, first.back.oob, "a socket of one address needs no control message")
		})
	}
}

// The hash of a datagram may be that of any other.
func TestAddressOfAnotherIsNotTaken(t *testing.T) {
	for _, test := range []struct {
		name                      string
		from, to, header, payload string
	}{
		{"another peer", "127.0.0.3", "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), "b"},
		{"another peer, of a connection", "127.0.0.3", "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), ofConnection("one\x00")},
		{"sent to another address", "127.0.0.2", "127.0.0.7", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), "b"},
		{"another header", "127.0.0.2", "127.0.0.1", caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6), "b"},
		{"no header", "127.0.0.2", "127.0.0.1", "", "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules, _ := packetRules(Unspecified)
			c := wrappedSocket(t, "udp4", "0.0.0.0:0", rules)
			peer := caddytest.ListenUDP(t, "127.0.0.2")
			_, first := pass(t, peer, c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"a")
			for i := range c.recent {
				c.recent[i] = first
			}
			if test.from != "127.0.0.2" {
				peer = caddytest.ListenUDP(t, test.from)
			}
			payload, second := pass(t, peer, c, test.to, test.header+test.payload)
			assert.Equal(t, test.payload, payload)
			assert.NotSame(t, first, second)
			assert.Equal(t, peer.LocalAddr().String(), second.peer.String())
			assert.Equal(t, test.to, second.local.Addr().String())
			assert.Equal(t, test.header, second.raw)
		})
	}
}

// What an accepted datagram began with does not vouch for what follows it in the next one.
func TestDatagramsAreJudgedBehindAHeaderThatIsKnown(t *testing.T) {
	rules, logs := packetRules(On)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.2")
	for _, header := range []string{caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.HeaderLocal()} {
		_, first := pass(t, peer, c, "127.0.0.1", header+"a")
		for _, bad := range []string{header, header + header + "bad"} {
			_, err := peer.WriteTo([]byte(bad), c.LocalAddr())
			require.NoError(t, err)
		}
		payload, second := pass(t, peer, c, "127.0.0.1", header+"b")
		assert.Equal(t, "b", payload)
		assert.Same(t, first, second)
	}
	assert.Equal(t, []string{"malformed", "duplicate", "malformed", "duplicate"}, connReasons(logs))
	assert.EqualValues(t, 2, rules.stats.outcomes[On][2][reasonMalformed].Load())
	assert.EqualValues(t, 2, rules.stats.outcomes[On][2][reasonDuplicate].Load())
}

// QUIC gets no datagram that is empty. Without a header it is not dropped either, and changes
// nothing.
func TestEmptyDatagramsArePassedOver(t *testing.T) {
	off, _ := packetRules(Off)
	for _, rules := range []*packetConfig{off, nil} {
		c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.2")
		_, first := pass(t, peer, c, "127.0.0.1", "a")
		_, err := peer.WriteTo(nil, c.LocalAddr())
		require.NoError(t, err)
		payload, second := pass(t, peer, c, "127.0.0.1", "b")
		assert.Equal(t, "b", payload)
		assert.Same(t, first, second)
	}
	assert.EqualValues(t, 2, off.stats.outcomes[Off][0][outcomeDirect].Load(), "as many as QUIC got")
}

// The buffer still has what came before.
func TestBeginningOfASignatureIsNoHeader(t *testing.T) {
	rules, _ := packetRules(Unspecified)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.2")
	for size := 1; size < len(wire.SignatureV2); size++ {
		pass(t, peer, c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"a")
		payload, addr := pass(t, peer, c, "127.0.0.1", wire.SignatureV2[:size])
		assert.Equal(t, wire.SignatureV2[:size], payload)
		assert.False(t, addr.present())
	}
}

func TestDatagramsThatQUICGetsAreCounted(t *testing.T) {
	rules, _ := packetRules(Unspecified)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.2")
	for _, datagram := range []string{"x", caddytest.HeaderLocal() + "x", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + "x", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + "xx"} {
		pass(t, peer, c, "127.0.0.1", datagram)
	}
	counted := &rules.stats.outcomes[Unspecified]
	assert.EqualValues(t, 1, counted[0][outcomeDirect].Load())
	assert.EqualValues(t, 1, counted[2][outcomeLocal].Load())
	assert.EqualValues(t, 2, counted[2][outcomeMarked].Load())
}

func TestNothingIsRememberedOfRulesThatAreGone(t *testing.T) {
	var asked atomic.Int32
	before, _ := packetRules(On, packetTrusting(&asked, "127.0.0.0/8"))
	after, _ := packetRules(On)
	kept := weak.Make(before)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", before)
	for _, ip := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		pass(t, caddytest.ListenUDP(t, ip), c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"a")
	}
	require.EqualValues(t, 1, asked.Load())
	before = nil
	c.config.Store(after)
	_, addr := pass(t, caddytest.ListenUDP(t, "127.0.0.5"), c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"a")
	assert.Same(t, after, addr.config)
	caddytest.Eventually(t, func() bool { runtime.GC(); return kept.Value() == nil }, "the rules are kept")
	runtime.KeepAlive(c)
}

func TestTrustEndsWithTheRules(t *testing.T) {
	var asked atomic.Int32
	before, _ := packetRules(On, packetTrusting(&asked, "127.0.0.0/8"))
	after, logs := packetRules(On, packetTrusting(&asked, "127.0.0.3/32"))
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", before), caddytest.ListenUDP(t, "127.0.0.2")
	pass(t, peer, c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"a")
	c.config.Store(after)
	_, err := peer.WriteTo([]byte(caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"bad"), c.LocalAddr())
	require.NoError(t, err)
	payload, _ := pass(t, caddytest.ListenUDP(t, "127.0.0.3"), c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"good")
	assert.Equal(t, "good", payload)
	assert.Equal(t, []string{"untrusted"}, connReasons(logs))
}

// Nobody judges datagrams, and nobody takes anything from them.
func TestDatagramsPassAsTheyAreWithoutRules(t *testing.T) {
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", nil), caddytest.ListenUDP(t, "127.0.0.2")
	for _, datagram := range []string{"a", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + "a", wire.SignatureV2, caddytest.HeaderLocal() + caddytest.HeaderLocal()} {
		payload, addr := pass(t, peer, c, "127.0.0.1", datagram)
		assert.Equal(t, datagram, payload)
		assert.Equal(t, peer.LocalAddr().String(), addr.String())
		assert.Nil(t, addr.config)
	}
}

// Sockets of others

// otherAddr is the address of a peer as somebody else's socket has it.
type otherAddr struct{ text string }

func (a *otherAddr) Network() string { return "other" }
func (a *otherAddr) String() string {
	if a.text == "" {
		panic("of a test")
	}
	return a.text
}

// otherSocket is a socket that is none of UDP, with datagrams that wait, and then ends.
type otherSocket struct {
	net.PacketConn
	from    []net.Addr
	says    []string
	replies []net.Addr
}

func (c *otherSocket) LocalAddr() net.Addr { return &otherAddr{"here"} }

func (c *otherSocket) ReadFrom(p []byte) (int, net.Addr, error) {
	if len(c.from) == 0 {
		return 0, nil, net.ErrClosed
	}
	from, says := c.from[0], c.says[0]
	c.from, c.says = c.from[1:], c.says[1:]
	return copy(p, says), from, nil
}

func (c *otherSocket) WriteTo(p []byte, to net.Addr) (int, error) {
	c.replies = append(c.replies, to)
	return len(p), nil
}

// Nothing is known of their addresses but the text, and who has the same may be somebody else.
func TestPeersOfOtherSocketsAreNotMixedUp(t *testing.T) {
	socket := new(otherSocket)
	want := []string{"somewhere", "elsewhere", "elsewhere", "192.0.2.1:7", "192.0.2.1:7", "[2001:db8::7]:7"}
	for _, text := range []string{"somewhere", "elsewhere", "elsewhere", "192.0.2.1:7", "[::ffff:192.0.2.1]:7", "[2001:db8::7]:7"} {
		socket.from = append(socket.from, &otherAddr{text})
		socket.says = append(socket.says, "x")
	}
	from := socket.from
	c := newPacketConn(socket, true)
	rules, _ := packetRules(Unspecified)
	c.config.Store(rules)
	var p [10]byte
	for _, want := range want {
		n, addr, err := c.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, want, addr.String())
		_, err = c.WriteTo(p[:n], addr)
		require.NoError(t, err)
	}
	require.Len(t, socket.replies, len(from))
	for i := range from {
		assert.Same(t, from[i], socket.replies[i])
	}
	for _, foreign := range []*quicAddr{{}, {back: &wayBack{to: caddytest.Client4}}} { // of no socket, and of a UDP socket
		_, err := c.WriteTo(p[:], foreign)
		assert.ErrorIs(t, err, errNotOurs)
	}
	assert.False(t, c.addr.IsValid())
}

func TestPanicOfAnotherSocketsAddressDropsOneDatagram(t *testing.T) {
	on, _ := packetRules(On)
	off, _ := packetRules(Off)
	for _, test := range []struct {
		rules *packetConfig
		good  string
	}{
		{on, caddytest.HeaderLocal() + "good"},
		{off, "good"},
		{nil, "good"},
	} {
		socket := &otherSocket{from: []net.Addr{&otherAddr{}, &otherAddr{"192.0.2.1:7"}}, says: []string{"bad", test.good}}
		c := newPacketConn(socket, true)
		c.config.Store(test.rules)
		var p [10]byte
		n, addr, err := c.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, "good", string(p[:n]))
		assert.Equal(t, "192.0.2.1:7", addr.String())
		if test.rules != nil {
			assert.EqualValues(t, 1, test.rules.stats.outcomes[test.rules.mode][0][reasonIO].Load())
		}
	}
}

// restlessSocket is one whose own address panics once it is wrapped.
type restlessSocket struct {
	otherSocket
	wrapped bool
}

func (c *restlessSocket) LocalAddr() net.Addr {
	if c.wrapped {
		panic("of a test")
	}
	return &otherAddr{"here"}
}

// The record of what is dropped has the address as well.
func TestPanicOfAnotherSocketsOwnAddressDropsDatagrams(t *testing.T) {
	socket := &restlessSocket{otherSocket: otherSocket{from: []net.Addr{&otherAddr{"somewhere"}}, says: []string{"x"}}}
	c := newPacketConn(socket, true)
	socket.wrapped = true
	rules, _ := packetRules(Off)
	c.config.Store(rules)
	_, _, err := c.ReadFrom(make([]byte, 10))
	require.ErrorIs(t, err, net.ErrClosed)
	assert.EqualValues(t, 1, rules.stats.outcomes[Off][0][reasonIO].Load())
}
