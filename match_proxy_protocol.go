package proxyprotocol

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
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

	// compiled from the above
	states   map[string]bool
	versions []uint8
	peers    *bart.Lite
	tlvs     map[string][]string
}

// The words of the matcher.
const (
	isPresent  = "present"
	isAbsent   = "absent"
	isPortZero = "port_zero"
	isLocal    = "local"
)

var matchWords = []string{isPresent, isAbsent, isPortZero, isLocal}

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
	if !slices.Contains(matchOptions, option) {
		return d.Errf("unrecognized option '%s': use %s", option, strings.Join(matchOptions, ", "))
	}
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs an argument", option)
	}
	if option == "tlv" {
		m.addTLV(args[0], args[1:]...)
	} else {
		m.addOption(option, args...)
	}
	if err := m.compile(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// matchOptions are what the matcher takes beside words.
var matchOptions = []string{"version", "peer", "tlv"}

func (m *MatchProxyProtocol) addOption(option string, args ...string) {
	switch option {
	case "version":
		m.Version = append(m.Version, args...)
	case "peer":
		m.Peer = append(m.Peer, expandRanges(args)...)
	}
}

func (m *MatchProxyProtocol) addTLV(name string, values ...string) {
	if m.TLV == nil {
		m.TLV = make(map[string][]string)
	}
	m.TLV[name] = append(m.TLV[name], values...)
}

// CELLibrary produces options that expose this matcher for use in CEL
// expression matchers.
//
// Example:
//
//	expression proxy_protocol('present', 'version:v2', 'peer:10.0.0.0/8', 'tlv:authority=example.com')
func (MatchProxyProtocol) CELLibrary(ctx caddy.Context) (cel.Library, error) {
	warn := sync.OnceFunc(func() { warnIfUnwrapped(ctx, "proxy_protocol") })
	return celLibrary("proxy_protocol", "proxy_protocol_match_request_list", func(args celArgs) (caddyhttp.RequestMatcherWithError, error) {
		warn()
		return matchProxyProtocolOf(args, ctx.Logger())
	}), nil
}

// matchProxyProtocolOf returns the matcher with these arguments of the CEL function, or an
// error if the arguments that are known already cannot be used.
func matchProxyProtocolOf(args celArgs, logger *zap.Logger) (caddyhttp.RequestMatcherWithError, error) {
	known := new(MatchProxyProtocol)
	var variable []celArg
	for _, arg := range args {
		if arg.literal() {
			known.addArg(arg.String())
			continue
		}
		if err := checkPrefix(arg); err != nil {
			return nil, err
		}
		variable = append(variable, arg)
	}
	if len(variable) < len(args) {
		if err := known.compile(); err != nil || len(variable) == 0 {
			return known, err
		}
	}
	return &variableMatch{args, logger}, nil
}

// checkPrefix returns an error if no value of its placeholders can make an argument usable,
// because its option or the name of its TLV is wrong.
func checkPrefix(arg celArg) error {
	option, value, ok := strings.Cut(arg[0], ":")
	if !ok {
		return nil
	}
	if !slices.Contains(matchOptions, option) {
		return unknownWordError(arg.String())
	}
	if name, _, ok := strings.Cut(value, "="); ok && option == "tlv" {
		if _, err := tlv.ParseName(name); err != nil {
			return fmt.Errorf("tlv: %w", err)
		}
	}
	return nil
}

// variableMatch is the matcher with placeholders in arguments of the CEL function, which are
// evaluated for every request. A value that it cannot use matches nothing.
type variableMatch struct {
	args   celArgs
	logger *zap.Logger
}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (v *variableMatch) MatchWithError(r *http.Request) (bool, error) {
	if err := checkHandshake(r); err != nil {
		return false, err
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false, nil
	}
	m, err := v.matcher(repl)
	if err != nil {
		logUnusable(v.logger, "proxy_protocol", v.args.String(), err)
		return false, nil
	}
	return m.MatchWithError(r)
}

// logUnusable logs that an argument of a matcher has a placeholder whose value the matcher
// cannot use. The level is DEBUG, because a client may choose the value.
func logUnusable(logger *zap.Logger, matcher, arg string, err error) {
	if entry := logger.Check(zapcore.DebugLevel, matcher+" cannot use the value of a placeholder"); entry != nil {
		entry.Write(zap.String(matcher, escape.Text(arg)), zap.String("error", escape.Text(err.Error())))
	}
}

// matcher returns the matcher with the values that placeholders have now.
func (v *variableMatch) matcher(repl *caddy.Replacer) (*MatchProxyProtocol, error) {
	m := new(MatchProxyProtocol)
	for _, arg := range v.args {
		value, err := arg.value(repl)
		if err != nil {
			return nil, err
		}
		m.addArg(value)
	}
	return m, m.compile()
}

// addArg adds an argument of the CEL function.
func (m *MatchProxyProtocol) addArg(arg string) {
	option, value, ok := strings.Cut(arg, ":")
	switch {
	case ok && option == "tlv":
		if name, value, ok := strings.Cut(value, "="); ok {
			m.addTLV(name, value)
		} else {
			m.addTLV(name)
		}
	case ok && slices.Contains(matchOptions, option):
		m.addOption(option, value)
	default:
		m.Is = append(m.Is, arg)
	}
}

// Provision validates and compiles the matcher.
func (m *MatchProxyProtocol) Provision(ctx caddy.Context) error {
	warnIfUnwrapped(ctx, "proxy_protocol")
	return m.compile()
}

// compile sets what Match needs, anew at each call.
func (m *MatchProxyProtocol) compile() error {
	m.states, m.versions, m.peers, m.tlvs = make(map[string]bool), nil, nil, make(map[string][]string)
	for _, word := range m.Is {
		if !slices.Contains(matchWords, word) {
			return unknownWordError(word)
		}
		m.states[word] = true
	}
	for _, name := range m.Version {
		version := versions[name]
		if version == 0 {
			return fmt.Errorf("version: unknown version '%s': use v1 or v2", name)
		}
		m.versions = append(m.versions, version)
	}
	if len(m.Peer) > 0 {
		var err error
		if m.peers, err = compileSet(m.Peer); err != nil {
			return fmt.Errorf("peer: %w", err)
		}
	}
	for given, values := range m.TLV {
		name, err := tlv.ParseName(given)
		if err != nil {
			return fmt.Errorf("tlv: %w", err)
		}
		for _, value := range values {
			if strings.HasPrefix(name, "0x") {
				if _, err := hex.DecodeString(value); err != nil {
					return fmt.Errorf("tlv: value '%s' of %s is not hexadecimal: use pairs of digits such as 0aff", value, name)
				}
				value = strings.ToLower(value)
			}
			m.tlvs[name] = append(m.tlvs[name], value)
		}
		if len(values) == 0 && m.tlvs[name] == nil {
			m.tlvs[name] = []string{}
		}
	}
	claims := m.states[isPresent] || m.states[isPortZero] || m.states[isLocal] || len(m.versions) > 0 || len(m.tlvs) > 0
	switch {
	case !claims && !m.states[isAbsent] && m.peers == nil:
		return fmt.Errorf("the proxy_protocol matcher needs at least one of %s, %s", strings.Join(matchWords, ", "), strings.Join(matchOptions, ", "))
	case claims && m.states[isAbsent]:
		return errors.New("'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header")
	case m.states[isLocal] && (m.states[isPortZero] || len(m.tlvs) > 0):
		return errors.New("'local' cannot be combined with 'port_zero' or 'tlv': a LOCAL header has no addresses and no TLVs")
	default:
		return nil
	}
}

func unknownWordError(word string) error {
	return fmt.Errorf("unknown word '%s': use %s", word, strings.Join(matchWords, ", "))
}

// MatchWithError returns true if r matches m.
func (m *MatchProxyProtocol) MatchWithError(r *http.Request) (bool, error) {
	if err := checkHandshake(r); err != nil {
		return false, err
	}
	c := requestConn(r)
	if c == nil {
		return false, nil
	}
	f := c.known()
	if m.needsVouching() && f.mode != On {
		return false, nil
	}
	if m.states[isPresent] && !f.present() ||
		m.states[isAbsent] && f.present() ||
		m.states[isPortZero] && !f.Marked() ||
		m.states[isLocal] && commandOf(f.header) != "LOCAL" ||
		m.versions != nil && !slices.Contains(m.versions, f.header.Version()) ||
		m.peers != nil && !m.peers.Contains(peerIP(f.peer)) {
		return false, nil
	}
	for name, values := range m.tlvs {
		if !f.say().Has(name, values) {
			return false, nil
		}
	}
	return true, nil
}

// needsVouching reports whether the matcher believes claims of a header, so that it must match
// only headers that were accepted under mode On. With port_zero or local beside them the
// claims are those of a header that anyone may have sent.
func (m *MatchProxyProtocol) needsVouching() bool {
	claims := m.states[isPresent] || len(m.versions) > 0 || len(m.tlvs) > 0
	return claims && !m.states[isPortZero] && !m.states[isLocal]
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchProxyProtocol)(nil)
	_ caddy.Provisioner                 = (*MatchProxyProtocol)(nil)
	_ caddyfile.Unmarshaler             = (*MatchProxyProtocol)(nil)
	_ caddyhttp.CELLibraryProducer      = (*MatchProxyProtocol)(nil)
)
