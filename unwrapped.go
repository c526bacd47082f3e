package proxyprotocol

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// This file is about servers without a wrapper of this module. The usual reason is global
// options `servers :8080 { }`: to a server with `bind` or `default_bind`, Caddy does not
// apply them, and says nothing. They leave no trace in the configuration, so only what
// needs the wrapper can notice.

// noWrapperError is the error of the directive on a server without a wrapper.
func noWrapperError(server *caddyhttp.Server) error {
	return fmt.Errorf(`server %s has no listener wrapper '%s', which proxy_protocol needs; add to the global options:

	servers {
		listener_wrappers {
			%s on
			tls
		}
	}

If you wrote 'servers <address>', the address must be exactly one that the server listens on: %s`,
		server.Name(), wrapperName, wrapperName, strings.Join(server.Listen, " or "))
}

// warnIfUnwrapped warns of a matcher that can match nothing.
func warnIfUnwrapped(ctx caddy.Context, matcher string) {
	servers := unwrappedServers(ctx)
	if len(servers) == 0 {
		return
	}
	var listen []string
	for _, server := range servers {
		listen = append(listen, server.Listen...)
	}
	slices.Sort(listen)
	ctx.Logger().Warn("'"+matcher+"' matches nothing on a server without the listener wrapper '"+wrapperName+"'; add it to the global options 'servers'; if you wrote 'servers <address>', the address must be exactly one that the server listens on",
		zap.Strings("listen", listen))
}

// unwrappedServers returns the servers one of which has the module that is being
// provisioned, if it is certain that none of them has a wrapper.
func unwrappedServers(ctx caddy.Context) []*caddyhttp.Server {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		if hasPlaceholders(server) {
			return nil
		}
		return []*caddyhttp.Server{server}
	}
	// Caddy provisions the matchers of a server's first routes before all else, and does
	// not tell whose they are.
	app := httpApp(ctx)
	if app == nil {
		return nil
	}
	var servers []*caddyhttp.Server
	for _, server := range app.Servers {
		if hasPlaceholders(server) || len(server.ListenerWrappersRaw) > 0 || len(server.PacketConnWrappersRaw) > 0 {
			return nil
		}
		servers = append(servers, server)
	}
	return servers
}
