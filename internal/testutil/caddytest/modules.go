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
	// PeersWrapper is a wrapper that gives peers on loopback other addresses. Its arguments are pairs
	// of an address of a peer and the one that the peer gets.
	PeersWrapper = "proxy_protocol_test_peers"
)

func init() {
	caddy.RegisterModule(acceptWrapper{})
	caddy.RegisterModule(hidingWrapper{})
	caddy.RegisterModule(peersWrapper{})
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

// peersWrapper is the module PeersWrapper.
type peersWrapper struct {
	Peers map[string]string `json:"peers"`
}

// CaddyModule returns the module information of the wrapper.
func (peersWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners." + PeersWrapper,
		New: func() caddy.Module { return new(peersWrapper) },
	}
}

// UnmarshalCaddyfile reads the pairs.
func (p *peersWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	p.Peers = make(map[string]string)
	for args := d.RemainingArgs(); len(args) > 1; args = args[2:] {
		p.Peers[args[0]] = args[1]
	}
	return nil
}

// WrapListener returns a peersListener.
func (p *peersWrapper) WrapListener(l net.Listener) net.Listener { return peersListener{l, p.Peers} }

// peersListener gives peers other addresses.
type peersListener struct {
	net.Listener
	peers map[string]string
}

// Accept returns a connection from the address that its peer gets.
func (l peersListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	peer := *c.RemoteAddr().(*net.TCPAddr)
	if other := net.ParseIP(l.peers[peer.IP.String()]); other != nil {
		peer.IP = other
	}
	return peerConn{c, &peer}, nil
}

// peerConn is a connection from another address.
type peerConn struct {
	net.Conn
	peer net.Addr
}

// RemoteAddr returns the other address.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }
