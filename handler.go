package proxyprotocol

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// Handler gives a site or route a mode of its own, within what the listener accepted. A
// request that does not fit is answered with the error 403, which access logs and error
// routes see; in an error route, it is answered with an empty 403. It never changes an
// address or a mark.
//
// It needs the `proxy_protocol_mode` listener wrapper on its server.
type Handler struct {
	// What the connection of a request must have begun with; required:
	//
	// - `on`: a header that the listener accepted under mode `on`, so that its peer was
	// allowed to send one; LOCAL headers count
	// - `off`: no header
	// - `unspecified`: anything
	Mode *Mode `json:"mode"`

	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.proxy_protocol",
		New: func() caddy.Module { return new(Handler) },
	}
}

// parseCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	proxy_protocol [<matcher>] on|off|unspecified
func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if !d.NextArg() {
		return d.Err(errNoMode.Error())
	}
	mode, err := ParseMode(d.Val())
	if err != nil {
		return d.WrapErr(err)
	}
	h.Mode = &mode
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': proxy_protocol takes one mode", d.Val())
	}
	if d.NextBlock(0) {
		return d.Err("blocks are not supported: write the listener's options in the listener wrapper 'proxy_protocol_mode'")
	}
	return nil
}

var errNoMode = errors.New("proxy_protocol needs a mode: use " + policy.AcceptedModes)

// Provision returns an error on a server without the listener wrapper, where no header is checked.
func (h *Handler) Provision(ctx caddy.Context) error {
	if h.Mode == nil {
		return fmt.Errorf("mode: %w", errNoMode)
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("proxy_protocol works in the routes of an HTTP server only")
	}
	if !request.Installed(server) {
		return request.NoWrapperError(server)
	}
	h.logger = ctx.Logger()
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := h.check(request.Info(r))
	switch {
	case err == nil:
		return next.ServeHTTP(w, r)
	case r.Context().Value(caddyhttp.ErrorCtxKey) != nil:
		// Caddy answers an error of an error route with the status of the first error.
		if h.logger != nil {
			h.logger.Debug("refused a request in an error route", zap.Error(err))
		}
		w.WriteHeader(http.StatusForbidden)
		return nil
	default:
		return caddyhttp.Error(http.StatusForbidden, err)
	}
}

// check returns an error if a connection must not be served. f is nil if the connection is not
// known.
func (h *Handler) check(f *conninfo.Info) error {
	switch {
	case *h.Mode == Unspecified:
		return nil
	case f == nil:
		return errors.New("cannot tell whether this connection began with a PROXY protocol header")
	case *h.Mode == On && !f.HasHeader():
		return errors.New("the connection did not begin with a PROXY protocol header")
	case *h.Mode == On && f.Mode != policy.On:
		return errors.New("the connection's PROXY protocol header was not accepted under mode 'on'")
	case *h.Mode == Off && f.HasHeader():
		return errors.New("the connection began with a PROXY protocol header")
	default:
		return nil
	}
}

// Interface guards
var (
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
