package proxyprotocol

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
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

// described is a module that uses listeners: a ListenerWrapper or a PacketConnWrapper.
type described interface {
	// describe returns what the status shows of the module's configuration.
	describe() (mode Mode, trustedSource string, ranges []ModeRanges)
}

func currentStatus() statusapi.Status {
	s := statusapi.Status{Listeners: []statusapi.Listener{}}
	record.Listeners.Each(func(key record.Key, stats *record.Stats, user any) {
		s.Listeners = append(s.Listeners, statusOf(key, stats, user.(described)))
	})
	return s
}

func statusOf(key record.Key, stats *record.Stats, user described) statusapi.Listener {
	mode, trustedSource, ranges := user.describe()
	everyone := "any"
	if mode == Off {
		everyone = "none"
	}
	l := statusapi.Listener{
		Server:         key.Server,
		Address:        key.Address,
		Mode:           mode.String(),
		TrustedProxies: cmp.Or(trustedSource, everyone),
		Outcomes:       make(map[string]uint64),
		Refusals:       []statusapi.Refusal{},
	}
	for _, r := range ranges {
		l.Ranges = append(l.Ranges, statusapi.Ranges{Mode: r.Mode.String(), Ranges: r.Ranges})
	}
	for o := range record.Outcomes {
		if n := stats.Total(o); n > 0 {
			l.Outcomes[o.String()] = n
		}
	}
	for _, r := range stats.LastRefusals() {
		l.Refusals = append(l.Refusals, statusapi.Refusal{Time: r.Time.Format(time.RFC3339Nano), Peer: conninfo.AddrString(r.Peer), Reason: r.Reason.String(), Bytes: r.Hex()})
	}
	peers, more := stats.SeenPeers()
	l.Peers = statusapi.Peers{Count: len(peers), More: more, Addresses: []string{}}
	for _, peer := range peers {
		l.Peers.Addresses = append(l.Peers.Addresses, peer.String())
	}
	l.Hints = l.FindHints()
	return l
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminStatus)(nil)
	_ described         = (*ListenerWrapper)(nil)
	_ described         = (*PacketConnWrapper)(nil)
)
