package command

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"
)

// TestLint_FindsTheServersOptionsThatCaddyDrops compares lint with Caddy: 'servers' options with a name
// rename the server that they match, so a name that no server has is one of options that were dropped.
func TestLint_FindsTheServersOptionsThatCaddyDrops(t *testing.T) {
	addresses := []string{":8080", ":8081", "127.0.0.1:8080", "[::1]:8080", "tcp/:8080", "127.0.0.1:8081", "udp/:8080", "{$NO_SUCH_VARIABLE::8080}"}
	binds := []string{"", "bind 127.0.0.1", "bind 127.0.0.1 ::1", "bind ::1 127.0.0.1", "bind tcp4/127.0.0.1", "bind 0.0.0.0"}
	ignored := 0
	for _, bind := range binds {
		for first := range addresses {
			for second := range addresses[:first] {
				var options strings.Builder
				for i, address := range []string{addresses[first], addresses[second]} {
					fmt.Fprintf(&options, "servers %s {\nname options%d\nlistener_wrappers {\nproxy_protocol_mode off\n}\n}\n", address, i)
				}
				input := fmt.Sprintf("{\n%sservers {\nlistener_wrappers {\nproxy_protocol_mode on\n}\n}\n}\nhttp://:8080 {\n%s\n}\nhttp://:8081 {\n}\n", options.String(), bind)
				c, err := loadConfig(strings.NewReader(input), "-", "caddyfile")
				if err != nil {
					require.ErrorContains(t, err, "duplicate listener addresses") // the variable
					continue
				}
				servers, err := c.servers()
				require.NoError(t, err)
				var names []string
				for _, server := range servers {
					names = append(names, server.name)
				}
				var dropped, found []string
				for i, line := range []int{2, 8} {
					if !slices.Contains(names, fmt.Sprintf("options%d", i)) {
						dropped = append(dropped, fmt.Sprintf("-:%d", line))
					}
				}
				for _, f := range c.droppedFindings(servers) {
					found = append(found, f.Where...)
				}
				require.ElementsMatch(t, dropped, found, "%s\n%s", input, c.json)
				ignored += len(dropped)
			}
		}
	}
	require.NotZero(t, ignored)
}

// FuzzLint_Caddyfile asserts that lint accepts every Caddyfile that Caddy adapts, and that its output
// controls no terminal. The configuration is not provisioned.
func FuzzLint_Caddyfile(f *testing.F) {
	servers := "{\nservers :8080 {\nlistener_wrappers {\nproxy_protocol_mode on {\ntrusted_proxies static private_ranges\nunspecified ::1\n}\ntls\n}\n}\n}\n"
	f.Add(servers + "http://:8080 {\nbind ::1\n}\n")
	f.Add(servers + "&(named) {\nvars a b\nproxy_protocol on\nrespond \"}\"\n}\nhttp://:8080 {\ninvoke named\n}\n")
	f.Add(servers + "(body) {\nvars a b\n@x pinned_ip ::1\nproxy_protocol @x on\n}\n&(named) {\nimport body\n}\nhttp://:8080 {\ninvoke named\n}\n")
	f.Add("&() {\n}\n:80 {\ninvoke \"\"\n}\n")
	f.Add("{\nservers\n}\n")
	f.Fuzz(func(t *testing.T, input string) {
		if strings.Contains(input, "import") && strings.ContainsAny(input, "/*.") {
			return // of other files
		}
		adapter := caddyconfig.GetAdapter("caddyfile")
		adapted, _, err := adapter.Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			return
		}
		requireLintable(t, &lintConfig{file: "Caddyfile", adapter: "caddyfile", input: []byte(input), json: adapted})
	})
}

// FuzzLint_JSON is FuzzLint_Caddyfile for the JSON of a server.
func FuzzLint_JSON(f *testing.F) {
	f.Add(`{"listen":[":8080","unix//x","[::1]:80-90",":"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"on","trusted_proxies":{"source":"static","ranges":["::1/0","x"]},
		"ranges":[{"mode":"off","ranges":["10.0.0.0/8"]},{"mode":"no","ranges":null}],"require":{"tlvs":{"0xe1":[]},"signature":1}}],"packet_conn_wrappers":[{"wrapper":"proxy_protocol_mode"}]}`)
	f.Add(`{"listener_wrappers":[{"wrapper":1}]}`)
	f.Add(`{"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":true,"ranges":{}}]}`)
	f.Fuzz(func(t *testing.T, server string) {
		if !json.Valid([]byte(server)) {
			return
		}
		requireLintable(t, &lintConfig{file: "caddy.json", json: []byte(`{"apps":{"http":{"servers":{"a":` + server + `,"b":{"listen":[":1"]}}}}}`)})
	})
}

// requireLintable asserts that the parts of lint that do not provision a configuration do not panic.
func requireLintable(t *testing.T, c *lintConfig) {
	servers, err := c.servers()
	if err != nil {
		return
	}
	r := new(lintReport)
	for _, server := range servers {
		r.Listeners = append(r.Listeners, server.listeners()...)
		r.add(c.warningFindings([]warning{{server: server.name, message: "mode 'x'; do this"}}, servers)...)
	}
	r.add(c.droppedFindings(servers)...)
	r.add(c.lostGuards(servers)...)
	r.add(c.trustFindings(servers)...)
	r.add(c.wrapperFindings(servers, false)...)
	var text, asJSON output
	r.print(&text)
	require.NoError(t, asJSON.json(r))
	for _, shown := range []string{text.String(), asJSON.String()} {
		at := strings.IndexFunc(shown, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
		require.Negative(t, at, "%q", shown)
	}
}
