package proxyprotocol

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"
)

// Whether HTTP/3 would bypass a packet wrapper cannot be told of one that cannot be read.
func TestHTTP3_PacketWrapperThatCannotBeReadIsAnError(t *testing.T) {
	for wrapper, want := range map[string]string{
		`[]`: "cannot unmarshal array",
		`{"wrapper":"proxy_protocol_mode","mode":"onn"}`:                                         "unknown mode 'onn'",
		`{"wrapper":"proxy_protocol_mode","mode":"on","ranges":[{"mode":"off","ranges":["x"]}]}`: "'x' is not an IP address or CIDR range",
	} {
		server := &caddyhttp.Server{Protocols: []string{"h1", "h3"}, PacketConnWrappersRaw: []json.RawMessage{json.RawMessage(wrapper)}}
		assert.ErrorContains(t, disableHTTP3IfBypass(server, nil, nil, zap.NewNop()), want)
		assert.Contains(t, server.Protocols, "h3", "nothing has changed")
	}
}
