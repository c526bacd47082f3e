package request

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// Source returns a policy.Source that asks a module. The request that the module gets has the
// peer's address, and a server, a replacer and variables in its context, as Caddy's requests have.
func Source(module caddyhttp.IPRangeSource, server *caddyhttp.Server) policy.Source {
	return func(ctx context.Context, peer net.Addr) []netip.Prefix {
		ctx = context.WithValue(ctx, caddyhttp.ServerCtxKey, server)
		ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
		return module.GetIPRanges((&http.Request{
			Method:     http.MethodGet,
			URL:        new(url.URL),
			Header:     make(http.Header),
			RemoteAddr: peer.String(),
		}).WithContext(ctx))
	}
}
