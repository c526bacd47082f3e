package request

import (
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// PlaceholderRoot is the placeholder for the whole object, and the beginning of all others.
const PlaceholderRoot = "http.proxy_protocol"

// placeholders is a matcher that matches nothing, and adds the placeholders to a request. As a
// matcher of the first route it costs a request far less than a handler or a route of its own,
// is not counted by metrics, and makes no stack deeper.
type placeholders struct {
	// streams says that the server has no packet wrapper. Then a connection over HTTP/3 can have
	// a header only during a reload, from the configuration before, and the header does not count.
	streams bool
}

// Install puts the placeholders in front of all other matchers of a server. streams says that the
// server has no packet wrapper.
func Install(server *caddyhttp.Server, streams bool) {
	if Installed(server) {
		return
	}
	server.Routes = withPlaceholders(server.Routes, placeholders{streams: streams})
	// Error routes where there were none would change how errors are logged.
	if server.Errors != nil && len(server.Errors.Routes) > 0 {
		server.Errors.Routes = withPlaceholders(server.Errors.Routes, placeholders{})
	}
}

// withPlaceholders returns routes of which the first has the matcher in front of its own.
func withPlaceholders(routes caddyhttp.RouteList, matcher placeholders) caddyhttp.RouteList {
	install := caddyhttp.MatcherSets{{matcher}}
	if len(routes) == 0 {
		return caddyhttp.RouteList{{MatcherSets: install}}
	}
	routes = slices.Clone(routes)
	first := &routes[0]
	if len(first.MatcherSets) == 0 && len(first.MatcherSetsRaw) == 0 {
		install = append(install, caddyhttp.MatcherSet{}) // it matched everything
	}
	first.MatcherSets = append(install, first.MatcherSets...)
	return routes
}

// Installed reports whether a wrapper called Install for the server, so that the server has one.
func Installed(server *caddyhttp.Server) bool {
	for _, route := range server.Routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				if _, ok := matcher.(placeholders); ok {
					return true
				}
			}
		}
	}
	return false
}

// MatchWithError implements caddyhttp.RequestMatcherWithError. The value of a placeholder is
// determined only when it is used.
func (p placeholders) MatchWithError(r *http.Request) (bool, error) {
	if p.streams && r.ProtoMajor == 3 && hadDatagramHeader(r) {
		return false, caddyhttp.Error(http.StatusMisdirectedRequest, ErrOtherConfig)
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(PlaceholdersOf(Conn(r)))
	}
	return false, nil
}

// PlaceholdersOf returns the placeholders of a connection's requests, which is nil if it is not
// known. All requests of a connection share one function, which the connection caches.
func PlaceholdersOf(c conninfo.Conn) caddy.ReplacerFunc {
	if c == nil {
		return unknownConn
	}
	cache := c.Lookups()
	if kept := cache.Load(); kept != nil {
		return caddy.ReplacerFunc(kept)
	}
	get := func(key string) (any, bool) { return placeholder(c, key) }
	cache.Store(get)
	return get
}

// unknownConn has the placeholders of requests on a connection that is not known.
func unknownConn(key string) (any, bool) { return placeholder(nil, key) }

// placeholder returns the value of a placeholder, and whether there is such a placeholder. A
// placeholder without a value is empty. The connection may be nil.
func placeholder(c conninfo.Conn, key string) (value any, known bool) {
	name, ok := strings.CutPrefix(key, PlaceholderRoot)
	if !ok {
		return nil, false
	}
	var get func(c conninfo.Conn, f *conninfo.Info) any
	if given, ok := strings.CutPrefix(name, ".tlv."); ok {
		name, err := tlv.ParseName(given)
		if err != nil {
			return nil, false
		}
		if c == nil {
			return tlvValue(new(tlv.Named), name), true
		}
		get = func(_ conninfo.Conn, f *conninfo.Info) any { return tlvValue(f.TLVs(), name) }
	} else if get, ok = placeholderValues[name]; !ok {
		return nil, false
	}
	if c == nil {
		return "", true
	}
	return get(c, c.Info()), true
}

// tlvValue returns the value of a TLV as it may be shown: text, or a TextList.
func tlvValue(named *tlv.Named, name string) any {
	if !tlv.IsList(name) {
		return escape.Text(named.Text(name))
	}
	list := named.List(name)
	shown := make(TextList, len(list))
	for i, text := range list {
		shown[i] = escape.Text(text)
	}
	return shown
}

// TextList is the value of a placeholder that is a list. It is a list in CEL expressions and in
// logs. As text it looks like Caddy's own lists, but an empty list is an empty text.
type TextList []string

// String implements fmt.Stringer.
func (l TextList) String() string {
	if len(l) == 0 {
		return ""
	}
	return caddy.ToString([]string(l))
}

// MarshalLogArray implements zapcore.ArrayMarshaler.
func (l TextList) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, text := range l {
		enc.AppendString(text)
	}
	return nil
}

// PlaceholderNames returns the names of the placeholders that are not TLVs, without their root.
func PlaceholderNames() []string { return slices.Sorted(maps.Keys(placeholderValues)) }

// placeholderValues has functions that return the values of placeholders.
var placeholderValues = map[string]func(c conninfo.Conn, f *conninfo.Info) any{
	"":               func(c conninfo.Conn, _ *conninfo.Info) any { return &conninfo.LogObject{Info: c.Info()} },
	".mode":          func(_ conninfo.Conn, f *conninfo.Info) any { return f.Mode.String() },
	".present":       func(_ conninfo.Conn, f *conninfo.Info) any { return f.HasHeader() },
	".version":       func(_ conninfo.Conn, f *conninfo.Info) any { return versionOf(f.Header) },
	".command":       func(_ conninfo.Conn, f *conninfo.Info) any { return conninfo.CommandName(f.Header) },
	".transport":     func(_ conninfo.Conn, f *conninfo.Info) any { return conninfo.TransportName(f.Header) },
	".port_zero":     func(_ conninfo.Conn, f *conninfo.Info) any { return f.Marked() },
	".authenticated": func(_ conninfo.Conn, f *conninfo.Info) any { return f.Authenticated().String() },
	".source":        func(_ conninfo.Conn, f *conninfo.Info) any { return conninfo.AddrPortString(f.Header.Source()) },
	".destination":   func(_ conninfo.Conn, f *conninfo.Info) any { return conninfo.AddrPortString(f.Header.Destination()) },
	".client_ip":     func(c conninfo.Conn, _ *conninfo.Info) any { return hostOf(c.RemoteAddr()) },
	".client_port":   func(c conninfo.Conn, _ *conninfo.Info) any { return portOf(c.RemoteAddr()) },
	".server_ip":     func(c conninfo.Conn, _ *conninfo.Info) any { return hostOf(c.LocalAddr()) },
	".server_port":   func(c conninfo.Conn, _ *conninfo.Info) any { return portOf(c.LocalAddr()) },
	".peer":          func(_ conninfo.Conn, f *conninfo.Info) any { return conninfo.AddrString(f.Peer) },
	".peer_ip":       func(_ conninfo.Conn, f *conninfo.Info) any { return hostOf(f.Peer) },
	".peer_port":     func(_ conninfo.Conn, f *conninfo.Info) any { return portOf(f.Peer) },
}

func versionOf(h wire.Header) any {
	if h.Version() == 0 {
		return ""
	}
	return int(h.Version())
}

// hostOf and portOf return the parts of an IP address with port. They are empty for other
// addresses, as those of Unix sockets.
func hostOf(addr net.Addr) string {
	host, _, _ := net.SplitHostPort(conninfo.AddrString(addr))
	return host
}

func portOf(addr net.Addr) string {
	_, port, _ := net.SplitHostPort(conninfo.AddrString(addr))
	return port
}
