package proxyprotocol

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// adminStatus is a module that provides the /proxy_protocol/status endpoint for the Caddy
// admin API.
type adminStatus struct{}

// CaddyModule returns the Caddy module information.
func (adminStatus) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.proxy_protocol",
		New: func() caddy.Module { return new(adminStatus) },
	}
}

// Routes returns a route for the /proxy_protocol/status endpoint.
func (a adminStatus) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{
		Pattern: "/proxy_protocol/status",
		Handler: caddy.AdminHandlerFunc(a.serve),
	}}
}

func (adminStatus) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(currentStatus())
}

// listening is a module that uses listeners: a ListenerWrapper or a PacketConnWrapper.
type listening interface{ listenerSettings() statusapi.Settings }

func currentStatus() statusapi.Status {
	s := statusapi.Status{Listeners: []statusapi.Listener{}}
	record.Listeners.Each(func(key record.Key, stats *record.Stats, user any) {
		s.Listeners = append(s.Listeners, statusapi.ListenerOf(key, user.(listening).listenerSettings(), stats))
	})
	return s
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminStatus)(nil)
	_ listening         = (*ListenerWrapper)(nil)
	_ listening         = (*PacketConnWrapper)(nil)
)
