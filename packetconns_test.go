package proxyprotocol

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// provisioned is a packet wrapper of a server that listens at these addresses.
func provisioned(t *testing.T, mode Mode, at ...netip.AddrPort) *PacketConnWrapper {
	rules, _ := connRules(mode)
	pw := &PacketConnWrapper{rules: rules, serverName: t.Name()}
	for _, at := range at {
		pw.listen = append(pw.listen, listenAddr{ips: []netip.Addr{at.Addr()}, min: uint(at.Port()), max: uint(at.Port())})
	}
	t.Cleanup(func() { assert.NoError(t, pw.Cleanup()) })
	return pw
}

func TestSocketIsUnderTheRulesOfTheLatestConfigurationThatRuns(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	first, second := provisioned(t, On, at), provisioned(t, Off, at)
	elsewhere := provisioned(t, Unspecified, netip.AddrPortFrom(at.Addr(), at.Port()+1), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port()))
	runs := func(pw *PacketConnWrapper) { require.NoError(t, startHandler{pw}.Handle(t.Context(), caddy.Event{})) }

	c := first.WrapPacketConn(udp).(udpPacketConn).packetConn
	rules := c.rules.Load()
	require.NotNil(t, rules, "before the configuration runs")
	require.Equal(t, On, rules.mode)
	runs(first)
	require.Same(t, rules, c.rules.Load(), "they are the same when it does")
	runs(elsewhere)
	require.Same(t, rules, c.rules.Load())

	runs(second)
	require.Equal(t, Off, c.rules.Load().mode)
	require.NoError(t, second.Cleanup())
	require.Same(t, rules, c.rules.Load(), "the reload failed")
	runs(second)
	require.NoError(t, first.Cleanup())
	require.Equal(t, Off, c.rules.Load().mode)
	runs(second)
	require.Len(t, c.adopted, 1)
	require.NoError(t, second.Cleanup())
	require.Nil(t, c.rules.Load(), "nobody wants it")
}

func TestSocketsAreKnownAsLongAsTheyAreUsed(t *testing.T) {
	pool := packetConnPool{conns: make(map[weak.Pointer[packetConn]]struct{})}
	pw := provisioned(t, On)
	known := func() int {
		pool.mu.Lock()
		defer pool.mu.Unlock()
		return len(pool.conns)
	}
	kept := newPacketConn(listenUDP(t, "127.0.0.1"), true).(udpPacketConn).packetConn
	pool.add(kept, pw)
	pool.add(newPacketConn(listenUDP(t, "127.0.0.1"), true).(udpPacketConn).packetConn, pw)
	eventually(t, func() bool { runtime.GC(); return known() == 1 }, "a socket is kept that nobody uses")

	// One may be gone already, and not yet forgotten.
	gone := weak.Make(new(packetConn))
	pool.conns[gone] = struct{}{}
	eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, "a socket is kept that nobody uses")
	var seen []*packetConn
	pool.each(func(c *packetConn) { seen = append(seen, c) })
	assert.Equal(t, []*packetConn{kept}, seen)
}
