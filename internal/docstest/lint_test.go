package docstest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// lintFindings are the findings in recipes that mean what lint finds.
var lintFindings = map[string]string{
	"switching-on.md#0": "mode 'unspecified' is for tests only", // the first step
	"sni-routers.md#1":  "port 80 has no 'proxy_protocol_mode'", // on loopback, where only the router is
}

// TestLint_FindsNothingInRecipes asserts that operators who follow the documentation have nothing to
// fix. It leaves out Caddyfiles without the wrapper, for a Caddy that sends headers.
func TestLint_FindsNothingInRecipes(t *testing.T) {
	texts := map[string]string{"Caddyfile.example": docsRead(t, "Caddyfile.example")}
	for name, block := range recipeBlocks(t) {
		if strings.Contains(block.text, request.WrapperName) {
			texts[name] = block.text
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := strings.Replace("\n"+text, "\n{\n", "\n{\n\tstorage file_system "+dir+"\n", 1)
			file := filepath.Join(dir, "Caddyfile")
			require.NoError(t, os.WriteFile(file, withSecrets(t, []byte(text)), 0o600))
			cmd := &cobra.Command{Use: "proxy-protocol", SilenceUsage: true, SilenceErrors: true}
			caddycmd.Commands()["proxy-protocol"].CobraFunc(cmd)
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetArgs([]string{"lint", "--config", file})
			err := cmd.Execute()
			if want := lintFindings[name]; want != "" {
				assert.ErrorContains(t, err, ": 1 finding", out.String())
				assert.Contains(t, out.String(), want)
				return
			}
			assert.NoError(t, err, out.String())
			assert.Contains(t, out.String(), "No findings.\n")
		})
	}
}
