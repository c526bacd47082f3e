package request

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSocketKeys_AreThoseOfCaddy(t *testing.T) {
	policies := caddytls.ConnectionPolicies{{}}
	for _, test := range []struct {
		listen []string
		want   string
	}{
		{[]string{":443"}, "udp/:443"},
		{[]string{"0.0.0.0:443"}, "udp/0.0.0.0:443"},
		{[]string{"tcp4/0.0.0.0:443"}, "udp4/0.0.0.0:443"},
		{[]string{"tcp6/[::]:443"}, "udp6/[::]:443"},
		{[]string{"udp/[::]:443"}, "udp/[::]:443"},
		{[]string{"udp4/127.0.0.1:443"}, "udp4/127.0.0.1:443"},
		{[]string{"localhost:443"}, "udp/localhost:443"},
		{[]string{"127.0.0.1:0"}, "udp/127.0.0.1:0"},
		{[]string{"[fe80::1%lo]:443"}, "udp/[fe80::1%lo]:443"},
		{[]string{"[::ffff:127.0.0.1]:443"}, "udp/[::ffff:127.0.0.1]:443"},
		{[]string{"127.0.0.1:440-442", "[::1]:443"}, "udp/127.0.0.1:440 udp/127.0.0.1:441 udp/127.0.0.1:442 udp/[::1]:443"},
		{[]string{"unix//run/caddy.sock"}, ""},
		{[]string{"fdgram/3"}, "fdgram/3"},
		{[]string{"another/host:443"}, "another/host:443"},
	} {
		keys, err := SocketKeysOf(&caddyhttp.Server{Listen: test.listen, Protocols: []string{"h1", "h3"}, TLSConnPolicies: policies})
		require.NoError(t, err)
		assert.ElementsMatch(t, strings.Fields(test.want), slices.Collect(maps.Keys(keys)))
	}
	keys, err := SocketKeysOf(&caddyhttp.Server{Listen: []string{":1", ":2", ":3"}, Protocols: []string{"h1"}, ListenProtocols: [][]string{{"h1", "h3"}, nil, {"h2"}}, TLSConnPolicies: policies})
	require.NoError(t, err)
	assert.Equal(t, SocketKeys{"udp/:1": true}, keys, "others have no socket for HTTP/3")
	keys, err = SocketKeysOf(&caddyhttp.Server{Listen: []string{":1", ":2"}, Protocols: []string{"h1", "h3"}, ListenProtocols: [][]string{{"h1"}}, TLSConnPolicies: policies})
	require.NoError(t, err)
	assert.Equal(t, SocketKeys{"udp/:2": true}, keys, "the last that has protocols of its own")
	keys, err = SocketKeysOf(&caddyhttp.Server{Listen: []string{":1"}, TLSConnPolicies: policies})
	require.NoError(t, err)
	assert.Equal(t, SocketKeys{"udp/:1": true}, keys, "all protocols")
	_, err = SocketKeysOf(&caddyhttp.Server{Listen: []string{"127.0.0.1:port"}, TLSConnPolicies: policies})
	assert.ErrorContains(t, err, "port")
	keys, err = SocketKeysOf(&caddyhttp.Server{Listen: []string{":443"}, Protocols: []string{"h1", "h3"}})
	require.NoError(t, err)
	assert.Empty(t, keys, "a server without TLS has no HTTP/3")
}
