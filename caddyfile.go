package proxyprotocol

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/portzero/caddy-proxy-protocol/internal/paste"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// UnmarshalCaddyfile sets up the listener wrapper from Caddyfile tokens. Syntax:
//
//	proxy_protocol_mode [on|off|unspecified] {
//		trusted_proxies <source> <args...>
//		on|off|unspecified <ranges...>
//		require tlv <name> [<values...>]
//		require signature <keys...> {
//			tlv 0xNN
//			max_age <duration>
//		}
//		timeout <duration>
//		max_header_size <size>
//		version v1|v2
//		http3 allow
//		mismatched_destination allow
//	}
func (lw *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return lw.unmarshal(d, nil)
}

// unmarshal reads the syntax of UnmarshalCaddyfile. refused has options that are not allowed, and
// the reasons for the errors.
func (lw *ListenerWrapper) unmarshal(d *caddyfile.Dispenser, refused map[string]string) error {
	d.Next() // consume wrapper name
	if d.NextArg() {
		mode, err := ParseMode(d.Val())
		if err != nil {
			return d.WrapErr(err)
		}
		lw.Mode = mode
		if d.NextArg() {
			return d.Errf("unexpected argument '%s': write one mode here, and the modes of other peers in the block, such as 'off 127.0.0.0/8'", d.Val())
		}
	}
	for seen := make(map[string]bool); d.NextBlock(0); {
		option := d.Val()
		if mode, err := ParseMode(option); err == nil {
			if err := lw.unmarshalRanges(d, mode); err != nil {
				return err
			}
			continue
		}
		if seen[option] && option != "require" {
			return d.Errf("duplicate option '%s': remove one", option)
		}
		seen[option] = true
		if why, ok := refused[option]; ok {
			return d.Errf("%s: %s", option, why)
		}
		if paste.IsBuiltinOption(option) {
			return d.Err(paste.BuiltinOption(option, expandRanges(d.RemainingArgs())))
		}
		err := lw.unmarshalOption(d, option)
		if err == errUnrecognized {
			options := slices.DeleteFunc(slices.Clone(wrapperOptions), func(o string) bool { return refused[o] != "" })
			return d.Errf("unrecognized option '%s': use %s, or a mode (%s) with ranges", option, strings.Join(options, ", "), policy.AcceptedModes)
		}
		if err != nil {
			return err
		}
	}
	if lw.Require != nil && lw.Version == "v1" {
		return d.Errf("require: %v", paste.ErrRequireV1)
	}
	return nil
}

// wrapperOptions are the options of the listener wrapper in a block. Modes with ranges come in
// addition.
var wrapperOptions = []string{"trusted_proxies", "require", "timeout", "max_header_size", "version", "http3", "mismatched_destination"}

// errUnrecognized is returned by unmarshalOption for an option that is not in wrapperOptions.
var errUnrecognized = errors.New("unrecognized option")

// unmarshalOption reads one option and sets its field.
func (lw *ListenerWrapper) unmarshalOption(d *caddyfile.Dispenser, option string) error {
	switch option {
	case "trusted_proxies":
		return lw.unmarshalTrustedProxies(d)
	case "require":
		return lw.unmarshalRequire(d)
	}
	args := d.RemainingArgs()
	arg := strings.Join(args, " ")
	var err error
	switch option {
	case "timeout":
		var timeout caddy.Duration
		if timeout, err = parseTimeout(arg); err == nil {
			lw.Timeout = &timeout
		}
	case "max_header_size":
		var size int
		if size, err = parseMaxHeaderSize(arg); err == nil {
			lw.MaxHeaderSize = &size
		}
	case "version":
		lw.Version = arg
		_, err = wire.ParseVersion(arg)
	case "http3":
		lw.HTTP3, err = arg, checkAllow(option, arg)
	case "mismatched_destination":
		lw.MismatchedDestination, err = arg, checkAllow(option, arg)
	default:
		return errUnrecognized
	}
	if len(args) != 1 || arg == "" {
		return d.Errf("%s: needs exactly one argument", option)
	}
	if err != nil {
		return d.Errf("%s: %v", option, err)
	}
	return nil
}

// parseTimeout returns the value of the option timeout. It accepts days, as all durations in a
// Caddyfile.
func parseTimeout(s string) (caddy.Duration, error) {
	timeout, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("'%s' is not a duration: use a value such as 5s", s)
	}
	return caddy.Duration(timeout), checkTimeout(timeout)
}

// parseMaxHeaderSize returns the value of the option max_header_size, a number of bytes with or
// without a unit.
func parseMaxHeaderSize(s string) (int, error) {
	size, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, fmt.Errorf("'%s' is not a size: use %d to %d bytes, such as 4KiB", s, wire.MinMaxSize, wire.MaxSize)
	}
	size = min(size, 1<<31-1) // fits into an int on every platform, and is still out of bounds
	return int(size), wire.CheckMaxSize(int(size))
}

// unmarshalRanges adds the ranges of a line that begins with a mode. A range that has another mode
// on a line before is an error.
func (lw *ListenerWrapper) unmarshalRanges(d *caddyfile.Dispenser, mode Mode) error {
	ranges := expandRanges(d.RemainingArgs())
	if len(ranges) == 0 {
		return d.Errf("%s: %v; to set the mode of the wrapper itself, write 'proxy_protocol_mode %[1]s'", mode, errNoRanges)
	}
	for _, s := range ranges {
		if _, err := policy.ParseRange(s); err != nil {
			return d.Errf("%s: %v", mode, err)
		}
	}
	lw.Ranges = append(lw.Ranges, ModeRanges{Mode: &mode, Ranges: ranges})
	if _, err := compileRanges(lw.Ranges); err != nil {
		return d.Errf("%s: %v", mode, errors.Unwrap(err)) // without the JSON field
	}
	return nil
}

// unmarshalTrustedProxies reads the option trusted_proxies. Its syntax is that of Caddy's server
// option trusted_proxies.
func (lw *ListenerWrapper) unmarshalTrustedProxies(d *caddyfile.Dispenser) error {
	if lw.Mode == Off {
		return d.Errf("trusted_proxies: %v", errUnderOff)
	}
	if !d.NextArg() {
		return d.Err("trusted_proxies: the source is missing: write one, such as 'static 10.0.0.0/8'")
	}
	if paste.IsRange(d.Val()) {
		return d.Err(paste.StaticSource(append([]string{d.Val()}, d.RemainingArgs()...)))
	}
	id := "http.ip_sources." + d.Val()
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	source, ok := module.(caddyhttp.IPRangeSource)
	if !ok {
		return d.Errf("module %s (%T) is not an IP range source", id, module)
	}
	if static, ok := source.(*caddyhttp.StaticIPRange); ok {
		if _, err := policy.NewSet(static.Ranges); err != nil {
			return d.Errf("trusted_proxies: %v", err)
		}
	}
	lw.TrustedProxiesRaw = caddyconfig.JSONModuleObject(source, "source", source.(caddy.Module).CaddyModule().ID.Name(), nil)
	return nil
}
