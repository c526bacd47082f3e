package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
)

// expectable are the verdicts that --expect accepts.
var expectable = []string{verdictOn, verdictOff, verdictUnspecified, verdictRefused}

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "check [--tls] [--sni <name>] [--bind <ip>] [--tlv <name>=<value>] [--sign-key <key> [--sign-tlv <0xNN>]] [--expect on|off|unspecified|refused] [--address <listen>] [--timeout <duration>] [--json] <host:port>|unix//<path>",
		Short:                 "Finds out what a listener does with PROXY protocol headers",
		Long: `
Connects to a listener several times and prints how the listener reacts to each
beginning of a connection: no header, a header of version 1, one of version 2, a
LOCAL header, two headers, and a header with a wrong checksum. A request follows
the header, or a TLS handshake with --tls. With --tls, HTTP/3 is tried as well:
without a header and, if there is no answer, with a header of version 2 before
each datagram. The addresses in the headers are from 192.0.2.0/24 and
2001:db8::/32, which are reserved for documentation.

The verdict applies to the host on which you run this command: run it on the
load balancer, outside, and wherever else the port can be reached. If this host
has several addresses, --bind chooses the one to connect from. If a name has
several addresses, the first that accepts a connection is checked.

If the listener requires TLVs or a signature, --tlv and --sign-key put them into
the headers of version 2 that name a client. A header without them is then tried
as well.

` + keyHelp + `

The argument may also be a Unix socket, as Caddy writes it: unix//run/caddy.sock
or, on Linux, unix/@name.

    on           A header is mandatory, and this peer may send one.
    off          A header is forbidden.
    unspecified  A header is optional, and this peer may send one.
    refused      This peer is refused whatever it sends: every connection was
                 accepted by TCP and closed without a byte, over plain HTTP,
                 over TLS, and nothing answered over HTTP/3.
    other        Like one of these, but not exactly: the differences are
                 listed. Servers without this module can be like this.
    unreachable  Connecting failed. The exit code is then never 0.
    unknown      Anything else, with notes about what to try.

The exit code is 0 if the verdict is the expected one. Without --expect it is 0
unless the verdict is 'unreachable' or 'unknown'.

Certificates are not verified, because nothing secret is sent.

The status of a Caddy on this machine counts the connections of this command
apart, and its metrics do not count them. For this, each connection is announced
before it is made, to the admin API at '` + caddy.DefaultAdminListen + `' or at --address.
If the connections could not be told apart, the last line says why.
`,
		Example: `  $ caddy proxy-protocol check localhost:8080
  $ caddy proxy-protocol check --bind 127.0.0.2 --expect refused localhost:8080
  $ caddy proxy-protocol check --tls --expect refused example.com:443`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().Bool("tls", false, "Speak TLS, and try HTTP/3 as well")
	cmd.Flags().String("sni", "", "Server name to ask for, in TLS and as the Host (default: the host)")
	bindFlag(cmd)
	tlvFlag(cmd)
	signFlags(cmd)
	cmd.Flags().String("address", "", "Address of the administration API listener of the Caddy that is checked")
	cmd.Flags().String("expect", "", "Verdict to expect: on, off, unspecified or refused")
	cmd.Flags().Bool("json", false, "Print JSON")
	timeoutFlag(cmd, 5*time.Second, "How long to wait on each probe; they run at the same time")
	complete(cmd, "sni", cobra.NoFileCompletions)
	complete(cmd, "address", cobra.NoFileCompletions)
	complete(cmd, "expect", offer(
		cobra.CompletionWithDesc(verdictOn, "a header is mandatory, and this peer may send one"),
		cobra.CompletionWithDesc(verdictOff, "a header is forbidden"),
		cobra.CompletionWithDesc(verdictUnspecified, "a header is optional, and this peer may send one"),
		cobra.CompletionWithDesc(verdictRefused, "this peer is refused whatever it sends"),
	))
	run(cmd, runCheck)
	return cmd
}

func runCheck(out *output, _ io.Reader, flags caddycmd.Flags) error {
	p, target, err := parseCheck(flags)
	if err != nil {
		return err
	}
	admin, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, "", "")
	if err != nil {
		return fmt.Errorf("couldn't determine admin API address: %w", err)
	}
	if p.network != "unix" {
		p.announcer = newAnnouncer(admin, p.timeout/2) // so that a connection has time left
	}
	r := check(p, target, flags.Bool("tls"))
	if r.Expect = flags.String("expect"); r.Expect != "" {
		asExpected := r.Expect == r.Verdict
		r.AsExpected = &asExpected
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

// parseCheck returns the prober and the target that the flags and the argument describe. It
// checks --expect, but does not return its value.
func parseCheck(flags caddycmd.Flags) (p *prober, argument string, err error) {
	if flags.NArg() != 1 {
		return nil, "", fmt.Errorf("check needs one host:port, such as example.com:443, not %d", flags.NArg())
	}
	argument = flags.Arg(0)
	to, ok := parseTarget(argument)
	if !ok {
		return nil, "", fmt.Errorf("check needs a host:port, such as example.com:443, or unix//<path>, not '%s'", argument)
	}
	if expect := flags.String("expect"); expect != "" && !slices.Contains(expectable, expect) {
		return nil, "", fmt.Errorf("--expect must be one of %s, not '%s'", strings.Join(expectable, ", "), expect)
	}
	p = &prober{target: to, serverName: "localhost", host: "localhost"}
	if to.network != "unix" {
		p.serverName, _, _ = net.SplitHostPort(to.address) // parseTarget has split it before
		p.host = to.address
	}
	if sni := flags.String("sni"); sni != "" {
		if err := checkServerName("sni", sni); err != nil {
			return nil, "", err
		}
		p.serverName, p.host = sni, sni
	}
	if err := p.bindTo(flags); err != nil {
		return nil, "", err
	}
	if p.tlvs, err = parseTLVs(flags); err != nil {
		return nil, "", err
	}
	if p.signer, err = parseSigner(flags); err != nil {
		return nil, "", err
	}
	if _, err := p.preambles(); err != nil {
		return nil, "", err
	}
	p.timeout, err = timeoutOf(flags)
	return p, argument, err
}

// report is the output of check. All exported text is escaped.
type report struct {
	target string // not escaped, for errors: run escapes them
	// Target is the argument of the command.
	Target string `json:"target"`
	// Address is the IP address and port that was probed. It is empty if connecting failed, and
	// for a Unix socket.
	Address string `json:"address,omitempty"`
	// Probes are the probes and their results, in the order of the table that check prints.
	Probes []probeReport `json:"probes"`
	verdict
	// Expect is the value of --expect. It is empty if the flag was not given.
	Expect string `json:"expect,omitempty"`
	// AsExpected reports whether the verdict is the expected one. It is nil without --expect.
	AsExpected *bool `json:"as_expected,omitempty"`
	// NotApart says why the status of the Caddy counts these connections like any other. It is
	// empty if the status counts them apart, and if there were none.
	NotApart string `json:"not_apart,omitempty"`
}

// probeReport is one row of a report: a probe and its result.
type probeReport struct {
	// Probe is the name of the probe.
	Probe string `json:"probe"`
	// Protocol is "HTTP", "TLS" or "HTTP/3".
	Protocol string `json:"protocol"`
	// Outcome is the name of the reaction.
	Outcome string `json:"outcome"`
	// Detail is more about the reaction, such as the status of an answer.
	Detail string `json:"detail,omitempty"`

	text string // the result in the table
}

// check sends all probes to the target of p and returns the report. argument is the target as the
// user wrote it.
func check(p *prober, argument string, tls bool) *report {
	r := &report{target: argument, Target: escape.Text(argument)}
	observed := observation{tls: tls, signed: p.signer != nil}
	first, err := p.dial(context.Background(), p.timeout)
	if err != nil {
		for i := range observed.probes {
			observed.probes[i] = probeResult{unreachable, problem(err)}
		}
		r.add(tls, &observed.probes)
		r.verdict = verdictOf(observed)
		return r
	}
	// A name may have several addresses. All probes go to the address of the first
	// connection, so that they reach one listener.
	if p.network != "unix" {
		p.address = first.RemoteAddr().String()
		r.Address = p.address
	}

	http3 := make(chan [2]*probeResult, 1)
	askHTTP3 := func() {
		bare, behind := p.probesHTTP3()
		http3 <- [2]*probeResult{bare, behind}
	}
	if tls {
		go askHTTP3()
	}
	bare := make(chan *probeResult, 1)
	go func() { bare <- p.probeBare(tls) }()
	observed.probes = *p.probe(tls, first)
	r.add(tls, &observed.probes)
	if observed.bare = <-bare; observed.bare != nil {
		r.Probes = append(r.Probes, reportOf(bareName, protocolName(tls), *observed.bare))
	}
	// A TLS port may close connections on plain HTTP, and the other way round. This must
	// not count as a refusal of the peer, so the other protocol is probed, too.
	if observed.probes.all(closed) {
		if !tls {
			go askHTTP3()
		}
		observed.others = p.probe(!tls, nil)
		r.add(!tls, observed.others)
	}
	if tls || observed.others != nil {
		answers := <-http3
		observed.http3, observed.http3Behind = answers[0], answers[1]
		if p.network != "unix" {
			r.Probes = append(r.Probes, reportOf(noHeader.String(), "HTTP/3", *observed.http3))
		}
		if observed.servesHTTP3Behind() {
			r.Probes = append(r.Probes, reportOf(headerV2.String(), "HTTP/3", *observed.http3Behind))
		}
	}
	r.verdict = verdictOf(observed)
	if p.network == "unix" {
		r.NotApart = "the peers of a Unix socket look alike"
	} else if p.announcer != nil {
		r.NotApart = escape.Text(p.announcer.end())
	}
	return r
}

// add adds the results of all probes over TLS or plain HTTP.
func (r *report) add(tls bool, results *probeResults) {
	for i, result := range results {
		r.Probes = append(r.Probes, reportOf(probe(i).String(), protocolName(tls), result))
	}
}

func protocolName(tls bool) string {
	if tls {
		return "TLS"
	}
	return "HTTP"
}

func reportOf(name, protocol string, r probeResult) probeReport {
	return probeReport{name, protocol, reactionNames[r.reaction].name, r.detail, r.String()}
}

func (r *report) print(out *output) {
	if r.Address == "" || r.Address == r.Target {
		out.line("Listener: %s", r.Target)
	} else {
		out.line("Listener: %s (%s)", r.Target, r.Address)
	}
	out.line("")
	rows := [][]string{{"CONNECTION WITH", "OVER", "WHAT THE LISTENER DID"}}
	for _, p := range r.Probes {
		rows = append(rows, []string{p.Probe, p.Protocol, p.text})
	}
	out.table("", rows)
	out.line("")
	verdict := r.Verdict
	switch {
	case r.AsExpected != nil && !*r.AsExpected:
		verdict = out.paint(red, verdict)
	case r.AsExpected != nil:
		verdict = out.paint(blue, verdict+", as expected")
	case !slices.Contains([]string{verdictOn, verdictOff, verdictRefused}, verdict):
		verdict = out.paint(yellow, verdict)
	}
	if r.Closest != "" {
		verdict += ", closest to " + r.Closest
	}
	out.line("Verdict: %s", verdict)
	out.paragraph("  ", "  ", r.Meaning)
	if len(r.Differences) > 0 {
		out.line("Differences from %s:", r.Closest)
		out.list(r.Differences)
	}
	if len(r.Notes) > 0 {
		out.line("Notes:")
		out.list(r.Notes)
	}
	if r.NotApart != "" {
		out.paragraph("", "", "Not counted apart in Caddy's status: "+r.NotApart+".")
	}
}

// result returns the error with which check fails, or nil if it succeeds.
func (r *report) result() error {
	switch {
	case r.AsExpected != nil && !*r.AsExpected:
		return fmt.Errorf("%s: expected '%s', but the verdict is '%s'", r.target, r.Expect, r.Verdict)
	case r.AsExpected != nil:
		return nil
	case r.Verdict == verdictUnreachable:
		return fmt.Errorf("%s: no connection", r.target)
	case r.Verdict == verdictUnknown:
		return errors.New(r.target + ": no verdict")
	default:
		return nil
	}
}
