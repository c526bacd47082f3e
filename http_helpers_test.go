package proxyprotocol_test

// What the tests of placeholders, matchers and the site directive have in common.

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// newTestConn returns a connection that began like this, as a listener wrapper of this mode
// accepts it. The header has been read.
func newTestConn(t testing.TB, mode proxyprotocol.Mode, beginning string) net.Conn {
	t.Helper()
	running := caddy.ActiveContext() // logs where the test looks, if a Caddy runs
	if running.Context == nil {
		running.Context = context.Background()
	}
	ctx, cancel := caddy.NewContext(running)
	wrapper := &proxyprotocol.ListenerWrapper{Mode: mode}
	require.NoError(t, wrapper.Provision(ctx))
	c, err := wrapper.WrapListener(memoryListener{memoryConn{strings.NewReader(beginning)}}).Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		require.NoError(t, wrapper.Cleanup())
		cancel()
	})
	c.RemoteAddr()
	return c
}

// memoryListener accepts a connection from memory, as often as it is asked.
type memoryListener struct{ memoryConn }

func (l memoryListener) Accept() (net.Conn, error) { return l.memoryConn, nil }
func (l memoryListener) Addr() net.Addr            { return l.LocalAddr() }

// memoryConn is the end of a connection at which a text arrives.
type memoryConn struct{ io.Reader }

func (memoryConn) Write(p []byte) (int, error)      { return len(p), nil }
func (memoryConn) Close() error                     { return nil }
func (memoryConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711} }
func (memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443} }
func (memoryConn) SetDeadline(time.Time) error      { return nil }
func (memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (memoryConn) SetWriteDeadline(time.Time) error { return nil }

// wrappedServer is a server with the listener wrapper and nothing else.
var wrappedServer = sync.OnceValue(func() *caddyhttp.Server {
	server := new(caddyhttp.Server)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.WithValue(context.Background(), caddyhttp.ServerCtxKey, server)})
	defer cancel()
	caddytest.Must(new(proxyprotocol.ListenerWrapper).Provision(ctx))
	return server
})

// placeholderOf returns the value of http.proxy_protocol, with this behind it, in a request to
// a server with the listener wrapper.
func placeholderOf(t testing.TB, r *http.Request, name string) (value any, known bool) {
	t.Helper()
	match, err := wrappedServer().Routes[0].MatcherSets.AnyMatchWithError(r)
	require.NoError(t, err)
	require.False(t, match)
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Get("http.proxy_protocol" + name)
}

// withoutLocalAddr is the context of a request whose connection nothing is known of.
type withoutLocalAddr struct{ context.Context }

func (c withoutLocalAddr) Value(key any) any {
	if key == http.LocalAddrContextKey {
		return nil
	}
	return c.Context.Value(key)
}
