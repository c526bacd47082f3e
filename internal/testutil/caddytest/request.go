package caddytest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// RequestOn returns a request on a connection, with the context that Caddy gives requests.
func RequestOn(c net.Conn) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	ctx := context.WithValue(r.Context(), http.LocalAddrContextKey, c.LocalAddr())
	r.RemoteAddr = c.RemoteAddr().String()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: host})
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{RemoteAddr: r.RemoteAddr})
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	return r.WithContext(ctx)
}

// Matches reports whether a matcher matches a request. The test fails if the matcher returns an
// error.
func Matches(t testing.TB, m caddyhttp.RequestMatcherWithError, r *http.Request) bool {
	t.Helper()
	match, err := m.MatchWithError(r)
	require.NoError(t, err)
	return match
}
