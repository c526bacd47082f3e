package proxyprotocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"go.uber.org/zap"
)

// This file closes the ways around mode On that HTTP/3 could be.

// http3Guard is the matcher and the handler of a route in front of all others of a server
// that has the packet wrapper. It refuses requests whose connection is not known.
type http3Guard struct {
	// on: HTTP/3 is served behind the packet wrapper only.
	on bool
	// allowed: HTTP/3 is served to anyone.
	allowed bool
	logger  *zap.Logger
}

// guardHTTP3 returns the server's guard, and makes it if it is not there yet.
func guardHTTP3(server *caddyhttp.Server, logger *zap.Logger) *http3Guard {
	if len(server.Routes) > 0 && len(server.Routes[0].Handlers) > 0 {
		if guard, ok := server.Routes[0].Handlers[0].(*http3Guard); ok {
			return guard
		}
	}
	guard := &http3Guard{logger: limited(logger, refusalInterval, 1)}
	route := caddyhttp.Route{
		MatcherSets: caddyhttp.MatcherSets{{guard}},
		Handlers:    []caddyhttp.MiddlewareHandler{guard},
	}
	server.Routes = append(caddyhttp.RouteList{route}, server.Routes...)
	return guard
}

// MatchWithError implements caddyhttp.RequestMatcherWithError. It matches a request that came
// over HTTP/3 where only the packet wrapper makes that safe, and one whose connection came
// through the packet wrapper and is not what it was.
func (g *http3Guard) MatchWithError(r *http.Request) (bool, error) {
	return r.ProtoMajor == 3 && !g.allowed && (g.on || acceptedFrom(r) != nil) && requestConn(r) == nil, nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It answers 421, upon which a client may try
// again over a new connection, and tells it to forget HTTP/3.
func (g *http3Guard) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if acceptedFrom(r) != nil {
		return caddyhttp.Error(http.StatusMisdirectedRequest, errMigrated)
	}
	w.Header().Set("Alt-Svc", "clear")
	g.logger.Warn("refused HTTP/3, because its UDP listener is older than the 'proxy_protocol_mode' in 'packet_conn_wrappers': Caddy keeps it as it is until it is restarted; restart Caddy")
	return caddyhttp.Error(http.StatusMisdirectedRequest, errUnwrapped)
}

var (
	errUnwrapped = errors.New("the QUIC connection did not come through the 'proxy_protocol_mode' packet conn wrapper: restart Caddy")
	errMigrated  = errors.New("the QUIC connection has migrated to where its client's address cannot be followed")
)

// wrapperNames returns the names of wrappers in order.
func wrapperNames(wrappers []json.RawMessage) ([]string, error) {
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

// packetWrapperOf returns the configuration of the server's packet wrapper, or nil if it has
// none. It is not provisioned.
func packetWrapperOf(server *caddyhttp.Server) (*PacketConnWrapper, error) {
	names, err := wrapperNames(server.PacketConnWrappersRaw)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		if name == wrapperName {
			pw := new(PacketConnWrapper)
			return pw, json.Unmarshal(server.PacketConnWrappersRaw[i], pw)
		}
	}
	return nil, nil
}

// wayAround says how HTTP/3 would be a way around a mandatory header, or nothing if the
// packet wrapper closes it: that must be On, for every peer for which the listener wrapper
// is.
func (lw *ListenerWrapper) wayAround(pw *PacketConnWrapper) (string, error) {
	switch {
	case pw == nil:
		return "UDP carries no header on this wrapper's watch", nil
	case pw.Mode != On:
		return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has the mode '%s'", wrapperName, pw.Mode), nil
	}
	tcp := lw.rules.ranges
	if tcp == nil {
		tcp = new(bart.Table[Mode])
	}
	udp, err := compileRanges(pw.Ranges)
	if err != nil || udp == nil {
		return "", err
	}
	for prefix, mode := range udp.All() {
		if same, ok := tcp.Get(prefix); mode != On && (!ok || same != mode) {
			return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has the mode '%s' for %s, and the listener wrapper has not", wrapperName, mode, prefix), nil
		}
	}
	for prefix, mode := range tcp.All() {
		if other, ok := udp.LookupPrefix(prefix); mode == On && ok && other != On {
			return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has the mode '%s' for %s, and the listener wrapper has 'on'", wrapperName, other, prefix), nil
		}
	}
	return "", nil
}
