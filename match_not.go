package proxyprotocol

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// This file warns of matchers that are negated, by `not` or by `!` in CEL. A matcher of this
// module does not match a request that it cannot judge, so the negated one does. That is safe
// where it refuses requests, and dangerous where it allows something.
//
// A matcher is negated if an odd number of negations is above it. It is guarded if a matcher
// of this module must match as well that does not match such a request and is not negated.

// warnOfNegations warns once of the negated matchers in the server's routes. Caddy reports
// what cannot be read, when it provisions the routes later.
func (lw *ListenerWrapper) warnOfNegations(server *caddyhttp.Server, logger *zap.Logger) {
	s := negationScan{
		unspecified: lw.rules.uses(Unspecified),
		http3:       servesUnwrappedHTTP3(server),
	}
	routes := slices.Clone(server.Routes)
	if server.Errors != nil {
		routes = append(routes, server.Errors.Routes...)
	}
	for _, route := range server.NamedRoutes {
		if route != nil {
			routes = append(routes, *route)
		}
	}
	for _, route := range routes {
		s.route(append(rawSets(route.MatcherSets), route.MatcherSetsRaw...), route.HandlersRaw)
		for _, handler := range route.HandlersRaw {
			s.raw(handler)
		}
	}
	if len(s.found) == 0 {
		return
	}
	slices.Sort(s.found)
	logger.Warn("a negated matcher also matches requests that the matcher cannot check: requests with an unverified header (mode 'unspecified'), HTTP/3 requests that did not come through the packet conn wrapper, and requests for which a placeholder has an unusable value; negate a matcher only to refuse requests, or write what must match, such as 'proxy_protocol absent' instead of 'not proxy_protocol present'",
		zap.Strings("matchers", slices.Compact(s.found)))
}

// servesUnwrappedHTTP3 reports whether the server serves requests over HTTP/3 that nothing is
// known of.
func servesUnwrappedHTTP3(server *caddyhttp.Server) bool {
	if pw, err := packetWrapperOf(server); pw != nil || err != nil || len(server.TLSConnPolicies) == 0 {
		return false
	}
	inherits := len(server.ListenProtocols) == 0
	for _, protocols := range server.ListenProtocols {
		if slices.Contains(protocols, "h3") {
			return true
		}
		inherits = inherits || protocols == nil
	}
	return inherits && slices.Contains(server.Protocols, "h3")
}

// rawSets returns the JSON of matchers that Caddy has provisioned already, as those of a
// server's own routes. Those that are not negated and cannot have negations are left out.
func rawSets(sets caddyhttp.MatcherSets) (raw caddyhttp.RawMatcherSets) {
	for _, set := range sets {
		rawSet := make(caddy.ModuleMap)
		for _, matcher := range set {
			switch m := matcher.(type) {
			case *caddyhttp.MatchNot:
				rawSet["not"], _ = json.Marshal(rawSets(m.MatcherSets))
			case *caddyhttp.MatchExpression:
				rawSet["expression"], _ = json.Marshal(m.Expr)
			case *MatchProxyProtocol:
				rawSet["proxy_protocol"], _ = json.Marshal(m)
			case *MatchPinnedIP:
				rawSet["pinned_ip"], _ = json.Marshal(m)
			}
		}
		raw = append(raw, rawSet)
	}
	return raw
}

// negationScan looks for negated matchers in routes.
type negationScan struct {
	// unspecified says that the wrapper uses mode Unspecified.
	unspecified bool
	// http3 says that nothing is known of some requests over HTTP/3.
	http3 bool
	found []string
}

// raw looks for routes anywhere in a part of the configuration. They have the field match with
// a list of matcher sets.
func (s *negationScan) raw(part json.RawMessage) {
	if !bytes.Contains(part, []byte("proxy_protocol")) && !bytes.Contains(part, []byte("pinned_ip")) {
		return
	}
	var list []json.RawMessage
	if json.Unmarshal(part, &list) == nil {
		for _, element := range list {
			s.raw(element)
		}
		return
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(part, &object) != nil {
		return
	}
	var route struct {
		Match  caddyhttp.RawMatcherSets `json:"match"`
		Handle []json.RawMessage        `json:"handle"`
	}
	if json.Unmarshal(part, &route) == nil {
		s.route(route.Match, route.Handle)
	}
	for _, value := range object {
		s.raw(value)
	}
}

func (s *negationScan) route(sets caddyhttp.RawMatcherSets, handlers []json.RawMessage) {
	if !refusesAll(handlers) {
		s.sets(sets, false, false)
	}
}

// refusesAll reports whether one of the handlers of a route refuses every request.
func refusesAll(handlers []json.RawMessage) bool {
	return slices.ContainsFunc(handlers, func(raw json.RawMessage) bool {
		var handler struct {
			Handler string               `json:"handler"`
			Abort   bool                 `json:"abort"`
			Status  caddyhttp.WeakString `json:"status_code"`
			Mode    string               `json:"mode"`
			Routes  []struct {
				Handle []json.RawMessage `json:"handle"`
			} `json:"routes"`
		}
		if json.Unmarshal(raw, &handler) != nil {
			return false
		}
		switch handler.Handler {
		case "error":
			return true
		case "static_response":
			return handler.Abort || handler.Status.Int() >= 400
		case "proxy_protocol": // the directive, which cannot judge such a request either
			return handler.Mode != Unspecified.String()
		case "subroute":
			for _, route := range handler.Routes {
				if !refusesAll(route.Handle) {
					return false
				}
			}
			return len(handler.Routes) > 0
		default:
			return false
		}
	})
}

// sets looks at matcher sets.
func (s *negationScan) sets(sets caddyhttp.RawMatcherSets, negated, guarded bool) {
	for _, set := range sets {
		guarded := guarded
		for name, value := range set {
			guarded = guarded || !negated && s.guards(parseMatcher(name, value))
		}
		for name, value := range set {
			var nested caddyhttp.RawMatcherSets
			if name == "not" && json.Unmarshal(value, &nested) == nil {
				s.sets(nested, !negated, guarded)
			}
			s.matcher(parseMatcher(name, value), negated, guarded)
		}
	}
}

// matcher looks at a matcher of this module or a CEL expression. It does not look into "?:",
// in which a condition is negated for one of the results only.
func (s *negationScan) matcher(matcher any, negated, guarded bool) {
	switch m := matcher.(type) {
	case ownMatcher:
		if negated && (m.variable || !guarded && (m.vouched || s.http3)) {
			s.found = append(s.found, m.text)
		}
	case ast.Expr:
		args := m.AsCall().Args()
		switch function := m.AsCall().FunctionName(); function {
		case operators.LogicalNot:
			s.matcher(args[0], !negated, guarded)
		case operators.LogicalAnd, operators.LogicalOr:
			and := function == operators.LogicalAnd && !negated
			s.matcher(args[0], negated, guarded || and && s.guards(args[1]))
			s.matcher(args[1], negated, guarded || and && s.guards(args[0]))
		case operators.Equals, operators.NotEquals:
			for i, arg := range args {
				if value := arg.AsLiteral(); value == types.True || value == types.False {
					same := (value == types.True) == (function == operators.Equals)
					s.matcher(args[1-i], negated == same, guarded)
				}
			}
		case "proxy_protocol", "pinned_ip":
			s.matcher(matcherOfCall(m.AsCall()), negated, guarded)
		}
	}
}

// guards reports whether a matcher of this module or a CEL expression does not match a request
// that a negated matcher beside it matches because nobody vouched for it.
func (s *negationScan) guards(matcher any) bool {
	switch m := matcher.(type) {
	case ownMatcher:
		return m.vouched || m.absent || !s.unspecified
	case ast.Expr:
		switch call := m.AsCall(); call.FunctionName() {
		case operators.LogicalAnd:
			return s.guards(call.Args()[0]) || s.guards(call.Args()[1])
		case operators.LogicalOr:
			return s.guards(call.Args()[0]) && s.guards(call.Args()[1])
		case "proxy_protocol", "pinned_ip":
			return s.guards(matcherOfCall(call))
		}
	}
	return false
}

// ownMatcher is a matcher of this module.
type ownMatcher struct {
	// text is the matcher with a negation in front of it.
	text string
	// vouched says that the matcher does not match if the header was not vouched for.
	vouched bool
	// absent says that the matcher matches only connections without a header.
	absent bool
	// variable says that the matcher has a placeholder, whose value it may be unable to use.
	variable bool
}

// parseMatcher returns an ownMatcher, a CEL expression, or nil for any other matcher.
func parseMatcher(name string, raw json.RawMessage) any {
	switch name {
	case "expression": // MatchExpression panics if a field is missing
		var object struct{ Expr string }
		if json.Unmarshal(raw, &object.Expr) == nil || json.Unmarshal(raw, &object) == nil {
			return parseCEL(object.Expr)
		}
	case "proxy_protocol":
		var m MatchProxyProtocol
		if json.Unmarshal(raw, &m) == nil && m.compile() == nil {
			return ownMatcher{"not " + m.String(), m.needsVouching(), m.states[isAbsent], false}
		}
	case "pinned_ip":
		var m MatchPinnedIP
		if json.Unmarshal(raw, &m) == nil {
			ranges := strings.Join(m.Ranges, " ")
			return ownMatcher{"not pinned_ip " + ranges, true, false, strings.Contains(ranges, "{")}
		}
	}
	return nil
}

// String returns the matcher as it stands in a Caddyfile, in one line.
func (m *MatchProxyProtocol) String() string {
	var options []string
	if len(m.Version) > 0 {
		options = append(options, "version "+strings.Join(m.Version, " "))
	}
	if len(m.Peer) > 0 {
		options = append(options, "peer "+strings.Join(m.Peer, " "))
	}
	for _, name := range slices.Sorted(maps.Keys(m.TLV)) {
		options = append(options, strings.Join(append([]string{"tlv", name}, m.TLV[name]...), " "))
	}
	words := append([]string{"proxy_protocol"}, m.Is...)
	if len(options) > 0 {
		words = append(words, "{", strings.Join(options, "; "), "}")
	}
	return strings.Join(words, " ")
}

// celPlaceholder is a placeholder in CEL that has no backslash in front of it.
var celPlaceholder = regexp.MustCompile(`([^\\]|^)\{([a-zA-Z][\w.-]+)\}`)

// parseCEL returns a CEL expression, or nil if it is wrong. As Caddy does, it makes function
// calls of placeholders first.
func parseCEL(text string) any {
	text = celPlaceholder.ReplaceAllString(text, "${1}"+caddyhttp.CELPlaceholderFuncName+"("+caddyhttp.CELRequestVarName+", '$2')")
	p, err := parser.NewParser(parser.Macros(parser.AllMacros...))
	if err != nil {
		return nil
	}
	parsed, errs := p.Parse(common.NewTextSource(strings.ReplaceAll(text, `\{`, "{")))
	if len(errs.GetErrors()) > 0 {
		return nil
	}
	return parsed.Expr()
}

// matcherOfCall returns the ownMatcher that a CEL function of this module stands for, or nil
// if it is not one or its arguments are wrong.
func matcherOfCall(call ast.CallExpr) any {
	var m MatchProxyProtocol
	var args []string
	for _, expr := range call.Args() {
		arg, ok := celArgOf(expr)
		if !ok {
			return nil
		}
		args = append(args, arg.String())
		m.addArg(arg.String())
	}
	if call.IsMemberFunction() {
		return nil
	}
	text := "!" + call.FunctionName() + "('" + strings.Join(args, "', '") + "')"
	variable := strings.Contains(text, "{")
	if call.FunctionName() == "pinned_ip" {
		return ownMatcher{text, true, false, variable}
	}
	// The value of a placeholder can be port_zero, beside which nothing needs vouching.
	vouched := m.compile() == nil && m.needsVouching() && !variable
	return ownMatcher{text, vouched, m.states[isAbsent], variable}
}
