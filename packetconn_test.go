package proxyprotocol

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHTTP3HasTheClientOfTheHeader(t *testing.T) {
	for _, test := range []struct {
		name, packet, header, want string
	}{
		{"on, IPv4", "on", dgram(client4, server4), client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, IPv6", "on", dgram(client6, server6), client6.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"unspecified, IPv4", "unspecified", dgram(client4, server4), client4.Addr().String() + ":0 marked=true present=true mode=unspecified peer=127.0.0.2"},
		{"unspecified, IPv6", "unspecified", dgram(client6, server6), "[" + client6.Addr().String() + "]:0 marked=true present=true mode=unspecified peer=127.0.0.2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			startCaddy(t, packets("", test.packet), h3Site(t, port, ""))
			r := startRelay(t, "127.0.0.2", tcp4(port), test.header)
			response, body := newH3Client(t, r.address()).get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Equal(t, test.want, body)
		})
	}
}
