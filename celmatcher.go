package proxyprotocol

import (
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/parser"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/portzero/caddy-proxy-protocol/internal/match"
)

// celFactory returns a matcher for the arguments of a CEL function. Caddy calls it when it loads
// a configuration, because the arguments are constants in CEL.
type celFactory func(args match.Args) (caddyhttp.RequestMatcherWithError, error)

func (f celFactory) caddy() caddyhttp.CELMatcherWithErrorFactory {
	return func(data ref.Val) (caddyhttp.RequestMatcherWithError, error) {
		native, err := data.ConvertToNative(reflect.TypeFor[match.Args]())
		if err != nil {
			return nil, err
		}
		return f(native.(match.Args))
	}
}

// celLibrary returns a matcher as a CEL function with text arguments. Unlike with Caddy's own
// matchers, the matcher evaluates the placeholders in them, and CEL does not. So the matcher knows
// which text is the value of a placeholder, gets lists as lists, and does not match if a value is
// invalid, which CEL would answer with the error 500.
func celLibrary(name, overload string, f celFactory) cel.Library {
	macro := parser.NewGlobalVarArgMacro(name, func(eh cel.MacroExprFactory, _ ast.Expr, exprs []ast.Expr) (ast.Expr, *common.Error) {
		if len(exprs) == 0 {
			return nil, eh.NewError(0, "matcher requires at least one argument")
		}
		var args []ast.Expr
		for _, expr := range exprs {
			arg, ok := match.ArgOf(expr)
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
