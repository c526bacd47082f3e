package command

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// This file compares the listeners that run with their configuration.

// checkLive checks each listener, and adds a finding for each that is down or does something else than
// the configuration says. admin is the address of the admin API, which is told of the connections.
func (r *lintReport) checkLive(admin string, timeout time.Duration) {
	findings := make([][]finding, len(r.Listeners))
	var checks sync.WaitGroup
	for i, l := range r.Listeners {
		if !strings.HasPrefix(l.Address, "udp/") { // check tries HTTP/3 together with TCP
			checks.Go(func() { findings[i] = l.checkLive(admin, timeout) })
		}
	}
	checks.Wait()
	r.add(slices.Concat(findings...)...)
}

// checkLive checks a listener on all of its ports.
func (l *lintListener) checkLive(admin string, timeout time.Duration) (findings []finding) {
	addr, err := caddy.ParseNetworkAddress(l.Address)
	switch {
	case l.server.loaded == nil:
		l.Live = "not checked, because the configuration does not load"
		return nil
	case err != nil || !strings.HasPrefix(addr.Network, "tcp") && addr.Network != "unix":
		l.Live = "not checked, because it is neither a TCP port nor a Unix socket"
		return nil
	}
	var verdicts []string
	for offset := range addr.PortRangeSize() {
		address := reachable(addr, offset)
		to, ok := parseTarget(address)
		if !ok {
			continue
		}
		p := l.prober(to, timeout)
		if to.network != "unix" {
			p.announcer = newAnnouncer(admin, timeout)
		}
		r := check(p, address, l.TLS)
		verdicts = append(verdicts, r.verdict.text())
		expected := l.expected(to)
		if l.Instead != "" { // which verdict its options make, lint does not know
			expected = []string{r.Verdict}
		}
		if r.Verdict == verdictUnreachable || !l.fits(&r.verdict, expected) {
			findings = append(findings, l.mismatch(r, expected))
		}
	}
	l.Live = strings.Join(slices.Compact(verdicts), ", ")
	return findings
}

// prober returns a prober for the listener.
func (l *lintListener) prober(to target, timeout time.Duration) *prober {
	host := l.server.loaded.host
	p := &prober{target: to, serverName: host, host: host, timeout: timeout}
	switch {
	case host != "":
	case l.TLS || to.network == "unix":
		// Without a name, Caddy would look for a certificate for the header's destination.
		p.serverName, p.host = "localhost", "localhost"
	default:
		p.host = to.address
	}
	return p
}

// reachable returns the host:port at which this machine reaches a listener, or its Unix socket. A
// listener on all addresses is reached on the loopback one.
func reachable(addr caddy.NetworkAddress, offset uint) string {
	if addr.IsUnixNetwork() {
		return addr.String()
	}
	ip, err := netip.ParseAddr(addr.Host)
	switch {
	case addr.Host == "" && addr.Network == "tcp6", err == nil && ip.IsUnspecified() && ip.Is6() && addr.Network != "tcp4":
		addr.Host = "::1"
	case addr.Host == "", err == nil && ip.IsUnspecified():
		addr.Host = "127.0.0.1"
	}
	return addr.JoinHostPort(offset)
}

// text returns the name of the verdict, and of the closest one.
func (v *verdict) text() string {
	if v.Closest != "" {
		return v.Verdict + ", closest to " + v.Closest
	}
	return v.Verdict
}

// expected returns the verdicts that the configuration allows for this machine.
func (l *lintListener) expected(to target) []string {
	if l.wrapper == nil {
		return []string{verdictOff}
	}
	var source netip.Addr
	var local net.Addr
	if to.network == "unix" {
		local = &net.UnixAddr{Net: to.network, Name: to.address}
	} else {
		source = sourceFor(to.address)
	}
	mode, trust := l.wrapper.policy().ForIP(source, local)
	trusted, untrusted := verdictOn, verdictRefused
	switch mode {
	case policy.Off:
		return []string{verdictOff}
	case policy.Unspecified:
		trusted, untrusted = verdictUnspecified, verdictOff
	}
	switch {
	case len(l.Require) > 0 && trust != policy.Untrusted:
		// check sends no header that has what is required, but LOCAL headers need nothing.
		return []string{trusted, untrusted}
	case trust == policy.AskSource:
		return []string{trusted, untrusted}
	case trust == policy.Untrusted:
		return []string{untrusted}
	default:
		return []string{trusted}
	}
}

// fits reports whether a verdict is one of the expected ones. A listener that is like a mode, but not
// exactly, fits if something else than the wrapper may be the reason.
func (l *lintListener) fits(v *verdict, expected []string) bool {
	if slices.Contains(expected, v.Verdict) {
		return true
	}
	lenient := l.wrapper == nil || len(l.Require) > 0 || l.HTTP3 == statusapi.HTTP3Checked || l.HTTP3 == statusapi.HTTP3Unchecked || l.TLS && l.server.loaded.host == ""
	return lenient && v.Verdict == verdictOther && slices.Contains(expected, v.Closest)
}

// mismatch returns the finding for a listener whose verdict does not fit.
func (l *lintListener) mismatch(r *report, expected []string) finding {
	f := finding{Kind: findingLive, Servers: []string{l.Server}, Where: []string{r.target}}
	should := "according to the configuration, the verdict from this machine is '" + strings.Join(expected, "' or '") + "'"
	switch r.Verdict {
	case verdictUnreachable:
		f.Problem = "the listener is down: no connection"
		f.Fix = "start Caddy with this configuration, or look in its log for the reason"
	case verdictUnknown:
		f.Problem = "check got no verdict: " + strings.Join(append([]string{r.Meaning}, r.Notes...), " ")
		f.Fix = should
	default:
		f.Problem = fmt.Sprintf("the listener does not do what the configuration says: the verdict is '%s', but %s", r.verdict.text(), should)
		f.Fix = "load this configuration (caddy reload), and see whether another program or another Caddy has the port"
		if len(r.Differences) > 0 {
			f.Problem += " (" + strings.Join(r.Differences, "; ") + ")"
		}
	}
	return f
}
