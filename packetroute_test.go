package proxyprotocol

// How replies find their way back.

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

func TestRepliesFollowTheClientWithinItsPeer(t *testing.T) {
	for _, mode := range []Mode{On, Unspecified} {
		t.Run(mode.String(), func(t *testing.T) {
			rules, _ := packetRules(mode)
			c := wrappedSocket(t, "udp", "127.0.0.1:0", rules)
			before, after, elsewhere := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.3")
			_, kept := pass(t, before, c, "127.0.0.1", dgram(client4, server4)+"a")
			_, other := pass(t, before, c, "127.0.0.1", dgram(client6, server6)+"a")
			requireReply(t, c, kept, before)

			_, next := pass(t, after, c, "127.0.0.1", dgram(client4, server4)+"a")
			requireReply(t, c, kept, after)
			requireReply(t, c, next, after)
			requireReply(t, c, other, before) // another client

			_, _ = pass(t, elsewhere, c, "127.0.0.1", dgram(client4, server4)+"a")
			requireReply(t, c, kept, after) // another peer says the same

			_, again := pass(t, before, c, "127.0.0.1", dgram(client4, server4)+"a")
			requireReply(t, c, kept, before)
			requireReply(t, c, again, before)
		})
	}
}

func TestDroppedDatagramsMoveNoReplies(t *testing.T) {
	rules, _ := packetRules(On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", rules)
	before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	_, kept := pass(t, before, c, "127.0.0.1", dgram(client4, server4)+"a")
	header := dgram(client4, server4)
	flipped := []byte(header)
	flipped[16] ^= 1
	for _, bad := range []string{header, header + header, string(flipped) + "a", "a", v2(client4, server4) + "a"} {
		_, err := after.WriteTo([]byte(bad), c.LocalAddr())
		require.NoError(t, err)
	}
	_, _ = pass(t, after, c, "127.0.0.1", local()+"a")
	requireReply(t, c, kept, before)
}

// The address of a client that is its peer is an address with one way back.
func TestRepliesToThePeerItselfStay(t *testing.T) {
	rules, _ := packetRules(Unspecified)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", rules)
	for _, header := range []string{"", local()} {
		before, after := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
		_, kept := pass(t, before, c, "127.0.0.1", header+"a")
		_, _ = pass(t, after, c, "127.0.0.1", header+"a")
		requireReply(t, c, kept, before)
	}
}

func TestRepliesFollowOverAReload(t *testing.T) {
	before, _ := packetRules(On)
	after, _ := packetRules(On)
	c := wrappedSocket(t, "udp", "127.0.0.1:0", before)
	first, second := listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.2")
	_, kept := pass(t, first, c, "127.0.0.1", dgram(client4, server4)+"a")
	c.rules.Store(after)
	_, _ = pass(t, second, c, "127.0.0.1", dgram(client4, server4)+"a")
	requireReply(t, c, kept, second)
}

// A socket of all addresses is sent to at another one.
func TestRepliesComeFromWhereTheLastDatagramWasSentTo(t *testing.T) {
	rules, _ := packetRules(On)
	c, peer := wrappedSocket(t, "udp4", "0.0.0.0:0", rules), listenUDP(t, "127.0.0.2")
	_, kept := pass(t, peer, c, "127.0.0.1", dgram(client4, server4)+"a")
	_, _ = pass(t, peer, c, "127.0.0.7", dgram(client4, server4)+"a")
	_, err := c.WriteTo([]byte("x"), kept)
	require.NoError(t, err)
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(patience)))
	_, from, err := peer.ReadFromUDPAddrPort(make([]byte, 1))
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.7", from.Addr().Unmap().String())
}

func TestRoutesAreBoundedAndThoseInUseAreKept(t *testing.T) {
	key := func(i int) routeKey {
		return routeKey{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1), netip.MustParseAddr("127.0.0.2")}
	}
	used := routeKey{client4, netip.MustParseAddr("127.0.0.2")}
	r := new(routes)
	kept, lost := r.of(used, 0), r.of(key(1<<23), 0)
	require.Same(t, lost, r.of(key(1<<23), 0))
	for i := range 5 * routesKept {
		_ = r.of(key(i), 0)
		r.use(used, kept)
		require.LessOrEqual(t, len(r.young), routesKept)
		require.LessOrEqual(t, len(r.old), routesKept)
	}
	assert.Same(t, kept, r.of(used, 0))
	assert.NotSame(t, lost, r.of(key(1<<23), 0))

	_ = r.of(used, routeKept)
	_ = r.of(used, 2*routeKept)
	_ = r.of(used, 3*routeKept)
	assert.Len(t, r.young, 1, "those that are not in use are forgotten with time")
	assert.Len(t, r.old, 1)
}

// requestsAfterRestart returns how long a live connection waits for its next answer when the
// load balancer in between forgets all and goes on from other ports.
func requestsAfterRestart(t *testing.T, r *relay, client *h3Client) time.Duration {
	t.Helper()
	client.get("/")
	conn := client.conn()
	r.forget()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, _, err := client.try(ctx, http.MethodGet, "/", nil)
	require.NoError(t, err)
	took := time.Since(began)
	requireSame(t, client, conn)
	return took
}

func TestRestartOfTheLoadBalancerCostsWhatItCostsUnwrapped(t *testing.T) {
	wrapped, plain := freePort(t), freePort(t)
	at := func(port int) []string { return []string{fmt.Sprintf("127.0.0.1:%d", port)} }
	require.NoError(t, newCaddy(t).loadJSON(h3Apps(t, "",
		h3Server{name: "wrapped", listen: at(wrapped), packet: onPackets("127.0.0.2")},
		h3Server{name: "plain", listen: at(plain)},
	)))
	behind, beside := startRelay(t, "127.0.0.2", tcp4(wrapped), dgram(client4, server4)), startRelay(t, "127.0.0.2", tcp4(plain), "")
	for range 3 {
		took, unwrapped := requestsAfterRestart(t, behind, newH3Client(t, behind.address())), requestsAfterRestart(t, beside, newH3Client(t, beside.address()))
		t.Logf("wrapped %s, unwrapped %s", took, unwrapped)
		assert.Less(t, took, unwrapped+time.Second)
	}
}
