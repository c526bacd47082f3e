package request

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// WrapperName is the name of the listener wrapper and of the packet conn wrapper.
const WrapperName = "proxy_protocol_mode"

// NoWrapperError returns the error of the directive on a server without a wrapper. The usual
// reason is that the global options 'servers <address>' match no server: Caddy then ignores them
// without a warning.
func NoWrapperError(server *caddyhttp.Server) error {
	return fmt.Errorf(`server %s has no listener wrapper '%s', which proxy_protocol needs; add to the global options:

	servers {
		listener_wrappers {
			%s on
			tls
		}
	}

If you wrote 'servers <address>', the address must be exactly one that the server listens on: %s`,
		server.Name(), WrapperName, WrapperName, strings.Join(server.Listen, " or "))
}

// WarnIfUnwrapped warns of a matcher on a server without the listener wrapper, where it can match
// nothing.
func WarnIfUnwrapped(ctx caddy.Context, matcher string) {
	servers := serversWithoutWrapper(ctx)
	if len(servers) == 0 {
		return
	}
	var listen []string
	for _, server := range servers {
		listen = append(listen, server.Listen...)
	}
	slices.Sort(listen)
	ctx.Logger().Warn("'"+matcher+"' matches nothing on a server without the listener wrapper '"+WrapperName+"'; add it to the global options 'servers'; if you wrote 'servers <address>', the address must be exactly one that the server listens on",
		zap.Strings("listen", listen))
}

// serversWithoutWrapper returns the servers one of which has the module that is being
// provisioned, if it is certain that none of them has a wrapper.
func serversWithoutWrapper(ctx caddy.Context) []*caddyhttp.Server {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		if Installed(server) {
			return nil
		}
		return []*caddyhttp.Server{server}
	}
	// Caddy provisions the matchers of a server's first routes before all else, and does
	// not tell whose they are.
	app := HTTPApp(ctx)
	if app == nil {
		return nil
	}
	var servers []*caddyhttp.Server
	for _, server := range app.Servers {
		if Installed(server) || len(server.ListenerWrappersRaw) > 0 || len(server.PacketConnWrappersRaw) > 0 {
			return nil
		}
		servers = append(servers, server)
	}
	return servers
}

// HTTPApp returns the HTTP app that is being provisioned, or nil if there is none.
func HTTPApp(ctx caddy.Context) *caddyhttp.App {
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return nil
	}
	http, _ := app.(*caddyhttp.App)
	return http
}
