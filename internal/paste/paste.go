// Package paste writes the lines that error messages tell users to write. They are safe to paste as
// they stand: they trust no more peers than the configuration that was wrong.
package paste

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
)

// Wrapper returns the Caddyfile lines of a proxy_protocol_mode wrapper with all its options, given
// as JSON. The lines begin with indent, and end without a newline.
func Wrapper(raw json.RawMessage, indent string) string {
	var w struct {
		Mode           string          `json:"mode"`
		TrustedProxies json.RawMessage `json:"trusted_proxies"`
		Ranges         []struct {
			Mode   string   `json:"mode"`
			Ranges []string `json:"ranges"`
		} `json:"ranges"`
		Require               required `json:"require"`
		Timeout               any      `json:"timeout"`
		MaxHeaderSize         int      `json:"max_header_size"`
		Version               string   `json:"version"`
		HTTP3                 string   `json:"http3"`
		MismatchedDestination string   `json:"mismatched_destination"`
	}
	if json.Unmarshal(raw, &w) != nil || w.Mode == "" || w.Mode == "unspecified" {
		w.Mode = "on" // the mode to write in place of the one for tests
	}
	var options []string
	add := func(words ...string) { options = append(options, strings.Join(words, " ")) }
	if source := trustedProxies(w.TrustedProxies); source != "" {
		add("trusted_proxies", source)
	}
	for _, r := range w.Ranges {
		add(append([]string{r.Mode}, r.Ranges...)...)
	}
	options = append(options, w.Require.lines(indent+"\t")...)
	if timeout := durationText(w.Timeout); timeout != "" {
		add("timeout", timeout)
	}
	if w.MaxHeaderSize != 0 {
		add("max_header_size", fmt.Sprint(w.MaxHeaderSize))
	}
	for _, option := range [][2]string{{"version", w.Version}, {"http3", w.HTTP3}, {"mismatched_destination", w.MismatchedDestination}} {
		if option[1] != "" {
			add(option[0], option[1])
		}
	}
	line := indent + "proxy_protocol_mode " + w.Mode
	if len(options) == 0 {
		return line
	}
	return line + " {\n" + indent + "\t" + strings.Join(options, "\n"+indent+"\t") + "\n" + indent + "}"
}

// required is the option require.
type required struct {
	TLVs      map[string][]string `json:"tlvs"`
	Signature *struct {
		Keys   []string `json:"keys"`
		TLV    string   `json:"tlv"`
		MaxAge any      `json:"max_age"`
	} `json:"signature"`
}

// lines returns the lines of the option. A secret is not shown: a placeholder is in its place, with
// which the lines do not load until it has a value. Lines behind the first of a block begin with
// indent.
func (r *required) lines(indent string) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(r.TLVs)) {
		words := []string{"require tlv", name}
		for _, value := range r.TLVs[name] {
			if tlv.IsCode(name) {
				value = WithoutSecret(value)
			}
			words = append(words, quoted(value))
		}
		lines = append(lines, strings.Join(words, " "))
	}
	if r.Signature == nil {
		return lines
	}
	line := "require signature"
	for _, key := range r.Signature.Keys {
		line += " " + WithoutSecret(key)
	}
	var options []string
	if r.Signature.TLV != "" {
		options = append(options, "tlv "+r.Signature.TLV)
	}
	if age := durationText(r.Signature.MaxAge); age != "" {
		options = append(options, "max_age "+age)
	}
	if len(options) > 0 {
		line += " {\n" + indent + "\t" + strings.Join(options, "\n"+indent+"\t") + "\n" + indent + "}"
	}
	return append(lines, line)
}

// WithoutSecret returns a value if it is one placeholder and nothing else, or a placeholder in place
// of the value.
func WithoutSecret(value string) string {
	if strings.HasPrefix(value, "{") && strings.IndexByte(value, '}') == len(value)-1 {
		return value
	}
	return "{env.YOUR_SECRET}"
}

// quoted returns a value as one word of a Caddyfile.
func quoted(value string) string {
	if value != "" && !strings.ContainsAny(value, " \t\r\n\"`#") {
		return value
	}
	return `"` + strings.ReplaceAll(value, `"`, `\"`) + `"`
}

// durationText returns a duration as a Caddyfile has it, or nothing if there is none.
func durationText(duration any) string {
	switch duration := duration.(type) {
	case string:
		return duration
	case float64: // nanoseconds
		return time.Duration(duration).String()
	default:
		return ""
	}
}

// trustedProxies returns the arguments of trusted_proxies, or an empty text if there are none. The
// options of a source other than static are not known here: an ellipsis stands for them, with which
// the lines do not load.
func trustedProxies(raw json.RawMessage) string {
	var source struct {
		Source string   `json:"source"`
		Ranges []string `json:"ranges"`
	}
	switch {
	case len(raw) == 0:
		return ""
	case json.Unmarshal(raw, &source) != nil:
		return "..."
	case source.Source == "static" && len(source.Ranges) > 0:
		return "static " + strings.Join(source.Ranges, " ")
	default:
		return source.Source + " ..."
	}
}

// StaticSource returns an error text for ranges that were written in place of the source of
// trusted_proxies.
func StaticSource(ranges []string) string {
	list := strings.Join(ranges, " ")
	return fmt.Sprintf("trusted_proxies: '%s' is not a source: write: trusted_proxies static %s", ranges[0], list)
}

// IsBuiltinOption reports whether Caddy's own wrapper proxy_protocol has the option, and
// proxy_protocol_mode has not.
func IsBuiltinOption(option string) bool {
	return option == "allow" || option == "deny" || option == "fallback_policy"
}

// BuiltinOption returns an error text for an option for which IsBuiltinOption is true. It says
// what to write in its place.
func BuiltinOption(option string, args []string) string {
	list := strings.Join(args, " ")
	if list == "" {
		list = "192.0.2.10" // for documentation (RFC 5737)
	}
	var write string
	switch option {
	case "allow":
		write = "mode 'on' behind the name of the wrapper, and in its block: trusted_proxies static " + list
	case "deny":
		write = "off " + list
	default:
		write = builtinPolicies[strings.ToUpper(list)]
		if write == "" {
			write = "one of these modes behind the name of the wrapper: on, off or unspecified"
		}
	}
	return fmt.Sprintf("%s: an option of Caddy's own 'proxy_protocol', not of 'proxy_protocol_mode': write %s", option, write)
}

// builtinPolicies has what to write in place of the policies of Caddy's own wrapper.
var builtinPolicies = map[string]string{
	"REQUIRE": "mode 'on' behind the name of the wrapper, and in its block the addresses of your load balancers, such as: trusted_proxies static 192.0.2.10",
	"REJECT":  "mode 'off' behind the name of the wrapper",
	"USE":     "mode 'on' behind the name of the wrapper if a load balancer sends headers, else mode 'off'",
	"IGNORE":  "mode 'on' behind the name of the wrapper if you trust the sender of the headers, else mode 'off', which refuses them",
	"SKIP":    "mode 'off' behind the name of the wrapper, which refuses headers",
}

// ErrNobodyTrusted is the error of the packet wrapper in mode on without trusted_proxies. It has an
// address for documentation (RFC 5737), so that its lines are safe to paste as they stand.
var ErrNobodyTrusted = errors.New(`missing: mode 'on' of the packet conn wrapper 'proxy_protocol_mode' needs it, because the source address of a datagram can be forged; write, with the addresses of your load balancers in place of 192.0.2.10:

	packet_conn_wrappers {
		proxy_protocol_mode on {
			trusted_proxies static 192.0.2.10
		}
	}

or in JSON, beside "mode": "on":

	"trusted_proxies": {"source": "static", "ranges": ["192.0.2.10"]}

To trust every host that can reach the port, write: trusted_proxies static 0.0.0.0/0 ::/0`)

// IsRange reports whether a word is an IP address, a CIDR range or private_ranges.
func IsRange(s string) bool {
	_, err := policy.ParseRange(s)
	return err == nil || s == "private_ranges"
}

// NotOfDatagrams has the options of the listener wrapper that the packet wrapper does not have,
// and the reasons.
var NotOfDatagrams = map[string]string{
	"timeout":                "not supported for datagrams, because a header arrives whole or not at all: remove it",
	"version":                "not supported for datagrams, because they have v2 headers only: remove it",
	"mismatched_destination": "not supported for datagrams, because only v1 headers can have a mismatched destination: remove it",
	"http3":                  "an option of the listener wrapper, which does not need it beside this packet conn wrapper: remove it",
}

// Errors of the option require.
var (
	ErrRequireV1       = errors.New("v1 headers cannot carry what 'require' demands: remove one of the two options")
	ErrSignedDatagrams = errors.New("a signature cannot be required of datagrams: each one has the header of its connection, which lives longer than max_age: use 'require tlv' here, with a secret value such as 'require tlv 0xe1 {env.LB_TOKEN_HEX}'")
)
