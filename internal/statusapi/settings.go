package statusapi

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Settings are the configuration of a listener.
type Settings struct {
	Mode string `json:"mode"`
	// TrustedProxies is the module that returns the trusted peers; "any" if there is none, or
	// "none" under off.
	TrustedProxies string `json:"trusted_proxies"`
	// TrustedRanges are the trusted peers, if the module is static: at most 100, with "..." behind
	// them if there are more.
	TrustedRanges []string `json:"trusted_ranges,omitempty"`
	// Ranges are peers with a mode of their own.
	Ranges []Ranges `json:"ranges,omitempty"`
	// Require is what headers must prove, without the values.
	Require []string `json:"require,omitempty"`
	// HTTP3 says what becomes of HTTP/3 on the server: HTTP3Disabled, HTTP3Checked or
	// HTTP3Unchecked. It is empty if the server does not serve HTTP/3.
	HTTP3 string `json:"http3,omitempty"`
	// Warnings are what the log warned of when the configuration was loaded.
	Warnings []string `json:"warnings,omitempty"`
}

// MaxTrustedRanges is the number of TrustedRanges.
const MaxTrustedRanges = 100

// The values of HTTP3.
const (
	// HTTP3Disabled: the listener wrapper disabled it.
	HTTP3Disabled = "disabled"
	// HTTP3Checked: the packet conn wrapper checks each datagram.
	HTTP3Checked = "checked"
	// HTTP3Unchecked: it is served without a header.
	HTTP3Unchecked = "unchecked"
)

// Ranges are peers with a mode of their own.
type Ranges struct {
	Mode   string   `json:"mode"`
	Ranges []string `json:"ranges"`
}

// SettingsOf returns the settings of a policy. source is the name of the module that returns the
// trusted peers, or empty.
func SettingsOf(p *policy.Policy, source string, ranges []Ranges) Settings {
	s := Settings{Mode: p.Mode.String(), TrustedProxies: source, TrustedRanges: p.TrustedRanges(MaxTrustedRanges), Ranges: ranges}
	switch {
	case source != "":
	case p.Mode == policy.Off:
		s.TrustedProxies = "none"
	default:
		s.TrustedProxies = "any"
	}
	return s
}

// KeepWarnings returns a logger that writes to another one and keeps the warnings. It must be used only
// while the configuration is loaded.
func (s *Settings) KeepWarnings(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.Hooks(func(entry zapcore.Entry) error {
		if entry.Level == zapcore.WarnLevel {
			s.Warnings = append(s.Warnings, entry.Message)
		}
		return nil
	}))
}

// Announce logs the settings when a listener opens. The log of a listener without a wrapper has no
// such line.
func (s *Settings) Announce(log *record.Log, address string) {
	const most = 20 // ranges in a field
	fields := []zap.Field{zap.String("address", address), zap.String("mode", s.Mode)}
	switch {
	case len(s.TrustedRanges) > 0:
		fields = append(fields, zap.Strings("trusted_proxies", firstOf(s.TrustedRanges, most)))
	case s.TrustedProxies != "none":
		fields = append(fields, zap.String("trusted_proxies", s.TrustedProxies))
	}
	byMode := make(map[string][]string)
	for _, r := range s.Ranges {
		byMode[r.Mode] = append(byMode[r.Mode], r.Ranges...)
	}
	for _, mode := range []policy.Mode{policy.On, policy.Off, policy.Unspecified} {
		if ranges := byMode[mode.String()]; len(ranges) > 0 {
			fields = append(fields, zap.Strings("ranges_"+mode.String(), firstOf(ranges, most)))
		}
	}
	if len(s.Require) > 0 {
		fields = append(fields, zap.Strings("require", s.Require))
	}
	if s.HTTP3 != "" {
		fields = append(fields, zap.String("http3", s.HTTP3))
	}
	log.Info("checking PROXY protocol headers", fields...)
}

// firstOf returns the first most texts, with "..." behind them if there are more.
func firstOf(texts []string, most int) []string {
	if len(texts) <= most {
		return texts
	}
	return append(texts[:most:most], "...")
}
