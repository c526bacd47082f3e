package statusapi

import (
	"fmt"
	"net/netip"
	"strings"
)

// hintedPeers is the number of peers that a hint is made for, of each kind.
const hintedPeers = 3

// FindHints returns hints at likely mistakes in the configuration. Each is true whatever the reason:
// if only the operator can tell which host a peer is, the hint says for which one the line is.
func (l *Listener) FindHints() (hints []string) {
	hints = append(hints, l.hintsMissing()...)
	hints = append(hints, l.hintsForbidden()...)
	hints = append(hints, l.hintsUntrusted()...)
	hints = append(hints, l.hintsOfRefusals()...)
	if n := l.Outcomes; n["local"] > 0 && n["client"]+n["marked"] == 0 {
		hints = append(hints, "only headers without a client address have arrived, as health checks send them: if clients should have arrived, check that the load balancer forwards connections")
	}
	hints = append(hints, l.hintsDirect()...)
	return append(hints, l.hintsPayload()...)
}

// headers returns the number of accepted headers.
func (l *Listener) headers() uint64 {
	return l.Outcomes["client"] + l.Outcomes["marked"] + l.Outcomes["local"]
}

// hasList reports whether there is a list of trusted peers.
func (l *Listener) hasList() bool { return l.TrustedProxies != "any" && l.TrustedProxies != "none" }

// hintsMissing is about peers that send no header under mode on. Where headers do arrive, a peer
// that never sent one may be a stranger, and refusing it is right, unless it is in the list of
// trusted peers or in a private network.
func (l *Listener) hintsMissing() (hints []string) {
	if l.Outcomes["missing"] == 0 {
		return nil
	}
	for _, p := range l.Peers.mostRefused("missing") {
		if len(hints) == hintedPeers {
			break
		}
		n := p.Refusals["missing"]
		switch {
		case p.Headers > 0:
			hints = append(hints, fmt.Sprintf("%s sends headers, but not every time (refused: %d): make it send one every time, for its health checks, too", p.Address, n))
		case l.headers() == 0 || l.hasList() || isPrivate(p.Address):
			hints = append(hints, fmt.Sprintf("%s has never sent a header (refused: %d): if it is your load balancer, make it send PROXY protocol headers; if it is a monitor that connects directly, add: off %s", p.Address, n, p.Address))
		}
	}
	if l.headers() == 0 {
		hints = append(hints, "mode 'on' refuses every connection without a header, and none has had one: if no load balancer is in front of this server, set the mode 'off'")
	}
	return hints
}

// hintsForbidden is about headers under mode off.
func (l *Listener) hintsForbidden() (hints []string) {
	n := l.Outcomes["forbidden"]
	if n == 0 {
		return nil
	}
	for _, p := range l.Peers.mostRefused("forbidden") {
		if len(hints) == hintedPeers {
			break
		}
		hints = append(hints, fmt.Sprintf("%s sends headers, which mode 'off' refuses (refused: %d): if it is your load balancer, add: on %s", p.Address, p.Refusals["forbidden"], p.Address))
	}
	if len(hints) == 0 {
		hints = append(hints, fmt.Sprintf("headers arrive, which mode 'off' refuses (refused: %d): if a load balancer sends them, set mode 'on' with its address in 'trusted_proxies'", n))
	}
	return hints
}

// hintsUntrusted is about peers that are not in the list of trusted peers. Where headers do arrive,
// they may be strangers, unless they are in a private network.
func (l *Listener) hintsUntrusted() (hints []string) {
	if l.Outcomes["untrusted"] == 0 {
		return nil
	}
	for _, p := range l.Peers.mostRefused("untrusted") {
		if len(hints) == hintedPeers {
			break
		}
		if l.headers() > 0 && !isPrivate(p.Address) {
			continue
		}
		hint := fmt.Sprintf("%s is not in 'trusted_proxies' (refused: %d): ", p.Address, p.Refusals["untrusted"])
		addr, _ := netip.ParseAddr(p.Address)
		if addr.IsLoopback() {
			hint += "if this machine connects without a header, for example for health checks, add: off " + p.Address
		} else {
			hint += fmt.Sprintf("if it is your load balancer, add its address: trusted_proxies static %s/%d", p.Address, addr.BitLen())
		}
		hints = append(hints, hint)
	}
	if len(hints) == 0 && l.headers() == 0 {
		hints = append(hints, "only untrusted peers have connected: check that the load balancer's address is in 'trusted_proxies'")
	}
	return hints
}

// hintsOfRefusals is about reasons whose last refusal has a hint that holds for the listener.
func (l *Listener) hintsOfRefusals() (hints []string) {
	for _, reason := range []string{"duplicate", "version", "too_large"} {
		for _, r := range l.Refusals {
			if r.Reason == reason && r.Hint != "" {
				hints = append(hints, fmt.Sprintf("%s was refused as %s: %s", r.Peer, reason, r.Hint))
				break
			}
		}
	}
	return hints
}

// hintsDirect is about a load balancer that sends no header where none is mandatory: no header has
// arrived, and all connections under the listener's own mode come from one or two peers.
func (l *Listener) hintsDirect() []string {
	const (
		most  = 2  // load balancers of a pair
		fewer = 10 // connections of a public address, which may as well be a client
	)
	if l.Mode == "on" || l.headers()+l.Outcomes["forbidden"] > 0 || l.Peers.More {
		return nil
	}
	var peers []string
	for _, p := range l.Peers.Details {
		switch {
		case p.Mode != l.Mode:
		case !isPrivate(p.Address) && p.Connections < fewer, len(peers) == most:
			return nil
		default:
			peers = append(peers, p.Address)
		}
	}
	if len(peers) == 0 || l.Outcomes["direct"] == 0 {
		return nil
	}
	return []string{fmt.Sprintf("every connection under mode '%s' comes from %s, without a header: if that is a load balancer, all clients have its address: make it send PROXY protocol headers, and set the mode 'on'", l.Mode, strings.Join(peers, " and "))}
}

// hintsPayload is about TLS on a port for plain HTTP, and the reverse.
func (l *Listener) hintsPayload() (hints []string) {
	if l.WrongPayloads == nil {
		return nil
	}
	if n := l.WrongPayloads.TLS; n > 0 {
		hints = append(hints, fmt.Sprintf("TLS arrives behind the header, but this port is for plain HTTP (connections: %d): make the load balancer send TLS to a port for HTTPS, or end TLS itself", n))
	}
	if n := l.WrongPayloads.HTTP; n > 0 {
		hints = append(hints, fmt.Sprintf("plain HTTP arrives behind the header, but this port is for TLS (connections: %d): make the load balancer pass TLS through, or send plain HTTP to a port for HTTP, such as that of a site 'http://'", n))
	}
	return hints
}

// isPrivate reports whether an address is in a private network, or this machine's loopback.
func isPrivate(address string) bool {
	addr, _ := netip.ParseAddr(address) // or the zero Addr, which is not private
	return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast()
}
