package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/portzero/caddy-proxy-protocol"
)

// serveEnv is the name of the environment variable that makes this program a Caddy. Its value is
// the configuration.
const serveEnv = "BENCH_SERVE_CADDY"

// caddyCommand returns the command that runs this program as a Caddy. wrapper is the JSON of its
// listener wrapper, or empty for none.
func caddyCommand(s *server, wrapper, certificate string) (*exec.Cmd, error) {
	servers := make(map[string]any)
	for kind, addr := range map[string]string{"plain": s.plain, "tls": s.tls} {
		srv := map[string]any{
			"listen":          []string{addr},
			"protocols":       []string{"h1", "h2"},
			"automatic_https": map[string]any{"disable": true},
			"routes":          []any{map[string]any{"handle": []any{map[string]any{"handler": "static_response", "body": "ok"}}}},
		}
		if kind == "tls" {
			srv["tls_connection_policies"] = []any{map[string]any{}}
			if s.http3 {
				srv["protocols"] = []string{"h1", "h2", "h3"}
			}
			if s.packets != "" {
				srv["packet_conn_wrappers"] = []any{json.RawMessage(s.packets)}
			}
		}
		if wrapper != "" {
			srv["listener_wrappers"] = []any{json.RawMessage(wrapper), map[string]any{"wrapper": "tls"}}
		}
		servers[kind] = srv
	}
	logging := make(map[string]any)
	if s.log == "" {
		logging["logs"] = map[string]any{"default": map[string]any{"level": "ERROR"}}
	}
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": logging,
		"apps": map[string]any{
			"http": map[string]any{"servers": servers},
			"tls":  map[string]any{"certificates": map[string]any{"load_files": []any{map[string]any{"certificate": certificate, "key": certificate}}}},
		},
	})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveEnv+"="+string(config))
	return cmd, nil
}

// serveCaddy runs Caddy until standard input ends, if serveEnv is set, and reports whether it is.
// For each line of standard input it returns unused memory to the system and prints a line.
func serveCaddy() bool {
	config := os.Getenv(serveEnv)
	if config == "" {
		return false
	}
	if err := caddy.Load([]byte(config), true); err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		debug.FreeOSMemory()
		fmt.Println()
	}
	return true
}
