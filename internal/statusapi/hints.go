package statusapi

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// hintedPeers is the number of peers that a hint is made for, of each kind.
const hintedPeers = 3

// FindHints returns hints at likely mistakes in the configuration. Each is true whatever the reason:
// if only the operator can tell which host a peer is, the hint says for which one the line is.
func (l *Listener) FindHints() (hints []string) {
	hints = append(hints, l.hintsMissing()...)
	hints = append(hints, l.hintsForbidden()...)
	hints = append(hints, l.hintsUntrusted()...)
	hints = append(hints, l.hintsUnauthenticated()...)
	hints = append(hints, l.hintsOfRefusals()...)
	if n := l.Outcomes; n["local"] > 0 && n["client"]+n["marked"]+l.refusedHeaders() == 0 {
		hints = append(hints, "only headers without a client address have arrived, as health checks send them: if clients should have arrived, check that the load balancer forwards connections")
	}
	hints = append(hints, l.hintsDirect()...)
	return append(hints, l.hintsPayload()...)
}

// headers returns the number of accepted headers.
func (l *Listener) headers() uint64 {
	return l.Outcomes["client"] + l.Outcomes["marked"] + l.Outcomes["local"]
}

// refusedHeaders returns the number of headers that were read and refused.
func (l *Listener) refusedHeaders() uint64 { return sumOfHeaders(l.Outcomes) + l.Outcomes["malformed"] }

// sendsHeaders reports whether a connection of the peer began with a header.
func (p *Peer) sendsHeaders() bool { return p.Headers+sumOfHeaders(p.Refusals) > 0 }

// sumOfHeaders returns the number of refusals because of a header.
func sumOfHeaders(refusals map[string]uint64) (n uint64) {
	for reason := range record.Outcomes {
		if reason.HasHeader() {
			n += refusals[reason.String()]
		}
	}
	return n
}

// hasList reports whether there is a list of trusted peers.
func (l *Listener) hasList() bool { return l.TrustedProxies != "any" && l.TrustedProxies != "none" }

// hintsAbout returns hints about the peers that were refused for a reason, the one with the most
// refusals first. hint returns that about a peer with a number of refusals, or nothing.
func (l *Listener) hintsAbout(reason string, hint func(p *Peer, refused uint64) string) (hints []string) {
	for _, p := range l.Peers.mostRefused(reason) {
		if text := hint(&p, p.Refusals[reason]); text != "" && len(hints) < hintedPeers {
			hints = append(hints, text)
		}
	}
	return hints
}

// hintsMissing is about peers that send no header under mode on. Where headers do arrive, a peer
// that never sent one may be a stranger, and refusing it is right, unless it is in the list of
// trusted peers or in a private network.
func (l *Listener) hintsMissing() (hints []string) {
	if l.Outcomes["missing"] == 0 {
		return nil
	}
	hints = l.hintsAbout("missing", func(p *Peer, refused uint64) string {
		switch {
		case p.sendsHeaders():
			return fmt.Sprintf("%s sends headers, but not every time (refused: %d): if it is your load balancer, make it send one every time, for its health checks, too", p.Address, refused)
		case l.headers() == 0 || l.hasList() || isPrivate(p.Address):
			return fmt.Sprintf("%s sends no header (refused: %d): if it is your load balancer, make it send PROXY protocol headers, for its health checks, too; if it is a monitor that connects directly, add to 'proxy_protocol_mode': off %s", p.Address, refused, p.Address)
		default:
			return ""
		}
	})
	// Of an untrusted peer nothing is read, so that it may have sent one.
	if l.headers()+l.refusedHeaders()+l.Outcomes["untrusted"] == 0 {
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
	hints = l.hintsAbout("forbidden", func(p *Peer, refused uint64) string {
		return fmt.Sprintf("%s sends headers, which mode 'off' refuses (refused: %d): if it is your load balancer, add to 'proxy_protocol_mode': on %s", p.Address, refused, p.Address)
	})
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
	hints = l.hintsAbout("untrusted", func(p *Peer, refused uint64) string {
		if l.headers() > 0 && !isPrivate(p.Address) {
			return ""
		}
		ip, _ := netip.ParseAddr(p.Address)
		trust := "add its address there, " + record.TrustLines(ip)
		if ip.IsLoopback() {
			trust = record.OwnMachine(trust, ip)
		} else {
			trust = "if it is your load balancer, " + trust
		}
		return fmt.Sprintf("%s is not in 'trusted_proxies' (refused: %d): %s", p.Address, refused, trust)
	})
	if len(hints) == 0 && l.headers() == 0 {
		hints = append(hints, fmt.Sprintf("peers that are not in 'trusted_proxies' are refused (refused: %d), and no header was accepted: check that the load balancer's address is there", l.Outcomes["untrusted"]))
	}
	return hints
}

// hintsUnauthenticated is about headers that do not prove what is required. Where others do, they may
// be those of strangers, unless the peer is in the list of trusted peers or in a private network; or of
// clients that a load balancer must not let in, if it sends accepted headers as well.
func (l *Listener) hintsUnauthenticated() []string {
	accepted := l.Outcomes["client"] + l.Outcomes["marked"]
	return l.hintsAbout("unauthenticated", func(p *Peer, refused uint64) string {
		if accepted > 0 && (p.Headers > 0 || !l.hasList() && !isPrivate(p.Address)) {
			return ""
		}
		return fmt.Sprintf("%s sends headers that do not prove what 'require' demands (refused: %d): if it is your load balancer, compare its TLVs, its key and its clock with this server's; the last refusals say what is wrong", p.Address, refused)
	})
}

// hintsOfRefusals is about reasons whose last refusal has a hint that holds for the listener.
func (l *Listener) hintsOfRefusals() (hints []string) {
	for _, reason := range []string{"duplicate", "version", "too_large"} {
		if l.Outcomes[reason] == 0 {
			continue
		}
		for _, r := range l.Refusals {
			if r.Reason == reason && r.Hint != "" {
				if l.isRefused(r.Peer, reason) {
					hints = append(hints, fmt.Sprintf("%s was refused as %s: %s", r.Peer, reason, r.Hint))
				}
				break
			}
		}
	}
	return hints
}

// isRefused reports whether a peer was refused for a reason. It reports true for a peer that is not
// remembered.
func (l *Listener) isRefused(peer, reason string) bool {
	addrPort, _ := netip.ParseAddrPort(peer)
	address := policy.NormalizeAddr(addrPort.Addr()).String()
	for _, p := range l.Peers.Details {
		if p.Address == address {
			return p.Refusals[reason] > 0
		}
	}
	return true
}

// hintsDirect is about a load balancer that sends no header where none is mandatory: no header has
// arrived, and all connections under the listener's own mode come from one or two peers.
func (l *Listener) hintsDirect() []string {
	const (
		most  = 2  // load balancers of a pair
		fewer = 10 // connections of a public address, which may as well be a client
	)
	if l.Mode == "on" || l.headers()+l.Outcomes["forbidden"]+l.Outcomes["unauthenticated"] > 0 || l.Peers.More {
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
	return []string{fmt.Sprintf("every connection under mode '%s' comes from %s, without a header: if that is a load balancer for TCP, all clients have its address: make it send PROXY protocol headers, and set the mode 'on'", l.Mode, strings.Join(peers, " and "))}
}

// hintsPayload is about TLS on a port for plain HTTP, and the reverse. Where that is the lesser part
// of all connections, some clients use the wrong scheme, and the load balancer is set up well.
func (l *Listener) hintsPayload() (hints []string) {
	if l.WrongPayloads == nil {
		return nil
	}
	isMost := func(n uint64) bool { return n > 0 && 2*n >= l.headers() }
	if n := l.WrongPayloads.TLS; isMost(n) {
		hints = append(hints, fmt.Sprintf("TLS arrives behind the header, but this port is for plain HTTP (connections: %d): if all clients fail, make the load balancer send TLS to a port for HTTPS, or end TLS itself", n))
	}
	if n := l.WrongPayloads.HTTP; isMost(n) {
		hints = append(hints, fmt.Sprintf("plain HTTP arrives behind the header, but this port is for TLS (connections: %d): if all clients fail, make the load balancer pass TLS through, or send plain HTTP to a port for HTTP, such as that of a site 'http://'", n))
	}
	return hints
}

// isPrivate reports whether an address is in a private network, or this machine's loopback.
func isPrivate(address string) bool {
	addr, _ := netip.ParseAddr(address) // or the zero Addr, which is not private
	return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast()
}
