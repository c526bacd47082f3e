package proxyprotocol

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// What cannot be read must not pass for something that closes the way.
func TestPacketConnWrapper_RefusesConfigurationItCannotRead(t *testing.T) {
	mode, logger := On, zap.NewNop()
	pw := &PacketConnWrapper{config: &datagram.Config{Policy: policy.Policy{Mode: policy.On}}}
	for _, s := range []string{`{"wrapper": 1}`, `{"wrapper": "proxy_protocol_mode", "mode": "maybe"}`} {
		raw := []json.RawMessage{json.RawMessage(s)}
		_, err := packetWrapperOf(&caddyhttp.Server{PacketConnWrappersRaw: raw})
		assert.Error(t, err)
	}
	assert.Error(t, pw.prepareServer(&caddyhttp.Server{PacketConnWrappersRaw: []json.RawMessage{json.RawMessage(`{"wrapper": 1}`)}}, logger))
	assert.Error(t, pw.prepareServer(&caddyhttp.Server{Listen: []string{"127.0.0.1:port"}, TLSConnPolicies: caddytls.ConnectionPolicies{{}}}, logger))
	for _, ranges := range [][]ModeRanges{{{Mode: &mode, Ranges: []string{"nowhere"}}}, {{Ranges: []string{"::1"}}}} {
		_, err := http3Bypass(nil, &PacketConnWrapper{Mode: On, Ranges: ranges})
		assert.Error(t, err)
	}
}
