//go:build !race

package proxyprotocol

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
)

// Early data
func TestEarlyDataProvesNoAddress(t *testing.T) {
	port := freePort(t)
	startCaddy(t, packets("", "on"), h3Site(t, port, "@pinned {\npath /pinned\npinned_ip 203.0.113.7\n}\nrespond @pinned matched\n@present {\npath /present\nproxy_protocol present\n}\nrespond @present matched\n"))
	r := startRelay(t, "127.0.0.2", tcp4(port), dgram(client4, server4))
	client := newH3Client(t, r.address())
	client.http.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, path := range []string{"/pinned", "/present"} {
		response, body := client.get(path)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Equal(t, "matched", body)
		early := func() (*http.Response, bool) {
			require.NoError(t, client.conn().CloseWithError(0, ""))
			client.http.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			response, _, err := client.try(ctx, http3.MethodGet0RTT, path, nil)
			if err != nil { // the closed connection was still there
				return nil, false
			}
			<-client.conn().HandshakeComplete()
			return response, client.conn().ConnectionState().Used0RTT
		}
		eventually(t, func() bool {
			response, was := early()
			return was && response.StatusCode == http.StatusTooEarly
		}, "%s in early data is not answered 425", path)
	}
}
