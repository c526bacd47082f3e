package proxyprotocol

import (
	"errors"
	"net"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
)

// This file has what both matchers need.

// checkHandshake returns a 425 error before the TLS handshake is complete, as Caddy's own
// IP matchers do: until then the client's address may be spoofed.
func checkHandshake(r *http.Request) error {
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		return caddyhttp.Error(http.StatusTooEarly, errors.New("TLS handshake not complete, remote IP cannot be verified"))
	}
	return nil
}

// contains reports whether an address, which may be invalid, is in a set.
func contains(set *bart.Lite, addr netip.Addr) bool { return addr.IsValid() && set.Contains(addr) }

// textsOf returns the value of a placeholder as text. That of the IP addresses of a client
// certificate is a list.
func textsOf(value any) []string {
	switch value := value.(type) {
	case []net.IP:
		var texts []string
		for _, ip := range value {
			texts = append(texts, ip.String())
		}
		return texts
	case textList:
		return value
	case []string:
		return value
	}
	return []string{caddy.ToString(value)}
}

var errNoValue = errors.New("the placeholder has no value")

// logUnusable logs that an argument of a matcher has a placeholder whose value the matcher
// cannot use. The level is DEBUG, because a client may choose the value.
func logUnusable(logger *zap.Logger, matcher, arg string, err error) {
	if entry := logger.Check(zapcore.DebugLevel, matcher+" cannot use the value of a placeholder"); entry != nil {
		entry.Write(zap.String(matcher, escape.Text(arg)), zap.String("error", escape.Text(err.Error())))
	}
}
