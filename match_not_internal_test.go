package proxyprotocol

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/match"
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

func TestMatchNot_RouteWithoutContentIsNoFault(t *testing.T) {
	warnOfNegations(&caddyhttp.Server{NamedRoutes: map[string]*caddyhttp.Route{"null": nil}}, false, zap.NewNop())
}

func TestMatchCEL_PlaceholdersAreTheFunctionOfCaddy(t *testing.T) {
	assert.Equal(t, caddyhttp.CELPlaceholderFuncName, match.PlaceholderFunction)
	assert.Equal(t, caddyhttp.CELRequestVarName, match.RequestVariable)
}
