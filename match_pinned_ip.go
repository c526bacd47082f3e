package proxyprotocol

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// MatchPinnedIP matches requests whose client IP, as the `client_ip` matcher has it, is one
// of these and can be relied on: the connection is not marked, and its PROXY protocol
// header, if it began with one, named an IP address and a source port other than 0. (Port 0
// is the mark of an earlier hop.)
//
// This matcher never matches a request whose connection did not come through the
// `proxy_protocol_mode` listener wrapper.
type MatchPinnedIP struct {
	// The IP addresses or CIDR ranges to match; at least one. Placeholders are evaluated
	// for every request and may hold several, separated by commas or spaces. A placeholder
	// that is empty, or holds anything but IP addresses and CIDR ranges, matches nothing.
	Ranges []string `json:"ranges,omitempty"`

	fixed   *bart.Lite
	dynamic []string
	logger  *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (MatchPinnedIP) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.pinned_ip",
		New: func() caddy.Module { return new(MatchPinnedIP) },
	}
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	pinned_ip <ip|range|placeholder ...>
func (m *MatchPinnedIP) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	// iterate to merge multiple matchers into one
	for d.Next() {
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.Err(errNoPins.Error())
		}
		m.Ranges = append(m.Ranges, expandRanges(args)...)
		if d.NextBlock(0) {
			return d.Err("malformed pinned_ip matcher: blocks are not supported")
		}
		if err := m.compile(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// CELLibrary produces options that expose this matcher for use in CEL
// expression matchers.
//
// Example:
//
//	expression pinned_ip('203.0.113.7', '2001:db8::/32')
func (MatchPinnedIP) CELLibrary(ctx caddy.Context) (cel.Library, error) {
	warn := sync.OnceFunc(func() { request.WarnIfUnwrapped(ctx, "pinned_ip") })
	return celLibrary("pinned_ip", "pinned_ip_match_request_list", func(args match.Args) (caddyhttp.RequestMatcherWithError, error) {
		warn()
		m := &MatchPinnedIP{logger: ctx.Logger()}
		for _, arg := range args {
			m.Ranges = append(m.Ranges, arg.String())
		}
		return m, m.compile()
	}), nil
}

// Provision validates and compiles the matcher.
func (m *MatchPinnedIP) Provision(ctx caddy.Context) error {
	m.logger = ctx.Logger()
	request.WarnIfUnwrapped(ctx, "pinned_ip")
	return m.compile()
}

var errNoPins = errors.New("pinned_ip needs at least one IP address, CIDR range or placeholder")

// compile checks and compiles the ranges, anew at each call.
func (m *MatchPinnedIP) compile() error {
	if len(m.Ranges) == 0 {
		return errNoPins
	}
	var fixed []string
	m.dynamic = nil
	for _, s := range m.Ranges {
		if strings.Contains(s, "{") {
			m.dynamic = append(m.dynamic, s)
		} else {
			fixed = append(fixed, s)
		}
	}
	var err error
	if m.fixed, err = policy.NewSet(fixed); err != nil {
		return fmt.Errorf("pinned_ip: %w", err)
	}
	return nil
}

// MatchWithError returns true if r matches m.
func (m *MatchPinnedIP) MatchWithError(r *http.Request) (bool, error) {
	if err := request.CheckHandshake(r); err != nil {
		return false, err
	}
	if f := request.Info(r); f == nil || !vouched(f) {
		return false, nil
	}
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	client, err := netip.ParseAddr(text)
	if err != nil {
		return false, nil // the peer of a Unix socket has none
	}
	client = policy.NormalizeAddr(client)
	if m.fixed.Contains(client) {
		return true, nil
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false, nil
	}
	for _, s := range m.dynamic {
		if m.pins(client, s, request.Values(repl, s)) {
			return true, nil
		}
	}
	return false, nil
}

// pins reports whether one of the values of text with placeholders contains the client's address.
// A value that is not an address or range makes all of them match nothing.
func (m *MatchPinnedIP) pins(client netip.Addr, text string, values []string) bool {
	var ranges []string
	for _, value := range values {
		ranges = append(ranges, strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	err := match.ErrNoValue
	if len(ranges) > 0 {
		var set *bart.Lite
		if set, err = policy.NewSet(ranges); err == nil {
			return set.Contains(client)
		}
	}
	logUnusable(m.logger, "pinned_ip", text, err)
	return false
}

// vouched reports whether the client's address can be relied on: it is the peer's own, or
// a header named it under mode On, and no earlier hop marked it.
func vouched(f *conninfo.Info) bool {
	return !f.Marked() && (!f.HasHeader() || f.Header.HasAddrs() && f.Header.Source().Port() != 0)
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchPinnedIP)(nil)
	_ caddy.Provisioner                 = (*MatchPinnedIP)(nil)
	_ caddyfile.Unmarshaler             = (*MatchPinnedIP)(nil)
	_ caddyhttp.CELLibraryProducer      = (*MatchPinnedIP)(nil)
)
