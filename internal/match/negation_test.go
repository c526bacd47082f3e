package match

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What cannot be read is left to Caddy, whose error says more.
func TestNegations_LeavesWhatCannotBeReadToCaddy(t *testing.T) {
	const negated = `{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}]}`
	for _, handler := range []string{
		``, `null`, `3`, `"pinned_ip"`, `[`, `{"pinned_ip"`, `{"pinned_ip":`, `{"match":"pinned_ip"}`, `{"match":["pinned_ip"]}`, `{"match":{"not":[{"pinned_ip":3}]}}`,
		`{"match":[{"not":"pinned_ip"}]}`, `{"match":[{"not":{"pinned_ip":{}}}]}`, `{"match":[{"not":[{"pinned_ip":3}]}]}`, `{"match":[{"not":[{"proxy_protocol":3}]}]}`,
		`{"match":[{"not":[{"proxy_protocol":{"is":["presnt"]}}]}]}`, `{"match":[{"expression":3,"pinned_ip":null}]}`, `{"match":[{"expression":{"expr":3,"name":"pinned_ip"}}]}`,
		`{"match":[{"expression":"!pinned_ip("}]}`, `{"match":[{"expression":"!pinned_ip(1)"}]}`, `{"match":[{"expression":"!proxy_protocol"}]}`, `{"match":[{"expression":"!x.pinned_ip('::1')"}]}`,
		`{"match":[{"expression":""}],"x":"pinned_ip"}`, `{"match":null,"x":"pinned_ip"}`, `{"match":[null],"x":"pinned_ip"}`, `[[[{"match":[{"not":null}],"x":"pinned_ip"}]]]`,
		`{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}],"handle":3}`, `{"match":[{"another":[{"pinned_ip":{"ranges":["::1"]}}]}]}`,
		`{"match":[{"expression":"` + strings.Repeat("!(", 1000) + "pinned_ip('::1')" + strings.Repeat(")", 1000) + `"}]}`,
	} {
		s := new(Negations)
		s.Config(json.RawMessage(handler))
		assert.Empty(t, s.Found(), handler)
	}

	s := new(Negations)
	s.Config(json.RawMessage(strings.Repeat(`{"x":[`, 500) + negated + strings.Repeat(`]}`, 500)))
	assert.Equal(t, []string{"not pinned_ip ::1"}, s.Found(), "deep")

	s = new(Negations)
	s.Route([]Set{{"not": json.RawMessage(`[{"pinned_ip":{"ranges":["::1"]}}]`)}}, []json.RawMessage{json.RawMessage(`3`)})
	assert.Equal(t, []string{"not pinned_ip ::1"}, s.Found(), "a handler that cannot be read does not refuse")
}
