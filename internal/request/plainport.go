package request

import (
	"cmp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
)

// PlainPort is the port for plain HTTP, 80 by default, if it has no wrapper and is needed all the
// same. A header there is answered with "400 Bad Request".
type PlainPort struct {
	Port int
	// Listen are the addresses of the servers without the wrapper. It is empty if there are none:
	// then Caddy opens the port for each ACME challenge.
	Listen []string
	// NeededFor names what needs the port: redirects to HTTPS, ACME's HTTP challenge, or both.
	NeededFor []string
}

// UnwrappedPlainPort returns the port for plain HTTP, and reports whether it is needed and has no
// wrapper. It must be called while a server is provisioned.
func UnwrappedPlainPort(ctx caddy.Context) (p PlainPort, unwrapped bool) {
	app := HTTPApp(ctx)
	if app == nil {
		return p, false
	}
	p.Port = cmp.Or(app.HTTPPort, caddyhttp.DefaultHTTPPort)
	wrapped := false
	for _, server := range app.Servers {
		on := listensOn(server, p.Port)
		if len(on) == 0 {
			continue
		}
		names, _ := WrapperNames(server.ListenerWrappersRaw)
		if slices.Contains(names, WrapperName) || Installed(server) {
			wrapped = true
		} else {
			p.Listen = append(p.Listen, on...)
		}
	}
	slices.Sort(p.Listen)
	if len(p.Listen) > 0 && redirects(app) {
		p.NeededFor = append(p.NeededFor, "redirects to HTTPS")
	}
	if (len(p.Listen) > 0 || !wrapped) && needsHTTPChallenge(ctx, app) {
		p.NeededFor = append(p.NeededFor, "ACME's HTTP challenge")
	}
	return p, len(p.NeededFor) > 0
}

// listensOn returns the addresses of a server that have a TCP port.
func listensOn(server *caddyhttp.Server, port int) (addresses []string) {
	for _, listen := range server.Listen {
		address, err := caddy.ParseNetworkAddress(listen)
		if err == nil && !address.IsUnixNetwork() && address.StartPort <= uint(port) && uint(port) <= address.EndPort {
			addresses = append(addresses, listen)
		}
	}
	return addresses
}

// redirects reports whether automatic HTTPS redirects the requests of a server.
func redirects(app *caddyhttp.App) bool {
	for _, server := range app.Servers {
		if len(server.TLSConnPolicies) > 0 && (server.AutoHTTPS == nil || !server.AutoHTTPS.Disabled && !server.AutoHTTPS.DisableRedir) {
			return true
		}
	}
	return false
}

// needsHTTPChallenge reports whether a certificate may be obtained by ACME's HTTP challenge.
func needsHTTPChallenge(ctx caddy.Context, app *caddyhttp.App) bool {
	module, err := ctx.AppIfConfigured("tls")
	if err != nil {
		return false
	}
	tls, ok := module.(*caddytls.TLS)
	if !ok || tls.Automation == nil {
		return false
	}
	for _, policy := range tls.Automation.Policies {
		if policy.OnDemand && usesHTTPChallenge(policy) {
			return true
		}
	}
	for _, server := range app.Servers {
		for _, name := range namesOf(server) {
			if slices.Contains(server.AutoHTTPS.Skip, name) || slices.Contains(server.AutoHTTPS.SkipCerts, name) ||
				!server.AutoHTTPS.IgnoreLoadedCerts && tls.HasCertificateForSubject(name) {
				continue
			}
			if policy := automationPolicyOf(tls, name); policy != nil && usesHTTPChallenge(policy) {
				return true
			}
		}
	}
	return false
}

// namesOf returns the names for which automatic HTTPS may get certificates on a server, without
// those with wildcards, for which there is no HTTP challenge.
func namesOf(server *caddyhttp.Server) (names []string) {
	if server.AutoHTTPS == nil || server.AutoHTTPS.Disabled || server.AutoHTTPS.DisableCerts {
		return nil
	}
	for _, route := range server.Routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				hosts, _ := matcher.(*caddyhttp.MatchHost)
				if hosts == nil {
					continue
				}
				for _, name := range *hosts {
					if certmagic.SubjectQualifiesForCert(name) && !strings.Contains(name, "*") {
						names = append(names, name)
					}
				}
			}
		}
	}
	return names
}

// automationPolicyOf returns the policy by which a name gets its certificate, or nil.
func automationPolicyOf(tls *caddytls.TLS, name string) *caddytls.AutomationPolicy {
	for _, policy := range tls.Automation.Policies {
		subjects := policy.Subjects()
		if len(subjects) == 0 || slices.ContainsFunc(subjects, func(s string) bool { return certmagic.MatchWildcard(name, s) }) {
			return policy
		}
	}
	return nil
}

// usesHTTPChallenge reports whether an issuer of the policy may use ACME's HTTP challenge, or
// ZeroSSL's, which is like it. With the DNS challenge, an issuer uses no other.
func usesHTTPChallenge(policy *caddytls.AutomationPolicy) bool {
	for _, issuer := range policy.Issuers {
		if zerossl, ok := issuer.(*caddytls.ZeroSSLIssuer); ok && zerossl.CNAMEValidation == nil {
			return true
		}
		acme, ok := issuer.(interface{ GetACMEIssuer() *caddytls.ACMEIssuer })
		if !ok {
			continue
		}
		challenges := acme.GetACMEIssuer().Challenges
		if challenges == nil || challenges.DNS == nil && (challenges.HTTP == nil || !challenges.HTTP.Disabled) {
			return true
		}
	}
	return false
}
