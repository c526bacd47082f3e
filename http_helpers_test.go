package proxyprotocol

// What the tests of placeholders, matchers and the site directive have in common.

import (
	"context"
	"crypto/tls"
	"flag"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// Requests without a Caddy

// newTestConn is a connection that began like this.
func newTestConn(mode Mode, beginning string) *conn {
	rules, _ := connRules(mode)
	c := connOf(connSays(beginning), rules)
	c.RemoteAddr() // judges it
	return c
}

// requestOn is a request on a connection, as Caddy prepares it.
func requestOn(c *conn) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	ctx := context.WithValue(r.Context(), http.LocalAddrContextKey, c.LocalAddr())
	r.RemoteAddr = c.RemoteAddr().String()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: host})
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{RemoteAddr: r.RemoteAddr})
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	return r.WithContext(ctx)
}

// placeholderOf is what the replacer of a request says of http.proxy_protocol with this
// behind it.
func placeholderOf(t testing.TB, r *http.Request, name string) (value any, known bool) {
	t.Helper()
	match, err := placeholders{}.MatchWithError(r)
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

// tlsState is that of a request with or without a complete handshake.
func tlsState(complete bool) *tls.ConnectionState {
	return &tls.ConnectionState{HandshakeComplete: complete}
}

// Golden files

var update = flag.Bool("update", false, "write the golden files in testdata instead of comparing with them")

// requireGolden compares with a file in testdata.
func requireGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run this test with -update")
	require.Equal(t, string(want), got, "if the change is meant, run this test with -update")
}

// matches is what a matcher says without an error.
func matches(t testing.TB, m caddyhttp.RequestMatcherWithError, r *http.Request) bool {
	t.Helper()
	match, err := m.MatchWithError(r)
	require.NoError(t, err)
	return match
}
