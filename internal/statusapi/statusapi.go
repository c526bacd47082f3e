// Package statusapi has the JSON of GET /proxy_protocol/status on Caddy's admin API, for the
// endpoint and for the command that shows it, with the hints, and the line that a listener logs when
// it opens.
package statusapi

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Status is the answer of the endpoint.
type Status struct {
	Listeners []Listener `json:"listeners"`
}

// Listener is a listener or, with an address that begins with "udp/", a socket for datagrams.
type Listener struct {
	// Server is the name of the HTTP server, and Address the address that it listens on.
	Server  string `json:"server"`
	Address string `json:"address"`
	Settings
	// Outcomes are the numbers of connections or datagrams by outcome. Outcomes without any are
	// left out.
	Outcomes map[string]uint64 `json:"outcomes"`
	// Checks are the numbers of connections or datagrams of 'caddy proxy-protocol check' by
	// outcome, which the other fields leave out. It is left out if there are none.
	Checks map[string]uint64 `json:"checks,omitempty"`
	// WrongPayloads are the numbers of connections whose header was followed by something else
	// than the listener expects. They were served.
	WrongPayloads *WrongPayloads `json:"wrong_payloads,omitempty"`
	Peers         Peers          `json:"peers"`
	// Accepted are the last accepted headers, the latest first.
	Accepted []Accepted `json:"accepted"`
	// Refusals are the last refusals, the latest first.
	Refusals []Refusal `json:"refusals"`
	// Hints point at likely mistakes in the configuration.
	Hints []string `json:"hints,omitempty"`
}

// WrongPayloads are connections whose header was followed by something else than the listener
// expects.
type WrongPayloads struct {
	// TLS is the number of those that were TLS on a listener for plain HTTP, and HTTP the number of
	// those that were plain HTTP on a listener for TLS.
	TLS  uint64 `json:"tls,omitempty"`
	HTTP uint64 `json:"http,omitempty"`
}

// Checks are peers that 'caddy proxy-protocol check' announces before it connects from them: the
// body of POST /proxy_protocol/checks, which announces them for ten seconds, and of DELETE, which
// withdraws them. At most 256 can be announced at a time. The answer of DELETE has the connections
// of its body that were still announced: none has come from there.
type Checks struct {
	// Connections are peers of TCP connections. Each announcement is for one connection.
	Connections []netip.AddrPort `json:"connections"`
	// Datagrams are senders of datagrams.
	Datagrams []netip.AddrPort `json:"datagrams,omitempty"`
}

// Peers are the peers that a listener remembers.
type Peers struct {
	Count int `json:"count"`
	// More says that there were others, which are not remembered.
	More      bool     `json:"more"`
	Addresses []string `json:"addresses"`
	// Details are those of the same peers, in the same order.
	Details []Peer `json:"details"`
}

// Peer is a peer, and what it did.
type Peer struct {
	Address string `json:"address"`
	// Mode is the mode in force for the peer when it connected last.
	Mode string `json:"mode"`
	// Connections is the number of its connections, and Headers that of its accepted headers. Of
	// datagrams, both count only those whose header was new.
	Connections uint64 `json:"connections"`
	Headers     uint64 `json:"headers"`
	// Refusals are the numbers of its refusals by reason.
	Refusals map[string]uint64 `json:"refusals,omitempty"`
}

// Accepted is an accepted header.
type Accepted struct {
	// Time is the second in which the connection was accepted, as RFC 3339 writes it.
	Time string `json:"time"`
	Peer string `json:"peer"`
	// Version is v1 or v2.
	Version string `json:"version"`
	// Source and Destination are as in the header, and empty if it has no IP addresses.
	Source      string `json:"source"`
	Destination string `json:"destination"`
	// Marked says that the source is unverified: mode unspecified.
	Marked bool `json:"marked,omitempty"`
}

// Refusal is a refused connection or a dropped datagram.
type Refusal struct {
	// Time is the second of the refusal, as RFC 3339 writes it.
	Time   string `json:"time"`
	Peer   string `json:"peer"`
	Reason string `json:"reason"`
	// Received says what arrived: "http", "tls", "quic", "v1", "v2", "nothing", or the first
	// bytes, escaped.
	// It is empty if nothing was read.
	Received string `json:"received,omitempty"`
	// Source is the source of the first header, if the reason is duplicate.
	Source string `json:"source,omitempty"`
	// Error says more about the reason.
	Error string `json:"error,omitempty"`
	// Hint is the next step.
	Hint string `json:"hint,omitempty"`
	// Bytes are the first bytes of the connection, in hexadecimal: 16, or all of a malformed header
	// up to the byte that is wrong, at most 256.
	Bytes string `json:"bytes"`
	// Text are the same bytes as escaped text, if they are ASCII text.
	Text string `json:"text,omitempty"`
}

// ListenerOf returns what is known of a listener.
func ListenerOf(key record.Key, settings Settings, stats *record.Stats) Listener {
	l := Listener{
		Server:   key.Server,
		Address:  key.Address,
		Settings: settings,
		Outcomes: countsOf(stats.Total),
		Checks:   countsOf(stats.Checks().Total),
		Peers:    Peers{Addresses: []string{}, Details: []Peer{}},
		Accepted: []Accepted{},
		Refusals: []Refusal{},
	}
	if tls, http := stats.WrongPayloads(); tls+http > 0 {
		l.WrongPayloads = &WrongPayloads{TLS: tls, HTTP: http}
	}
	peers, more := stats.SeenPeers()
	l.Peers.Count, l.Peers.More = len(peers), more
	for _, p := range peers {
		l.Peers.Addresses = append(l.Peers.Addresses, p.Addr.String())
		l.Peers.Details = append(l.Peers.Details, Peer{
			Address:     p.Addr.String(),
			Mode:        p.Mode.String(),
			Connections: p.Connections,
			Headers:     p.Headers,
			Refusals:    countsOf(func(o record.Outcome) uint64 { return p.Refusals[o] }),
		})
	}
	for _, a := range stats.LastHeaders() {
		l.Accepted = append(l.Accepted, Accepted{
			Time:        a.At.ToTime().Format(time.RFC3339),
			Peer:        conninfo.AddrString(a.Peer),
			Version:     record.VersionNames[a.Header.Version()],
			Source:      conninfo.AddrPortString(a.Header.Source()),
			Destination: conninfo.AddrPortString(a.Header.Destination()),
			Marked:      a.Marked,
		})
	}
	l.Refusals = append(l.Refusals, refusalsOf(stats.LastRefusals())...)
	l.Hints = l.recent(stats).FindHints()
	return l
}

func refusalsOf(refusals []record.Refusal) (shown []Refusal) {
	for _, r := range refusals {
		shown = append(shown, Refusal{
			Time:     r.Time.Format(time.RFC3339),
			Peer:     conninfo.AddrString(r.Peer),
			Reason:   r.Reason.String(),
			Received: r.Received(),
			Source:   r.FirstSource(),
			Error:    r.ErrorText(),
			Hint:     r.Hint(),
			Bytes:    r.Hex(),
			Text:     r.Text(),
		})
	}
	return shown
}

// recent returns the listener without refusals that are not recent, so that hints are about what may
// happen again: not about what the operator has set right since. It has the last refusal for each
// reason, so that strangers, who are refused for another one, displace none.
func (l Listener) recent(stats *record.Stats) *Listener {
	l.Refusals = refusalsOf(stats.LastRefusalsByReason())
	l.Outcomes = maps.Clone(l.Outcomes)
	l.Peers.Details = slices.Clone(l.Peers.Details)
	for reason := record.Missing; reason < record.Outcomes; reason++ {
		if !stats.WasRefused(reason) {
			delete(l.Outcomes, reason.String())
		}
		for i := range l.Peers.Details {
			if p := &l.Peers.Details[i]; p.Refusals[reason.String()] > 0 && !stats.WasPeerRefused(netip.MustParseAddr(p.Address), reason) {
				p.Refusals = maps.Clone(p.Refusals)
				delete(p.Refusals, reason.String())
			}
		}
	}
	if !stats.HadWrongPayload() {
		l.WrongPayloads = nil
	}
	return &l
}

// countsOf returns the counts by the name of the outcome, without those that are 0.
func countsOf(count func(record.Outcome) uint64) map[string]uint64 {
	counts := make(map[string]uint64)
	for o := range record.Outcomes {
		if n := count(o); n > 0 {
			counts[o.String()] = n
		}
	}
	return counts
}

// mostRefused returns the peers with refusals for a reason, the one with the most first.
func (p *Peers) mostRefused(reason string) (peers []Peer) {
	for _, peer := range p.Details {
		if peer.Refusals[reason] > 0 {
			peers = append(peers, peer)
		}
	}
	slices.SortStableFunc(peers, func(a, b Peer) int { return cmp.Compare(b.Refusals[reason], a.Refusals[reason]) })
	return peers
}
