// Package proxyprotocol makes a Caddy listener's handling of the PROXY protocol explicit
// and fail-closed: on, off or unspecified. It has the Caddy modules. Bytes flow through the
// packages below internal/, whose imports only go down:
//
//	stream: TCP connections          datagram: UDP sockets for HTTP/3
//	           record: outcomes, counters, log
//	           conninfo: what is known of a connection
//	           auth: what a header must prove
//	policy: who may send a header    tlv: what TLVs mean
//	           wire: bytes of a header
//
// CONTRIBUTING.md has the whole map.
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
	// After log_append, so that the access log has its fields for refusals, too.
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
