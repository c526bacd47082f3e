package request

import (
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestDisableHTTP3_ListenerWithoutProtocolsHasTheServers(t *testing.T) {
	for _, tt := range []struct {
		name      string
		protocols []string
		listeners [][]string
		ok        bool
	}{
		{"of the server, which keeps some", []string{"h1", "h3"}, nil, true},
		{"of the server, which keeps none", []string{"h3"}, nil, false},
		{"one has the server's, which keeps none", []string{"h3"}, [][]string{nil, {"h1"}}, false},
		{"one has the server's, which keeps some", []string{"h2", "h3"}, [][]string{nil, {"h1"}}, true},
		{"all have their own, and keep some", []string{"h3"}, [][]string{{"h1", "h3"}, {"h2"}}, true},
		{"one has its own and keeps none", []string{"h1"}, [][]string{{"h1"}, {"h3"}}, false},
		{"the first has its own and keeps none", []string{"h1"}, [][]string{{"h3"}, {"h1"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := &caddyhttp.Server{Protocols: tt.protocols, ListenProtocols: tt.listeners}
			server.TLSConnPolicies = make(caddytls.ConnectionPolicies, 1)
			core, logs := observer.New(zap.WarnLevel)
			err := DisableHTTP3(server, "a reason", zap.New(core))
			if !tt.ok {
				assert.ErrorContains(t, err, "no protocol is left, because HTTP/3 is disabled")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, 1, logs.Len())
			assert.NotEmpty(t, server.Protocols)
			assert.Len(t, server.ListenProtocols, len(tt.listeners))
			for _, protocols := range append(server.ListenProtocols, server.Protocols) {
				assert.NotContains(t, protocols, "h3")
			}
		})
	}
}
