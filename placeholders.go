package proxyprotocol

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// placeholderRoot is the placeholder of all there is to say, and what the others begin
// with.
const placeholderRoot = "http.proxy_protocol"

// placeholders is a matcher that matches nothing. It makes the placeholders known to a
// request. As a matcher of the first route it costs every request far less than a handler
// or a route of its own, is not counted by metrics, and makes no stack deeper.
type placeholders struct {
	// streams says that the server has no packet wrapper. Then no header of a datagram
	// counts. Only during a reload a connection may have one, from the configuration before.
	streams bool
}

// installPlaceholders puts the placeholders in front of all other matchers of the server.
func installPlaceholders(server *caddyhttp.Server) {
	if hasPlaceholders(server) {
		return
	}
	pw, _ := packetWrapperOf(server) // another one says what is wrong with it
	server.Routes = withPlaceholders(server.Routes, placeholders{streams: pw == nil})
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

// hasPlaceholders reports whether a wrapper has put the placeholders in front of the
// server's routes, which is to say whether there is one.
func hasPlaceholders(server *caddyhttp.Server) bool {
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

// MatchWithError implements caddyhttp.RequestMatcherWithError. What a placeholder says is
// found out when it is asked for.
func (p placeholders) MatchWithError(r *http.Request) (bool, error) {
	if p.streams && r.ProtoMajor == 3 && hadDatagramHeader(r) {
		return false, caddyhttp.Error(http.StatusMisdirectedRequest, errOtherRules)
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(placeholdersOf(requestConn(r)))
	}
	return false, nil
}

// placeholdersOf returns the placeholders of a connection's requests. They share one function,
// which the connection keeps. The connection is nil if it is not known.
func placeholdersOf(c connection) caddy.ReplacerFunc {
	if c == nil {
		return unknownConn
	}
	cache := c.lookups()
	if kept := cache.load(); kept != nil {
		return caddy.ReplacerFunc(kept)
	}
	get := func(key string) (any, bool) { return placeholder(c, key) }
	cache.store(get)
	return get
}

// unknownConn has the placeholders of requests on a connection that is not known.
func unknownConn(key string) (any, bool) { return placeholder(nil, key) }

// placeholder returns the value of a placeholder, and whether it is known. One that is
// known and has no value is empty. The connection may be nil.
func placeholder(c connection, key string) (value any, known bool) {
	name, ok := strings.CutPrefix(key, placeholderRoot)
	if !ok {
		return nil, false
	}
	var get func(c connection, f *facts) any
	if given, ok := strings.CutPrefix(name, ".tlv."); ok {
		name, err := tlv.ParseName(given)
		if err != nil {
			return nil, false
		}
		if c == nil {
			return tlvValue(noTLVs, name), true
		}
		get = func(_ connection, f *facts) any { return tlvValue(f.say(), name) }
	} else if get, ok = getters[name]; !ok {
		return nil, false
	}
	if c == nil {
		return "", true
	}
	return get(c, c.known()), true
}

// tlvValue returns what TLVs say under a name, fit to be shown: text, or a textList.
func tlvValue(named *tlv.Named, name string) any {
	if !tlv.IsList(name) {
		return escape.Text(named.Text(name))
	}
	list := named.List(name)
	shown := make(textList, len(list))
	for i, text := range list {
		shown[i] = escape.Text(text)
	}
	return shown
}

// textList is the value of a placeholder that is a list: one in CEL expressions and in
// logs. As text it looks like Caddy's own lists, but it is empty if there is nothing in it.
type textList []string

// String implements fmt.Stringer.
func (l textList) String() string {
	if len(l) == 0 {
		return ""
	}
	return caddy.ToString([]string(l))
}

// MarshalLogArray implements zapcore.ArrayMarshaler.
func (l textList) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	for _, text := range l {
		enc.AppendString(text)
	}
	return nil
}

// getters are the placeholders that are no TLVs, without their root.
var getters = map[string]func(c connection, f *facts) any{
	"":             func(c connection, _ *facts) any { return &summary{c} },
	".mode":        func(_ connection, f *facts) any { return f.mode.String() },
	".present":     func(_ connection, f *facts) any { return f.present() },
	".version":     func(_ connection, f *facts) any { return versionOf(f.header) },
	".command":     func(_ connection, f *facts) any { return commandOf(f.header) },
	".transport":   func(_ connection, f *facts) any { return transportOf(f.header) },
	".port_zero":   func(_ connection, f *facts) any { return f.Marked() },
	".source":      func(_ connection, f *facts) any { return textOf(f.header.Source()) },
	".destination": func(_ connection, f *facts) any { return textOf(f.header.Destination()) },
	".client_ip":   func(c connection, _ *facts) any { return hostOf(c.RemoteAddr()) },
	".client_port": func(c connection, _ *facts) any { return portOf(c.RemoteAddr()) },
	".server_ip":   func(c connection, _ *facts) any { return hostOf(c.LocalAddr()) },
	".server_port": func(c connection, _ *facts) any { return portOf(c.LocalAddr()) },
	".peer":        func(_ connection, f *facts) any { return addrString(f.peer) },
	".peer_ip":     func(_ connection, f *facts) any { return hostOf(f.peer) },
	".peer_port":   func(_ connection, f *facts) any { return portOf(f.peer) },
}

func versionOf(h wire.Header) any {
	if h.Version() == 0 {
		return ""
	}
	return int(h.Version())
}

// commandOf returns the command of a v2 header; v1 knows none.
func commandOf(h wire.Header) string {
	switch {
	case h.Version() != 2:
		return ""
	case h.Command() == wire.Local:
		return "LOCAL"
	default:
		return "PROXY"
	}
}

// transportOf is in the words of a v1 header, which lacks some.
func transportOf(h wire.Header) string {
	switch {
	case h.Version() == 0 || h.Command() == wire.Local:
		return ""
	case h.Family() == wire.FamilyUnspec || h.Transport() == wire.TransportUnspec:
		return "UNKNOWN"
	}
	stream := h.Transport() == wire.Stream
	switch {
	case h.Family() == wire.Unix && stream:
		return "UNIX_STREAM"
	case h.Family() == wire.Unix:
		return "UNIX_DGRAM"
	case h.Family() == wire.IPv4 && stream:
		return "TCP4"
	case h.Family() == wire.IPv4:
		return "UDP4"
	case stream:
		return "TCP6"
	default:
		return "UDP6"
	}
}

// hostOf and portOf return the parts of an IP address with port, and nothing of another,
// like that of a Unix socket.
func hostOf(addr net.Addr) string {
	host, _, _ := net.SplitHostPort(addrString(addr))
	return host
}

func portOf(addr net.Addr) string {
	_, port, _ := net.SplitHostPort(addrString(addr))
	return port
}

// summary is all there is to say of a connection: an object in a log, its JSON
// elsewhere. It has only what the header had.
type summary struct{ conn connection }

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (s *summary) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	f := s.conn.known()
	enc.AddString("mode", f.mode.String())
	enc.AddString("peer", addrString(f.peer))
	enc.AddBool("present", f.present())
	if !f.present() {
		return nil
	}
	enc.AddUint8("version", f.header.Version())
	for _, field := range []struct{ key, value string }{
		{"command", commandOf(f.header)},
		{"transport", transportOf(f.header)},
		{"source", textOf(f.header.Source())},
		{"destination", textOf(f.header.Destination())},
	} {
		if field.value != "" {
			enc.AddString(field.key, field.value)
		}
	}
	enc.AddBool("port_zero", f.Marked())
	named := f.say()
	if len(named.Telling) == 0 {
		return nil
	}
	return enc.AddObject("tlv", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		for _, name := range named.Telling {
			enc.AddString(name, escape.Text(named.Values[name]))
		}
		return nil
	}))
}

// MarshalJSON implements json.Marshaler.
func (s *summary) MarshalJSON() ([]byte, error) {
	enc := zapcore.NewMapObjectEncoder()
	if err := s.MarshalLogObject(enc); err != nil {
		return nil, err
	}
	return json.Marshal(enc.Fields)
}

// String implements fmt.Stringer, for text with the placeholder in it.
func (s *summary) String() string {
	text, err := s.MarshalJSON()
	if err != nil {
		return ""
	}
	return string(text)
}
