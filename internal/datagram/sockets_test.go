package datagram

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// testOwner is an Owner of sockets with these keys.
type testOwner struct {
	mode policy.Mode
	keys []string
}

func (o *testOwner) Owns(key string) bool { return slices.Contains(o.keys, key) }

// ConfigOf returns another config for each claim.
func (o *testOwner) ConfigOf(netip.AddrPort) *Config {
	config, _ := testConfig(o.mode)
	return config
}

func TestSockets_AreUnderTheConfigOfTheLatestOwnerThatRuns(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	at := udp.LocalAddr().String()
	first, second := &testOwner{policy.On, []string{"udp/" + at, "udp/:1"}}, &testOwner{policy.Off, []string{"udp/" + at}}
	elsewhere := &testOwner{policy.Unspecified, []string{"udp4/" + at, "udp/:1", "udp6/" + at, "udp/" + at + "0", at, ""}}
	t.Cleanup(func() { Sockets.Release(elsewhere) })
	c := Sockets.Wrap(udp, "udp/"+at, true, first).(udpPacketConn).packetConn
	config := c.config.Load()
	require.NotNil(t, config, "before the configuration runs")
	require.Equal(t, policy.On, config.Mode)
	Sockets.Claim(first)
	require.Same(t, config, c.config.Load(), "they are the same when it does")
	Sockets.Claim(elsewhere)
	require.Same(t, config, c.config.Load())

	Sockets.Claim(second)
	require.Equal(t, policy.Off, c.config.Load().Mode)
	Sockets.Release(second)
	require.Same(t, config, c.config.Load(), "the reload failed")
	Sockets.Claim(second)
	Sockets.Release(first)
	require.Equal(t, policy.Off, c.config.Load().Mode)
	Sockets.Claim(second)
	require.Len(t, c.claims, 1)
	Sockets.Release(second)
	require.Nil(t, c.config.Load(), "no configuration claims it")
}

func TestSockets_AreKnownUntilTheyAreClosed(t *testing.T) {
	pool := sockets{conns: make(map[*packetConn]struct{})}
	owner := &testOwner{policy.On, []string{"udp/:1", "udp/:2"}}
	open := func(key string) *packetConn {
		c := newPacketConn(listenUDP(t, "127.0.0.1"), true)
		c.key = key
		pool.add(c, owner)
		return c
	}
	known := func() (conns []*packetConn) {
		pool.each(func(c *packetConn) { conns = append(conns, c) })
		return conns
	}
	first, second := open("udp/:1"), open("udp/:2")
	require.ElementsMatch(t, []*packetConn{first, second}, known())
	pool.forget(first)
	require.Equal(t, []*packetConn{second}, known())
	pool.Release(owner)
	require.Equal(t, []*packetConn{second}, known(), "the next configuration may want it")

	third := open("udp/:2")
	require.Equal(t, []*packetConn{third}, known(), "Caddy opens a key again when the socket is closed")
	unknown := []*packetConn{open(""), open("")}
	require.ElementsMatch(t, append(unknown, third), known(), "they may be different ones")
	pool.Release(&testOwner{mode: policy.On})
	require.ElementsMatch(t, append(unknown, third), known(), "another configuration ends")
	pool.Release(owner)
	require.Equal(t, []*packetConn{third}, known())
}

// A socket that has a key goes to another configuration, whose server refuses what it must. One
// that has none stays as closed as it was.
func TestSockets_WithoutOwnerHaveNoConfigUnlessTheyAreLost(t *testing.T) {
	for _, test := range []struct {
		key  string
		mode policy.Mode
		kept bool
	}{
		{"udp/:1", policy.On, false},
		{"udp/:1", policy.Off, false},
		{"", policy.On, true},
		{"", policy.Off, false},
		{"", policy.Unspecified, false},
	} {
		pool := sockets{conns: make(map[*packetConn]struct{})}
		c, owner := newPacketConn(listenUDP(t, "127.0.0.1"), true), &testOwner{mode: test.mode}
		c.key = test.key
		pool.add(c, owner)
		require.NotNil(t, c.config.Load())
		pool.Release(owner)
		assert.Equal(t, test.kept, c.config.Load() != nil, "'%s', %s", test.key, test.mode)
	}
}

// QUIC reads with deadlines, and goes on when one is over.
func TestSockets_ForgetASocketWhenAReadSaysThatItIsClosed(t *testing.T) {
	wrapped := Sockets.Wrap(listenUDP(t, "127.0.0.1"), "udp/:1", true, &testOwner{mode: policy.On}).(udpPacketConn)
	known := func() (found bool) {
		Sockets.each(func(c *packetConn) { found = found || c == wrapped.packetConn })
		return found
	}
	require.NoError(t, wrapped.SetReadDeadline(time.Unix(1, 0)))
	_, _, err := wrapped.ReadFrom(nil)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.True(t, known())
	require.NoError(t, wrapped.Close())
	_, _, err = wrapped.ReadFrom(nil)
	require.ErrorIs(t, err, net.ErrClosed)
	assert.False(t, known())
}
