package command_test

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// subcommands are the names of all subcommands.
var subcommands = []string{"check", "send", "decode", "status", "lint", "keygen"}

func TestHelp(t *testing.T) {
	for _, name := range append([]string{""}, subcommands...) {
		args := []string{"proxy-protocol", "--help"}
		golden := "help"
		if name != "" {
			args = []string{"proxy-protocol", name, "--help"}
			golden += "_" + name
		}
		output, err := caddy(t, "", args...)
		requireGolden(t, golden, transcript(output, err, args...))
		for line := range strings.Lines(output) {
			// Cobra writes the other lines, and a link is one word.
			if !strings.HasPrefix(strings.TrimSpace(line), "caddy ") && !strings.Contains(line, "--") && !strings.HasPrefix(line, "https://") {
				assert.LessOrEqual(t, len(line), 81, line)
			}
		}
	}
}

// TestEverySubcommand asserts that all subcommands and flags have help and completion.
func TestEverySubcommand(t *testing.T) {
	parent, _, err := root().Find([]string{"proxy-protocol"})
	require.NoError(t, err)
	assert.Len(t, parent.Commands(), len(subcommands))
	for _, name := range subcommands {
		cmd, _, err := parent.Find([]string{name})
		require.NoError(t, err)
		assert.Equal(t, name, cmd.Name())
		assert.NotEmpty(t, cmd.Short)
		assert.False(t, strings.HasSuffix(cmd.Short, "."), cmd.Short)
		assert.NotEmpty(t, cmd.Long)
		assert.Contains(t, cmd.Long, "/docs/command.md#"+name+"\n")
		assert.Contains(t, cmd.Example, "$ caddy proxy-protocol "+name)
	}
}

func TestUnknownCommand(t *testing.T) {
	_, err := proxyProtocol(t, "", "chekc")
	require.EqualError(t, err, `unknown command "chekc" for "caddy proxy-protocol"`)

	help, err := proxyProtocol(t, "")
	require.NoError(t, err)
	assert.Contains(t, help, "Available Commands:")
}

func TestCompletion(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string
		// directive is in the last line but one of the output for the shell.
		directive cobra.ShellCompDirective
	}{
		{[]string{""}, []string{"check", "decode", "keygen", "lint", "send", "status"}, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"check", ""}, nil, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"check", "--expect", ""}, []string{"on", "off", "unspecified", "refused"}, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"check", "--timeout", ""}, nil, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"check", "--s"}, []string{"--sign-key", "--sign-tlv", "--sni"}, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"send", ""}, nil, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"send", "--method", ""}, []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"send", "--tlv", ""}, []string{
			"alpn=", "authority=", "unique_id=", "netns=", "ssl.version=", "ssl.cn=", "ssl.cipher=", "ssl.sig_alg=",
			"ssl.key_alg=", "ssl.group=", "ssl.sig_scheme=", "ssl.client_cert=", "ssl.verified=",
			"ssl.verify_result=", "ssl.cert_conn=", "ssl.cert_sess=", "aws_vpce_id=",
			"azure_private_endpoint_link_id=", "gcp_psc_connection_id=",
			"alibaba_vpc_id=", "alibaba_endpoint_id=", "alibaba_endpoint_service_id=",
		}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace},
		{[]string{"decode", ""}, nil, cobra.ShellCompDirectiveDefault},
		{[]string{"status", ""}, nil, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"status", "--config", ""}, nil, cobra.ShellCompDirectiveDefault},
		{[]string{"lint", ""}, nil, cobra.ShellCompDirectiveNoFileComp},
		{[]string{"lint", "--config", ""}, nil, cobra.ShellCompDirectiveDefault},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			output, err := caddy(t, "", append([]string{cobra.ShellCompNoDescRequestCmd, "proxy-protocol"}, test.args...)...)
			require.NoError(t, err)
			var got []string
			for line := range strings.Lines(output) {
				line = strings.TrimSpace(line)
				if strings.HasPrefix(line, ":") {
					assert.Equal(t, ":"+string('0'+rune(test.directive)), line)
					break
				}
				got = append(got, line)
			}
			assert.Equal(t, test.want, got)
		})
	}
}
