package caddytest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
)

// Status is the answer of the admin API to GET /proxy_protocol/status.
type Status struct {
	Listeners []ListenerStatus `json:"listeners"`
}

// ListenerStatus is one listener of a Status.
type ListenerStatus struct {
	Server         string            `json:"server"`
	Address        string            `json:"address"`
	Mode           string            `json:"mode"`
	TrustedProxies string            `json:"trusted_proxies"`
	Ranges         []RangesStatus    `json:"ranges,omitempty"`
	Outcomes       map[string]uint64 `json:"outcomes"`
	Peers          PeersStatus       `json:"peers"`
	Refusals       []RefusalStatus   `json:"refusals"`
	Hints          []string          `json:"hints,omitempty"`
}

// RangesStatus are the peers of a listener that have a mode of their own.
type RangesStatus struct {
	Mode   string   `json:"mode"`
	Ranges []string `json:"ranges"`
}

// PeersStatus are the peers of a listener.
type PeersStatus struct {
	Count     int          `json:"count"`
	More      bool         `json:"more"`
	Addresses []netip.Addr `json:"addresses"`
}

// RefusalStatus is one of the last refusals of a listener.
type RefusalStatus struct {
	Time   time.Time `json:"time"`
	Peer   string    `json:"peer"`
	Reason string    `json:"reason"`
	Bytes  string    `json:"bytes"`
}

// CurrentStatus returns the status of the running Caddy. It asks the module of the admin API,
// since tests run Caddy without one.
func CurrentStatus(t testing.TB) (s Status) {
	t.Helper()
	info, err := caddy.GetModule("admin.api.proxy_protocol")
	require.NoError(t, err, "a test that asks for the status imports the modules")
	routes := info.New().(caddy.AdminRouter).Routes()
	require.Len(t, routes, 1)
	response := httptest.NewRecorder()
	require.NoError(t, routes[0].Handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, routes[0].Pattern, nil)))
	decoder := json.NewDecoder(response.Body)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&s))
	return s
}

// Outcomes returns the number of connections of each outcome at a listener.
func Outcomes(t testing.TB, e Endpoint) map[string]uint64 {
	t.Helper()
	for _, l := range CurrentStatus(t).Listeners {
		if l.Address == e.Address {
			return l.Outcomes
		}
	}
	return nil
}

// Datagrams returns the number of datagrams of each outcome at the only packet wrapper.
func Datagrams(t testing.TB) map[string]uint64 {
	t.Helper()
	for _, l := range CurrentStatus(t).Listeners {
		if strings.HasPrefix(l.Address, "udp/") {
			return l.Outcomes
		}
	}
	return nil
}
