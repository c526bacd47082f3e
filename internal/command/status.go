package command

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

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
		Use:                   "status [--address <listen>] [--config <path> [--adapter <name>]] [--timeout <duration>] [--json]",
		Short:                 "Shows what the listeners of a running Caddy did",
		Long: `
Shows the mode of each listener of a running Caddy, the outcomes of its
connections, its last refusals, and what looks misconfigured.

This command will attempt to connect to Caddy's admin API running at
'` + caddy.DefaultAdminListen + `'. You may explicitly specify the --address, or use the
--config flag to load the admin address from your config, if not using the
default.
`,
		Example: `  $ caddy proxy-protocol status
  $ caddy proxy-protocol status --address unix//run/caddy/admin.sock --json`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().String("address", "", "Address of the administration API listener (if --config is not used)")
	cmd.Flags().StringP("config", "c", "", "Configuration file (if --address is not used)")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	cmd.Flags().Bool("json", false, "Print JSON")
	timeoutFlag(cmd, 10*time.Second, "How long to wait for the answer")
	cmd.MarkFlagsMutuallyExclusive("address", "config")
	complete(cmd, "address", cobra.NoFileCompletions)
	complete(cmd, "adapter", cobra.NoFileCompletions)
	run(cmd, runStatus)
	return cmd
}

func runStatus(out *output, _ io.Reader, flags caddycmd.Flags) error {
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
	answer, err := askAdmin(address, http.MethodGet, statusPath, nil, timeout)
	if err != nil {
		return err
	}
	var s statusapi.Status
	if err := json.Unmarshal(answer, &s); err != nil {
		return fmt.Errorf("the admin API at %s did not answer with a PROXY protocol status: %w", address, err)
	}
	if flags.Bool("json") {
		return out.rawJSON(answer)
	}
	printStatus(&s, out)
	return nil
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
	rows := [][]string{
		{"mode", escape.Text(l.Mode)},
		{"trusted proxies", escape.Text(l.TrustedProxies)},
	}
	for _, r := range l.Ranges {
		rows = append(rows, []string{"mode " + escape.Text(r.Mode), escape.Text(strings.Join(r.Ranges, " "))})
	}
	counted := "connections"
	if strings.HasPrefix(l.Address, "udp/") {
		counted = "datagrams"
	}
	rows = append(rows, []string{counted, outcomesText(l.Outcomes)})
	if len(l.Checks) > 0 {
		rows = append(rows, []string{"checks", outcomesText(l.Checks)})
	}
	rows = append(rows, []string{"peers", peersText(&l.Peers)})
	out.table("  ", rows)

	if len(l.Refusals) > 0 {
		out.line("  last refusals")
		rows = [][]string{{"TIME", "PEER", "REASON", "FIRST BYTES"}}
		for _, r := range l.Refusals {
			rows = append(rows, []string{escape.Text(r.Time), escape.Text(r.Peer), escape.Text(r.Reason), escape.Text(r.Bytes)})
		}
		out.table("    ", rows)
	}
	for _, hint := range l.Hints {
		out.paragraph("  hint: ", "        ", escape.Text(hint))
	}
}

// peersText returns the number of peers, and the addresses of the first of them.
func peersText(p *statusapi.Peers) string {
	const most = 8
	text := strconv.Itoa(p.Count)
	if p.More {
		text += " or more"
	}
	if len(p.Addresses) > 0 {
		text += ": " + escape.Text(strings.Join(p.Addresses[:min(len(p.Addresses), most)], " "))
	}
	if len(p.Addresses) > most {
		text += " ..."
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
