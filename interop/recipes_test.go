//go:build interop

package interop

// This file runs recipes of docs/recipes behind a real HAProxy.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// recipeCaddyfile returns a Caddyfile of a recipe, counted from 0, with the load balancer on this
// machine. old and new are pairs of texts to replace, each of which must be there.
func recipeCaddyfile(t *testing.T, page string, nth int, oldnew ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "recipes", page))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(blocks), nth)
	caddyfile := blocks[nth][1]
	oldnew = append(oldnew, "static 10.0.0.10", "static "+serverIP4)
	for i := 0; i < len(oldnew); i += 2 {
		require.Contains(t, caddyfile, oldnew[i])
		caddyfile = strings.ReplaceAll(caddyfile, oldnew[i], oldnew[i+1])
	}
	return caddyfile
}

// clientFrom returns an HTTP client that connects from an address, with a connection for each request.
func clientFrom(ip string, ca authority) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp4", address)
			},
		},
	}
}

// TestRecipe_TLSAtTheLoadBalancer asserts that a client over HTTP is redirected once, and that the
// application of a client over HTTPS is told so.
func TestRecipe_TLSAtTheLoadBalancer(t *testing.T) {
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(application.Close)
	for _, test := range []struct {
		name string
		nth  int
		send string // option of HAProxy's server line
	}{
		{"by the port in the header", 1, "send-proxy-v2"},
		{"by what the header says of TLS", 2, "send-proxy-v2-ssl"},
	} {
		for _, program := range haproxies {
			t.Run(test.name+", "+program.name, func(t *testing.T) {
				ca := newAuthority(t)
				certificate := ca.server(t)
				plain, secure, caddyAddress := ipv4.freeAddress(t), ipv4.freeAddress(t), ipv4.freeAddress(t)
				_, port, _ := strings.Cut(secure, ":")
				replace := []string{
					// First: a free port may begin with these digits.
					"localhost:3000", application.Listener.Addr().String(),
					"{\n\tservers {", "{\n\tadmin off\n\tpersist_config off\n\tstorage file_system DIR/storage\n\tservers {",
					"http://example.com {", "http://" + caddyAddress + ", http://localhost" + caddyAddress[strings.Index(caddyAddress, ":"):] + " {\n\tbind " + serverIP4,
					"https://{host}{uri}", "https://localhost:" + port + "{uri}",
				}
				if test.nth == 1 {
					replace = append(replace, "server_port} 443", "server_port} "+port)
				}
				files := peers.Files(t, map[string]string{
					"Caddyfile":  recipeCaddyfile(t, "tls-at-the-load-balancer.md", test.nth, replace...),
					"server.pem": certificate.pem + certificate.key,
					"haproxy.cfg": fmt.Sprintf(`
defaults
	mode tcp
	timeout client 30s
	timeout server 30s
	timeout connect 30s
frontend https
	bind %s ssl crt DIR/server.pem
	default_backend caddy
frontend http
	bind %s
	default_backend caddy
backend caddy
	server caddy %s %s
`, secure, plain, caddyAddress, test.send),
				})
				peers.Start(t, []string{caddyAddress}, caddyProgram, "run", "--config", filepath.Join(files, "Caddyfile"))
				peers.Start(t, []string{plain, secure}, program.path(t), "-db", "-f", filepath.Join(files, "haproxy.cfg"))

				client := clientFrom(clientIP4, ca)
				redirects := 0
				client.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
					redirects = len(via)
					if redirects > 1 {
						return http.ErrUseLastResponse
					}
					return nil
				}
				response, err := client.Get("http://localhost" + plain[strings.Index(plain, ":"):] + "/page")
				require.NoError(t, err)
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				require.NoError(t, err)
				assert.Equal(t, 1, redirects)
				assert.Equal(t, "https://localhost:"+port+"/page", response.Request.URL.String())
				assert.Equal(t, http.StatusOK, response.StatusCode)
				assert.Equal(t, "https for "+clientIP4, string(body))
			})
		}
	}
}

// tally counts requests, and those that got no answer.
type tally struct{ sent, lost atomic.Int64 }

func (r *tally) try(client *http.Client, address string) (body string) {
	r.sent.Add(1)
	response, err := client.Get("http://" + address + "/")
	if err != nil {
		r.lost.Add(1)
		return ""
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		r.lost.Add(1)
	}
	return string(b)
}

// switching is a Caddy behind a HAProxy. Caddy has two sites, each behind a frontend of HAProxy: the one
// that goes through the recipe, and one beside it that stays without headers.
type switching struct {
	files                       string
	admin                       string
	switched, beside            string // addresses of HAProxy
	caddySwitched, caddyBeside  string // addresses of Caddy
	toSwitched, toBeside        tally
	lostSwitched, lostUnchanged []int64 // by round
}

// wrappersOf returns the block listener_wrappers of a recipe's Caddyfile.
func wrappersOf(t *testing.T, nth int) string {
	t.Helper()
	text := recipeCaddyfile(t, "switching-on.md", nth)
	wrapper := regexp.MustCompile(`(?s)proxy_protocol_mode \w+ \{.*?\n\t*\}\n`).FindString(text)
	require.NotEmpty(t, wrapper)
	return "listener_wrappers {\n" + wrapper + "}\n"
}

func (s *switching) writeCaddyfile(t *testing.T, wrappers string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(s.files, "Caddyfile"), fmt.Appendf(nil, `{
	admin %s
	persist_config off
	auto_https off
	storage file_system %s/storage
	log {
		output file %s/log
		format json
	}
	servers %s {
		%s
	}
}
http://%s, http://%s {
	bind 127.0.0.1
	respond "{remote_host}"
}
`, s.admin, s.files, s.files, s.caddySwitched, wrappers, s.caddySwitched, s.caddyBeside), 0o600))
}

// reloadCaddy loads the configuration with these listener wrappers, as 'caddy reload' does.
func (s *switching) reloadCaddy(t *testing.T, wrappers string) {
	t.Helper()
	s.writeCaddyfile(t, wrappers)
	output, err := exec.Command(caddyProgram, "reload", "--address", s.admin, "--config", filepath.Join(s.files, "Caddyfile")).CombinedOutput()
	require.NoError(t, err, "%s", output)
}

func (s *switching) writeHAProxy(t *testing.T, send string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(s.files, "haproxy.cfg"), fmt.Appendf(nil, `
global
	stats socket %s/stats.sock mode 600 expose-fd listeners
defaults
	mode tcp
	timeout client 3s
	timeout server 3s
	timeout connect 3s
listen switched
	bind %s
	server caddy %s %s
listen beside
	bind %s
	server caddy %s
`, s.files, s.switched, s.caddySwitched, send, s.beside, s.caddyBeside), 0o600))
}

// reloadHAProxy reloads HAProxy, and waits until the old worker has ended.
func (s *switching) reloadHAProxy(t *testing.T, send string) {
	t.Helper()
	s.writeHAProxy(t, send)
	s.master(t, "reload")
	eventually(t, "an old worker of HAProxy does not end", func() bool {
		processes := s.master(t, "show proc")
		_, old, _ := strings.Cut(processes, "# old workers")
		old, _, _ = strings.Cut(old, "# programs")
		return strings.Contains(processes, "# workers") && strings.TrimSpace(old) == ""
	})
}

// master says something to HAProxy's master process, and returns the answer. While the process reloads,
// it answers nothing, or does not end its answer.
func (s *switching) master(t *testing.T, command string) string {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(s.files, "master.sock"))
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, command+"\n")
	answer, _ := io.ReadAll(c)
	return string(answer)
}

// TestRecipe_SwitchingOn goes through the steps of the recipe under load, and back. No connection is
// refused, and no more requests are lost than by a site beside it that has no wrapper.
func TestRecipe_SwitchingOn(t *testing.T) {
	const rounds, clients = 10, 4
	s := &switching{
		files: peers.Files(t, nil), admin: ipv4.freeAddress(t),
		switched: ipv4.freeAddress(t), beside: ipv4.freeAddress(t),
		caddySwitched: ipv4.freeAddress(t), caddyBeside: ipv4.freeAddress(t),
	}
	s.writeCaddyfile(t, "")
	peers.Start(t, []string{s.caddySwitched, s.caddyBeside}, caddyProgram, "run", "--config", filepath.Join(s.files, "Caddyfile"))
	s.writeHAProxy(t, "")
	master := filepath.Join(s.files, "master.sock")
	peers.Start(t, []string{s.switched, s.beside, "unix:" + master}, haproxies[0].path(t),
		"-W", "-db", "-S", master+",level,admin", "-f", filepath.Join(s.files, "haproxy.cfg"))

	var ended atomic.Bool
	var all sync.WaitGroup
	for i := range clients {
		client := clientFrom("127.0.1."+strconv.Itoa(i+1), authority{cert: newAuthority(t).cert})
		all.Go(func() {
			for !ended.Load() {
				s.toSwitched.try(client, s.switched)
				s.toBeside.try(client, s.beside)
			}
		})
	}
	defer func() { ended.Store(true); all.Wait() }()

	both, on := wrappersOf(t, 0), wrappersOf(t, 1)
	probe := clientFrom(clientIP4, newAuthority(t))
	var probes tally
	seen := func(want string) { // by a new connection
		t.Helper()
		eventually(t, "the client's address is not "+want, func() bool { return probes.try(probe, s.switched) == want })
	}
	var lostSwitched, lostBeside int64
	for range rounds {
		seen(serverIP4)
		s.reloadCaddy(t, both)
		seen(serverIP4)
		s.reloadHAProxy(t, "send-proxy-v2")
		seen(clientIP4)
		s.reloadCaddy(t, on)
		seen(clientIP4)
		// And back.
		s.reloadCaddy(t, both)
		s.reloadHAProxy(t, "")
		seen(serverIP4)
		s.reloadCaddy(t, "")

		lost, unchanged := s.toSwitched.lost.Load(), s.toBeside.lost.Load()
		s.lostSwitched = append(s.lostSwitched, lost-lostSwitched)
		s.lostUnchanged = append(s.lostUnchanged, unchanged-lostBeside)
		lostSwitched, lostBeside = lost, unchanged
	}
	ended.Store(true)
	all.Wait()
	t.Logf("lost: %d of %d, beside: %d of %d", lostSwitched, s.toSwitched.sent.Load(), lostBeside, s.toBeside.sent.Load())
	assert.Empty(t, logFile{path: filepath.Join(s.files, "log")}.find(t, entry.isRefusal))
	// Rare events vary by the root of their number.
	assert.LessOrEqual(t, float64(lostSwitched-lostBeside), 5*math.Sqrt(float64(lostSwitched+lostBeside+1)),
		"more requests are lost than beside it: %v, %v", s.lostSwitched, s.lostUnchanged)
	assert.Greater(t, s.toSwitched.sent.Load(), int64(1000))
}
