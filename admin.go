package proxyprotocol

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// adminStatus is a module that provides the /proxy_protocol/status and /proxy_protocol/checks
// endpoints for the Caddy admin API.
type adminStatus struct{}

// CaddyModule returns the Caddy module information.
func (adminStatus) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.proxy_protocol",
		New: func() caddy.Module { return new(adminStatus) },
	}
}

// Routes returns the routes of the endpoints.
func (a adminStatus) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/proxy_protocol/status", Handler: caddy.AdminHandlerFunc(a.serve)},
		{Pattern: "/proxy_protocol/checks", Handler: caddy.AdminHandlerFunc(a.serveChecks)},
	}
}

func (adminStatus) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(currentStatus())
}

// serveChecks announces peers as those of a check (POST), or withdraws them (DELETE).
func (adminStatus) serveChecks(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost && r.Method != http.MethodDelete {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	const most = 64 << 10
	var peers statusapi.Checks
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, most)).Decode(&peers); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	unused := statusapi.Checks{Connections: []netip.AddrPort{}}
	switch r.Method {
	case http.MethodPost:
		err := errors.Join(record.Announced.Announce(peers.Connections, false), record.Announced.Announce(peers.Datagrams, true))
		if errors.Is(err, record.ErrAnnouncedTooMany) {
			return caddy.APIError{HTTPStatus: http.StatusTooManyRequests, Err: err}
		}
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
		}
	case http.MethodDelete:
		unused.Connections = append(unused.Connections, record.Announced.Withdraw(peers.Connections, false)...)
		record.Announced.Withdraw(peers.Datagrams, true)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(unused)
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
