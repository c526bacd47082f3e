// Package statusapi has the JSON of GET /proxy_protocol/status on Caddy's admin API, for the
// endpoint and for the command that shows it.
package statusapi

import "net/netip"

// Status is the answer of the endpoint.
type Status struct {
	Listeners []Listener `json:"listeners"`
}

// Listener is a listener or, with an address that begins with "udp/", a socket for datagrams.
type Listener struct {
	// Server is the name of the HTTP server, and Address the address that it listens on.
	Server  string `json:"server"`
	Address string `json:"address"`
	Mode    string `json:"mode"`
	// TrustedProxies is the module that returns the trusted peers; "any" if there is none, or
	// "none" under off.
	TrustedProxies string `json:"trusted_proxies"`
	// Ranges are peers with a mode of their own.
	Ranges []Ranges `json:"ranges,omitempty"`
	// Outcomes are the numbers of connections or datagrams by outcome. Outcomes without any are
	// left out.
	Outcomes map[string]uint64 `json:"outcomes"`
	Peers    Peers             `json:"peers"`
	// Refusals are the last refusals, the latest first.
	Refusals []Refusal `json:"refusals"`
	// Hints point at likely mistakes in the configuration.
	Hints []string `json:"hints,omitempty"`
}

// Ranges are peers with a mode of their own.
type Ranges struct {
	Mode   string   `json:"mode"`
	Ranges []string `json:"ranges"`
}

// Peers are the peers that a listener remembers.
type Peers struct {
	Count int `json:"count"`
	// More says that there were others, which are not remembered.
	More      bool     `json:"more"`
	Addresses []string `json:"addresses"`
}

// Refusal is a refused connection or a dropped datagram.
type Refusal struct {
	// Time is as RFC 3339 writes it.
	Time   string `json:"time"`
	Peer   string `json:"peer"`
	Reason string `json:"reason"`
	// Bytes are the first bytes of the connection, in hexadecimal.
	Bytes string `json:"bytes"`
}

// FindHints returns hints at likely mistakes in the configuration.
func (l *Listener) FindHints() []string {
	var hints []string
	n := l.Outcomes
	accepted := n["client"] + n["marked"]
	onePrivatePeer := !l.Peers.More && l.Peers.Count == 1 && isPrivate(l.Peers.Addresses[0])
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

func isPrivate(address string) bool {
	addr, _ := netip.ParseAddr(address) // or the zero Addr, which is not private
	return addr.IsPrivate()
}
