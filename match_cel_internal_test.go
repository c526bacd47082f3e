package proxyprotocol

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
)

// Placeholders in the argument of a CEL function are evaluated once.
func TestMatchCEL_Argument(t *testing.T) {
	repl := caddy.NewReplacer()
	repl.Set("a", "{b}")
	repl.Set("b", 2)
	repl.Set("none", nil)
	for _, tt := range []struct {
		arg   celArg
		text  string
		value string
		err   error
	}{
		{celArg{""}, "", "", nil},
		{celArg{"{a}"}, "{a}", "{a}", nil},
		{celArg{"", "a", ""}, "{a}", "{b}", nil},
		{celArg{"x", "b", "y"}, "x{b}y", "x2y", nil},
		{celArg{"", "b", "", "a", "z"}, "{b}{a}z", "2{b}z", nil},
		{celArg{"x", "none", "y"}, "x{none}y", "", errNoValue},
		{celArg{"x", "unknown", "y"}, "x{unknown}y", "", errNoValue},
	} {
		assert.Equal(t, tt.text, tt.arg.String())
		value, err := tt.arg.value(repl)
		assert.Equal(t, tt.value, value, tt.text)
		assert.Equal(t, tt.err, err, tt.text)
		assert.Equal(t, len(tt.arg) == 1, tt.arg.literal())
	}
	assert.NoError(t, checkPrefix(celArg{"peer:x=", "a", ""}), "no name of a TLV")
	assert.Equal(t, "present, peer:{a}", celArgs{{"present"}, {"peer:", "a", ""}}.String())
}
