package proxyprotocol

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"
)

func TestMatchNot_ServesUnwrappedHTTP3(t *testing.T) {
	for _, tt := range []struct {
		protocols []string
		listen    [][]string
		want      bool
	}{
		{[]string{"h1", "h3"}, nil, true},
		{[]string{"h1"}, nil, false},
		{[]string{"h1"}, [][]string{{"h1"}, {"h3"}}, true},
		{[]string{"h3"}, [][]string{{"h1"}, {"h2"}}, false},
		{[]string{"h3"}, [][]string{{"h1"}, nil}, true},
		{[]string{"h3"}, [][]string{nil, {"h1"}}, true},
		{[]string{"h1"}, [][]string{{"h1"}, nil}, false},
	} {
		server := &caddyhttp.Server{Protocols: tt.protocols, ListenProtocols: tt.listen}
		assert.False(t, servesUnwrappedHTTP3(server), "no TLS")
		server.TLSConnPolicies = append(server.TLSConnPolicies, nil)
		assert.Equal(t, tt.want, servesUnwrappedHTTP3(server), tt)
		server.PacketConnWrappersRaw = []json.RawMessage{json.RawMessage(`{"wrapper":"another"}`)}
		assert.Equal(t, tt.want, servesUnwrappedHTTP3(server), tt)
		server.PacketConnWrappersRaw = []json.RawMessage{json.RawMessage(`[]`)}
		assert.False(t, servesUnwrappedHTTP3(server), "not to be read")
	}
}

// What cannot be read is left to Caddy, whose error says more.
func TestMatchNot_LeavesWhatCannotBeReadToCaddy(t *testing.T) {
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
		s := new(negationScan)
		s.raw(json.RawMessage(handler))
		assert.Empty(t, s.found, handler)
	}
	(&ListenerWrapper{rules: new(rules)}).warnOfNegations(&caddyhttp.Server{NamedRoutes: map[string]*caddyhttp.Route{"null": nil}}, zap.NewNop())

	s := new(negationScan)
	s.raw(json.RawMessage(strings.Repeat(`{"x":[`, 500) + negated + strings.Repeat(`]}`, 500)))
	assert.Equal(t, []string{"not pinned_ip ::1"}, s.found, "deep")

	s = new(negationScan)
	s.route(caddyhttp.RawMatcherSets{{"not": json.RawMessage(`[{"pinned_ip":{"ranges":["::1"]}}]`)}}, []json.RawMessage{json.RawMessage(`3`)})
	assert.Equal(t, []string{"not pinned_ip ::1"}, s.found, "a handler that cannot be read does not refuse")
}
