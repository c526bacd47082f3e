package caddytest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// CurrentStatus returns the status of the running Caddy. It calls the handler of the admin API,
// because tests run Caddy without a listener of this API.
func CurrentStatus(t testing.TB) (s statusapi.Status) {
	t.Helper()
	info, err := caddy.GetModule("admin.api.proxy_protocol")
	require.NoError(t, err, "a test that asks for the status imports the modules")
	routes := info.New().(caddy.AdminRouter).Routes()
	require.NotEmpty(t, routes)
	response := httptest.NewRecorder()
	require.NoError(t, routes[0].Handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, routes[0].Pattern, nil)))
	decoder := json.NewDecoder(response.Body)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&s))
	return s
}

// Outcomes returns the number of connections of each outcome at the listener of an endpoint.
func Outcomes(t testing.TB, e Endpoint) map[string]uint64 {
	t.Helper()
	for _, l := range CurrentStatus(t).Listeners {
		if l.Address == e.Address {
			return l.Outcomes
		}
	}
	return nil
}

// Datagrams returns the number of datagrams of each outcome at the first packet wrapper in the
// status.
func Datagrams(t testing.TB) map[string]uint64 {
	t.Helper()
	for _, l := range CurrentStatus(t).Listeners {
		if strings.HasPrefix(l.Address, "udp/") {
			return l.Outcomes
		}
	}
	return nil
}
