package datagram

// The addresses that a packetConn keeps from one datagram to the next, and must not mix up.

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestPacketConn_AddrStaysTheSameWhileDatagramsSayTheSame(t *testing.T) {
	ofSize := func(size int) string {
		empty := headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: wire.TypeNoop})
		return headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, size-len(empty))})
	}
	for _, test := range []struct {
		name          string
		mode          policy.Mode
		first, second string // headers
		same          bool
	}{
		{"no header", policy.Off, "", "", true},
		{"a header", policy.On, headertest.UDP(headertest.Client4, headertest.Server4), headertest.UDP(headertest.Client4, headertest.Server4), true},
		{"a marked client", policy.Unspecified, headertest.UDP(headertest.Client4, headertest.Server4), headertest.UDP(headertest.Client4, headertest.Server4), true},
		{"another client", policy.On, headertest.UDP(headertest.Client4, headertest.Server4), headertest.UDP(headertest.Client6, headertest.Server6), false},
		{"a header no more", policy.Unspecified, headertest.Local(), "", false},
		{"a header of the size that is kept", policy.On, ofSize(maxCachedHeader), ofSize(maxCachedHeader), true},
		{"a larger one", policy.On, ofSize(maxCachedHeader + 1), ofSize(maxCachedHeader + 1), false},
		{"a much larger one", policy.On, ofSize(2000), ofSize(2000), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, _ := testConfig(test.mode)
			c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.1")
			_, first := pass(t, peer, c, "127.0.0.1", test.first+"a")
			payload, second := pass(t, peer, c, "127.0.0.1", test.second+"b")
			assert.Equal(t, "b", payload)
			assert.Equal(t, test.same, first == second)
			assert.Nil(t, first.trustedBy, "no source was asked")
			assert.Empty(t, first.path.oob, "a socket of one address needs no control message")
		})
	}
}

// The hash of a datagram may be that of any other.
func TestPacketConn_TakesNoAddrOfAnother(t *testing.T) {
	for _, test := range []struct {
		name                      string
		from, to, header, payload string
	}{
		{"another peer", "127.0.0.3", "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4), "b"},
		{"another peer, of a connection", "127.0.0.3", "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4), ofConnection("one\x00")},
		{"sent to another address", "127.0.0.2", "127.0.0.7", headertest.UDP(headertest.Client4, headertest.Server4), "b"},
		{"another header", "127.0.0.2", "127.0.0.1", headertest.UDP(headertest.Client6, headertest.Server6), "b"},
		{"no header", "127.0.0.2", "127.0.0.1", "", "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, _ := testConfig(policy.Unspecified)
			c := wrappedSocket(t, "udp4", "0.0.0.0:0", config)
			peer := listenUDP(t, "127.0.0.2")
			_, first := pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
			for i := range c.addrCache {
				c.addrCache[i] = first
			}
			if test.from != "127.0.0.2" {
				peer = listenUDP(t, test.from)
			}
			payload, second := pass(t, peer, c, test.to, test.header+test.payload)
			assert.Equal(t, test.payload, payload)
			assert.NotSame(t, first, second)
			assert.Equal(t, peer.LocalAddr().String(), second.info.Peer.String())
			assert.Equal(t, test.to, second.local.Addr().String())
			assert.Equal(t, test.header, second.header)
		})
	}
}

// What an accepted datagram began with does not vouch for what follows it in the next one.
func TestPacketConn_ChecksWhatFollowsAKnownHeader(t *testing.T) {
	config, logs := testConfig(policy.On)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.2")
	for _, header := range []string{headertest.UDP(headertest.Client4, headertest.Server4), headertest.Local()} {
		_, first := pass(t, peer, c, "127.0.0.1", header+"a")
		for _, bad := range []string{header, header + header + "bad"} {
			_, err := peer.WriteTo([]byte(bad), c.LocalAddr())
			require.NoError(t, err)
		}
		payload, second := pass(t, peer, c, "127.0.0.1", header+"b")
		assert.Equal(t, "b", payload)
		assert.Same(t, first, second)
	}
	assert.Equal(t, []string{"malformed", "duplicate", "malformed", "duplicate"}, logs.Reasons())
	assert.EqualValues(t, 2, counted(config, policy.On, "v2", record.Malformed))
	assert.EqualValues(t, 2, counted(config, policy.On, "v2", record.Duplicate))
}

// QUIC gets no datagram that is empty. Without a header it is not dropped either, and changes
// nothing.
func TestPacketConn_PassesOverEmptyDatagrams(t *testing.T) {
	off, _ := testConfig(policy.Off)
	for _, config := range []*Config{off, nil} {
		c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.2")
		_, first := pass(t, peer, c, "127.0.0.1", "a")
		_, err := peer.WriteTo(nil, c.LocalAddr())
		require.NoError(t, err)
		payload, second := pass(t, peer, c, "127.0.0.1", "b")
		assert.Equal(t, "b", payload)
		assert.Same(t, first, second)
	}
	assert.EqualValues(t, 2, counted(off, policy.Off, "none", record.Direct), "as many as QUIC got")
}

// The buffer still has what came before.
func TestPacketConn_BeginningOfASignatureIsNoHeader(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.2")
	for size := 1; size < len(wire.SignatureV2); size++ {
		pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
		payload, addr := pass(t, peer, c, "127.0.0.1", wire.SignatureV2[:size])
		assert.Equal(t, wire.SignatureV2[:size], payload)
		assert.False(t, addr.info.HasHeader())
	}
}

func TestPacketConn_CountsTheDatagramsThatQUICGets(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.2")
	for _, datagram := range []string{"x", headertest.Local() + "x", headertest.UDP(headertest.Client4, headertest.Server4) + "x", headertest.UDP(headertest.Client4, headertest.Server4) + "xx"} {
		pass(t, peer, c, "127.0.0.1", datagram)
	}
	assert.EqualValues(t, 1, counted(config, policy.Unspecified, "none", record.Direct))
	assert.EqualValues(t, 1, counted(config, policy.Unspecified, "v2", record.Local))
	assert.EqualValues(t, 2, counted(config, policy.Unspecified, "v2", record.Marked))
}

func TestPacketConn_RemembersNothingOfAConfigThatIsGone(t *testing.T) {
	var asked atomic.Int32
	before, _ := testConfig(policy.On, trusting(&asked, "127.0.0.0/8"))
	after, _ := testConfig(policy.On)
	kept := weak.Make(before)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", before)
	for _, ip := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		pass(t, listenUDP(t, ip), c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	}
	require.EqualValues(t, 1, asked.Load())
	before = nil
	c.config.Store(after)
	_, addr := pass(t, listenUDP(t, "127.0.0.5"), c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	assert.Same(t, after, addr.config)
	eventually(t, func() bool { runtime.GC(); return kept.Value() == nil }, "the config are kept")
	runtime.KeepAlive(c)
}

func TestPacketConn_TrustEndsWithTheConfig(t *testing.T) {
	var asked atomic.Int32
	before, _ := testConfig(policy.On, trusting(&asked, "127.0.0.0/8"))
	after, logs := testConfig(policy.On, trusting(&asked, "127.0.0.3/32"))
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", before), listenUDP(t, "127.0.0.2")
	pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	c.config.Store(after)
	_, err := peer.WriteTo([]byte(headertest.UDP(headertest.Client4, headertest.Server4)+"bad"), c.LocalAddr())
	require.NoError(t, err)
	payload, _ := pass(t, listenUDP(t, "127.0.0.3"), c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"good")
	assert.Equal(t, "good", payload)
	assert.Equal(t, []string{"untrusted"}, logs.Reasons())
}

// Datagrams are not checked then, and no part is taken from them.
func TestPacketConn_DatagramsPassAsTheyAreWithoutConfig(t *testing.T) {
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", nil), listenUDP(t, "127.0.0.2")
	for _, datagram := range []string{"a", headertest.UDP(headertest.Client4, headertest.Server4) + "a", wire.SignatureV2, headertest.Local() + headertest.Local()} {
		payload, addr := pass(t, peer, c, "127.0.0.1", datagram)
		assert.Equal(t, datagram, payload)
		assert.Equal(t, peer.LocalAddr().String(), addr.String())
		assert.Nil(t, addr.config)
	}
}

// Sockets of others

// otherAddr is the address of a peer as another module's socket has it. It panics if it is empty.
type otherAddr struct{ text string }

func (a *otherAddr) Network() string { return "other" }

func (a *otherAddr) String() string {
	if a.text == "" {
		panic("of a test")
	}
	return a.text
}

// otherSocket is a socket that is not a UDP socket. It gets these datagrams and is then closed.
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

// Only the text of their addresses is known. Two peers may have the same one.
func TestPacketConn_PeersOfOtherSocketsAreNotMixedUp(t *testing.T) {
	socket := new(otherSocket)
	want := []string{"somewhere", "elsewhere", "elsewhere", "192.0.2.1:7", "192.0.2.1:7", "[2001:db8::7]:7"}
	for _, text := range []string{"somewhere", "elsewhere", "elsewhere", "192.0.2.1:7", "[::ffff:192.0.2.1]:7", "[2001:db8::7]:7"} {
		socket.from = append(socket.from, &otherAddr{text})
		socket.says = append(socket.says, "x")
	}
	from := socket.from
	c := newPacketConn(socket, true)
	config, _ := testConfig(policy.Unspecified)
	c.config.Store(config)
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
	for _, foreign := range []*Addr{{}, {path: &returnPath{to: headertest.Client4}}} { // of no socket, and of a UDP socket
		_, err := c.WriteTo(p[:], foreign)
		assert.ErrorIs(t, err, errForeignAddr)
	}
	assert.False(t, c.addr.IsValid())
}

func TestPacketConn_PanicOfAnAddressDropsOneDatagram(t *testing.T) {
	on, _ := testConfig(policy.On)
	off, _ := testConfig(policy.Off)
	for _, test := range []struct {
		config *Config
		good   string
	}{
		{on, headertest.Local() + "good"},
		{off, "good"},
		{nil, "good"},
	} {
		socket := &otherSocket{from: []net.Addr{&otherAddr{}, &otherAddr{"192.0.2.1:7"}}, says: []string{"bad", test.good}}
		c := newPacketConn(socket, true)
		c.config.Store(test.config)
		var p [10]byte
		n, addr, err := c.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, "good", string(p[:n]))
		assert.Equal(t, "192.0.2.1:7", addr.String())
		if test.config != nil {
			assert.EqualValues(t, 1, counted(test.config, test.config.Mode, "none", record.IO))
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
func TestPacketConn_PanicOfTheSocketsAddressDropsDatagrams(t *testing.T) {
	socket := &restlessSocket{otherSocket: otherSocket{from: []net.Addr{&otherAddr{"somewhere"}}, says: []string{"x"}}}
	c := newPacketConn(socket, true)
	socket.wrapped = true
	config, _ := testConfig(policy.Off)
	c.config.Store(config)
	_, _, err := c.ReadFrom(make([]byte, 10))
	require.ErrorIs(t, err, net.ErrClosed)
	assert.EqualValues(t, 1, counted(config, policy.Off, "none", record.IO))
}
