// Package request is about requests and their servers: it finds the connection of a request,
// installs the placeholders, and warns of servers without the listener wrapper.
package request

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/stream"
)

// Conn returns the connection of a request, or nil if it did not come through this module.
func Conn(r *http.Request) conninfo.Conn {
	if c, ok := stream.FromLocalAddr(r.Context().Value(http.LocalAddrContextKey)); ok {
		return c
	}
	return QUICConn(r)
}

// QUICConn returns the connection of a request over HTTP/3, or nil if it did not come
// through the packet wrapper, or has migrated and its mark has changed.
func QUICConn(r *http.Request) conninfo.Conn {
	if accepted := AcceptedFrom(r); accepted != nil {
		return accepted.ConnOf(r.RemoteAddr)
	}
	return nil
}

// AcceptedFrom returns the address from which a request's connection was accepted, or nil
// if that is not one of the packet wrapper.
func AcceptedFrom(r *http.Request) *datagram.Addr {
	a, _ := r.Context().Value(http3.RemoteAddrContextKey).(*datagram.Addr)
	return a
}

// Info returns what is known of a request's connection, or nil if Conn returns nil.
func Info(r *http.Request) *conninfo.Info {
	if c := Conn(r); c != nil {
		return c.Info()
	}
	return nil
}

// CheckHandshake returns a 425 error before the TLS handshake is complete, as Caddy's own
// IP matchers do: until then the client's address may be spoofed.
func CheckHandshake(r *http.Request) error {
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		return caddyhttp.Error(http.StatusTooEarly, errors.New("TLS handshake not complete, remote IP cannot be verified"))
	}
	return nil
}

// hadDatagramHeader reports whether a request's connection was accepted with a header.
func hadDatagramHeader(r *http.Request) bool {
	accepted := AcceptedFrom(r)
	return accepted != nil && accepted.Info().HasHeader()
}

// ErrOtherConfig is the error of a request whose connection another configuration accepted.
var ErrOtherConfig = errors.New("the QUIC connection was accepted under another configuration, and this configuration's 'proxy_protocol_mode' does not allow it")
