package request

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// ServerOf returns the server that a wrapper is configured on, its name, and a logger with that name.
// It returns nil and no name for a wrapper outside of the HTTP app.
func ServerOf(ctx caddy.Context) (server *caddyhttp.Server, name string, logger *zap.Logger) {
	server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return nil, "", ctx.Logger()
	}
	name = server.Name()
	return server, name, ctx.Logger().With(zap.String("server_name", name))
}
