package policy

import (
	"testing"

	"github.com/gaissmai/bart"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestUncoveredOn(t *testing.T) {
	table := func(modes map[string]Mode) *bart.Table[Mode] {
		if modes == nil {
			return nil
		}
		table := new(bart.Table[Mode])
		for s, mode := range modes {
			prefix, err := ParseRange(s)
			require.NoError(t, err)
			require.NoError(t, InsertRange(table, prefix, mode))
		}
		return table
	}
	for name, test := range map[string]struct {
		tcp, udp map[string]Mode
		want     string
	}{
		"no ranges":              {nil, nil, ""},
		"ranges of TCP only":     {map[string]Mode{"10.0.0.0/8": Off, "192.0.2.0/24": On}, nil, ""},
		"the same":               {map[string]Mode{"10.0.0.0/8": Off}, map[string]Mode{"10.0.0.0/8": Off}, ""},
		"on":                     {nil, map[string]Mode{"10.0.0.0/8": On}, ""},
		"off over UDP only":      {nil, map[string]Mode{"10.0.0.0/8": Off}, "mode 'off' for 10.0.0.0/8, but the listener wrapper does not"},
		"unspecified over UDP":   {nil, map[string]Mode{"10.0.0.0/8": Unspecified}, "mode 'unspecified' for 10.0.0.0/8, but the listener wrapper does not"},
		"on in another range":    {map[string]Mode{"10.0.0.0/8": On, "192.0.2.0/24": Off}, map[string]Mode{"192.0.2.0/24": Off}, ""},
		"another mode":           {map[string]Mode{"10.0.0.0/8": Off}, map[string]Mode{"10.0.0.0/8": Unspecified}, "mode 'unspecified' for 10.0.0.0/8, but the listener wrapper does not"},
		"a smaller range":        {map[string]Mode{"10.0.0.0/8": Off}, map[string]Mode{"10.1.0.0/16": Off}, "mode 'off' for 10.1.0.0/16, but the listener wrapper does not"},
		"a hole in the range":    {map[string]Mode{"10.0.0.0/8": Off, "10.1.0.0/16": On}, map[string]Mode{"10.0.0.0/8": Off}, "mode 'off' for 10.1.0.0/16, but the listener wrapper has mode 'on'"},
		"a hole in both":         {map[string]Mode{"10.0.0.0/8": Off, "10.1.0.0/16": On}, map[string]Mode{"10.0.0.0/8": Off, "10.1.0.0/16": On}, ""},
		"a hole with other mode": {map[string]Mode{"10.0.0.0/8": Off, "10.1.0.0/16": Unspecified}, map[string]Mode{"10.0.0.0/8": Off}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, UncoveredOn(table(test.tcp), table(test.udp)))
		})
	}
}
