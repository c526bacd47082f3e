package proxyprotocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// This file has the options that the listener wrapper and the packet wrapper share, with their checks
// and warnings.

// ModeRanges gives the peers in some ranges a mode of their own.
type ModeRanges struct {
	// The mode of these peers: `on`, `off` or `unspecified`; required.
	Mode *Mode `json:"mode"`

	// The IP addresses or CIDR ranges of these peers; at least one. A range cannot have two
	// modes. Zones are not allowed. An IPv4-mapped IPv6 range counts as IPv4. Other IPv6
	// ranges, including `::/0`, do not cover IPv4.
	Ranges []string `json:"ranges"`
}

// errNoRanges is the error of a mode without ranges, in JSON and in the Caddyfile.
var errNoRanges = errors.New("needs at least one IP address or CIDR range")

// compileRanges returns a table of the modes of all ranges, or nil if there are none. Its errors
// begin with the JSON field.
func compileRanges(all []ModeRanges) (*bart.Table[policy.Mode], error) {
	if len(all) == 0 {
		return nil, nil
	}
	table := new(bart.Table[policy.Mode])
	for i, m := range all {
		if m.Mode == nil {
			return nil, fmt.Errorf("ranges[%d].mode: missing: use %s", i, policy.AcceptedModes)
		}
		mode, err := m.Mode.policy()
		if err != nil {
			return nil, fmt.Errorf("ranges[%d].mode: %w", i, err)
		}
		if len(m.Ranges) == 0 {
			return nil, fmt.Errorf("ranges[%d].ranges: %w", i, errNoRanges)
		}
		for j, s := range m.Ranges {
			prefix, err := policy.ParseRange(s)
			if err == nil {
				err = policy.InsertRange(table, prefix, mode)
			}
			if err != nil {
				return nil, fmt.Errorf("ranges[%d].ranges[%d]: %w", i, j, err)
			}
		}
	}
	return table, nil
}

// expandRanges replaces private_ranges, Caddy's shortcut, by the private ranges.
func expandRanges(args []string) []string {
	var ranges []string
	for _, arg := range args {
		if arg == "private_ranges" {
			ranges = append(ranges, caddyhttp.PrivateRangesCIDR()...)
		} else {
			ranges = append(ranges, arg)
		}
	}
	return ranges
}

// compilePolicy returns the policy of a wrapper. module is the wrapper, whose field
// TrustedProxiesRaw has the source of trusted proxies; raw is the value of this field, or nil.
// sourceName is the name of the source, or empty. server is the HTTP server that the source finds in
// the context of its requests; it may be nil.
func compilePolicy(ctx caddy.Context, module any, server *caddyhttp.Server, mode Mode, ranges *bart.Table[policy.Mode], raw json.RawMessage) (p policy.Policy, sourceName string, err error) {
	p = policy.Policy{Ranges: ranges}
	if p.Mode, err = mode.policy(); err != nil {
		return p, "", fieldError("mode", err)
	}
	if raw == nil {
		return p, "", nil
	}
	if p.Mode == policy.Off {
		return p, "", fieldError("trusted_proxies", errUnderOff)
	}
	loaded, err := ctx.LoadModule(module, "TrustedProxiesRaw")
	if err != nil {
		return p, "", fmt.Errorf("loading trusted proxies modules: %v", err)
	}
	sourceName = loaded.(caddy.Module).CaddyModule().ID.Name()
	if static, ok := loaded.(*caddyhttp.StaticIPRange); ok {
		p.Trusted, err = policy.NewSet(static.Ranges)
		return p, sourceName, fieldError("trusted_proxies", err)
	}
	p.SetSource(request.Source(loaded.(caddyhttp.IPRangeSource), server))
	return p, sourceName, nil
}

// The checks below are shared. The Caddyfile parser adds the line to their errors, and Provision adds
// the JSON field (fieldError).

// errUnderOff is the error of trusted_proxies and of require with mode off.
var errUnderOff = errors.New("not allowed under mode 'off', which refuses every header: remove it, or set the mode to 'on'")

// fieldError adds a JSON field to an error, and returns nil for nil.
func fieldError(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// checkTimeout checks that a timeout is positive.
func checkTimeout(d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("%s is not positive: use a value such as 5s", d)
	}
	return nil
}

// headerLimit returns the size of the largest header to accept: the option, or its default.
func headerLimit(option *int) int {
	if option == nil {
		return defaultMaxHeaderSize
	}
	return *option
}

// withoutAllow are the options that permit something, with the effect of leaving them out.
var withoutAllow = map[string]string{
	"http3":                  "disable HTTP/3 where a header is mandatory",
	"mismatched_destination": "refuse version 1 headers whose destination does not match their address family",
}

// checkAllow checks the value of an option that is "allow" or not set.
func checkAllow(option, value string) error {
	if value != "" && value != allowed {
		return fmt.Errorf("unknown value '%s': use %s, or leave it out to %s", value, allowed, withoutAllow[option])
	}
	return nil
}

// settingsOf returns what the status and the log show of a wrapper's policy.
func settingsOf(p *policy.Policy, source string, ranges []ModeRanges, require *auth.Requirement) statusapi.Settings {
	var shown []statusapi.Ranges
	for _, r := range ranges {
		shown = append(shown, statusapi.Ranges{Mode: r.Mode.String(), Ranges: r.Ranges})
	}
	s := statusapi.SettingsOf(p, source, shown)
	s.Require = require.Names()
	return s
}
