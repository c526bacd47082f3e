package proxyprotocol

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// requestConn returns a request's connection, or nil if it did not come through this module.
func requestConn(r *http.Request) connection {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr); ok {
		if (*conn)(local).isPending() {
			return nil
		}
		return (*conn)(local)
	}
	return requestQUICConn(r)
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
