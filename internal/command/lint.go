package command

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

func lintCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "lint [--config <path> [--adapter <name>]] [--envfile <path>] [--live [--timeout <duration>]] [--json]",
		Short:                 "Finds mistakes in a configuration before it runs",
		Long: `
Says what each listener of a configuration does with PROXY protocol headers, and
what is wrong: what this module refuses or warns of at load, 'servers' options
that match no listener, listeners without the wrapper beside others with it, and
directives and matchers that Caddy drops from a named route.

The configuration is loaded and provisioned as 'caddy validate' does, but not
run: no port is opened. Modules may do when they are provisioned what they do
under 'caddy validate': 'tls internal' creates a certificate authority in the
storage, and a source of trusted proxies may use the network. The log files of
the configuration are not opened.

With --live, each listener is checked as 'check' does, from this machine, and
compared with the configuration. A listener that is down is a finding. The admin
API of the configuration is told of the connections, as 'check' does.

The exit code is 0 if there are no findings.

If --envfile is specified, an environment file with environment variables in the
KEY=VALUE format will be loaded into the Caddy process.

To use the standard input instead of a file, use - as the path of --config.
`,
		Example: `  $ caddy proxy-protocol lint --config /etc/caddy/Caddyfile
  $ caddy proxy-protocol lint --config caddy.json --live --json`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringP("config", "c", "", "Configuration file (default: the Caddyfile in this directory)")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	cmd.Flags().StringSlice("envfile", nil, "Environment file(s) to load")
	cmd.Flags().Bool("live", false, "Check each listener, and compare it with the configuration")
	cmd.Flags().Bool("json", false, "Print JSON")
	timeoutFlag(cmd, 5*time.Second, "How long to wait on each probe of --live")
	complete(cmd, "adapter", cobra.NoFileCompletions)
	run(cmd, runLint)
	return cmd
}

func runLint(out *output, in io.Reader, flags caddycmd.Flags) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("lint takes no arguments: write --config %s", flags.Arg(0))
	}
	timeout, err := timeoutOf(flags)
	if err != nil {
		return err
	}
	envFiles, err := flags.GetStringSlice("envfile")
	if err != nil {
		return err
	}
	if err := loadEnvFiles(envFiles); err != nil {
		return err
	}
	c, err := loadConfig(in, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return err
	}
	r := lint(c)
	if flags.Bool("live") {
		admin, err := caddycmd.DetermineAdminAPIAddress("", c.json, c.file, c.adapter)
		if err != nil {
			return fmt.Errorf("couldn't determine admin API address: %w", err)
		}
		r.checkLive(admin, timeout)
	}
	if flags.Bool("json") {
		err = out.json(r)
	} else {
		r.print(out)
	}
	if err != nil {
		return err
	}
	return r.result()
}

// lintReport is the output of lint. Its text is not escaped.
type lintReport struct {
	// Config is the name of the configuration file, and Adapter the name of its config adapter.
	Config  string `json:"config"`
	Adapter string `json:"adapter,omitempty"`
	// Listeners are the listeners of the HTTP servers, in the order of the names of the servers.
	Listeners []*lintListener `json:"listeners"`
	// Findings are the mistakes. Without any, lint succeeds.
	Findings []finding `json:"findings"`
}

// lintListener is what a listener does according to the configuration.
type lintListener struct {
	// Server is the name of the HTTP server, and Address the address that it listens on. An
	// address for datagrams begins with "udp/".
	Server  string `json:"server"`
	Address string `json:"address"`
	// TLS says that the listener speaks TLS. It is not known if the configuration does not load.
	TLS bool `json:"tls"`
	// Mode is "on", "off" or "unspecified". It is empty without the wrapper.
	Mode string `json:"mode"`
	// Instead says what reads headers if the wrapper does not: the name of Caddy's own wrapper,
	// or nothing.
	Instead string `json:"instead,omitempty"`
	// TrustedProxies is the module that returns the trusted peers; "any" if there is none, or
	// "none" under off.
	TrustedProxies string `json:"trusted_proxies,omitempty"`
	// TrustedRanges are the ranges of the source "static".
	TrustedRanges []string `json:"trusted_ranges,omitempty"`
	// Ranges are peers with a mode of their own.
	Ranges []statusapi.Ranges `json:"ranges,omitempty"`
	// Require is what headers must have, as it is in the configuration.
	Require requirements `json:"require,omitempty"`
	// HTTP3 says what becomes of HTTP/3, as in the status: "disabled" by the wrapper, "checked" by
	// the packet conn wrapper, or "unchecked". It is empty if HTTP/3 is not served.
	HTTP3 string `json:"http3,omitempty"`
	// Redirects says that Caddy's automatic redirects to HTTPS are served here, and ACME that
	// the HTTP challenge of ACME is answered here.
	Redirects bool `json:"redirects,omitempty"`
	ACME      bool `json:"acme,omitempty"`
	// Live is the verdict of check, with --live.
	Live string `json:"live,omitempty"`

	server  *lintServer
	wrapper *wrapperConfig
}

// http3Texts explain the values of HTTP3.
var http3Texts = map[string]string{
	statusapi.HTTP3Disabled:  "disabled, because it would bypass mode 'on'",
	statusapi.HTTP3Checked:   "checked: each datagram's header, by the packet conn wrapper",
	statusapi.HTTP3Unchecked: "unchecked: served without a header",
}

// The kinds of findings.
const (
	findingLoad          = "load"
	findingWarning       = "warning"
	findingServers       = "servers"
	findingNoWrapper     = "no_wrapper"
	findingUnwrapped     = "unwrapped"
	findingPrivateRanges = "private_ranges"
	findingNamedRoute    = "named_route"
	findingLive          = "live"
)

// finding is a mistake in a configuration.
type finding struct {
	// Kind is one of:
	//
	//   - load: the configuration does not load
	//   - warning: this module warns at load
	//   - servers: 'servers' options with the wrapper match no listener
	//   - no_wrapper: no listener has the wrapper
	//   - unwrapped: a listener has no wrapper, and another one has
	//   - private_ranges: all private addresses are trusted
	//   - named_route: Caddy drops directives or matchers of this module from a named route
	//   - live: a listener is down, or does something else than the configuration says
	Kind string `json:"kind"`
	// Servers are the names of the HTTP servers that the finding is about, if it is about servers.
	Servers []string `json:"servers,omitempty"`
	// Where are the addresses, matchers, or the file and line that the finding is about.
	Where []string `json:"where,omitempty"`
	// Problem says what is wrong.
	Problem string `json:"problem"`
	// Fix says what to do.
	Fix string `json:"fix,omitempty"`
	// Lines are what to write, for a Caddyfile or for JSON as the configuration is. They trust no
	// more peers than the configuration does.
	Lines string `json:"lines,omitempty"`
}

// lint says what the listeners of a configuration do, and what is wrong.
func lint(c *lintConfig) *lintReport {
	r := &lintReport{Config: c.file, Adapter: c.adapter, Listeners: []*lintListener{}, Findings: []finding{}}
	servers, err := c.servers()
	if err != nil {
		r.add(finding{Kind: findingLoad, Problem: err.Error()})
		return r
	}
	loaded := provision(c.json)
	for _, server := range servers {
		server.loaded = loaded.servers[server.name]
		r.Listeners = append(r.Listeners, server.listeners()...)
	}
	if redirects := loaded.servers[redirectServer]; redirects != nil {
		server := &lintServer{name: redirectServer, Listen: redirects.listen, loaded: redirects}
		r.Listeners = append(r.Listeners, server.listeners()...)
	}
	if loaded.err != nil {
		r.add(finding{Kind: findingLoad, Problem: loaded.err.Error()})
	}
	dropped := c.droppedFindings(servers)
	r.add(dropped...)
	r.add(c.warningFindings(loaded.warnings, servers)...)
	r.add(c.lostGuards(servers)...)
	r.add(c.trustFindings(servers)...)
	r.add(c.wrapperFindings(servers, len(dropped) > 0)...)
	return r
}

// add adds findings. Servers with the same options have the same findings: these become one.
func (r *lintReport) add(findings ...finding) {
	for _, f := range findings {
		i := slices.IndexFunc(r.Findings, func(other finding) bool {
			return f.Kind == other.Kind && f.Problem == other.Problem && f.Lines == other.Lines && slices.Equal(f.Where, other.Where)
		})
		if i < 0 {
			r.Findings = append(r.Findings, f)
		} else {
			r.Findings[i].Servers = append(r.Findings[i].Servers, f.Servers...)
		}
	}
}

// result returns the error with which lint fails, or nil if it succeeds.
func (r *lintReport) result() error {
	switch len(r.Findings) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s: 1 finding", r.Config)
	default:
		return fmt.Errorf("%s: %d findings", r.Config, len(r.Findings))
	}
}

func (r *lintReport) print(out *output) {
	if len(r.Listeners) == 0 {
		out.line("No HTTP server listens.")
		out.line("")
	}
	for _, l := range r.Listeners {
		l.print(out)
		out.line("")
	}
	if len(r.Findings) == 0 {
		out.line("No findings.")
		return
	}
	out.line("Findings:")
	for i, f := range r.Findings {
		if i > 0 {
			out.line("")
		}
		f.print(out)
	}
}

func (l *lintListener) print(out *output) {
	out.line("%s %s", escape.Text(l.Server), escape.Text(l.Address))
	var rows [][]string
	row := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, escape.Text(value)})
		}
	}
	if l.Mode == "" {
		row("mode", "none: headers are not checked")
		row("read by", l.Instead)
	} else {
		row("mode", l.Mode)
		row("trusted proxies", strings.Join(append([]string{l.TrustedProxies}, l.TrustedRanges...), " "))
	}
	for _, r := range l.Ranges {
		row("mode "+escape.Text(r.Mode), strings.Join(r.Ranges, " "))
	}
	for _, name := range l.Require.names() {
		row("requires", name)
	}
	row("HTTP/3", http3Texts[l.HTTP3])
	if l.Redirects {
		row("redirects", "Caddy's automatic redirects to HTTPS are served here")
	}
	if l.ACME {
		row("ACME", "the HTTP challenge is answered here")
	}
	row("live", l.Live)
	out.table("  ", rows)
}

func (f *finding) print(out *output) {
	var about []string
	if len(f.Servers) > 0 {
		about = append(about, "server "+strings.Join(f.Servers, ", "))
	}
	about = append(about, f.Where...)
	head := "[" + f.Kind + "]"
	if len(about) > 0 {
		head += " " + strings.Join(about, ", ")
	}
	out.line("- %s", escape.Text(head))
	// An error at load has lines of its own.
	first, more, _ := strings.Cut(f.Problem, "\n")
	out.paragraph("  ", "  ", escape.Text(first))
	printLines(out, more)
	if f.Fix != "" {
		out.paragraph("  To do: ", "  ", escape.Text(f.Fix))
	}
	printLines(out, f.Lines)
}

// printLines prints lines to paste, indented.
func printLines(out *output, lines string) {
	if strings.TrimSpace(lines) == "" {
		return
	}
	for line := range strings.Lines(lines) {
		text := strings.TrimLeft(strings.TrimSuffix(line, "\n"), "\t")
		tabs := len(line) - len(strings.TrimLeft(line, "\t"))
		out.line("%s", strings.TrimRight("      "+strings.Repeat("    ", tabs)+escape.Text(text), " "))
	}
}
