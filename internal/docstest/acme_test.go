package docstest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/certificates/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// TestRecipes_ACME gets certificates from a certificate authority that connects through a load
// balancer, with the Caddyfile of the recipe.
func TestRecipes_ACME(t *testing.T) {
	needLoopbacks(t)
	for _, test := range []struct {
		name      string
		challenge string // the only one that is allowed
		http      bool   // the site "http://" is there
		issued    bool
	}{
		{"HTTP-01", "http", true, true},
		{"HTTP-01 without the site http://", "http", false, false},
		{"TLS-ALPN-01", "tls-alpn", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := recipeBlocks(t)["acme.md#0"].text
			if !test.http {
				site, _, found := strings.Cut(text, "\nhttp:// {")
				require.True(t, found)
				text = site
			}
			a := startAuthority(t, text, test.challenge)
			if test.issued {
				caddytest.Eventually(t, func() bool { return a.issued(t) }, "no certificate")
				for _, refusal := range a.refusals(t) {
					// Before a challenge, Caddy looks whether its own port listens.
					assert.Contains(t, refusal, `"peer":"127.0.0.1:`)
				}
				return
			}
			select {
			case answer := <-a.answers:
				assert.Equal(t, "HTTP/1.1 400 Bad Request\r\n", answer)
			case <-time.After(caddytest.Patience):
				assert.Fail(t, "no challenge came")
			}
			assert.False(t, a.issued(t))
		})
	}
}

// authority is a Caddy that is a certificate authority, and that needs a certificate of it.
type authority struct {
	kitchen
	answers chan string // the first line of the answer to a challenge on port 80
}

// issued reports whether Caddy has its certificate.
func (a *authority) issued(t *testing.T) bool {
	t.Helper()
	return regexp.MustCompile(`"certificate obtained successfully","identifier":"localhost"`).MatchString(docsRead(t, a.log))
}

// refusals returns the lines of refused connections.
func (a *authority) refusals(t *testing.T) (lines []string) {
	t.Helper()
	for line := range strings.Lines(docsRead(t, a.log)) {
		if strings.Contains(line, `"msg":"refused connection`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// startAuthority runs Caddy with a Caddyfile for localhost, behind a load balancer for the ports 80
// and 443. The authority's own server has no wrapper.
func startAuthority(t *testing.T, text, challenge string) *authority {
	t.Helper()
	a := &authority{kitchen{senders: sendersIn(t, text), ports: make(map[string]int)}, make(chan string, 1)}
	a.admin = caddytest.FreePort(t)
	caPort := caddytest.FreePort(t)

	text = strings.Replace(a.senders.move(text), "example.com {", "https://localhost {\n\tbind 127.0.0.1", 1)
	text = strings.Replace(text, "http:// {", "http:// {\n\tbind 127.0.0.1", 1)
	config := docsConfig(t, text)
	app := config["apps"].(map[string]any)["http"].(map[string]any)
	app["http_port"], app["https_port"] = a.port(t, "80"), a.port(t, "443")
	servers := app["servers"].(map[string]any)
	for _, server := range servers {
		listen := server.(map[string]any)["listen"].([]any)
		for i := range listen {
			_, port, err := net.SplitHostPort(listen[i].(string))
			require.NoError(t, err)
			listen[i] = caddytest.TCP4(a.port(t, port)).Address
		}
	}
	ca := object(t, `{"listen": [%q], "routes": [{"match": [{"host": ["127.0.0.1"]}], "handle": [{"handler": "acme_server", "ca": "local"}]}], "tls_connection_policies": [{"default_sni": "127.0.0.1"}]}`, caddytest.TCP4(caPort).Address)
	internal := `{"subjects": ["127.0.0.1"], "issuers": [{"module": "internal"}]}`
	pki := object(t, `{"certificate_authorities": {"local": {"install_trust": false}}}`)

	// The authority alone makes its root certificate.
	storage := caddytest.New(t).Dir
	a.startIn(t, storage, map[string]any{"apps": map[string]any{
		"pki":  pki,
		"http": map[string]any{"servers": map[string]any{"ca": ca}},
		"tls":  object(t, `{"automation": {"policies": [%s]}}`, internal),
	}})

	for port, insecure := range map[string]*int{"80": &acme.InsecurePortHTTP01, "443": &acme.InsecurePortTLSALPN01} {
		*insecure = a.balance(t, port)
		t.Cleanup(func() { *insecure = 0 })
	}
	other := map[string]string{"http": "tls-alpn", "tls-alpn": "http"}[challenge]
	servers["ca"] = ca
	apps := config["apps"].(map[string]any)
	apps["pki"] = pki
	apps["tls"] = object(t, `{"automation": {"policies": [%s, {"subjects": ["localhost"], "issuers": [{"module": "acme", "ca": "https://127.0.0.1:%d/acme/local/directory",
		"trusted_roots_pem_files": [%q], "challenges": {%q: {"disabled": true}}}]}]}}`,
		internal, caPort, filepath.Join(storage, "pki", "authorities", "local", "root.crt"), other)
	a.startIn(t, storage, config)
	return a
}

// object parses JSON.
func object(t *testing.T, format string, args ...any) (o map[string]any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(fmt.Appendf(nil, format, args...), &o))
	return o
}

// balance starts a load balancer that forwards TCP to a port, and returns the port on which it listens.
// Behind its header, its connections look like those that it accepted.
func (a *authority) balance(t *testing.T, port string) int {
	t.Helper()
	l, err := net.Listen("tcp", caddytest.TCP4(0).Address)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.10")}}
	to := caddytest.TCP4(a.ports[port]).Address
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer front.Close()
				back, err := dialer.Dial("tcp", to)
				if err != nil {
					return
				}
				defer back.Close()
				// The header is in one piece with the first data. If it came before, a server that does
				// not know headers could close the connection while data comes, and its answer would
				// be lost.
				first := make([]byte, 4096)
				n, err := front.Read(first)
				if err != nil {
					return
				}
				if _, err := back.Write(append([]byte(plainV2), first[:n]...)); err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(back, front)
					_ = back.(*net.TCPConn).CloseWrite()
				}()
				answer := bufio.NewReader(back)
				if line, err := answer.Peek(len("HTTP/1.1 400 Bad Request\r\n")); err == nil && port == "80" {
					select {
					case a.answers <- string(line):
					default:
					}
				}
				_, _ = io.Copy(front, answer)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}
