package request

import (
	"net"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Payloads knows what the listeners of a server expect behind a header.
type Payloads struct {
	// server is nil if it is not known what its listeners expect.
	server *caddyhttp.Server
	// httpPort is the port that serves plain HTTP whatever the server's TLS policies.
	httpPort int
}

// PayloadsOf returns what the listeners of a server expect; the server may be nil. It is not known
// where another listener wrapper comes before the HTTP server, such as http_redirect, which serves
// plain HTTP on a TLS port. PayloadsOf must be called while the server is provisioned.
func PayloadsOf(ctx caddy.Context, server *caddyhttp.Server) Payloads {
	if server == nil {
		return Payloads{}
	}
	names, _ := WrapperNames(server.ListenerWrappersRaw) // Caddy reports the error
	for _, name := range names {
		if name != WrapperName && name != tlsName {
			return Payloads{}
		}
	}
	p := Payloads{server, caddyhttp.DefaultHTTPPort}
	if app := HTTPApp(ctx); app != nil {
		p.httpPort = HTTPPort(app)
	}
	return p
}

// On returns what the listener at an address expects.
func (p Payloads) On(addr net.Addr) record.Payload {
	if p.server == nil {
		return record.AnyPayload
	}
	tcp, _ := addr.(*net.TCPAddr)
	if len(p.server.TLSConnPolicies) == 0 || tcp != nil && tcp.Port == p.httpPort {
		return record.PlainPayload
	}
	return record.TLSPayload
}
