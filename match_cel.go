package proxyprotocol

import (
	"errors"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/parser"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// celArg is an argument of a CEL function: literal text and names of placeholders in turn,
// with text, perhaps empty, first and last.
type celArg []string

// literal reports whether the argument has no placeholder.
func (a celArg) literal() bool { return len(a) == 1 }

// String returns the argument with its placeholders in braces.
func (a celArg) String() string {
	var text strings.Builder
	for i, part := range a {
		if i%2 == 1 {
			part = "{" + part + "}"
		}
		text.WriteString(part)
	}
	return text.String()
}

// value returns the argument with the values of its placeholders, or errNoValue if one of
// them has none. Placeholders in a value are not evaluated: a client may have sent it.
func (a celArg) value(repl *caddy.Replacer) (string, error) {
	var text strings.Builder
	for i, part := range a {
		if i%2 == 1 {
			if part, _ = repl.GetString(part); part == "" {
				return "", errNoValue
			}
		}
		text.WriteString(part)
	}
	return text.String(), nil
}

var errNoValue = errors.New("the placeholder has no value")

// celArgs are the arguments of a CEL function.
type celArgs []celArg

// String returns the arguments with their placeholders in braces.
func (args celArgs) String() string {
	var texts []string
	for _, arg := range args {
		texts = append(texts, arg.String())
	}
	return strings.Join(texts, ", ")
}

// celFactory makes a matcher of the arguments of a CEL function. Caddy calls it when it loads
// a configuration, because the arguments are constants for CEL.
type celFactory func(args celArgs) (caddyhttp.RequestMatcherWithError, error)

func (f celFactory) caddy() caddyhttp.CELMatcherWithErrorFactory {
	return func(data ref.Val) (caddyhttp.RequestMatcherWithError, error) {
		native, err := data.ConvertToNative(reflect.TypeFor[celArgs]())
		if err != nil {
			return nil, err
		}
		return f(native.(celArgs))
	}
}

// celLibrary makes a matcher a CEL function with arguments of text. Unlike with Caddy's own
// matchers, CEL does not evaluate the placeholders in them. The matcher does, so that it
// knows which text is the value of a placeholder, gets lists as lists, and decides itself about
// a value that it cannot use, which would be an error 500 in CEL.
func celLibrary(name, overload string, f celFactory) cel.Library {
	macro := parser.NewGlobalVarArgMacro(name, func(eh cel.MacroExprFactory, _ ast.Expr, exprs []ast.Expr) (ast.Expr, *common.Error) {
		if len(exprs) == 0 {
			return nil, eh.NewError(0, "matcher requires at least one argument")
		}
		var args []ast.Expr
		for _, expr := range exprs {
			arg, ok := celArgOf(expr)
			if !ok {
				return nil, eh.NewError(expr.ID(), "matcher arguments must be string constants")
			}
			var parts []ast.Expr
			for _, part := range arg {
				parts = append(parts, eh.NewLiteral(types.String(part)))
			}
			args = append(args, eh.NewList(parts...))
		}
		return eh.NewCall(overload, eh.NewIdent(caddyhttp.CELRequestVarName), eh.NewList(args...)), nil
	})
	params := []*cel.Type{cel.ObjectType("http.Request"), cel.ListType(cel.ListType(cel.StringType))}
	return caddyhttp.NewMatcherCELLibrary(
		[]cel.EnvOption{
			cel.Macros(macro),
			cel.Function(overload,
				cel.Overload(overload, params, cel.BoolType),
				cel.SingletonBinaryBinding(caddyhttp.CELMatcherRuntimeFunction(overload, f.caddy()))),
		},
		[]cel.ProgramOption{cel.CustomDecorator(caddyhttp.CELMatcherDecorator(overload, f.caddy()))},
	)
}

// celArgOf returns text and placeholders that are put together by "+" as one argument.
func celArgOf(expr ast.Expr) (arg celArg, ok bool) {
	switch expr.Kind() {
	case ast.LiteralKind:
		literal, ok := expr.AsLiteral().(types.String)
		return celArg{string(literal)}, ok
	case ast.CallKind:
		call := expr.AsCall()
		args := call.Args()
		switch {
		case call.FunctionName() == caddyhttp.CELPlaceholderFuncName && len(args) == 2:
			name, ok := celArgOf(args[1])
			return celArg{"", name.String(), ""}, ok && name.literal()
		case call.FunctionName() == operators.Add:
			left, leftOK := celArgOf(args[0])
			right, rightOK := celArgOf(args[1])
			if !leftOK || !rightOK {
				return nil, false
			}
			last := len(left) - 1
			arg := append(left[:last:last], left[last]+right[0])
			return append(arg, right[1:]...), true
		}
	}
	return nil, false
}
