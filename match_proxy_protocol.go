package proxyprotocol

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// MatchProxyProtocol matches requests by the PROXY protocol header of their connection.
// All given conditions must be true. If a condition has several values, one must match.
//
// The claims of a header (`present`, `version`, `tlv`) match only if the listener accepted
// the header under mode `on`, or if `port_zero` or `local` is given as well: under
// `unspecified` any peer may have sent the header. This matcher never matches a request whose
// connection did not come through the `proxy_protocol_mode` listener wrapper. So `not` in
// front of this matcher matches such requests, and requests with unverified claims.
type MatchProxyProtocol struct {
	// What is required of the connection; give at least one of these, or one of the fields
	// below:
	//
	// - `present`: it began with a header, LOCAL and UNKNOWN ones included, that the listener
	// accepted under mode `on`
	// - `absent`: it began without one
	// - `port_zero`: it is marked, which is shown by source port 0
	// - `local`: it began with a header of command LOCAL
	Is []string `json:"is,omitempty"`

	// The header's version, `v1` or `v2`.
	Version []string `json:"version,omitempty"`

	// IP addresses or CIDR ranges of the peer: the load balancer, or the host that
	// connected directly.
	Peer []string `json:"peer,omitempty"`

	// TLVs that the header must have. The keys are the names of the placeholders
	// (`authority`, `0xea`). A TLV must have one of the values in its list; if the list is
	// empty, any value matches. Values are compared byte by byte; write values of `0xNN` in
	// hexadecimal.
	TLV map[string][]string `json:"tlv,omitempty"`

	compiled *match.Header
}

// CaddyModule returns the Caddy module information.
func (MatchProxyProtocol) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.proxy_protocol",
		New: func() caddy.Module { return new(MatchProxyProtocol) },
	}
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	proxy_protocol [present|absent|port_zero|local ...] {
//		version v1|v2 ...
//		peer <ranges...>
//		tlv <name> [<values...>]
//	}
func (m *MatchProxyProtocol) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	// iterate to merge multiple matchers into one
	for d.Next() {
		m.Is = append(m.Is, d.RemainingArgs()...)
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			if err := m.unmarshalOption(d); err != nil {
				return err
			}
		}
		if err := m.compile(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

func (m *MatchProxyProtocol) unmarshalOption(d *caddyfile.Dispenser) error {
	option := d.Val()
	if !slices.Contains(match.Options, option) {
		return d.Errf("unrecognized option '%s': use %s", option, strings.Join(match.Options, ", "))
	}
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs an argument", option)
	}
	switch option {
	case "version":
		m.Version = append(m.Version, args...)
	case "peer":
		m.Peer = append(m.Peer, expandRanges(args)...)
	case "tlv":
		c := m.conditions()
		c.AddTLV(args[0], args[1:]...)
		m.TLV = c.TLV
	}
	if err := m.compile(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// CELLibrary produces options that expose this matcher for use in CEL
// expression matchers.
//
// Example:
//
//	expression proxy_protocol('present', 'version:v2', 'peer:10.0.0.0/8', 'tlv:authority=example.com')
func (MatchProxyProtocol) CELLibrary(ctx caddy.Context) (cel.Library, error) {
	warn := sync.OnceFunc(func() { request.WarnIfUnwrapped(ctx, "proxy_protocol") })
	return celLibrary("proxy_protocol", "proxy_protocol_match_request_list", func(args match.Args) (caddyhttp.RequestMatcherWithError, error) {
		warn()
		return matchProxyProtocolOf(args, ctx.Logger())
	}), nil
}

// matchProxyProtocolOf returns the matcher for these arguments of the CEL function, or an
// error if an argument without placeholders is invalid.
func matchProxyProtocolOf(args match.Args, logger *zap.Logger) (caddyhttp.RequestMatcherWithError, error) {
	known, variable := new(match.Conditions), 0
	for _, arg := range args {
		if arg.Literal() {
			known.AddArg(arg.String(), expandRanges)
			continue
		}
		if err := match.CheckPrefix(arg); err != nil {
			return nil, err
		}
		variable++
	}
	if variable < len(args) {
		compiled, err := known.Compile()
		if err != nil || variable == 0 {
			return &MatchProxyProtocol{compiled: compiled}, err
		}
	}
	return &variableMatch{args, logger}, nil
}

// variableMatch is the matcher for arguments with placeholders, which are evaluated for every
// request. A request for which a value is invalid does not match.
type variableMatch struct {
	args   match.Args
	logger *zap.Logger
}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (v *variableMatch) MatchWithError(r *http.Request) (bool, error) {
	if err := request.CheckHandshake(r); err != nil {
		return false, err
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false, nil
	}
	compiled, err := v.compile(repl)
	if err != nil {
		logUnusable(v.logger, "proxy_protocol", v.args.String(), err)
		return false, nil
	}
	return matches(compiled, r), nil
}

// compile returns the matcher for the current values of the placeholders.
func (v *variableMatch) compile(repl *caddy.Replacer) (*match.Header, error) {
	var c match.Conditions
	get := func(placeholder string) string {
		value, _ := repl.GetString(placeholder)
		return value
	}
	for _, arg := range v.args {
		value, err := arg.Value(get)
		if err != nil {
			return nil, err
		}
		c.AddArg(value, expandRanges)
	}
	return c.Compile()
}

// logUnusable logs that the value of a placeholder in an argument of a matcher is invalid. The
// level is DEBUG, because a client may choose the value.
func logUnusable(logger *zap.Logger, matcher, arg string, err error) {
	if entry := logger.Check(zapcore.DebugLevel, matcher+" cannot use the value of a placeholder"); entry != nil {
		entry.Write(zap.String(matcher, escape.Text(arg)), zap.String("error", escape.Text(err.Error())))
	}
}

// Provision validates and compiles the matcher.
func (m *MatchProxyProtocol) Provision(ctx caddy.Context) error {
	request.WarnIfUnwrapped(ctx, "proxy_protocol")
	return m.compile()
}

// conditions returns the fields of the matcher.
func (m *MatchProxyProtocol) conditions() *match.Conditions {
	return &match.Conditions{Is: m.Is, Version: m.Version, Peer: m.Peer, TLV: m.TLV}
}

// String returns the matcher as it stands in a Caddyfile, in one line.
func (m *MatchProxyProtocol) String() string { return m.conditions().String() }

// compile checks and compiles the fields, anew at each call.
func (m *MatchProxyProtocol) compile() (err error) {
	m.compiled, err = m.conditions().Compile()
	return err
}

// MatchWithError returns true if r matches m.
func (m *MatchProxyProtocol) MatchWithError(r *http.Request) (bool, error) {
	if err := request.CheckHandshake(r); err != nil {
		return false, err
	}
	return matches(m.compiled, r), nil
}

// matches reports whether the connection of a request is known and matches.
func matches(h *match.Header, r *http.Request) bool {
	c := request.Conn(r)
	return c != nil && h != nil && h.Matches(c.Info())
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchProxyProtocol)(nil)
	_ caddy.Provisioner                 = (*MatchProxyProtocol)(nil)
	_ caddyfile.Unmarshaler             = (*MatchProxyProtocol)(nil)
	_ caddyhttp.CELLibraryProducer      = (*MatchProxyProtocol)(nil)
)
