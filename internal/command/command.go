// Package command has the command 'caddy proxy-protocol'. With it, an operator sees how a
// listener reacts to PROXY protocol headers, and proves that the listener refuses them.
package command

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
)

// documentation is the page about the command. It has a section for each subcommand.
const documentation = "https://github.com/portzero/caddy-proxy-protocol/blob/main/docs/command.md"

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "proxy-protocol",
		Usage: "<command>",
		Short: "Checks listeners that speak the PROXY protocol",
		Long: `
Checks what a listener does with PROXY protocol headers, sends requests with
headers, decodes headers, shows the status of the listeners of a running Caddy,
finds mistakes in a configuration before it runs, and makes keys for signed
headers.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.DisableFlagsInUseLine = true
			cmd.Example = `  $ caddy proxy-protocol check --tls --expect refused example.com:443
  $ caddy proxy-protocol send --v1 --source 203.0.113.7:51234 http://localhost:8080
  $ caddy proxy-protocol decode header.bin
  $ caddy proxy-protocol status
  $ caddy proxy-protocol lint --config Caddyfile`
			cmd.AddCommand(checkCommand(), sendCommand(), decodeCommand(), statusCommand(), lintCommand(), keygenCommand())
			cmd.Long += "\n\n" + documentation
			for _, command := range cmd.Commands() {
				command.Long = strings.TrimRight(command.Long, "\n") + "\n\n" + documentation + "#" + command.Name() + "\n"
			}
			// Cobra itself prints the help when a subcommand is unknown, and succeeds.
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
				}
				return cmd.Help()
			}
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		},
	})
}

// run makes f the function of a command. An error of f ends the command with exit code 1. The
// text of the error is escaped here, because it may have bytes from the network.
func run(cmd *cobra.Command, f func(out *output, in io.Reader, flags caddycmd.Flags) error) {
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		out := output{writer: cmd.OutOrStdout(), colored: hasColors(cmd.OutOrStdout())}
		err := f(&out, cmd.InOrStdin(), flags)
		if writeErr := out.flush(); err == nil {
			err = writeErr
		}
		if err != nil {
			return caddy.ExitCodeFailedStartup, errors.New(escape.Text(err.Error()))
		}
		return caddy.ExitCodeSuccess, nil
	})
}

// timeoutFlag adds the flag --timeout, which bounds every wait of a command.
func timeoutFlag(cmd *cobra.Command, value time.Duration, usage string) {
	cmd.Flags().Duration("timeout", value, usage)
	complete(cmd, "timeout", cobra.NoFileCompletions)
}

// timeoutOf returns the value of the flag --timeout, which must be positive.
func timeoutOf(flags caddycmd.Flags) (time.Duration, error) {
	timeout, err := flags.GetDuration("timeout")
	if err == nil && timeout <= 0 {
		err = fmt.Errorf("--timeout must be longer than 0, not %v", timeout)
	}
	return timeout, err
}

// complete sets the function that returns the values of a flag for completion in a shell.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // there is no such flag
	}
}

// offer returns a completion function for fixed values.
func offer(values ...cobra.Completion) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}
