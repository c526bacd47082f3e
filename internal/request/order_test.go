package request

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
)

func TestCheckOrder_WrapperOfAnotherModuleIsNotLookedFor(t *testing.T) {
	assert.NoError(t, checkOrder(new(caddyhttp.Server)))
}

func TestCheckOrder_WrapperMustStandBeforeTLSWithOnePolicyToo(t *testing.T) {
	server := &caddyhttp.Server{ListenerWrappersRaw: []json.RawMessage{json.RawMessage(`{"wrapper":"proxy_protocol_mode"}`)}}
	assert.NoError(t, checkOrder(server))
	server.TLSConnPolicies = make(caddytls.ConnectionPolicies, 1)
	assert.ErrorContains(t, checkOrder(server), "must come before 'tls'")
}
