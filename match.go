package proxyprotocol

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
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

// matchWithoutError is how Caddy's matchers implement the deprecated Match.
func matchWithoutError(m caddyhttp.RequestMatcherWithError, r *http.Request) bool {
	match, err := m.MatchWithError(r)
	if err != nil {
		caddyhttp.SetVar(r.Context(), caddyhttp.MatcherErrorVarKey, err)
	}
	return match
}

// contains reports whether an address, which may be invalid, is in a set.
func contains(set *bart.Lite, addr netip.Addr) bool { return addr.IsValid() && set.Contains(addr) }

// celStrings returns the arguments of a CEL function, which are text or, if they are
// placeholders, of any type.
func celStrings(data ref.Val) ([]string, error) {
	list, ok := data.(traits.Lister)
	if !ok {
		return nil, fmt.Errorf("expected a list of strings, got %s", data.Type().TypeName())
	}
	var values []string
	for it := list.Iterator(); it.HasNext() == types.True; {
		values = append(values, caddy.ToString(it.Next().Value()))
	}
	return values, nil
}
