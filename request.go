package proxyprotocol

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"
)

// requestConn returns a request's connection, or nil if it did not come through this module.
func requestConn(r *http.Request) connection {
	if c, ok := fromLocalAddr(r.Context().Value(http.LocalAddrContextKey)); ok {
		return c
	}
	return requestQUICConn(r)
}

// requestQUICConn returns the connection of a request over HTTP/3, or nil if it did not come
// through the packet wrapper, or has migrated and its mark has changed.
func requestQUICConn(r *http.Request) connection {
	if accepted := acceptedFrom(r); accepted != nil {
		return accepted.connOf(r.RemoteAddr)
	}
	return nil
}

// acceptedFrom returns the address from which a request's connection was accepted, or nil
// if that is not one of the packet wrapper.
func acceptedFrom(r *http.Request) *quicAddr {
	a, _ := r.Context().Value(http3.RemoteAddrContextKey).(*quicAddr)
	return a
}

// factsOf returns the facts of a request's connection, or nil if there are none.
func factsOf(r *http.Request) *facts {
	if c := requestConn(r); c != nil {
		return c.known()
	}
	return nil
}

// checkHandshake returns a 425 error before the TLS handshake is complete, as Caddy's own
// IP matchers do: until then the client's address may be spoofed.
func checkHandshake(r *http.Request) error {
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		return caddyhttp.Error(http.StatusTooEarly, errors.New("TLS handshake not complete, remote IP cannot be verified"))
	}
	return nil
}
