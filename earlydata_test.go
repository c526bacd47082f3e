//go:build !race

package proxyprotocol_test

// The client of quic-go v0.63.0 races with itself when it sends early data: it opens streams
// (connection.go:2932) while the handshake sets their limits (connection.go:2375). So this runs
// without the race detector only, as .ci/coverage does.

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// Early data
func TestHTTP3_EarlyDataProvesNoAddress(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, "@pinned {\npath /pinned\npinned_ip 203.0.113.7\n}\nrespond @pinned matched\n@present {\npath /present\nproxy_protocol present\n}\nrespond @present matched\n"))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
	client := caddytest.NewHTTP3Client(t, r.Address())
	client.HTTP.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, path := range []string{"/pinned", "/present"} {
		response, body := client.Get(path)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Equal(t, "matched", body)
		early := func() (*http.Response, bool) {
			require.NoError(t, client.Conn().CloseWithError(0, ""))
			client.HTTP.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
			defer cancel()
			response, _, err := client.Try(ctx, http3.MethodGet0RTT, path, nil)
			if err != nil { // the closed connection was still there
				return nil, false
			}
			<-client.Conn().HandshakeComplete()
			return response, client.Conn().ConnectionState().Used0RTT
		}
		caddytest.Eventually(t, func() bool {
			response, was := early()
			return was && response.StatusCode == http.StatusTooEarly
		}, "%s in early data is not answered 425", path)
	}
}
