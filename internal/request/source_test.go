package request

import (
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ipSource is a source of trusted proxies that calls a function.
type ipSource func(*http.Request) []netip.Prefix

func (s ipSource) GetIPRanges(r *http.Request) []netip.Prefix { return s(r) }

func TestSource_TellsTheModuleOfTheConnection(t *testing.T) {
	server := new(caddyhttp.Server)
	peer := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:4711"))
	var got *http.Request
	source := Source(ipSource(func(r *http.Request) []netip.Prefix {
		got = r
		// Sources, and the modules that they use, do this with requests.
		caddyhttp.SetVar(r.Context(), "key", "value")
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.request.remote}", "")
		return nil
	}), server)
	_ = source(t.Context(), peer)
	require.NotNil(t, got)
	assert.Equal(t, peer.String(), got.RemoteAddr)
	assert.Same(t, server, got.Context().Value(caddyhttp.ServerCtxKey))
	assert.Equal(t, "value", caddyhttp.GetVar(got.Context(), "key"))
	assert.NotNil(t, got.URL)
	assert.NotNil(t, got.Header)

	first := got
	_ = source(t.Context(), peer)
	assert.NotSame(t, first.Context().Value(caddy.ReplacerCtxKey), got.Context().Value(caddy.ReplacerCtxKey), "nothing is left from another connection")
}
