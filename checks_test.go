package proxyprotocol_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// adminHandler calls a handler of the admin API as Caddy does, and returns its error as the status
// that Caddy answers with.
func adminHandler(t testing.TB, method, path, body string) (code int, answer string) {
	t.Helper()
	info, err := caddy.GetModule("admin.api.proxy_protocol")
	require.NoError(t, err)
	for _, route := range info.New().(caddy.AdminRouter).Routes() {
		if route.Pattern == path {
			response := httptest.NewRecorder()
			err := route.Handler.ServeHTTP(response, httptest.NewRequest(method, path, strings.NewReader(body)))
			var refusal caddy.APIError
			if errors.As(err, &refusal) {
				return refusal.HTTPStatus, refusal.Error()
			}
			require.NoError(t, err)
			return response.Code, response.Body.String()
		}
	}
	require.Fail(t, "no such endpoint", path)
	return 0, ""
}

func TestChecks_AtTheAdminAPI(t *testing.T) {
	const path = "/proxy_protocol/checks"
	many := strings.TrimSuffix(strings.Repeat(`"127.0.0.1:1",`, record.AnnouncedKept+1), ",")
	for _, test := range []struct {
		method, body string
		code         int
		answer       string
	}{
		{http.MethodPost, `{}`, http.StatusOK, `{"connections":[]}`},
		{http.MethodPost, `{"connections":["127.0.0.1:1","[::1]:2"],"datagrams":["127.0.0.1:1"]}`, http.StatusOK, `{"connections":[]}`},
		{http.MethodDelete, `{"connections":["[::1]:2","127.0.0.1:9"],"datagrams":["127.0.0.1:1"]}`, http.StatusOK, `{"connections":["[::1]:2"]}`},
		{http.MethodDelete, `{"connections":["127.0.0.1:1","[::1]:2"]}`, http.StatusOK, `{"connections":["127.0.0.1:1"]}`},
		{http.MethodDelete, `{}`, http.StatusOK, `{"connections":[]}`},

		{http.MethodPost, ``, http.StatusBadRequest, "EOF"},
		{http.MethodPost, `{"connections":["localhost:1"]}`, http.StatusBadRequest, "localhost"},
		{http.MethodPost, `{"connections":["127.0.0.1"]}`, http.StatusBadRequest, "not an ip:port"},
		{http.MethodPost, `{"connections":["127.0.0.1:0"]}`, http.StatusBadRequest, "an announced peer needs an IP address and a port"},
		{http.MethodPost, `{"datagrams":[""]}`, http.StatusBadRequest, "an announced peer needs an IP address and a port"},
		{http.MethodPost, `{"connections":[` + many + `]}`, http.StatusTooManyRequests, "more than 256 peers are announced: try again in 10s"},
		{http.MethodPost, `{"connections":[` + strings.Repeat(" ", 1<<16) + `]}`, http.StatusBadRequest, "too large"},
		{http.MethodGet, `{}`, http.StatusMethodNotAllowed, "method not allowed"},
		{http.MethodPut, `{}`, http.StatusMethodNotAllowed, "method not allowed"},
		{http.MethodPatch, `{}`, http.StatusMethodNotAllowed, "method not allowed"},
	} {
		code, answer := adminHandler(t, test.method, path, test.body)
		assert.Equal(t, test.code, code, test.body)
		assert.Contains(t, answer, test.answer)
	}
}
