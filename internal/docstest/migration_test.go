package docstest

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMigration_ClientsThatConnectDirectly runs the configurations of docs/migration.md in which some
// clients connect directly: with the built-in wrapper, translated word for word, and as the page says.
func TestMigration_ClientsThatConnectDirectly(t *testing.T) {
	needLoopbacks(t)
	var caddyfiles []string
	for _, block := range docsBlocks(t) {
		if block.file == filepath.Join(docsFolder, "migration.md") && block.isCaddyfile() {
			caddyfiles = append(caddyfiles, block.text)
		}
	}
	require.Len(t, caddyfiles, 3)
	const builtIn = "proxy_protocol {\n\t\t\t\tallow 10.0.0.0/24\n"
	require.Contains(t, caddyfiles[0], builtIn)

	const balancer, client = "10.0.0.10", "198.51.100.66"
	behind := visit{name: "client of the load balancer", from: balancer, header: plainV2, body: "Hello 203.0.113.7"}
	redirected := visit{name: "client of port 80", from: client, port: 80, status: http.StatusPermanentRedirect}
	for _, test := range []struct {
		name, caddyfile string
		visits          []visit
	}{
		{"built-in", caddyfiles[0], []visit{behind, redirected}},
		{"word for word", strings.Replace(caddyfiles[0], builtIn, "proxy_protocol_mode on {\n\t\t\t\ttrusted_proxies static 10.0.0.0/24\n", 1), []visit{
			behind,
			{name: "client of port 80", from: client, port: 80, refused: "untrusted"},
		}},
		{"a mode for each port", caddyfiles[1], []visit{
			behind,
			redirected,
			{name: "client of port 443", from: client, refused: "untrusted"},
			{name: "header at port 80", from: client, port: 80, header: plainV2, refused: "forbidden"},
		}},
		{"one port for both", caddyfiles[2], []visit{
			behind,
			redirected,
			{name: "client of port 443", from: client, body: "Hello " + moveToLoopback(client)},
			{name: "header of a client", from: client, header: plainV2, refused: "forbidden"},
			{name: "load balancer without a header", from: balancer, refused: "missing"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := startKitchen(t, strings.ReplaceAll(test.caddyfile, "10.0.0.", "127.0.0."))
			for _, v := range test.visits {
				t.Run(v.name, func(t *testing.T) { k.receive(t, v) })
			}
		})
	}
}
