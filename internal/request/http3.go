package request

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// ServesHTTP3 reports whether the server serves requests over HTTP/3.
func ServesHTTP3(server *caddyhttp.Server) bool {
	if len(server.TLSConnPolicies) == 0 {
		return false
	}
	inherits := len(server.ListenProtocols) == 0
	for _, protocols := range server.ListenProtocols {
		if slices.Contains(protocols, "h3") {
			return true
		}
		inherits = inherits || protocols == nil
	}
	return inherits && slices.Contains(server.Protocols, "h3")
}

// ProtocolsOf returns the protocols of the address of a server with this index: its own, or the
// server's.
func ProtocolsOf(server *caddyhttp.Server, i int) []string {
	if i < len(server.ListenProtocols) && server.ListenProtocols[i] != nil {
		return server.ListenProtocols[i]
	}
	return server.Protocols
}

// HTTP3Disabled is the beginning of the warning that HTTP/3 is disabled. It is no mistake, but what
// mode On does by default.
const HTTP3Disabled = "HTTP/3 is disabled: "

// DisableHTTP3 removes HTTP/3 from the protocols of the server, and logs the reason.
func DisableHTTP3(server *caddyhttp.Server, reason string, logger *zap.Logger) error {
	// Slices are replaced, never changed: servers share their default ones.
	var had bool
	without := func(protocols []string) []string {
		if !slices.Contains(protocols, "h3") {
			return protocols
		}
		had = true
		return slices.DeleteFunc(slices.Clone(protocols), func(p string) bool { return p == "h3" })
	}
	protocols := without(server.Protocols)
	// Listeners without protocols of their own use the server's.
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
		return fmt.Errorf("no protocol is left, because HTTP/3 is disabled where a PROXY protocol header is mandatory; write:\n\n\tprotocols h1 h2\n\nor, to serve HTTP/3 to every host that can reach the port, in %s:\n\n\thttp3 allow", WrapperName)
	}
	if len(protocols) == 0 {
		protocols = []string{"h1"} // no listener uses them, but an empty list means all protocols
	}
	server.Protocols, server.ListenProtocols = protocols, listenProtocols
	if had && len(server.TLSConnPolicies) > 0 {
		logger.Warn(HTTP3Disabled + reason + "; to keep it anyway, add 'http3 allow' to 'proxy_protocol_mode'")
	}
	return nil
}
