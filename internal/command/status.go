package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// statusPath is the path of the status in Caddy's admin API.
const statusPath = "/proxy_protocol/status"

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "status [--address <listen>] [--config <path> [--adapter <name>]] [--timeout <duration>] [--json | --watch]",
		Short:                 "Shows what the listeners of a running Caddy did",
		Long: `
Shows the mode of each listener of a running Caddy, the outcomes of its
connections, the last headers and refusals, and what looks misconfigured.

--watch goes on after that, and prints refusals and changes of the numbers as
they come, once a second until you press Ctrl-C. It waits for a Caddy that
restarts.

This command will attempt to connect to Caddy's admin API running at
'` + caddy.DefaultAdminListen + `'. You may explicitly specify the --address, or use the
--config flag to load the admin address from your config, if not using the
default.
`,
		Example: `  $ caddy proxy-protocol status
  $ caddy proxy-protocol status --watch
  $ caddy proxy-protocol status --address unix//run/caddy/admin.sock --json`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().String("address", "", "Address of the administration API listener (if --config is not used)")
	cmd.Flags().StringP("config", "c", "", "Configuration file (if --address is not used)")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	cmd.Flags().Bool("json", false, "Print JSON")
	cmd.Flags().BoolP("watch", "w", false, "Print changes until you press Ctrl-C")
	timeoutFlag(cmd, 10*time.Second, "How long to wait for the answer")
	cmd.MarkFlagsMutuallyExclusive("json", "watch")
	cmd.MarkFlagsMutuallyExclusive("address", "config")
	complete(cmd, "address", cobra.NoFileCompletions)
	complete(cmd, "adapter", cobra.NoFileCompletions)
	run(cmd, func(out *output, _ io.Reader, flags caddycmd.Flags) error {
		return runStatus(cmd.Context(), out, flags)
	})
	return cmd
}

func runStatus(ctx context.Context, out *output, flags caddycmd.Flags) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("status takes no arguments: remove '%s'", flags.Arg(0))
	}
	timeout, err := timeoutOf(flags)
	if err != nil {
		return err
	}
	address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return fmt.Errorf("couldn't determine admin API address: %w", err)
	}
	s, answer, err := askStatus(address, timeout)
	if err != nil {
		return err
	}
	if flags.Bool("json") {
		return out.rawJSON(answer)
	}
	printStatus(s, out)
	if flags.Bool("watch") {
		return watch(ctx, out, s, func() (*statusapi.Status, error) {
			s, _, err := askStatus(address, timeout)
			return s, err
		})
	}
	return nil
}

// askStatus returns the status from the admin API at an address, and its JSON.
func askStatus(address string, timeout time.Duration) (*statusapi.Status, []byte, error) {
	answer, err := askAdmin(address, http.MethodGet, statusPath, nil, timeout)
	if err != nil {
		return nil, nil, err
	}
	s := new(statusapi.Status)
	if err := json.Unmarshal(answer, s); err != nil {
		return nil, nil, fmt.Errorf("the admin API at %s did not answer with a PROXY protocol status: %w", address, err)
	}
	return s, answer, nil
}

// askAdmin makes a request to the admin API at an address, and returns the body of the answer. The
// request has a body unless it is nil.
func askAdmin(address, method, path string, body []byte, timeout time.Duration) ([]byte, error) {
	const most = 16 << 20
	type result struct {
		body []byte
		err  error
	}
	// Caddy's function accepts all kinds of admin addresses, but has no timeout. After the
	// timeout its goroutine goes on until the request ends, or the program.
	results := make(chan result, 1)
	go func() {
		var content io.Reader
		if body != nil {
			content = bytes.NewReader(body)
		}
		response, err := caddycmd.AdminAPIRequest(address, method, path, nil, content)
		if err != nil {
			results <- result{nil, err}
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, most))
		results <- result{body, err}
	}()
	select {
	case r := <-results:
		if r.err != nil && strings.Contains(r.err.Error(), "HTTP 404") {
			return nil, fmt.Errorf("the Caddy at %s does not contain this module: %w", address, r.err)
		}
		return r.body, r.err
	case <-time.After(timeout):
		return nil, fmt.Errorf("no answer from the admin API at %s within %v", address, timeout)
	}
}

func printStatus(s *statusapi.Status, out *output) {
	if len(s.Listeners) == 0 {
		out.line("No listener uses the proxy_protocol_mode wrapper.")
	}
	for i, l := range s.Listeners {
		if i > 0 {
			out.line("")
		}
		printListener(&l, out)
	}
}

func printListener(l *statusapi.Listener, out *output) {
	out.line("%s %s", escape.Text(l.Server), escape.Text(l.Address))
	mode := escape.Text(l.Mode)
	if l.Mode == "unspecified" {
		mode = out.paint(yellow, mode)
	}
	trusted := escape.Text(l.TrustedProxies)
	if len(l.TrustedRanges) > 0 {
		trusted += ": " + firstOf(l.TrustedRanges)
	}
	rows := [][]string{{"mode", mode}, {"trusted proxies", trusted}}
	for _, r := range l.Ranges {
		rows = append(rows, []string{"mode " + escape.Text(r.Mode), firstOf(r.Ranges)})
	}
	for _, required := range l.Require {
		rows = append(rows, []string{"requires", escape.Text(required)})
	}
	if l.HTTP3 != "" {
		rows = append(rows, []string{"HTTP/3", escape.Text(l.HTTP3)})
	}
	counted := "connections"
	if strings.HasPrefix(l.Address, "udp/") {
		counted = "datagrams"
	}
	rows = append(rows, []string{counted, outcomesText(l.Outcomes)})
	if len(l.Checks) > 0 {
		rows = append(rows, []string{"checks", outcomesText(l.Checks)})
	}
	if l.WrongPayloads != nil {
		wrong := map[string]uint64{"TLS": l.WrongPayloads.TLS, "plain HTTP": l.WrongPayloads.HTTP}
		maps.DeleteFunc(wrong, func(_ string, n uint64) bool { return n == 0 })
		rows = append(rows, []string{"wrong payloads", outcomesText(wrong)})
	}
	rows = append(rows, []string{"peers", peersText(&l.Peers)})
	out.table("  ", rows)
	printAccepted(l.Accepted, out)
	printRefusals(l.Refusals, out)
	for _, warning := range l.Warnings {
		out.paragraph("  "+out.paint(yellow, "warning:")+" ", "        ", escape.Text(warning))
	}
	for _, hint := range l.Hints {
		out.paragraph("  "+out.paint(yellow, "hint:")+" ", "        ", escape.Text(hint))
	}
}

// printAccepted prints the last accepted headers.
func printAccepted(accepted []statusapi.Accepted, out *output) {
	if len(accepted) == 0 {
		return
	}
	out.line("  last headers")
	rows := [][]string{{"TIME", "PEER", "VERSION", "CLIENT"}}
	for _, a := range accepted {
		client := escape.Text(cmp.Or(a.Source, "none"))
		if a.Marked {
			client += " (unverified)"
		}
		rows = append(rows, []string{escape.Text(a.Time), escape.Text(a.Peer), escape.Text(a.Version), client})
	}
	out.table("    ", rows)
}

// printRefusals prints the last refusals. What they say of a client or an error follows each.
func printRefusals(refusals []statusapi.Refusal, out *output) {
	if len(refusals) == 0 {
		return
	}
	out.line("  last refusals")
	rows := [][]string{{"TIME", "PEER", "REASON", "RECEIVED", "FIRST BYTES"}}
	for _, r := range refusals {
		received, first := arrived(&r)
		rows = append(rows, []string{escape.Text(r.Time), escape.Text(r.Peer), out.paint(yellow, escape.Text(r.Reason)), received, first})
		if r.Source != "" {
			rows = append(rows, []string{"  the first header's client: " + escape.Text(r.Source)})
		}
		if r.Error != "" {
			rows = append(rows, []string{"  " + escape.Text(r.Error)})
		}
	}
	out.table("    ", rows)
}

// arrived returns what arrived before a refusal, and the first bytes: as text if they are text,
// otherwise in hexadecimal. The command decode reads both.
func arrived(r *statusapi.Refusal) (received, first string) {
	received, first = printable(r.Received), cmp.Or(printable(r.Text), escape.Text(r.Bytes))
	if received == first {
		received = ""
	}
	return received, first
}

// printable returns a text that Caddy has escaped as it is, so that decode can read it. A text of
// another program is escaped here.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return escape.Text(text)
	}
	return text
}

// firstOf returns the first of some texts.
func firstOf(texts []string) string {
	const most = 8
	text := escape.Text(strings.Join(texts[:min(len(texts), most)], " "))
	if len(texts) > most {
		text += " ..."
	}
	return text
}

// peersText returns the number of peers, and the addresses of the first of them.
func peersText(p *statusapi.Peers) string {
	text := strconv.Itoa(p.Count)
	if p.More {
		text += " or more"
	}
	if len(p.Addresses) > 0 {
		text += ": " + firstOf(p.Addresses)
	}
	return text
}

// outcomesText returns the outcomes and their numbers of connections, the largest first.
func outcomesText(outcomes map[string]uint64) string {
	if len(outcomes) == 0 {
		return "none"
	}
	names := slices.SortedFunc(maps.Keys(outcomes), func(a, b string) int {
		return cmp.Or(cmp.Compare(outcomes[b], outcomes[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", escape.Text(name), outcomes[name])
	}
	return strings.Join(names, ", ")
}
