package proxyprotocol

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"cel.dev/cel-go/cel"
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

// contains reports whether an address, which may be invalid, is in a set.
func contains(set *bart.Lite, addr netip.Addr) bool { return addr.IsValid() && set.Contains(addr) }

// celLibrary makes a matcher a CEL function with arguments of text. constant makes one of
// arguments that are known at load, evaluated, for every request, of those that come from
// placeholders.
func celLibrary(name, overload string, constant, evaluated func(args []string) (caddyhttp.RequestMatcherWithError, error)) (cel.Library, error) {
	factory := func(make func(args []string) (caddyhttp.RequestMatcherWithError, error)) caddyhttp.CELMatcherWithErrorFactory {
		return func(data ref.Val) (caddyhttp.RequestMatcherWithError, error) {
			args, err := celStrings(data)
			if err != nil {
				return nil, err
			}
			return make(args)
		}
	}
	types := []*cel.Type{cel.ListType(cel.StringType)}
	// The one is used by the program, the other by the environment.
	ofConstants, err := caddyhttp.CELMatcherImpl(name, overload, types, factory(constant))
	if err != nil {
		return nil, err
	}
	ofEvaluated, err := caddyhttp.CELMatcherImpl(name, overload, types, factory(evaluated))
	if err != nil {
		return nil, err
	}
	return caddyhttp.NewMatcherCELLibrary(ofEvaluated.CompileOptions(), ofConstants.ProgramOptions()), nil
}

// celStrings returns the arguments of a CEL function, which are text or, if they are
// placeholders, of any type.
func celStrings(data ref.Val) ([]string, error) {
	list, ok := data.(traits.Lister)
	if !ok {
		return nil, fmt.Errorf("expected a list of strings, got %s", data.Type().TypeName())
	}
	var texts []string
	for it := list.Iterator(); it.HasNext() == types.True; {
		texts = append(texts, textsOf(it.Next().Value())...)
	}
	return texts, nil
}

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
	case []string:
		return value
	case []byte: // CEL's net.IP
		if ip, ok := netip.AddrFromSlice(value); ok {
			return []string{ip.String()}
		}
	}
	return []string{caddy.ToString(value)}
}
