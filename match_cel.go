package proxyprotocol

import (
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/parser"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// celFactory makes a matcher of the arguments of a CEL function.
type celFactory func(args []string) (caddyhttp.RequestMatcherWithError, error)

func (f celFactory) caddy() caddyhttp.CELMatcherWithErrorFactory {
	return func(data ref.Val) (caddyhttp.RequestMatcherWithError, error) {
		list, ok := data.(traits.Lister)
		if !ok {
			return nil, fmt.Errorf("expected a list of strings, got %s", data.Type().TypeName())
		}
		var args []string
		for it := list.Iterator(); it.HasNext() == types.True; {
			args = append(args, caddy.ToString(it.Next().Value()))
		}
		return f(args)
	}
}

// celPlaceholderLibrary makes a matcher that takes placeholders a CEL function with
// arguments of text. Unlike with Caddy's own matchers, placeholders reach the matcher as
// such, so that it knows what is a placeholder's value, and gets lists as lists.
func celPlaceholderLibrary(name, overload string, f celFactory) cel.Library {
	macro := parser.NewGlobalVarArgMacro(name, func(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
		if len(args) == 0 {
			return nil, eh.NewError(0, "matcher requires at least one argument")
		}
		var texts []ast.Expr
		for _, arg := range args {
			text, ok := celText(arg)
			if !ok {
				return nil, eh.NewError(arg.ID(), "matcher arguments must be string constants")
			}
			texts = append(texts, eh.NewLiteral(types.String(text)))
		}
		return eh.NewCall(overload, eh.NewIdent(caddyhttp.CELRequestVarName), eh.NewList(texts...)), nil
	})
	params := []*cel.Type{cel.ObjectType("http.Request"), cel.ListType(cel.StringType)}
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

// celText returns text and placeholders that are put together by "+" as one text.
func celText(expr ast.Expr) (text string, ok bool) {
	switch expr.Kind() {
	case ast.LiteralKind:
		literal, ok := expr.AsLiteral().(types.String)
		return string(literal), ok
	case ast.CallKind:
		call := expr.AsCall()
		args := call.Args()
		switch {
		case call.FunctionName() == caddyhttp.CELPlaceholderFuncName && len(args) == 2:
			name, ok := celText(args[1])
			return "{" + name + "}", ok
		case call.FunctionName() == operators.Add && len(args) == 2:
			left, leftOK := celText(args[0])
			right, rightOK := celText(args[1])
			return left + right, leftOK && rightOK
		}
	}
	return "", false
}
