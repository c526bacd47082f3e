package match

import (
	"testing"

	"cel.dev/cel-go/common/ast"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Placeholders in the argument of a CEL function are evaluated once.
func TestArg_PlaceholdersAreEvaluatedOnce(t *testing.T) {
	values := map[string]string{"a": "{b}", "b": "2"}
	get := func(placeholder string) string { return values[placeholder] }
	for _, tt := range []struct {
		arg   Arg
		text  string
		value string
		err   error
	}{
		{Arg{""}, "", "", nil},
		{Arg{"{a}"}, "{a}", "{a}", nil},
		{Arg{"", "a", ""}, "{a}", "{b}", nil},
		{Arg{"x", "b", "y"}, "x{b}y", "x2y", nil},
		{Arg{"", "b", "", "a", "z"}, "{b}{a}z", "2{b}z", nil},
		{Arg{"x", "none", "y"}, "x{none}y", "", ErrNoValue},
		{Arg{"x", "unknown", "y"}, "x{unknown}y", "", ErrNoValue},
	} {
		assert.Equal(t, tt.text, tt.arg.String())
		value, err := tt.arg.Value(get)
		assert.Equal(t, tt.value, value, tt.text)
		assert.Equal(t, tt.err, err, tt.text)
		assert.Equal(t, len(tt.arg) == 1, tt.arg.Literal())
	}
	assert.NoError(t, CheckPrefix(Arg{"peer:x=", "a", ""}), "no name of a TLV")
	assert.Equal(t, "present, peer:{a}", Args{{"present"}, {"peer:", "a", ""}}.String())
	assert.Equal(t, "tlv:0xe1=[redacted], tlv:0xE2={env.T}, tlv:alpn=h2", Args{{"tlv:0xe1=5ec2e7"}, {"tlv:0xE2=", "env.T", ""}, {"tlv:alpn=h2"}}.String())
}

func TestArgOf_TakesTextAndPlaceholdersOnly(t *testing.T) {
	for text, want := range map[string]Arg{
		`'present'`:                          {"present"},
		`'pre' + 'sent'`:                     {"present"},
		`ph(req, 'aa')`:                      {"", "aa", ""},
		`{aa}`:                               {"", "aa", ""},
		`'peer:' + {aa} + '/8'`:              {"peer:", "aa", "/8"},
		`{aa} + {bb}`:                        {"", "aa", "", "bb", ""},
		`'x' + ({aa} + ('y' + 'z')) + {bb}`:  {"x", "aa", "yz", "bb", ""},
		`1`:                                  nil,
		`1 + 'a'`:                            nil,
		`'a' + 1`:                            nil,
		`['present']`:                        nil,
		`req`:                                nil,
		`string('a')`:                        nil,
		`f('a', 'b')`:                        nil,
		`f(req, 'a')`:                        nil,
		`ph('a')`:                            nil,
		`ph(req, 1)`:                         nil,
		`ph(req, ph(req, 'a'))`:              nil,
		`'a' + ph(req, 1)`:                   nil,
		`{aa} == 'b' ? 'present' : 'absent'`: nil,
	} {
		expr, ok := parseCEL(text).(ast.Expr)
		require.True(t, ok, text)
		got, ok := ArgOf(expr)
		assert.Equal(t, want != nil, ok, text)
		if ok {
			assert.Equal(t, want, got, text)
		}
	}
}
