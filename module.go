// Package proxyprotocol makes a Caddy listener's handling of the PROXY protocol explicit
// and fail-closed: on, off or unspecified.
//
// Bytes flow one way: internal/wire decodes headers, policy.go decides what a peer's
// connection must begin with, header.go judges the beginning of a connection by both, and
// conn.go is the connection that Caddy then sees. For HTTP/3, packetconn.go judges each
// datagram by the same, quicaddr.go is the address that QUIC then sees, and route.go has the
// way of its replies; http3.go judges requests once more by the configuration that serves
// them. facts.go has what is known of either, recorder.go what is counted and logged, and
// request.go leads from a request to its connection, for placeholders, matchers and the site
// directive. options.go has the options that both wrappers have.
package proxyprotocol

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	_ "github.com/portzero/caddy-proxy-protocol/internal/command" // caddy proxy-protocol
)

func init() {
	caddy.RegisterModule(ListenerWrapper{})
	caddy.RegisterModule(PacketConnWrapper{})
	caddy.RegisterModule(MatchProxyProtocol{})
	caddy.RegisterModule(MatchPinnedIP{})
	caddy.RegisterModule(Handler{})
	caddy.RegisterModule(adminStatus{})
	httpcaddyfile.RegisterHandlerDirective("proxy_protocol", parseCaddyfile)
	// After what log_append does, so that the access log has its fields for refusals too.
	httpcaddyfile.RegisterDirectiveOrder("proxy_protocol", httpcaddyfile.After, "log_level")
}

// Interface guards
var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
	_ caddy.CleanerUpper    = (*ListenerWrapper)(nil)
	_ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)

	_ caddy.Provisioner       = (*PacketConnWrapper)(nil)
	_ caddy.PacketConnWrapper = (*PacketConnWrapper)(nil)
	_ caddy.CleanerUpper      = (*PacketConnWrapper)(nil)
	_ caddyfile.Unmarshaler   = (*PacketConnWrapper)(nil)
)
