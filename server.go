package proxyprotocol

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// The names of listener wrappers that matter to each other.
const (
	wrapperName         = "proxy_protocol_mode"
	builtinWrapperName  = "proxy_protocol"
	redirectWrapperName = "http_redirect"
	tlsWrapperName      = "tls"
)

// redirectServer is the key of the server that automatic HTTPS adds for its redirects.
const redirectServer = "remaining_auto_https_redirects"

// prepareServer refuses a server on which the wrapper could not work, and closes its ways
// around the wrapper.
func (lw *ListenerWrapper) prepareServer(ctx caddy.Context, server *caddyhttp.Server, logger *zap.Logger) error {
	if err := checkOrder(server); err != nil {
		return fmt.Errorf("server %s: %w", server.Name(), err)
	}
	installPlaceholders(server)
	if lw.rules.uses(On) && lw.HTTP3 != allowed {
		if err := lw.closeHTTP3(server, logger); err != nil {
			return fmt.Errorf("server %s: %w", server.Name(), err)
		}
	}
	if lw.rules.uses(On) || lw.rules.uses(Unspecified) {
		warnOfRedirects(ctx, logger)
	}
	lw.warnOfNegations(server, logger)
	return nil
}

// checkOrder checks the listener wrappers of the server.
func checkOrder(server *caddyhttp.Server) error {
	names, err := wrapperNames(server.ListenerWrappersRaw)
	if err != nil {
		return err
	}
	const inOrder = `write:

	listener_wrappers {
		proxy_protocol_mode on
		tls
	}`
	own, tls := slices.Index(names, wrapperName), slices.Index(names, tlsWrapperName)
	switch {
	case own < 0:
		return nil // another module made the wrapper
	case slices.Contains(names[own+1:], wrapperName):
		return fmt.Errorf("duplicate listener wrapper '%s': a connection has only one header: keep one wrapper and %s", wrapperName, inOrder)
	case slices.Contains(names, builtinWrapperName):
		return fmt.Errorf("listener wrapper '%s' cannot be combined with Caddy's own '%s', because a connection has only one header: remove '%s' and %s", wrapperName, builtinWrapperName, builtinWrapperName, inOrder)
	case slices.Contains(names[:own], redirectWrapperName):
		return fmt.Errorf("listener wrapper '%s' must come before '%s', which would otherwise answer before the header is checked; write:\n\n\tlistener_wrappers {\n\t\t%s on\n\t\t%s\n\t\ttls\n\t}", wrapperName, redirectWrapperName, wrapperName, redirectWrapperName)
	case len(server.TLSConnPolicies) > 0 && (tls < 0 || tls < own):
		return fmt.Errorf("listener wrapper '%s' must come before '%s', because the header comes before the TLS handshake: %s", wrapperName, tlsWrapperName, inOrder)
	default:
		return nil
	}
}

// closeHTTP3 takes HTTP/3 from the server if it would be a way around the wrapper.
func (lw *ListenerWrapper) closeHTTP3(server *caddyhttp.Server, logger *zap.Logger) error {
	pw, err := packetWrapperOf(server)
	if err != nil {
		return err
	}
	why, err := lw.wayAround(pw)
	if err != nil || why == "" {
		return err
	}
	return disableHTTP3(server, why, logger)
}

// disableHTTP3 takes HTTP/3 from the server.
func disableHTTP3(server *caddyhttp.Server, why string, logger *zap.Logger) error {
	// Slices are replaced, never changed: servers share those they have by default.
	var had bool
	without := func(protocols []string) []string {
		if !slices.Contains(protocols, "h3") {
			return protocols
		}
		had = true
		return slices.DeleteFunc(slices.Clone(protocols), func(p string) bool { return p == "h3" })
	}
	protocols := without(server.Protocols)
	// Listeners without protocols of their own have the server's.
	inherits := server.ListenProtocols == nil
	lost := false
	var listenProtocols [][]string
	for _, of := range server.ListenProtocols {
		rest := without(of)
		inherits = inherits || of == nil
		lost = lost || of != nil && len(rest) == 0
		listenProtocols = append(listenProtocols, rest)
	}
	if lost || inherits && len(protocols) == 0 {
		return fmt.Errorf("no protocol is left, because HTTP/3 is disabled where a PROXY protocol header is mandatory; write:\n\n\tprotocols h1 h2\n\nor, to serve HTTP/3 to every host that can reach the port, in %s:\n\n\thttp3 allow", wrapperName)
	}
	if len(protocols) == 0 {
		protocols = []string{"h1"} // not used by any listener; none would mean all
	}
	server.Protocols, server.ListenProtocols = protocols, listenProtocols
	if had && len(server.TLSConnPolicies) > 0 {
		logger.Warn("HTTP/3 is disabled: " + why + ", so HTTP/3 would bypass mode 'on'; to keep it anyway, add 'http3 allow' to 'proxy_protocol_mode'")
	}
	return nil
}

// warnOfRedirects warns if automatic HTTPS redirects on a server without listener
// wrappers: whoever sends it a header gets "400 Bad Request".
func warnOfRedirects(ctx caddy.Context, logger *zap.Logger) {
	app := httpApp(ctx)
	if app == nil || app.Servers[redirectServer] == nil {
		return
	}
	logger.Warn("Caddy's automatic HTTP->HTTPS redirects do not read PROXY protocol headers and answer them with 400; if your load balancer sends headers there, add the site 'http:// { log }'; if 'proxy_protocol_mode' is in 'servers' options with an address, also add a block 'servers :80 { listener_wrappers { ... } }'",
		zap.Strings("listen", app.Servers[redirectServer].Listen))
}

// httpApp returns the app that is being provisioned, or nil if this is not configured as
// Caddy does it.
func httpApp(ctx caddy.Context) *caddyhttp.App {
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return nil
	}
	http, _ := app.(*caddyhttp.App)
	return http
}
