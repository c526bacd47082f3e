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
	"cel.dev/cel-go/parser"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// This file warns of matchers that are negated, by `not` or by `!` in CEL. A matcher of this
// module does not match a request that it cannot judge, so the negated one does. That is safe
// where it refuses requests, and dangerous where it allows something.

// warnOfNegations warns once of the matchers in the server's routes that are negated and let
// a request pass that they cannot judge. What cannot be read is left to Caddy, which provisions
// the routes later.
func (lw *ListenerWrapper) warnOfNegations(server *caddyhttp.Server, logger *zap.Logger) {
	s := negationScan{
		unspecified: lw.uses(Unspecified),
		http3:       servesUnwrappedHTTP3(server),
	}
	s.routes(server.Routes)
	if server.Errors != nil {
		s.routes(server.Errors.Routes)
	}
	for _, route := range server.NamedRoutes {
		if route != nil {
			s.route(*route)
		}
	}
	if len(s.found) == 0 {
		return
	}
	slices.Sort(s.found)
	logger.Warn("a negated matcher also matches requests that it cannot judge: those whose header nobody vouched for (mode 'unspecified'), those over HTTP/3 that did not come through the packet wrapper, and those with a value of a placeholder that makes no sense; negate a matcher only to refuse requests, or write what must match, such as 'proxy_protocol absent' instead of 'not proxy_protocol present'",
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

// negationScan looks for negated matchers in routes.
type negationScan struct {
	// unspecified says that the wrapper uses mode Unspecified.
	unspecified bool
	// http3 says that nothing is known of some requests over HTTP/3.
	http3 bool
	found []string
}

func (s *negationScan) routes(routes caddyhttp.RouteList) {
	for _, route := range routes {
		s.route(route)
	}
}

// route looks at a route of which Caddy may have provisioned the matchers, not the handlers.
func (s *negationScan) route(route caddyhttp.Route) {
	sets := formula{op: opOr}
	for _, set := range route.MatcherSets {
		sets.of = append(sets.of, formulaOfSet(set))
	}
	for _, set := range route.MatcherSetsRaw {
		sets.of = append(sets.of, formulaOfRawSet(set))
	}
	s.judge(sets, route.HandlersRaw)
	for _, handler := range route.HandlersRaw {
		s.raw(handler)
	}
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
		Match  []rawSet          `json:"match"`
		Handle []json.RawMessage `json:"handle"`
	}
	if json.Unmarshal(part, &route) == nil {
		s.judge(formulaOfRawSets(route.Match), route.Handle)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		s.raw(object[name])
	}
}

// judge notes the negated matchers because of which a route that does not refuse requests
// could match one that they cannot judge.
func (s *negationScan) judge(sets formula, handlers []json.RawMessage) {
	if refusesAll(handlers) {
		return
	}
	for _, m := range sets.eval(false, nothingKnown).because {
		if m.needsVouching || s.http3 {
			s.found = append(s.found, m.negated)
		}
	}
	for _, m := range sets.eval(false, valuesUnusable).because {
		s.found = append(s.found, m.negated)
	}
	if s.unspecified {
		for _, m := range sets.eval(false, notVouched).because {
			s.found = append(s.found, m.negated)
		}
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

// formula is a route's condition: matchers with "and", "or" and "not".
type formula struct {
	op formulaOp
	of []formula
	// matcher is one of this module, with opMatcher.
	matcher negatable
}

type formulaOp uint8

const (
	opOther   formulaOp = iota // anything else, which may be true or false
	opMatcher                  // a matcher of this module
	opNot                      // with one formula
	opAnd
	opOr
)

// negatable is a matcher of this module.
type negatable struct {
	// negated is the text of the matcher with a negation in front of it.
	negated string
	// needsVouching says that the matcher matches only what was vouched for.
	needsVouching bool
	// absent says that the matcher matches only connections without a header.
	absent bool
	// variable says that the matcher has a placeholder, whose value it may be unable to use.
	variable bool
}

// situation returns whether a matcher can match a request, and whether it cannot judge it.
type situation func(m negatable) (matches, cannotJudge bool)

// nothingKnown is the situation in which nothing is known of the request's connection.
func nothingKnown(negatable) (matches, cannotJudge bool) { return false, true }

// notVouched is the situation in which the connection has a header under mode Unspecified.
func notVouched(m negatable) (matches, cannotJudge bool) {
	return !m.needsVouching && !m.absent, m.needsVouching
}

// valuesUnusable is the situation in which no placeholder has a value that makes sense.
func valuesUnusable(m negatable) (matches, cannotJudge bool) { return !m.variable, m.variable }

// truth is the value of a formula.
type truth struct {
	// possible says that the formula can be true.
	possible bool
	// because has the negated matchers without which it might be false.
	because []negatable
}

// eval returns the value of the formula, or with negate that of its negation.
func (f formula) eval(negate bool, in situation) truth {
	switch f.op {
	case opNot:
		return f.of[0].eval(!negate, in)
	case opAnd, opOr:
		all := (f.op == opAnd) != negate
		value := truth{possible: all}
		for _, part := range f.of {
			v := part.eval(negate, in)
			switch {
			case v.possible:
				value.because = append(value.because, v.because...)
				value.possible = true
			case all:
				return truth{}
			}
		}
		return value
	case opMatcher:
		matches, cannotJudge := in(f.matcher)
		switch {
		case !negate:
			return truth{possible: matches}
		case cannotJudge:
			return truth{possible: true, because: []negatable{f.matcher}}
		}
	}
	return truth{possible: true}
}

// rawSet has matchers that must all match, by name.
type rawSet = map[string]json.RawMessage

func formulaOfRawSets(sets []rawSet) formula {
	f := formula{op: opOr}
	for _, set := range sets {
		f.of = append(f.of, formulaOfRawSet(set))
	}
	return f
}

func formulaOfRawSet(set rawSet) formula {
	f := formula{op: opAnd}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		f.of = append(f.of, formulaOfRaw(name, set[name]))
	}
	return f
}

func formulaOfRaw(name string, raw json.RawMessage) formula {
	switch name {
	case "not":
		var sets []rawSet
		if json.Unmarshal(raw, &sets) == nil {
			return formula{op: opNot, of: []formula{formulaOfRawSets(sets)}}
		}
	case "expression":
		var object struct{ Expr string }
		if json.Unmarshal(raw, &object.Expr) == nil || json.Unmarshal(raw, &object) == nil {
			return formulaOfText(object.Expr)
		}
	case "proxy_protocol":
		m := new(MatchProxyProtocol)
		if json.Unmarshal(raw, m) == nil && m.compile() == nil {
			return formulaOf(m)
		}
	case "pinned_ip":
		m := new(MatchPinnedIP)
		if json.Unmarshal(raw, m) == nil {
			return formulaOf(m)
		}
	}
	return formula{}
}

// formulaOfSet is formulaOfRawSet for matchers that are provisioned.
func formulaOfSet(set caddyhttp.MatcherSet) formula {
	f := formula{op: opAnd}
	for _, matcher := range set {
		f.of = append(f.of, formulaOf(matcher))
	}
	return f
}

func formulaOf(matcher any) formula {
	switch m := matcher.(type) {
	case placeholders:
		return formula{op: opOr} // never matches
	case *caddyhttp.MatchNot:
		sets := formula{op: opOr}
		for _, set := range m.MatcherSets {
			sets.of = append(sets.of, formulaOfSet(set))
		}
		return formula{op: opNot, of: []formula{sets}}
	case *caddyhttp.MatchExpression:
		return formulaOfText(m.Expr)
	case *MatchProxyProtocol:
		return formula{op: opMatcher, matcher: m.negatable("not " + m.String())}
	case *MatchPinnedIP:
		ranges := strings.Join(m.Ranges, " ")
		return formula{op: opMatcher, matcher: negatable{negated: "not pinned_ip " + ranges, needsVouching: true, variable: strings.Contains(ranges, "{")}}
	}
	return formula{}
}

func (m *MatchProxyProtocol) negatable(negated string) negatable {
	return negatable{negated: negated, needsVouching: m.needsVouching(), absent: m.states[isAbsent]}
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

// CEL

// celPlaceholder is a placeholder in an expression. With a backslash it is part of a text,
// else Caddy makes a function call of it.
var celPlaceholder = regexp.MustCompile(`\\?\{[a-zA-Z][\w.-]+\}`)

func formulaOfText(expression string) formula {
	expression = celPlaceholder.ReplaceAllStringFunc(expression, func(text string) string {
		if escaped, ok := strings.CutPrefix(text, `\`); ok {
			return escaped
		}
		return caddyhttp.CELPlaceholderFuncName + "(" + caddyhttp.CELRequestVarName + ", '" + text[1:len(text)-1] + "')"
	})
	p, err := parser.NewParser()
	if err != nil {
		return formula{}
	}
	parsed, errs := p.Parse(common.NewTextSource(expression))
	if len(errs.GetErrors()) > 0 {
		return formula{}
	}
	return formulaOfExpr(parsed.Expr())
}

func formulaOfExpr(expr ast.Expr) formula {
	if value, ok := celBool(expr); ok {
		if value {
			return formula{op: opAnd}
		}
		return formula{op: opOr}
	}
	if expr.Kind() != ast.CallKind || expr.AsCall().IsMemberFunction() {
		return formula{}
	}
	call := expr.AsCall()
	args := call.Args()
	var of []formula
	for _, arg := range args {
		of = append(of, formulaOfExpr(arg))
	}
	switch call.FunctionName() {
	case operators.LogicalNot:
		return formula{op: opNot, of: of}
	case operators.LogicalAnd:
		return formula{op: opAnd, of: of}
	case operators.LogicalOr:
		return formula{op: opOr, of: of}
	case operators.Conditional:
		return formula{op: opOr, of: []formula{
			{op: opAnd, of: []formula{of[0], of[1]}},
			{op: opAnd, of: []formula{{op: opNot, of: of[:1]}, of[2]}},
		}}
	case operators.Equals, operators.NotEquals:
		for i, arg := range args {
			value, ok := celBool(arg)
			if !ok {
				continue
			}
			if value == (call.FunctionName() == operators.Equals) {
				return of[1-i]
			}
			return formula{op: opNot, of: []formula{of[1-i]}}
		}
	case "proxy_protocol", "pinned_ip":
		return formulaOfCELMatcher(call.FunctionName(), args)
	}
	return formula{}
}

// celBool returns the value of an expression that is true or false.
func celBool(expr ast.Expr) (value, ok bool) {
	if expr.Kind() != ast.LiteralKind {
		return false, false
	}
	value, ok = expr.AsLiteral().Value().(bool)
	return value, ok
}

func formulaOfCELMatcher(function string, exprs []ast.Expr) formula {
	m := new(MatchProxyProtocol)
	variable := false
	var texts []string
	for _, expr := range exprs {
		arg, ok := celArgOf(expr)
		if !ok {
			return formula{}
		}
		texts = append(texts, "'"+arg.String()+"'")
		variable = variable || strings.Contains(arg.String(), "{")
		if arg.literal() {
			m.addArg(arg.String())
		}
	}
	negated := "!" + function + "(" + strings.Join(texts, ", ") + ")"
	if function == "pinned_ip" {
		return formula{op: opMatcher, matcher: negatable{negated: negated, needsVouching: true, variable: variable}}
	}
	_ = m.compile() // an error is Caddy's to tell
	leaf := m.negatable(negated)
	leaf.variable = variable
	return formula{op: opMatcher, matcher: leaf}
}
