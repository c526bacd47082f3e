package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/portzero/caddy-proxy-protocol"
)

// server is one server of the Caddy under test, on a plain and a TLS port.
type server struct {
	name    string
	wrapper string // its JSON, or empty
	header  string // what a connection begins with
	plain   string
	tls     string
	pid     int // of Caddy
}

const headerV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb"

// startServers starts Caddy in a process of its own and returns its servers, the
// unwrapped one first.
func startServers() ([]server, func(), error) {
	const trust = `"trusted_proxies":{"source":"static","ranges":["127.0.0.0/8","::1"]}`
	servers := []server{
		{name: "no wrapper"},
		{name: "no wrapper, again"},
		{name: "built-in proxy_protocol, REQUIRE", header: headerV2, wrapper: `{"wrapper":"proxy_protocol","fallback_policy":"REQUIRE"}`},
		{name: "proxy_protocol_mode on", header: headerV2, wrapper: `{"wrapper":"proxy_protocol_mode","mode":"on",` + trust + `}`},
		{name: "proxy_protocol_mode off", wrapper: `{"wrapper":"proxy_protocol_mode","mode":"off"}`},
		{name: "proxy_protocol_mode unspecified", header: headerV2, wrapper: `{"wrapper":"proxy_protocol_mode"}`},
	}
	storage, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, nil, err
	}
	config := map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"storage": map[string]any{"module": "file_system", "root": storage},
	}
	httpServers := make(map[string]any)
	for i := range servers {
		s := &servers[i]
		s.plain, s.tls = freeAddr(), freeAddr()
		for kind, addr := range map[string]string{"plain": s.plain, "tls": s.tls} {
			srv := map[string]any{
				"listen":          []string{addr},
				"protocols":       []string{"h1", "h2"},
				"automatic_https": map[string]any{"disable_redirects": true},
				"routes":          []any{map[string]any{"handle": []any{map[string]any{"handler": "static_response", "body": "ok"}}}},
			}
			if kind == "tls" {
				srv["tls_connection_policies"] = []any{map[string]any{}}
			}
			if s.wrapper != "" {
				srv["listener_wrappers"] = []any{json.RawMessage(s.wrapper), json.RawMessage(`{"wrapper":"tls"}`)}
			}
			httpServers[fmt.Sprintf("%s%d", kind, i)] = srv
		}
	}
	config["apps"] = map[string]any{
		"http": map[string]any{"servers": httpServers},
		"pki":  map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}},
		"tls": map[string]any{
			"certificates": map[string]any{"automate": []string{"localhost"}},
			"automation":   map[string]any{"policies": []any{map[string]any{"issuers": []any{map[string]any{"module": "internal"}}}}},
		},
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(os.Args[0], "-serve", string(text))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // closed when this process ends, however it ends
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(storage)
	}
	for i := range servers {
		servers[i].pid = cmd.Process.Pid
	}
	for _, s := range servers {
		if err := waitFor(s); err != nil {
			stop()
			return nil, nil, err
		}
	}
	return servers, stop, nil
}

// serveCaddy runs Caddy until standard input ends.
func serveCaddy(config string) {
	if err := caddy.Load([]byte(config), true); err != nil {
		log.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// cpu returns the time that Caddy has spent on processors, or 0 where the system does not
// tell it as Linux does.
func (s server) cpu() (total time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.pid))
	for _, thread := range threads {
		text, _ := os.ReadFile(thread)
		var ns int64
		_, _ = fmt.Sscan(string(text), &ns)
		total += time.Duration(ns)
	}
	return total
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// waitFor waits until the server answers on both ports.
func waitFor(s server) error {
	err := errors.New("not tried")
	for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var c net.Conn
		if c, err = dial(s.plain); err != nil {
			continue
		}
		err = get(c, []byte(s.header))
		c.Close()
		if err != nil {
			continue
		}
		if c, err = dial(s.tls); err != nil {
			continue
		}
		_, err = c.Write([]byte(s.header))
		if err == nil {
			err = get(tls.Client(c, tlsConfig), nil)
		}
		c.Close()
	}
	return err
}
