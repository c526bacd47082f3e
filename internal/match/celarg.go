package match

import (
	"errors"
	"regexp"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
)

// Caddy makes a placeholder in CEL a call of the function PlaceholderFunction with the variable
// RequestVariable.
const (
	PlaceholderFunction = "ph"
	RequestVariable     = "req"
)

// Arg is an argument of a CEL function: literal text and names of placeholders in turn,
// with text, perhaps empty, first and last.
type Arg []string

// Literal reports whether the argument has no placeholder.
func (a Arg) Literal() bool { return len(a) == 1 }

// String returns the argument with its placeholders in braces.
func (a Arg) String() string {
	var text strings.Builder
	for i, part := range a {
		if i%2 == 1 {
			part = "{" + part + "}"
		}
		text.WriteString(part)
	}
	return text.String()
}

// ErrNoValue says that a placeholder has no value.
var ErrNoValue = errors.New("the placeholder has no value")

// Value returns the argument with the values of its placeholders, which get returns, or
// ErrNoValue if one of them has none. Placeholders in a value are not evaluated: a client may
// have sent it.
func (a Arg) Value(get func(placeholder string) string) (string, error) {
	var text strings.Builder
	for i, part := range a {
		if i%2 == 1 {
			if part = get(part); part == "" {
				return "", ErrNoValue
			}
		}
		text.WriteString(part)
	}
	return text.String(), nil
}

// Args are the arguments of a CEL function.
type Args []Arg

// String returns the arguments with their placeholders in braces, for a log: see WithoutSecrets.
func (args Args) String() string {
	var texts []string
	for _, arg := range args {
		texts = append(texts, arg.String())
	}
	return WithoutSecrets(strings.Join(texts, ", "))
}

// secretArg is an argument with the value of a TLV 0xNN, which may be a secret.
var secretArg = regexp.MustCompile("(tlv:0x[0-9a-fA-F]{2}=)[^{,'\"`\\\\]+")

// WithoutSecrets returns a text with arguments of CEL functions, in which the values of TLVs 0xNN are
// redacted.
func WithoutSecrets(text string) string {
	return secretArg.ReplaceAllString(text, "${1}"+tlv.Redacted)
}

// ArgOf returns text and placeholders that are put together by "+" as one argument. It is not ok
// if the expression is anything else.
func ArgOf(expr ast.Expr) (arg Arg, ok bool) {
	switch expr.Kind() {
	case ast.LiteralKind:
		literal, ok := expr.AsLiteral().(types.String)
		return Arg{string(literal)}, ok
	case ast.CallKind:
		call := expr.AsCall()
		args := call.Args()
		switch {
		case call.FunctionName() == PlaceholderFunction && len(args) == 2:
			name, ok := ArgOf(args[1])
			return Arg{"", name.String(), ""}, ok && name.Literal()
		case call.FunctionName() == operators.Add:
			left, leftOK := ArgOf(args[0])
			right, rightOK := ArgOf(args[1])
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
