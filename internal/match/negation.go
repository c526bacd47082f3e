package match

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// This file looks for matchers that are negated, by `not` or by `!` in CEL. A matcher of this
// module does not match a request that it cannot check, so the negated one does. That is safe
// where it refuses requests, and dangerous where it allows something.
//
// A matcher is negated if an odd number of negations is above it. It is guarded if a matcher
// of this module must match as well that does not match such a request and is not negated.

// Set is a set of matchers: their configuration by name. All must match.
type Set = map[string]json.RawMessage

// Negations looks for negated matchers in routes.
type Negations struct {
	// Unspecified says that the wrapper uses mode Unspecified.
	Unspecified bool
	// HTTP3 says that some requests over HTTP/3 have no known connection.
	HTTP3 bool
	// ExpandPeer expands the values of the option peer.
	ExpandPeer func([]string) []string
	found      []string
}

// Found returns the negated matchers that were found, in order and each once.
func (s *Negations) Found() []string {
	slices.Sort(s.found)
	return slices.Compact(s.found)
}

// Config looks at the routes anywhere in a part of the configuration. They have the field match
// with a list of matcher sets.
func (s *Negations) Config(part json.RawMessage) {
	if !bytes.Contains(part, []byte("proxy_protocol")) && !bytes.Contains(part, []byte("pinned_ip")) {
		return
	}
	var list []json.RawMessage
	if json.Unmarshal(part, &list) == nil {
		for _, element := range list {
			s.Config(element)
		}
		return
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(part, &object) != nil {
		return
	}
	var route struct {
		Match  []Set             `json:"match"`
		Handle []json.RawMessage `json:"handle"`
	}
	if json.Unmarshal(part, &route) == nil {
		s.Route(route.Match, route.Handle)
	}
	for _, value := range object {
		s.Config(value)
	}
}

// Route looks at the matchers of a route, unless one of its handlers refuses every request.
func (s *Negations) Route(sets []Set, handlers []json.RawMessage) {
	if !refusesAll(handlers) {
		s.sets(sets, false, false)
	}
}

// refusal matches status codes that refuse a request. Caddy takes numbers and text.
var refusal = regexp.MustCompile(`^[4-9]\d\d$`)

// refusesAll reports whether one of the handlers of a route refuses every request.
func refusesAll(handlers []json.RawMessage) bool {
	return slices.ContainsFunc(handlers, func(raw json.RawMessage) bool {
		var handler struct {
			Handler string `json:"handler"`
			Abort   bool   `json:"abort"`
			Status  any    `json:"status_code"`
			Mode    string `json:"mode"`
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
			return handler.Abort || refusal.MatchString(fmt.Sprint(handler.Status))
		case "proxy_protocol": // the directive, which cannot judge such a request either
			return handler.Mode != policy.Unspecified.String()
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
func (s *Negations) sets(sets []Set, negated, guarded bool) {
	for _, set := range sets {
		guarded := guarded
		for name, value := range set {
			guarded = guarded || !negated && s.guards(s.parse(name, value))
		}
		for name, value := range set {
			var nested []Set
			if name == "not" && json.Unmarshal(value, &nested) == nil {
				s.sets(nested, !negated, guarded)
			}
			s.matcher(s.parse(name, value), negated, guarded)
		}
	}
}

// matcher looks at a matcher of this module or a CEL expression. It does not look into "?:",
// in which a condition is negated for one of the results only.
func (s *Negations) matcher(matcher any, negated, guarded bool) {
	switch m := matcher.(type) {
	case ownMatcher:
		if negated && (m.variable || !guarded && (m.vouched || s.HTTP3)) {
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
			s.matcher(s.parseCall(m.AsCall()), negated, guarded)
		}
	}
}

// guards reports whether a matcher of this module or a CEL expression does not match a request
// that a negated matcher beside it matches because its header is unverified.
func (s *Negations) guards(matcher any) bool {
	switch m := matcher.(type) {
	case ownMatcher:
		return m.vouched || m.absent || !s.Unspecified
	case ast.Expr:
		switch call := m.AsCall(); call.FunctionName() {
		case operators.LogicalAnd:
			return s.guards(call.Args()[0]) || s.guards(call.Args()[1])
		case operators.LogicalOr:
			return s.guards(call.Args()[0]) && s.guards(call.Args()[1])
		case "proxy_protocol", "pinned_ip":
			return s.guards(s.parseCall(call))
		}
	}
	return false
}

// ownMatcher is a matcher of this module.
type ownMatcher struct {
	// text is the matcher with a negation in front of it.
	text string
	// vouched says that the matcher does not match a request with an unverified header.
	vouched bool
	// absent says that the matcher matches only connections without a header.
	absent bool
	// variable says that the matcher has a placeholder, whose value it may be unable to use.
	variable bool
}

// parse returns an ownMatcher, a CEL expression, or nil for any other matcher.
func (s *Negations) parse(name string, raw json.RawMessage) any {
	switch name {
	case "expression": // MatchExpression panics if a field is missing
		var object struct{ Expr string }
		if json.Unmarshal(raw, &object.Expr) == nil || json.Unmarshal(raw, &object) == nil {
			return parseCEL(object.Expr)
		}
	case "proxy_protocol":
		var c Conditions // the names of its fields are those in JSON, but for the case
		if json.Unmarshal(raw, &c) == nil {
			if h, err := c.Compile(); err == nil {
				return ownMatcher{"not " + c.String(), h.needsVouching(), h.is[absent], false}
			}
		}
	case "pinned_ip":
		var m struct{ Ranges []string }
		if json.Unmarshal(raw, &m) == nil {
			ranges := strings.Join(m.Ranges, " ")
			return ownMatcher{"not pinned_ip " + ranges, true, false, strings.Contains(ranges, "{")}
		}
	}
	return nil
}

// celPlaceholder is a placeholder in CEL that has no backslash in front of it.
var celPlaceholder = regexp.MustCompile(`([^\\]|^)\{([a-zA-Z][\w.-]+)\}`)

// parseCEL returns a CEL expression, or nil if it is wrong. As Caddy does, it makes function
// calls of placeholders first.
func parseCEL(text string) any {
	text = celPlaceholder.ReplaceAllString(text, "${1}"+PlaceholderFunction+"("+RequestVariable+", '$2')")
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

// parseCall returns the ownMatcher that a CEL function of this module stands for, or nil
// if it is not one or its arguments are wrong.
func (s *Negations) parseCall(call ast.CallExpr) any {
	var c Conditions
	var args []string
	for _, expr := range call.Args() {
		arg, ok := ArgOf(expr)
		if !ok {
			return nil
		}
		args = append(args, arg.String())
		c.AddArg(arg.String(), s.ExpandPeer)
	}
	if call.IsMemberFunction() {
		return nil
	}
	text := WithoutSecrets("!" + call.FunctionName() + "('" + strings.Join(args, "', '") + "')")
	variable := strings.Contains(text, "{")
	if call.FunctionName() == "pinned_ip" {
		return ownMatcher{text, true, false, variable}
	}
	h, err := c.Compile() // arguments with placeholders may not compile
	// The value of a placeholder can be port_zero, beside which nothing needs vouching.
	vouched := err == nil && h.needsVouching() && !variable
	return ownMatcher{text, vouched, slices.Contains(c.Is, absent), variable}
}
