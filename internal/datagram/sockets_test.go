package proxyprotocol

import (
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// provisioned is a packet wrapper of a server whose sockets have these keys.
func provisioned(t *testing.T, mode Mode, keys ...string) *PacketConnWrapper {
	rules, _ := packetRules(mode)
	pw := &PacketConnWrapper{config: rules, serverName: t.Name(), keys: make(socketKeys), unwrap: true}
	for _, key := range keys {
		pw.keys[key] = true
	}
	t.Cleanup(func() { assert.NoError(t, pw.Cleanup()) })
	return pw
}

// openedBy is a socket as Caddy opens it by a key on Unix systems.
type openedBy struct {
	net.PacketConn
	lnKey string
}

func (c openedBy) Unwrap() net.PacketConn { return c.PacketConn }

func TestSocketIsUnderTheRulesOfTheLatestConfigurationThatRuns(t *testing.T) {
	udp := caddytest.ListenUDP(t, "127.0.0.1")
	at := udp.LocalAddr().String()
	first, second := provisioned(t, On, "udp/"+at, "udp/:1"), provisioned(t, Off, "udp/"+at)
	elsewhere := provisioned(t, Unspecified, "udp4/"+at, "udp/:1", "udp6/"+at, "udp/"+at+"0", at, "")
	runs := func(pw *PacketConnWrapper) { require.NoError(t, startHandler{pw}.Handle(t.Context(), caddy.Event{})) }

	counted := func() (addresses []string) {
		listeners.each(func(key listenerKey, _ *stats, _ any) {
			if key.server == t.Name() {
				addresses = append(addresses, key.address)
			}
		})
		return addresses
	}

	c := first.WrapPacketConn(openedBy{udp, "udp/" + at}).(udpPacketConn).packetConn
	rules := c.config.Load()
	require.NotNil(t, rules, "before the configuration runs")
	require.Equal(t, On, rules.mode)
	require.Equal(t, []string{packetAddress + at}, counted())
	runs(first)
	require.Same(t, rules, c.config.Load(), "they are the same when it does")
	runs(elsewhere)
	require.Same(t, rules, c.config.Load())

	runs(second)
	require.Equal(t, Off, c.config.Load().mode)
	require.NoError(t, second.Cleanup())
	require.Same(t, rules, c.config.Load(), "the reload failed")
	runs(second)
	require.NoError(t, first.Cleanup())
	require.Equal(t, Off, c.config.Load().mode)
	runs(second)
	require.Len(t, c.adopted, 1)
	require.NoError(t, second.Cleanup())
	require.Nil(t, c.config.Load(), "nobody wants it")
	require.Empty(t, counted(), "nor what it counted")
}

func TestSocketsAreKnownUntilTheyAreClosed(t *testing.T) {
	pool := packetConnPool{conns: make(map[*packetConn]struct{})}
	pw := provisioned(t, On, "udp/:1", "udp/:2")
	open := func(key string) *packetConn {
		c := newPacketConn(caddytest.ListenUDP(t, "127.0.0.1"), true)
		c.key = key
		pool.add(c, socketsOf{pw})
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
	pool.release(socketsOf{pw})
	require.Equal(t, []*packetConn{second}, known(), "the next configuration may want it")

	third := open("udp/:2")
	require.Equal(t, []*packetConn{third}, known(), "Caddy opens a key again when the socket is closed")
	unknown := []*packetConn{open(""), open("")}
	require.ElementsMatch(t, append(unknown, third), known(), "they may be different ones")
	pool.release(socketsOf{provisioned(t, On)})
	require.ElementsMatch(t, append(unknown, third), known(), "another configuration ends")
	pool.release(socketsOf{pw})
	require.Equal(t, []*packetConn{third}, known())
}

// A socket that has a key goes to another configuration, whose server refuses what it must. One
// that has none stays as closed as it was.
func TestSocketOfNoConfigurationHasNoRulesUnlessItIsLost(t *testing.T) {
	for _, test := range []struct {
		key  string
		mode Mode
		kept bool
	}{
		{"udp/:1", On, false},
		{"udp/:1", Off, false},
		{"", On, true},
		{"", Off, false},
		{"", Unspecified, false},
	} {
		pool := packetConnPool{conns: make(map[*packetConn]struct{})}
		c, pw := newPacketConn(caddytest.ListenUDP(t, "127.0.0.1"), true), provisioned(t, test.mode)
		c.key = test.key
		pool.add(c, socketsOf{pw})
		require.NotNil(t, c.config.Load())
		pool.release(socketsOf{pw})
		assert.Equal(t, test.kept, c.config.Load() != nil, "'%s', %s", test.key, test.mode)
	}
}

func TestSocketThatCannotBeKnownAgainIsWarnedOf(t *testing.T) {
	for _, test := range []struct {
		name   string
		hidden bool
		keys   []string
		warned bool
	}{
		{"a hidden one of two", true, []string{"udp/:1", "udp/:2"}, true},
		{"the only one", true, []string{"udp/:1"}, false},
		{"of no server", true, nil, false},
		{"of Caddy", false, []string{"udp/:1", "udp/:2"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pw := provisioned(t, On, test.keys...)
			core, logs := observer.New(zap.WarnLevel)
			pw.logger = zap.New(core)
			udp := caddytest.ListenUDP(t, "127.0.0.1")
			var socket net.PacketConn = openedBy{udp, "udp/:1"}
			if test.hidden {
				socket = opaque{udp}
			}
			pw.WrapPacketConn(socket)
			if !test.warned {
				assert.Zero(t, logs.Len())
				return
			}
			require.Equal(t, 1, logs.Len())
			assert.Equal(t, map[string]any{"local": udp.LocalAddr().String()}, logs.All()[0].ContextMap())
		})
	}
}

// QUIC reads with deadlines, and goes on when one is over.
func TestReadThatSaysThatTheSocketIsClosedForgetsIt(t *testing.T) {
	wrapped := provisioned(t, On, "udp/:1").WrapPacketConn(openedBy{caddytest.ListenUDP(t, "127.0.0.1"), "udp/:1"}).(udpPacketConn)
	known := func() (found bool) {
		packetConns.each(func(c *packetConn) { found = found || c == wrapped.packetConn })
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

func TestSocketsAreKnownByTheKeysOfCaddy(t *testing.T) {
	policies := caddytls.ConnectionPolicies{{}}
	for _, test := range []struct {
		listen []string
		want   string
	}{
		{[]string{":443"}, "udp/:443"},
		{[]string{"0.0.0.0:443"}, "udp/0.0.0.0:443"},
		{[]string{"tcp4/0.0.0.0:443"}, "udp4/0.0.0.0:443"},
		{[]string{"tcp6/[::]:443"}, "udp6/[::]:443"},
		{[]string{"udp/[::]:443"}, "udp/[::]:443"},
		{[]string{"udp4/127.0.0.1:443"}, "udp4/127.0.0.1:443"},
		{[]string{"localhost:443"}, "udp/localhost:443"},
		{[]string{"127.0.0.1:0"}, "udp/127.0.0.1:0"},
		{[]string{"[fe80::1%lo]:443"}, "udp/[fe80::1%lo]:443"},
		{[]string{"[::ffff:127.0.0.1]:443"}, "udp/[::ffff:127.0.0.1]:443"},
		{[]string{"127.0.0.1:440-442", "[::1]:443"}, "udp/127.0.0.1:440 udp/127.0.0.1:441 udp/127.0.0.1:442 udp/[::1]:443"},
		{[]string{"unix//run/caddy.sock"}, ""},
		{[]string{"fdgram/3"}, "fdgram/3"},
		{[]string{"another/host:443"}, "another/host:443"},
	} {
		keys, err := socketKeysOf(&caddyhttp.Server{Listen: test.listen, Protocols: []string{"h1", "h3"}, TLSConnPolicies: policies})
		require.NoError(t, err)
		assert.ElementsMatch(t, strings.Fields(test.want), slices.Collect(maps.Keys(keys)))
	}
	keys, err := socketKeysOf(&caddyhttp.Server{Listen: []string{":1", ":2", ":3"}, Protocols: []string{"h1"}, ListenProtocols: [][]string{{"h1", "h3"}, nil, {"h2"}}, TLSConnPolicies: policies})
	require.NoError(t, err)
	assert.Equal(t, socketKeys{"udp/:1": true}, keys, "others have no socket for HTTP/3")
	keys, err = socketKeysOf(&caddyhttp.Server{Listen: []string{":1", ":2"}, Protocols: []string{"h1", "h3"}, ListenProtocols: [][]string{{"h1"}}, TLSConnPolicies: policies})
	require.NoError(t, err)
	assert.Equal(t, socketKeys{"udp/:2": true}, keys, "the last that has protocols of its own")
	keys, err = socketKeysOf(&caddyhttp.Server{Listen: []string{":1"}, TLSConnPolicies: policies})
	require.NoError(t, err)
	assert.Equal(t, socketKeys{"udp/:1": true}, keys, "all protocols")
	_, err = socketKeysOf(&caddyhttp.Server{Listen: []string{"127.0.0.1:port"}, TLSConnPolicies: policies})
	assert.ErrorContains(t, err, "port")
	keys, err = socketKeysOf(&caddyhttp.Server{Listen: []string{":443"}, Protocols: []string{"h1", "h3"}})
	require.NoError(t, err)
	assert.Empty(t, keys, "a server without TLS has no HTTP/3")
}

// opaque hides a socket.
type opaque struct{ net.PacketConn }

// shared is a socket as Caddy opens it by a key on other systems.
type sharedSocket struct {
	net.PacketConn
	key string
}

type fakeClose struct{ *sharedSocket }

func TestKeyOfASocketIsFoundOrNotGuessed(t *testing.T) {
	udp := caddytest.ListenUDP(t, "127.0.0.1")
	keys := socketKeys{"udp/:1": true, "udp/:2": true}
	for _, test := range []struct {
		name   string
		socket net.PacketConn
		want   string
	}{
		{"Caddy's", openedBy{udp, "udp/:2"}, "udp/:2"},
		{"Caddy's on Windows", &fakeClose{&sharedSocket{udp, "udp/:2"}}, "udp/:2"},
		{"below another", countingConn{openedBy{udp, "udp/:1"}}, "udp/:1"},
		{"below one with a field of its own", openedBy{openedBy{udp, "udp/:1"}, "something"}, "udp/:1"},
		{"another server's", openedBy{udp, "udp/:3"}, ""},
		{"hidden", opaque{openedBy{udp, "udp/:1"}}, ""},
		{"none", udp, ""},
		{"nil inside", &fakeClose{}, ""},
	} {
		assert.Equal(t, test.want, keys.of(test.socket), test.name)
	}
	assert.Equal(t, "udp/:1", socketKeys{"udp/:1": true}.of(opaque{udp}), "the only one")
	assert.Empty(t, socketKeys{}.of(openedBy{udp, "udp/:1"}))
}
