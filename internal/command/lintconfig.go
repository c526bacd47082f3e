package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/paste"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
)

// This file has what lint reads from the JSON of a configuration.

// lintConfig is a configuration file.
type lintConfig struct {
	file    string
	adapter string // empty for JSON
	input   []byte // the file as it is
	json    []byte // what it adapts to
}

// isCaddyfile reports whether the configuration is a Caddyfile.
func (c *lintConfig) isCaddyfile() bool { return c.adapter == "caddyfile" }

// loadEnvFiles adds the variables of environment files to the environment.
func loadEnvFiles(files []string) error {
	if len(files) == 0 {
		return nil
	}
	// Caddy's function that reads these files is not exported. Its command 'environ' calls it and
	// then prints the environment, which is discarded here.
	cmd := new(cobra.Command)
	caddycmd.Commands()["environ"].CobraFunc(cmd)
	for _, file := range files {
		if err := cmd.Flags().Set("envfile", file); err != nil {
			return err
		}
	}
	discard, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer discard.Close()
	stdout := os.Stdout
	os.Stdout = discard
	defer func() { os.Stdout = stdout }()
	return cmd.RunE(cmd, nil)
}

// loadConfig reads and adapts a configuration, as 'caddy validate' does.
func loadConfig(in io.Reader, file, adapter string) (*lintConfig, error) {
	c := &lintConfig{file: file, adapter: adapter}
	var err error
	if file == "-" {
		// Caddy's function would read the standard input, and it can be read only once.
		if c.input, err = io.ReadAll(in); err != nil {
			return nil, fmt.Errorf("reading config from stdin: %w", err)
		}
		c.json = c.input
		if adapter != "" {
			c.json, err = adaptConfig(adapter, c.input)
		}
	} else {
		c.json, c.file, c.adapter, err = caddycmd.LoadConfig(file, adapter)
		if err == nil && c.file == "" {
			err = errors.New("input file required when there is no Caddyfile in current directory (use --config flag)")
		}
		if err == nil && c.isCaddyfile() {
			c.input, err = os.ReadFile(c.file)
		}
	}
	if err != nil {
		return nil, err
	}
	c.json = caddy.RemoveMetaFields(c.json)
	return c, nil
}

func adaptConfig(adapter string, input []byte) ([]byte, error) {
	a := caddyconfig.GetAdapter(adapter)
	if a == nil {
		return nil, fmt.Errorf("unrecognized config adapter: %s", adapter)
	}
	adapted, _, err := a.Adapt(input, map[string]any{"filename": "-"})
	return adapted, err
}

// lintServer is an HTTP server of a configuration.
type lintServer struct {
	name               string
	Listen             []string          `json:"listen"`
	ListenerWrappers   []json.RawMessage `json:"listener_wrappers"`
	PacketConnWrappers []json.RawMessage `json:"packet_conn_wrappers"`
	NamedRoutes        map[string]any    `json:"named_routes"`

	loaded *loadedServer // nil if the configuration does not load
}

// servers returns the HTTP servers by name.
func (c *lintConfig) servers() ([]*lintServer, error) {
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]*lintServer `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(c.json, &config); err != nil {
		return nil, fmt.Errorf("decoding config: %w", err)
	}
	var servers []*lintServer
	for _, name := range slices.Sorted(maps.Keys(config.Apps.HTTP.Servers)) {
		if server := config.Apps.HTTP.Servers[name]; server != nil {
			server.name = name
			servers = append(servers, server)
		}
	}
	return servers, nil
}

// wrapper returns the listener wrapper of the server, and packetWrapper the packet wrapper, or nil.
func (s *lintServer) wrapper() *wrapperConfig       { return wrapperIn(s.ListenerWrappers) }
func (s *lintServer) packetWrapper() *wrapperConfig { return wrapperIn(s.PacketConnWrappers) }

func wrapperIn(wrappers []json.RawMessage) *wrapperConfig {
	names, _ := request.WrapperNames(wrappers) // an error is one at load
	i := slices.Index(names, request.WrapperName)
	if i < 0 {
		return nil
	}
	w := &wrapperConfig{raw: wrappers[i]}
	_ = json.Unmarshal(w.raw, w) // an error is one at load; the other fields are there
	w.Mode = cmp.Or(w.Mode, policy.Unspecified.String())
	return w
}

// hasBuiltinWrapper reports whether the server has Caddy's own wrapper.
func (s *lintServer) hasBuiltinWrapper() bool {
	names, _ := request.WrapperNames(s.ListenerWrappers)
	return slices.Contains(names, "proxy_protocol")
}

// addresses returns the addresses that the server listens on. Once it is loaded, they have no
// placeholders.
func (s *lintServer) addresses() []string {
	if s.loaded != nil {
		return s.loaded.listen
	}
	return s.Listen
}

// listeners returns what the listeners of the server do.
func (s *lintServer) listeners() (all []*lintListener) {
	for i, address := range s.addresses() {
		l := &lintListener{Server: s.name, Address: address, server: s}
		l.describe(s.wrapper())
		if l.Mode == "" && s.hasBuiltinWrapper() {
			l.Instead = "Caddy's own wrapper 'proxy_protocol'"
		}
		if s.loaded != nil {
			l.TLS = s.loaded.tls
			l.HTTP3 = s.loaded.http3Of(i, s)
			atHTTP := s.loaded.atHTTPPort[i]
			l.Redirects, l.ACME = atHTTP && s.loaded.redirects, atHTTP && s.loaded.acme
		}
		all = append(all, l)
	}
	if w := s.packetWrapper(); w != nil {
		for i, address := range s.addresses() {
			if s.loaded == nil || s.loaded.http3[i] {
				l := &lintListener{Server: s.name, Address: "udp/" + address, TLS: true, server: s}
				l.describe(w)
				all = append(all, l)
			}
		}
	}
	return all
}

// describe sets what a wrapper says. The wrapper may be nil.
func (l *lintListener) describe(w *wrapperConfig) {
	if w == nil {
		return
	}
	l.wrapper = w
	l.Mode, l.Ranges, l.Require = w.Mode, w.Ranges, w.Require
	switch {
	case w.TrustedProxies != nil:
		l.TrustedProxies, l.TrustedRanges = w.TrustedProxies.Source, w.TrustedProxies.Ranges
	case w.Mode == policy.Off.String():
		l.TrustedProxies = "none"
	default:
		l.TrustedProxies = "any"
	}
}

// wrapperConfig is the JSON of a wrapper, as far as lint looks at it.
type wrapperConfig struct {
	Mode           string             `json:"mode"`
	TrustedProxies *trustedProxies    `json:"trusted_proxies"`
	Ranges         []statusapi.Ranges `json:"ranges"`
	HTTP3          string             `json:"http3"`
	Require        requirements       `json:"require"`

	raw json.RawMessage
}

// trustedProxies is the source of the trusted peers.
type trustedProxies struct {
	Source string   `json:"source"`
	Ranges []string `json:"ranges"`
}

// requirements is the field require of a wrapper: what the header must have.
type requirements map[string]any

// names returns a text for each requirement. It does not show values, which may be secrets.
func (r requirements) names() (names []string) {
	for _, kind := range slices.Sorted(maps.Keys(r)) {
		name := kind
		if fields, ok := r[kind].(map[string]any); ok && kind == "tlvs" {
			name = "TLVs " + strings.Join(slices.Sorted(maps.Keys(fields)), " ")
		}
		names = append(names, name)
	}
	return names
}

// withoutSecrets returns the field with placeholders in place of secrets, as paste.Wrapper has it.
func (r requirements) withoutSecrets() map[string]any {
	without := maps.Clone(map[string]any(r))
	hide := func(fields any, secret func(name string) bool) any {
		object, ok := fields.(map[string]any)
		if !ok {
			return fields
		}
		shown := make(map[string]any)
		for name, value := range object {
			if values, ok := value.([]any); ok && secret(name) {
				hidden := make([]any, len(values))
				for i := range values {
					text, _ := values[i].(string)
					hidden[i] = paste.WithoutSecret(text)
				}
				value = hidden
			}
			shown[name] = value
		}
		return shown
	}
	if tlvs, ok := r["tlvs"]; ok {
		without["tlvs"] = hide(tlvs, tlv.IsCode)
	}
	if signature, ok := r["signature"]; ok {
		without["signature"] = hide(signature, func(name string) bool { return name == "keys" })
	}
	return without
}

// MarshalJSON returns the requirements without values, which may be secrets.
func (r requirements) MarshalJSON() ([]byte, error) { return json.Marshal(r.names()) }

// policy returns the policy of a wrapper. Wrong values, which do not load, are left out.
func (w *wrapperConfig) policy() *policy.Policy {
	p := new(policy.Policy)
	p.Mode, _ = policy.ParseMode(w.Mode)
	for _, ranges := range w.Ranges {
		mode, err := policy.ParseMode(ranges.Mode)
		for _, r := range ranges.Ranges {
			prefix, rangeErr := policy.ParseRange(r)
			if err == nil && rangeErr == nil {
				if p.Ranges == nil {
					p.Ranges = new(bart.Table[policy.Mode])
				}
				_ = policy.InsertRange(p.Ranges, prefix, mode)
			}
		}
	}
	switch {
	case w.TrustedProxies == nil:
	case w.TrustedProxies.Source == "static":
		if p.Trusted, _ = policy.NewSet(w.TrustedProxies.Ranges); p.Trusted == nil {
			p.Trusted = new(bart.Lite)
		}
	default:
		p.SetSource(func(context.Context, net.Addr) []netip.Prefix { return nil }) // never asked
	}
	return p
}

// reads reports whether the wrapper accepts headers from any peer.
func (w *wrapperConfig) reads() bool {
	p := w.policy()
	return p.Uses(policy.On) || p.Uses(policy.Unspecified)
}

// privateRanges are the ranges that Caddy's shortcut private_ranges stands for.
var privateRanges = func() (prefixes []netip.Prefix) {
	for _, r := range caddyhttp.PrivateRangesCIDR() {
		prefix, err := policy.ParseRange(r)
		if err != nil {
			panic(err) // Caddy's ranges are valid
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes
}()

// withoutPrivate returns ranges without the private ones, if all of those are among them.
func withoutPrivate(ranges []string) (rest []string, had bool) {
	missing := slices.Clone(privateRanges)
	for _, r := range ranges {
		prefix, err := policy.ParseRange(r)
		if err == nil && slices.Contains(privateRanges, prefix) {
			missing = slices.DeleteFunc(missing, func(p netip.Prefix) bool { return p == prefix })
		} else {
			rest = append(rest, r)
		}
	}
	if len(missing) > 0 {
		return ranges, false
	}
	return rest, true
}

// documentationAddress is of a range for documentation (RFC 5737), so that lines with it are safe to
// paste as they stand.
const documentationAddress = "192.0.2.10"

// trustsPrivate reports whether the wrapper trusts all private ranges.
func (w *wrapperConfig) trustsPrivate() bool {
	if w.TrustedProxies != nil {
		if _, had := withoutPrivate(w.TrustedProxies.Ranges); had {
			return true
		}
	}
	return slices.ContainsFunc(w.Ranges, func(r statusapi.Ranges) bool {
		_, had := withoutPrivate(r.Ranges)
		return had && r.Mode == policy.On.String()
	})
}

// safe returns the JSON of the wrapper with everything replaced that trusts too many peers.
func (w *wrapperConfig) safe() json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(w.raw, &fields) != nil {
		return w.raw
	}
	set := func(field string, value any) { fields[field], _ = json.Marshal(value) }
	mode := w.Mode
	if mode == policy.Unspecified.String() {
		mode = policy.On.String()
	}
	set("mode", mode)
	if w.Require != nil {
		set("require", w.Require.withoutSecrets())
	}
	var ranges []statusapi.Ranges
	for _, r := range w.Ranges {
		switch rest, had := withoutPrivate(r.Ranges); {
		case r.Mode == policy.Unspecified.String():
		case r.Mode == policy.On.String() && had && len(rest) == 0:
		case r.Mode == policy.On.String():
			ranges = append(ranges, statusapi.Ranges{Mode: r.Mode, Ranges: rest})
		default:
			ranges = append(ranges, r)
		}
	}
	if len(ranges) > 0 {
		set("ranges", ranges)
	} else {
		delete(fields, "ranges")
	}
	if mode == policy.On.String() {
		trusted := []string{documentationAddress}
		replace := w.TrustedProxies == nil
		if !replace && w.TrustedProxies.Source == "static" {
			rest, had := withoutPrivate(w.TrustedProxies.Ranges)
			replace = had || len(rest) == 0
			if len(rest) > 0 {
				trusted = rest
			}
		}
		if replace {
			set("trusted_proxies", trustedProxies{"static", trusted})
		}
	}
	return jsonObject(fields)
}

// jsonObject returns an object whose first fields are those that say what it is.
func jsonObject(fields map[string]json.RawMessage) json.RawMessage {
	names := slices.SortedFunc(maps.Keys(fields), func(a, b string) int {
		first := []string{"mode", "wrapper"}
		return cmp.Or(cmp.Compare(slices.Index(first, b), slices.Index(first, a)), cmp.Compare(a, b))
	})
	var b bytes.Buffer
	for i, name := range names {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		key, _ := json.Marshal(name)
		b.Write(key)
		b.WriteByte(':')
		b.Write(fields[name])
	}
	b.WriteByte('}')
	return b.Bytes()
}

// lines returns what to write in place of a wrapper, given as JSON, in the language of the
// configuration.
func (c *lintConfig) lines(wrapper json.RawMessage) string {
	if c.isCaddyfile() {
		return paste.Wrapper(wrapper, "")
	}
	return indented(wrapper)
}

// newLines returns what to write for a server that has no wrapper. The server may be nil: then it is
// for all servers.
func (c *lintConfig) newLines(server *lintServer, wrapper json.RawMessage) string {
	var others []json.RawMessage
	if server != nil {
		others = server.ListenerWrappers
	}
	names, _ := request.WrapperNames(others)
	tls := slices.Contains(names, "tls")
	if !c.isCaddyfile() {
		list := append([]json.RawMessage{wrapper}, others...)
		if !tls {
			list = append(list, json.RawMessage(`{"wrapper":"tls"}`))
		}
		text, _ := json.Marshal(list)
		return `"` + listenerWrappers + `": ` + indented(text)
	}
	lines := paste.Wrapper(wrapper, "\t\t")
	if len(others) > 0 {
		return strings.ReplaceAll(lines, "\t\t", "") // to be put before them
	}
	address := ""
	if server != nil {
		address = server.Listen[0] + " "
	}
	return "servers " + address + "{\n\t" + listenerWrappers + " {\n" + lines + "\n\t\ttls\n\t}\n}"
}

func indented(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, raw, "", "\t") != nil {
		return ""
	}
	return b.String()
}

// The lists of wrappers.
const (
	listenerWrappers = "listener_wrappers"
	packetWrappers   = "packet_conn_wrappers"
)

// trustFindings returns findings for wrappers that trust all private addresses. With a signature, the
// key is what is trusted.
func (c *lintConfig) trustFindings(servers []*lintServer) (findings []finding) {
	for _, server := range servers {
		for list, w := range server.both() {
			if w == nil || !w.trustsPrivate() || w.Require["signature"] != nil {
				continue
			}
			findings = append(findings, finding{
				Kind: findingPrivateRanges, Servers: []string{server.name}, Where: []string{list},
				Problem: "all private addresses (private_ranges) are trusted: every host and container in a private network that reaches the port can claim any client address",
				Fix:     "write the addresses of your load balancers in place of " + documentationAddress,
				Lines:   c.lines(w.safe()),
			})
		}
	}
	return findings
}

// both returns the wrappers of the server by list. One that it does not have is nil.
func (s *lintServer) both() func(yield func(string, *wrapperConfig) bool) {
	return func(yield func(string, *wrapperConfig) bool) {
		_ = yield(listenerWrappers, s.wrapper()) && yield(packetWrappers, s.packetWrapper())
	}
}

// wrapperFindings returns findings for servers without the wrapper. explained says that another finding
// says why no server has it.
func (c *lintConfig) wrapperFindings(servers []*lintServer, explained bool) (findings []finding) {
	var with, reading []*lintServer
	for _, server := range servers {
		for _, w := range server.both() {
			if w == nil {
				continue
			}
			with = append(with, server)
			if w.reads() {
				reading = append(reading, server)
			}
		}
	}
	switch {
	case len(with) == 0 && explained:
		return nil
	case len(with) == 0:
		return []finding{{
			Kind:    findingNoWrapper,
			Problem: "no listener has the wrapper 'proxy_protocol_mode': nothing checks headers",
			Fix:     "add it to the global options 'servers', with the addresses of your load balancers in place of " + documentationAddress,
			Lines:   c.newLines(nil, json.RawMessage(`{"wrapper":"proxy_protocol_mode","mode":"on","trusted_proxies":{"source":"static","ranges":["`+documentationAddress+`"]}}`)),
		}}
	case len(reading) == 0:
		return nil
	}
	local := !slices.ContainsFunc(reading, (*lintServer).isPublic)
	for _, server := range servers {
		if server.wrapper() != nil || server.hasBuiltinWrapper() || server.isUnix() || !local && !server.isPublic() {
			continue
		}
		findings = append(findings, finding{
			Kind: findingUnwrapped, Servers: []string{server.name}, Where: server.addresses(),
			Problem: fmt.Sprintf("has no listener wrapper 'proxy_protocol_mode', but server %s has: a host that reaches this port passes by the load balancer", reading[0].name),
			Fix:     "if a load balancer is in front of this port, add the wrapper as the other server has it, before all others; if clients connect directly, say so with mode 'off'",
			Lines:   c.newLines(server, json.RawMessage(`{"wrapper":"proxy_protocol_mode","mode":"off"}`)),
		})
	}
	return findings
}

// isPublic reports whether other hosts can reach the server.
func (s *lintServer) isPublic() bool {
	return slices.ContainsFunc(s.addresses(), func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil || addr.IsUnixNetwork() {
			return false
		}
		ip, err := netip.ParseAddr(addr.Host)
		return addr.Host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}

// isUnix reports whether the server listens on Unix sockets only, which have permissions, or on
// nothing.
func (s *lintServer) isUnix() bool {
	return !slices.ContainsFunc(s.addresses(), func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(listen)
		return err == nil && !addr.IsUnixNetwork()
	})
}
