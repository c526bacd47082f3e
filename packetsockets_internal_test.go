package proxyprotocol

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/datagramtest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// An address that came under a configuration does not keep it.
func TestSockets_ForgetConfigurationsThatAreGone(t *testing.T) {
	port := caddytest.FreePort(t)
	options := func(i int) string {
		return caddytest.SoonIdle(caddytest.Packets("", fmt.Sprintf("on {\nmax_header_size %dB\n}", 1000+i)))
	}
	c := caddytest.Start(t, options(0), caddytest.HTTP3Site(t, port, ""))
	const reloads = 10
	gone := make(chan int, reloads)
	for i := range reloads {
		relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(netip.AddrPortFrom(headertest.Client4.Addr(), uint16(i+1)), headertest.Server4))
		client := caddytest.NewHTTP3Client(t, relay.Address())
		client.Get("/")
		client.HTTP.Close()
		record.Listeners.Each(func(key record.Key, _ *record.Stats, user any) {
			if key.Address == fmt.Sprintf("%s127.0.0.1:%d", record.DatagramPrefix, port) {
				// The configs of all its sockets share the log.
				runtime.AddCleanup(user.(*PacketConnWrapper).config.Log, func(i int) { gone <- i }, i)
			}
		})
		require.NoError(t, c.Load(options(i+1), caddytest.HTTP3Site(t, port, "")))
	}
	caddytest.Eventually(t, func() bool {
		runtime.GC()
		return len(gone) >= reloads-1
	}, "old configurations are kept")
}

// provisioned is a packet wrapper of a server whose sockets have these keys.
func provisioned(t *testing.T, mode policy.Mode, keys ...string) *PacketConnWrapper {
	pw := &PacketConnWrapper{config: datagramtest.Config(mode), serverName: t.Name(), keys: make(request.SocketKeys), unwrap: true}
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

// The stats of a socket are in use by the wrappers that have a say in its datagrams. The last of
// them is the one in force.
func TestPacketConnWrapper_HasTheSocketsOfItsKeysWhileItRuns(t *testing.T) {
	udp := caddytest.ListenUDP(t, "127.0.0.1")
	at := udp.LocalAddr().String()
	first, second := provisioned(t, policy.On, "udp/"+at, "udp/:1"), provisioned(t, policy.Off, "udp/"+at)
	elsewhere := provisioned(t, policy.Unspecified, "udp4/"+at, "udp/:1", "udp6/"+at, "udp/"+at+"0", at, "")
	runs := func(pw *PacketConnWrapper) {
		require.NoError(t, startHandler{pw: pw}.Handle(t.Context(), caddy.Event{}))
	}
	requireInForce := func(want any, message string) {
		t.Helper()
		var addresses []string
		record.Listeners.Each(func(key record.Key, _ *record.Stats, user any) {
			if key.Server == t.Name() {
				addresses = append(addresses, key.Address)
				require.Same(t, want, user, message)
			}
		})
		if want == nil {
			require.Empty(t, addresses, message)
			return
		}
		require.Equal(t, []string{record.DatagramPrefix + at}, addresses, message)
	}

	first.WrapPacketConn(openedBy{udp, "udp/" + at})
	requireInForce(first, "before the configuration runs")
	runs(first)
	requireInForce(first, "when it does")
	runs(elsewhere)
	requireInForce(first, "the socket is not one of the other")

	runs(second)
	requireInForce(second, "after the reload")
	require.NoError(t, second.Cleanup())
	requireInForce(first, "the reload failed")
	runs(second)
	require.NoError(t, first.Cleanup())
	requireInForce(second, "the reload succeeded")
	runs(second)
	require.NoError(t, second.Cleanup())
	requireInForce(nil, "no configuration has it")
}

func TestPacketConnWrapper_WarnsOfASocketItCannotKnowAgain(t *testing.T) {
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
			pw := provisioned(t, policy.On, test.keys...)
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

// opaque hides a socket.
type opaque struct{ net.PacketConn }
