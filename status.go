package proxyprotocol

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// adminStatus is a module that provides the /proxy_protocol/status endpoint for the Caddy
// admin API: what the listeners do, and what looks wrong about it.
type adminStatus struct{}

// status is what the endpoint answers.
type status struct {
	Listeners []listenerStatus `json:"listeners"`
}

type listenerStatus struct {
	Server  string `json:"server"`
	Address string `json:"address"`
	Mode    Mode   `json:"mode"`
	// The module that says who may send a header, "any" if there is none, or "none" under off.
	TrustedProxies string            `json:"trusted_proxies"`
	Ranges         []ModeRanges      `json:"ranges,omitempty"`
	Outcomes       map[string]uint64 `json:"outcomes"`
	Peers          peersStatus       `json:"peers"`
	Refusals       []refusalStatus   `json:"refusals"`
	Hints          []string          `json:"hints,omitempty"`
}

type peersStatus struct {
	Count int `json:"count"`
	// There were others, for whom there was no room.
	More      bool         `json:"more"`
	Addresses []netip.Addr `json:"addresses"`
}

type refusalStatus struct {
	Time   time.Time `json:"time"`
	Peer   string    `json:"peer"`
	Reason string    `json:"reason"`
	// The first bytes of the connection, in hexadecimal.
	Bytes string `json:"bytes"`
}

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

func currentStatus() status {
	s := status{Listeners: []listenerStatus{}}
	listeners.each(func(key listenerKey, stats *stats, user any) {
		s.Listeners = append(s.Listeners, statusOf(key, stats, user.(described)))
	})
	return s
}

func statusOf(key listenerKey, stats *stats, user described) listenerStatus {
	mode, trustedSource, ranges := user.describe()
	everyone := "any"
	if mode == Off {
		everyone = "none"
	}
	s := listenerStatus{
		Server:         key.server,
		Address:        key.address,
		Mode:           mode,
		TrustedProxies: cmp.Or(trustedSource, everyone),
		Ranges:         ranges,
		Outcomes:       make(map[string]uint64),
		Refusals:       []refusalStatus{},
	}
	for o := range outcomes {
		if n := stats.total(o); n > 0 {
			s.Outcomes[o.String()] = n
		}
	}
	for _, r := range stats.lastRefusals() {
		s.Refusals = append(s.Refusals, refusalStatus{r.time, addrString(r.peer), r.why.String(), r.hex()})
	}
	s.Peers.Addresses, s.Peers.More = stats.seenPeers()
	s.Peers.Count = len(s.Peers.Addresses)
	s.Hints = hints(&s)
	return s
}

// hints says what looks misconfigured.
func hints(s *listenerStatus) []string {
	var hints []string
	n := s.Outcomes
	accepted := n["client"] + n["marked"]
	onePrivatePeer := !s.Peers.More && s.Peers.Count == 1 && s.Peers.Addresses[0].IsPrivate()
	if n["local"] > 0 && accepted == 0 {
		hints = append(hints, "only headers without a client address have arrived, as health checks send them: check that the load balancer forwards connections")
	}
	if n["forbidden"] > 0 {
		hints = append(hints, "headers arrive under mode 'off': if a load balancer sends them, set mode 'on' with its address in 'trusted_proxies'")
	}
	if onePrivatePeer && accepted == 0 && n["direct"]+n["missing"] > 0 {
		hints = append(hints, "every connection comes from one private address without a header: if it is a load balancer, make it send PROXY protocol headers, or all clients have its address")
	}
	if n["untrusted"] > 0 && accepted == 0 {
		hints = append(hints, "only untrusted peers have connected: check that the load balancer's address is in 'trusted_proxies'")
	}
	return hints
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminStatus)(nil)
	_ described         = (*ListenerWrapper)(nil)
	_ described         = (*PacketConnWrapper)(nil)
)
