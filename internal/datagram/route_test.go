package datagram

// How replies get back to the client.

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// requireReply checks that a reply arrives at a peer.
func requireReply(t *testing.T, c *packetConn, to net.Addr, at *net.UDPConn) {
	t.Helper()
	text := fmt.Sprint("to ", at.LocalAddr(), time.Now())
	_, err := c.WriteTo([]byte(text), to)
	require.NoError(t, err)
	require.NoError(t, at.SetReadDeadline(time.Now().Add(patience)))
	var p [200]byte
	n, err := at.Read(p[:])
	require.NoError(t, err)
	require.Equal(t, text, string(p[:n]))
}

// ofConnection is what a datagram of an established QUIC connection looks like.
func ofConnection(id string) string { return "\x40" + id + "packet" }

func TestRoutes_FollowTheConnectionWithinItsPeer(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
		t.Run(mode.String(), func(t *testing.T) {
			config, _ := testConfig(mode)
			c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
			before, after, elsewhere := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.3")
			header, one := headertest.UDP(headertest.Client4, headertest.Server4), ofConnection("one\x00")
			_, kept := pass(t, before, c, "127.0.0.1", header+"\xc0 the first packets have long headers")
			_, _ = pass(t, before, c, "127.0.0.1", header+one)
			_, other := pass(t, before, c, "127.0.0.1", headertest.UDP(headertest.Client6, headertest.Server6)+ofConnection("one\x00"))
			requireReply(t, c, kept, before)

			_, next := pass(t, after, c, "127.0.0.1", header+one)
			requireReply(t, c, kept, after)
			requireReply(t, c, next, after)
			requireReply(t, c, other, before) // another client

			_, _ = pass(t, elsewhere, c, "127.0.0.1", header+one)
			requireReply(t, c, kept, after) // another peer says the same

			_, again := pass(t, before, c, "127.0.0.1", header+one)
			requireReply(t, c, kept, before)
			requireReply(t, c, again, before)
		})
	}
}

// A header may name several clients alike, as one with port 0 does of those behind a NAT.
func TestRoutes_OfConnectionsWithTheSameHeaderAreNotMixed(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	first, second, third := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(netip.AddrPortFrom(headertest.Client4.Addr(), 0), headertest.Server4)
	_, one := pass(t, first, c, "127.0.0.1", header+"\xc0initial")
	_, two := pass(t, second, c, "127.0.0.1", header+"\xc0initial")
	for range 3 {
		_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("one\x00"))
		_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("two\x00"))
		requireReply(t, c, one, first)
		requireReply(t, c, two, second)
	}
	_, _ = pass(t, third, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, one, third)
	requireReply(t, c, two, second)
	// The client changes the ID of its connection, which nothing on the wire says.
	_, _ = pass(t, third, c, "127.0.0.1", header+ofConnection("neo\x00"))
	_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("neo\x00"))
	requireReply(t, c, one, first)
	requireReply(t, c, two, second)
	// A connection that begins moves no other, and none moves to where one began.
	for _, payload := range []string{"\xc0initial", "a", "\x40abc", ofConnection("six\x00")} {
		_, six := pass(t, listenUDP(t, "127.0.0.2"), c, "127.0.0.1", header+"\xc0initial")
		require.NotNil(t, six)
		_, _ = pass(t, third, c, "127.0.0.1", header+payload)
		requireReply(t, c, one, first)
		requireReply(t, c, two, second)
	}
}

// A client changes the ID of its connection when it likes: quic-go's does after the handshake.
func TestRoutes_FollowAConnectionThatChangesItsIDWhileItMoves(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	_, kept := pass(t, before, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, before, c, "127.0.0.1", header+ofConnection("one\x00"))
	for i := range 3 {
		_, _ = pass(t, after, c, "127.0.0.1", header+ofConnection(fmt.Sprintf("new%d", i)))
		requireReply(t, c, kept, after)
	}
}

func TestRoutes_FollowAMarkedClientToAnotherPort(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	rebound := netip.AddrPortFrom(headertest.Client4.Addr(), headertest.Client4.Port()+1)
	_, kept := pass(t, before, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+ofConnection("one\x00"))
	_, next := pass(t, after, c, "127.0.0.1", headertest.UDP(rebound, headertest.Server4)+ofConnection("one\x00"))
	require.Equal(t, kept.String(), next.String())
	requireReply(t, c, kept, after)
}

// An address that another one took the place of in the cache leaves its route to the next.
func TestRoutes_FollowAnAddrThatIsNotCached(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	_, kept := pass(t, before, c, "127.0.0.1", header+"\xc0initial")
	clear(c.addrCache[:])
	_, again := pass(t, before, c, "127.0.0.1", header+ofConnection("one\x00"))
	require.NotSame(t, kept, again)
	require.Same(t, kept.path, again.path, "or their replies do not leave together")
	clear(c.addrCache[:])
	_, _ = pass(t, after, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, kept, after)
	requireReply(t, c, again, after)
	clear(c.addrCache[:])
	_, _ = pass(t, before, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, kept, before)
}

func TestRoutes_IDOfAConnectionIsInShortHeaders(t *testing.T) {
	for payload, want := range map[string]string{
		"":                  "",
		"\x40abc":           "",
		"\x40abcd":          "abcd",
		"\x40abcdpacket":    "abcd",
		"\xc0abcdhandshake": "",
	} {
		id, ok := connectionOf([]byte(payload))
		assert.Equal(t, want != "", ok, "%q", payload)
		if ok {
			assert.Equal(t, want, string(id[:]))
		}
	}
}

func TestRoutes_DroppedDatagramsMoveNoReplies(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	_, kept := pass(t, before, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+ofConnection("one\x00"))
	header, one := headertest.UDP(headertest.Client4, headertest.Server4), ofConnection("one\x00")
	flipped := []byte(header)
	flipped[16] ^= 1
	for _, bad := range []string{header, header + header, header + header + one, string(flipped) + one, one, headertest.V2(headertest.Client4, headertest.Server4) + one} {
		_, err := after.WriteTo([]byte(bad), c.LocalAddr())
		require.NoError(t, err)
	}
	_, _ = pass(t, after, c, "127.0.0.1", headertest.Local()+one)
	requireReply(t, c, kept, before)
}

// The address of a client that is its peer is an address with one way back.
func TestRoutes_RepliesToThePeerItselfStay(t *testing.T) {
	for _, header := range []string{"", headertest.Local()} {
		for _, payload := range []string{"a", ofConnection("one\x00")} {
			config, _ := testConfig(policy.Unspecified)
			c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
			before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
			_, kept := pass(t, before, c, "127.0.0.1", header+payload)
			_, _ = pass(t, after, c, "127.0.0.1", header+payload)
			requireReply(t, c, kept, before)
		}
	}
}

// Nothing tells whether two addresses of another module's socket are of one peer, unless they
// are IP addresses. Then a reply has the address of the last datagram as the socket gave it.
func TestRoutes_RepliesThroughOtherSocketsHaveTheirAddresses(t *testing.T) {
	for _, test := range []struct {
		name, first, second string
		stays               bool
	}{
		{"two addresses", "somewhere", "elsewhere", true},
		{"two IP addresses", "192.0.2.1:7", "192.0.2.2:7", true},
		{"two ports", "192.0.2.1:7", "192.0.2.1:8", false},
		{"an IP address twice", "192.0.2.1:7", "192.0.2.1:7", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			says := headertest.UDP(headertest.Client4, headertest.Server4) + ofConnection("one\x00")
			first, second := &otherAddr{test.first}, &otherAddr{test.second}
			socket := &otherSocket{from: []net.Addr{first, second}, says: []string{says, says}}
			c := newPacketConn(socket, true)
			config, _ := testConfig(policy.Unspecified)
			c.config.Store(config)
			var clients []net.Addr
			for range 2 {
				_, client, err := c.ReadFrom(make([]byte, 100))
				require.NoError(t, err)
				_, err = c.WriteTo([]byte("reply"), client)
				require.NoError(t, err)
				clients = append(clients, client)
			}
			assert.Same(t, first, socket.replies[0])
			assert.Same(t, second, socket.replies[1])
			_, err := c.WriteTo([]byte("reply"), clients[0])
			require.NoError(t, err)
			if test.stays {
				assert.Same(t, first, socket.replies[2])
			} else {
				assert.Same(t, second, socket.replies[2])
			}
		})
	}
}

// A client has another connection through a port where none began, and the last that began is
// the likeliest to have moved there.
func TestRoutes_UnknownConnectionIsTheLastThatBegan(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	first, second, third := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	_, one := pass(t, first, c, "127.0.0.1", header+"\xc0initial")
	_, two := pass(t, second, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, first, c, "127.0.0.1", header+"\xc0handshake")
	_, _ = pass(t, third, c, "127.0.0.1", header+ofConnection("new\x00"))
	requireReply(t, c, one, first)
	requireReply(t, c, two, third)
}

// A port where a connection began is its own, whatever ID it has when it comes back there, and
// however long that takes.
func TestRoutes_ConnectionIsKnownByThePortWhereItBegan(t *testing.T) {
	for _, test := range []struct {
		name      string
		meanwhile func(c *packetConn, datagram func(from int, payload string))
	}{
		{"it was elsewhere", func(_ *packetConn, datagram func(int, string)) {
			datagram(2, ofConnection("one\x00"))
		}},
		{"turns of the table are over", func(c *packetConn, datagram func(int, string)) {
			for range 3 {
				c.readMu.Lock()
				c.routes.next()
				c.readMu.Unlock()
				datagram(0, ofConnection("one\x00"))
				datagram(1, ofConnection("two\x00"))
			}
			clear(c.addrCache[:])
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
			peers := []*net.UDPConn{listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")}
			header := headertest.UDP(headertest.Client4, headertest.Server4)
			_, one := pass(t, peers[0], c, "127.0.0.1", header+"\xc0initial")
			_, two := pass(t, peers[1], c, "127.0.0.1", header+"\xc0initial")
			datagram := func(from int, payload string) { pass(t, peers[from], c, "127.0.0.1", header+payload) }
			datagram(0, ofConnection("one\x00"))
			datagram(1, ofConnection("two\x00"))
			test.meanwhile(c, datagram)
			datagram(0, ofConnection("new\x00"))
			requireReply(t, c, one, peers[0])
			requireReply(t, c, two, peers[1])
		})
	}
}

// A connection that has moved to where another one began is itself, even if the table forgets
// both.
func TestRoutes_ConnectionIsNotTheOneThatBeganWhereItMoved(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	first, second, third := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	_, one := pass(t, first, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("one\x00"))
	_, two := pass(t, second, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, one, second)
	for range 2 {
		c.readMu.Lock()
		c.routes.next()
		c.readMu.Unlock()
	}
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00"))
	_, _ = pass(t, third, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, one, third)
	requireReply(t, c, two, second)
}

func TestRoutes_FollowOverAReload(t *testing.T) {
	before, _ := testConfig(policy.On)
	after, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", before)
	first, second := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	_, kept := pass(t, first, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+ofConnection("one\x00"))
	c.config.Store(after)
	_, _ = pass(t, second, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+ofConnection("one\x00"))
	requireReply(t, c, kept, second)
}

// A socket of all addresses is sent to at another one.
func TestRoutes_RepliesComeFromWhereTheLastDatagramWasSentTo(t *testing.T) {
	config, _ := testConfig(policy.On)
	c, peer := wrappedSocket(t, "udp4", "0.0.0.0:0", config), listenUDP(t, "127.0.0.2")
	_, kept := pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	_, _ = pass(t, peer, c, "127.0.0.7", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	_, err := c.WriteTo([]byte("x"), kept)
	require.NoError(t, err)
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(patience)))
	_, from, err := peer.ReadFromUDPAddrPort(make([]byte, 1))
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.7", from.Addr().Unmap().String())
}

func TestRoutes_AreBoundedAndThoseInUseAreKept(t *testing.T) {
	key := func(i int) routeKey {
		return routeKey{headertest.Client4, netip.MustParseAddrPort("127.0.0.2:0"), connectionID{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}}
	}
	full := new(routes)
	for i := range routesKept {
		full.keep(key(i), new(route))
	}
	require.Len(t, full.young, routesKept)
	require.Empty(t, full.old)

	used := routeKey{client: headertest.Client4, peer: netip.MustParseAddrPort("127.0.0.2:1")}
	r := new(routes)
	kept, lost := r.keep(used, new(route)), r.keep(key(-1), new(route))
	require.Same(t, lost, r.keep(key(-1), new(route)))
	for i := range 5 * routesKept {
		_ = r.keep(key(i), new(route))
		require.Same(t, kept, r.keep(used, new(route)))
		require.LessOrEqual(t, len(r.young), routesKept)
		require.LessOrEqual(t, len(r.old), routesKept)
	}
	assert.NotSame(t, lost, r.keep(key(-1), new(route)))

	for i := range time.Duration(3) {
		turn := r.turn
		r.age(monotime.Time((i + 1) * routeKept))
		require.Equal(t, turn+1, r.turn)
		r.age(monotime.Time((i+2)*routeKept - 1)) // not yet
		require.Equal(t, turn+1, r.turn)
		require.Same(t, kept, r.keep(used, new(route)))
	}
	assert.Len(t, r.young, 1, "those that are not in use are forgotten with time")
	assert.Len(t, r.old, 1)
}

// An address that is new looks whether a turn of the table is over.
func TestRoutes_GetOldWhileClientsCome(t *testing.T) {
	config, _ := testConfig(policy.On)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.2")
	pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	c.routes.turnedAt = monotime.Now().Add(-routeKept)
	turn := c.routes.turn
	pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	assert.Equal(t, turn, c.routes.turn)
	pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client6, headertest.Server6)+"a")
	assert.Equal(t, turn+1, c.routes.turn)
	pass(t, peer, c, "127.0.0.1", headertest.UDP(netip.AddrPortFrom(headertest.Client4.Addr(), 7), headertest.Server4)+"a")
	assert.Equal(t, turn+1, c.routes.turn)
}

// quic-go's client changes its connection ID every 5,000 to 15,000 packets.
func TestRoutes_FollowAConnectionThatChangesItsIDBetweenMoves(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	first, second, third := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	_, kept := pass(t, first, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("one\x00"))
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00")) // a restart
	requireReply(t, c, kept, second)
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("two\x00")) // the same connection
	requireReply(t, c, kept, second)
	_, _ = pass(t, third, c, "127.0.0.1", header+ofConnection("two\x00")) // a restart
	requireReply(t, c, kept, third)
}

// A load balancer that writes port 0 uses a port again that a live connection has left.
func TestRoutes_OfAPortThatIsUsedAgainAreNotMixed(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	first, second := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header := headertest.UDP(netip.AddrPortFrom(headertest.Client4.Addr(), 0), headertest.Server4)
	_, one := pass(t, first, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("one\x00"))
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00")) // forgotten, and on through another port
	requireReply(t, c, one, second)
	_, two := pass(t, first, c, "127.0.0.1", header+"\xc0initial") // another client of the same NAT
	requireReply(t, c, two, first)
	requireReply(t, c, one, second)
	for i := range 4 {
		if i%2 == 0 {
			clear(c.addrCache[:]) // or their ways are known by their addresses
		}
		_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("two\x00"))
		requireReply(t, c, one, second)
		_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00"))
		requireReply(t, c, two, first)
		requireReply(t, c, one, second)
	}
}

// One client of the load balancer invents connection IDs.
func TestRoutes_SurviveAFloodOfConnectionIDs(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
	first, second, third, flood := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	header, attacker := headertest.UDP(headertest.Client4, headertest.Server4), headertest.UDP(netip.MustParseAddrPort("203.0.113.99:1"), headertest.Server4)
	_, kept := pass(t, first, c, "127.0.0.1", header+"\xc0initial")
	_, _ = pass(t, first, c, "127.0.0.1", header+ofConnection("one\x00"))
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, kept, second)
	_, evil := pass(t, flood, c, "127.0.0.1", attacker+"\xc0initial")
	for i := range 2*routesKept + 10 { // what ReadFrom does with such datagrams
		c.readMu.Lock()
		c.follow(evil, []byte(ofConnection(string([]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}))))
		c.readMu.Unlock()
	}
	_, _ = pass(t, second, c, "127.0.0.1", header+ofConnection("one\x00")) // it is alive all the time
	_, _ = pass(t, third, c, "127.0.0.1", header+ofConnection("one\x00"))
	requireReply(t, c, kept, third)
}

// The interface through which a datagram came is the choice of a sender who forges its source.
func TestRoutes_RepliesAreNotBoundToADatagramsInterface(t *testing.T) {
	config, _ := testConfig(policy.On)
	c := wrappedSocket(t, "udp4", "0.0.0.0:0", config)
	_, reply := c.parseOOB((&ipv4.ControlMessage{Dst: net.IPv4(10, 1, 0, 1), Src: net.IPv4(10, 1, 0, 1), IfIndex: 5}).Marshal())
	var m ipv4.ControlMessage
	require.NoError(t, m.Parse(reply))
	assert.Zero(t, m.IfIndex)

	// Without it the kernel does not know where a link-local address is.
	_, reply = c.parseOOB((&ipv6.ControlMessage{Src: net.ParseIP("fe80::1"), IfIndex: 5}).Marshal())
	var m6 ipv6.ControlMessage
	require.NoError(t, m6.Parse(reply))
	assert.Equal(t, 5, m6.IfIndex)
}
