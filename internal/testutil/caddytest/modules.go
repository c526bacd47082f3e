package caddytest

import (
	"net"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
)

// Names of listener wrappers for tests.
const (
	// AcceptWrapper is a wrapper that logs each accepted connection. Below proxy_protocol_mode, its
	// entry marks the start of the timeout.
	AcceptWrapper = "proxy_protocol_test"
	// HidingWrapper is a wrapper whose connections have only the methods of net.Conn, and hide the
	// connection below.
	HidingWrapper = "proxy_protocol_test_hide"
)

func init() {
	caddy.RegisterModule(acceptWrapper{})
	caddy.RegisterModule(hidingWrapper{})
}

// acceptWrapper is the module AcceptWrapper.
type acceptWrapper struct{ logger *zap.Logger }

// CaddyModule returns the module information of the wrapper.
func (acceptWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners." + AcceptWrapper,
		New: func() caddy.Module { return new(acceptWrapper) },
	}
}

// Provision sets the logger.
func (a *acceptWrapper) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	return nil
}

// UnmarshalCaddyfile reads the name of the wrapper, which has no options.
func (*acceptWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

// WrapListener returns an acceptListener.
func (a *acceptWrapper) WrapListener(l net.Listener) net.Listener {
	return acceptListener{l, a.logger}
}

// acceptListener logs each connection that the listener below accepts.
type acceptListener struct {
	net.Listener
	logger *zap.Logger
}

// Accept logs the connection that it returns.
func (l acceptListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.logger.Debug("accepted", zap.Stringer("peer", c.RemoteAddr()), zap.Stringer("local", c.LocalAddr()))
	}
	return c, err
}

// hidingWrapper is the module HidingWrapper.
type hidingWrapper struct{}

// CaddyModule returns the module information of the wrapper.
func (hidingWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners." + HidingWrapper,
		New: func() caddy.Module { return new(hidingWrapper) },
	}
}

// UnmarshalCaddyfile reads the name of the wrapper, which has no options.
func (hidingWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

// WrapListener returns a hidingListener.
func (hidingWrapper) WrapListener(l net.Listener) net.Listener { return hidingListener{l} }

// hidingListener hides the connections that the listener below accepts.
type hidingListener struct{ net.Listener }

// Accept returns a connection with only the methods of net.Conn.
func (l hidingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}
