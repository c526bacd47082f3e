package caddytest

import (
	"net"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
)

// Names of listener wrappers for tests.
const (
	// AcceptWrapper logs the connections that Caddy accepts. Below proxy_protocol_mode, it
	// tells when the timeout starts to run.
	AcceptWrapper = "proxy_protocol_test"
	// HidingWrapper makes connections that have the methods of net.Conn alone, and no way to
	// the connection below.
	HidingWrapper = "proxy_protocol_test_hide"
)

func init() {
	caddy.RegisterModule(acceptWrapper{})
	caddy.RegisterModule(hidingWrapper{})
}

type acceptWrapper struct{ logger *zap.Logger }

func (acceptWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners." + AcceptWrapper,
		New: func() caddy.Module { return new(acceptWrapper) },
	}
}

func (a *acceptWrapper) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	return nil
}

func (*acceptWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (a *acceptWrapper) WrapListener(l net.Listener) net.Listener {
	return acceptListener{l, a.logger}
}

type acceptListener struct {
	net.Listener
	logger *zap.Logger
}

func (l acceptListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.logger.Debug("accepted", zap.Stringer("peer", c.RemoteAddr()), zap.Stringer("local", c.LocalAddr()))
	}
	return c, err
}

type hidingWrapper struct{}

func (hidingWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners." + HidingWrapper,
		New: func() caddy.Module { return new(hidingWrapper) },
	}
}

func (hidingWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (hidingWrapper) WrapListener(l net.Listener) net.Listener        { return hidingListener{l} }

type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}
