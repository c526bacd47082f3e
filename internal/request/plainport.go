package request

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// plainPort is the port for plain HTTP, 80 by default.
type plainPort struct {
	port int
	// listen are the addresses of the servers without the wrapper. It is empty if there are none:
	// then Caddy opens the port for each ACME challenge.
	listen []string
	// neededFor names what needs the port without the wrapper: redirects to HTTPS, ACME's HTTP
	// challenge, or both.
	neededFor []string
}

// WarnOfPlainPort warns if the port for plain HTTP has no wrapper, and is needed: a header there is
// answered with "400 Bad Request". It must be called while a server is provisioned.
func WarnOfPlainPort(ctx caddy.Context, logger *zap.Logger) {
	app := HTTPApp(ctx)
	if app == nil {
		return
	}
	p := plainPortOf(ctx, app)
	if len(p.neededFor) == 0 {
		return
	}
	logger.Warn(fmt.Sprintf("port %d has no '%s' and answers a header with 400: if your load balancer sends headers there, %s will fail; to prevent that, add the site 'http:// { log }', and, if '%s' is in 'servers' options with an address, a block 'servers :%d { listener_wrappers { ... } }'; or in JSON, a server with \"listen\": [\":%d\"] and the same \"listener_wrappers\"",
		p.port, WrapperName, strings.Join(p.neededFor, " and "), WrapperName, p.port, p.port),
		zap.Strings("listen", p.listen))
}

func plainPortOf(ctx caddy.Context, app *caddyhttp.App) (p plainPort) {
	p.port = HTTPPort(app)
	wrapped := false
	for _, server := range app.Servers {
		on := slices.DeleteFunc(slices.Clone(server.Listen), func(listen string) bool { return !HasTCPPort(listen, p.port) })
		if len(on) == 0 {
			continue
		}
		names, _ := WrapperNames(server.ListenerWrappersRaw)
		if slices.Contains(names, WrapperName) || Installed(server) {
			wrapped = true
		} else {
			p.listen = append(p.listen, on...)
		}
	}
	slices.Sort(p.listen)
	if len(p.listen) > 0 && redirects(app) {
		p.neededFor = append(p.neededFor, "redirects to HTTPS")
	}
	if (len(p.listen) > 0 || !wrapped) && NeedsHTTPChallenge(ctx, app) {
		p.neededFor = append(p.neededFor, "ACME's HTTP challenge")
	}
	return p
}

// HTTPPort returns the port that serves plain HTTP whatever a server's TLS policies.
func HTTPPort(app *caddyhttp.App) int { return cmp.Or(app.HTTPPort, caddyhttp.DefaultHTTPPort) }

// HasTCPPort reports whether an address that a server listens on has a port.
func HasTCPPort(listen string, port int) bool {
	address, err := caddy.ParseNetworkAddress(listen)
	return err == nil && !address.IsUnixNetwork() && address.StartPort <= uint(port) && uint(port) <= address.EndPort
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

// NeedsHTTPChallenge reports whether a certificate may be obtained by ACME's HTTP challenge.
func NeedsHTTPChallenge(ctx caddy.Context, app *caddyhttp.App) bool {
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
func namesOf(server *caddyhttp.Server) []string {
	if server.AutoHTTPS == nil || server.AutoHTTPS.Disabled || server.AutoHTTPS.DisableCerts {
		return nil
	}
	return slices.DeleteFunc(HostsOf(server), func(name string) bool {
		return !certmagic.SubjectQualifiesForCert(name) || strings.Contains(name, "*")
	})
}

// HostsOf returns the names in the host matchers of a server's routes, in order.
func HostsOf(server *caddyhttp.Server) (names []string) {
	for _, route := range server.Routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				if hosts, _ := matcher.(*caddyhttp.MatchHost); hosts != nil {
					names = append(names, *hosts...)
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
