package proxyprotocol

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

const wrapperName = request.WrapperName

// prepareServer checks a server with the listener wrapper of this policy, installs the
// placeholders, disables HTTP/3 where it would bypass the wrapper, unless that is allowed, and
// logs warnings. It returns what becomes of HTTP/3, as statusapi.Settings has it.
func prepareServer(ctx caddy.Context, server *caddyhttp.Server, p *policy.Policy, require *Require, http3Allowed bool, logger *zap.Logger) (http3 string, err error) {
	if err := request.CheckOrder(ctx, server); err != nil {
		return "", err
	}
	pw, _ := packetWrapperOf(server) // its own Provision reports the error
	request.Install(server, pw == nil)
	hadHTTP3 := request.ServesHTTP3(server)
	if p.Uses(policy.On) && !http3Allowed {
		if err := disableHTTP3IfBypass(server, p.Ranges, require, logger); err != nil {
			return "", fmt.Errorf("server %s: %w", server.Name(), err)
		}
	}
	switch {
	case !hadHTTP3:
	case !request.ServesHTTP3(server):
		http3 = statusapi.HTTP3Disabled
	case pw != nil:
		http3 = statusapi.HTTP3Checked
	default:
		http3 = statusapi.HTTP3Unchecked
	}
	if p.Uses(policy.On) || p.Uses(policy.Unspecified) {
		request.WarnOfPlainPort(ctx, logger)
	}
	if sockets := request.AbstractSockets(server); len(sockets) > 0 && p.Mode == policy.On && !p.TrustsAnyone() {
		logger.Warn("no peer of an abstract Unix socket is trusted, because no file permissions guard the socket, so all connections are refused; use a socket file",
			zap.Strings("listen", sockets))
	}
	warnOfNegations(server, p.Uses(policy.Unspecified), logger)
	return http3, nil
}

// warnOfNegations warns once of the negated matchers in the server's routes. It ignores invalid
// configuration, which Caddy reports when it provisions the routes later.
func warnOfNegations(server *caddyhttp.Server, unspecified bool, logger *zap.Logger) {
	s := match.Negations{
		Unspecified: unspecified,
		HTTP3:       servesUnwrappedHTTP3(server),
		ExpandPeer:  expandRanges,
	}
	routes := slices.Clone(server.Routes)
	if server.Errors != nil {
		routes = append(routes, server.Errors.Routes...)
	}
	for _, route := range server.NamedRoutes {
		if route != nil {
			routes = append(routes, *route)
		}
	}
	for _, route := range routes {
		sets := rawSets(route.MatcherSets)
		for _, set := range route.MatcherSetsRaw {
			sets = append(sets, match.Set(set))
		}
		s.Route(sets, route.HandlersRaw)
		for _, handler := range route.HandlersRaw {
			s.Config(handler)
		}
	}
	found := s.Found()
	if len(found) == 0 {
		return
	}
	logger.Warn("a negated matcher also matches requests that the matcher cannot check: requests with an unverified header (mode 'unspecified'), HTTP/3 requests that did not come through the packet conn wrapper, and requests for which a placeholder has an unusable value; negate a matcher only to refuse requests, or write what must match, such as 'proxy_protocol absent' instead of 'not proxy_protocol present'",
		zap.Strings("matchers", found))
}

// servesUnwrappedHTTP3 reports whether the server serves requests over HTTP/3 whose connections
// are not known.
func servesUnwrappedHTTP3(server *caddyhttp.Server) bool {
	pw, err := packetWrapperOf(server)
	return pw == nil && err == nil && request.ServesHTTP3(server)
}

// rawSets returns the JSON of matchers that Caddy has already provisioned, as it does those of a
// server's own routes. Matchers that matter to match.Negations are in it, others are left out.
func rawSets(sets caddyhttp.MatcherSets) (raw []match.Set) {
	for _, set := range sets {
		rawSet := make(match.Set)
		for _, matcher := range set {
			switch m := matcher.(type) {
			case *caddyhttp.MatchNot:
				rawSet["not"], _ = json.Marshal(rawSets(m.MatcherSets))
			case *caddyhttp.MatchExpression:
				rawSet["expression"], _ = json.Marshal(m.Expr)
			case *MatchProxyProtocol:
				rawSet["proxy_protocol"], _ = json.Marshal(m)
			case *MatchPinnedIP:
				rawSet["pinned_ip"], _ = json.Marshal(m)
			}
		}
		raw = append(raw, rawSet)
	}
	return raw
}
