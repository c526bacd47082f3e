package request

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/portzero/caddy-proxy-protocol/internal/paste"
)

// The names of other listener wrappers whose order matters.
const (
	builtinName  = "proxy_protocol"
	redirectName = "http_redirect"
	tlsName      = "tls"
)

// CheckOrder returns an error if the listener wrappers of a server with the wrapper are in a wrong
// order, or cannot be combined. Caddy provisions servers in random order, so CheckOrder looks at
// all of them by name: the error is the same at every load.
func CheckOrder(ctx caddy.Context, server *caddyhttp.Server) error {
	servers := map[string]*caddyhttp.Server{server.Name(): server}
	if app := HTTPApp(ctx); app != nil {
		maps.Copy(servers, app.Servers)
	}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		if err := checkOrder(servers[name]); err != nil {
			return fmt.Errorf("server %s: %w", name, err)
		}
	}
	return nil
}

// checkOrder returns an error if the listener wrappers of a server are in a wrong order, or
// cannot be combined.
func checkOrder(server *caddyhttp.Server) error {
	names, err := WrapperNames(server.ListenerWrappersRaw)
	if err != nil {
		return err
	}
	own, tls := slices.Index(names, WrapperName), slices.Index(names, tlsName)
	if own < 0 {
		return nil // another module made the wrapper
	}
	inOrder := func(between string) string {
		return "write:\n\n\tlistener_wrappers {\n" + paste.Wrapper(server.ListenerWrappersRaw[own], "\t\t") + "\n" + between + "\t\ttls\n\t}"
	}
	switch {
	case slices.Contains(names[own+1:], WrapperName):
		return fmt.Errorf("duplicate listener wrapper '%s': a connection has only one header: keep one wrapper and %s", WrapperName, inOrder(""))
	case slices.Contains(names, builtinName):
		return fmt.Errorf("listener wrapper '%s' cannot be combined with Caddy's own '%s', because a connection has only one header: remove '%s' and %s", WrapperName, builtinName, builtinName, inOrder(""))
	case slices.Contains(names[:own], redirectName):
		return fmt.Errorf("listener wrapper '%s' must come before '%s', which would otherwise answer before the header is checked; %s", WrapperName, redirectName, inOrder("\t\t"+redirectName+"\n"))
	case tls >= 0 && tls < own, tls < 0 && len(server.TLSConnPolicies) > 0: // Caddy puts tls first if it is not listed
		return fmt.Errorf("listener wrapper '%s' must come before '%s', because the header comes before the TLS handshake: %s", WrapperName, tlsName, inOrder(""))
	default:
		return nil
	}
}

// WrapperNames returns the names of wrappers, in order.
func WrapperNames(wrappers []json.RawMessage) ([]string, error) {
	var names []string
	for _, raw := range wrappers {
		var module struct {
			Wrapper string `json:"wrapper"`
		}
		if err := json.Unmarshal(raw, &module); err != nil {
			return nil, err
		}
		names = append(names, module.Wrapper)
	}
	return names, nil
}

// AbstractSockets returns the addresses of a server that are abstract Unix sockets.
func AbstractSockets(server *caddyhttp.Server) (sockets []string) {
	for _, listen := range server.Listen {
		address, err := caddy.ParseNetworkAddress(listen)
		if err == nil && address.IsUnixNetwork() && strings.HasPrefix(address.Host, "@") {
			sockets = append(sockets, listen)
		}
	}
	return sockets
}
