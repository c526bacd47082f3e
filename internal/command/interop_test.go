//go:build interop

package command_test

// Tests of check with other servers: go test -tags interop ./internal/command

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// server is the way in which a server listens, and the output of check that is expected of it.
type server struct {
	name string
	// listen is the option of the server.
	listen string
	// tls reports whether check runs with --tls.
	tls              bool
	did              string
	verdict, closest string
}

// check runs the command check on the server at an address, and asserts its output.
func (s server) check(t testing.TB, address string) {
	t.Helper()
	args, protocol := []string{address}, "HTTP"
	if s.tls {
		args, protocol = []string{"--tls", "--sni", "localhost", address}, "TLS"
	}
	c := check(t, args...)
	assert.Equal(t, s.did, c.did(protocol))
	assert.Equal(t, s.verdict, c.Verdict)
	assert.Equal(t, s.closest, c.Closest)
	t.Logf("%-32s %s %s %s", s.name, c.did(protocol), c.Verdict, c.Closest)
}

func TestCheckNginx(t *testing.T) {
	nginx := peers.Need(t, "nginx", "nginx")
	_, pem := certificate()
	for _, s := range []server{
		{"nginx", "", false, "A444444", "other", "off"},
		{"nginx proxy_protocol", "proxy_protocol", false, ".AAA44A", "other", "on"},
		{"nginx ssl", "ssl", true, "A444444", "other", "off"},
		{"nginx ssl proxy_protocol", "ssl proxy_protocol", true, ".AAA44A", "other", "on"},
		{"nginx ssl, asked without TLS", "ssl", false, "4444444", "unknown", ""},
	} {
		t.Run(s.name, func(t *testing.T) {
			address := freeAddress(t)
			dir := peers.Files(t, map[string]string{
				"cert.pem": string(pem),
				"nginx.conf": `
daemon off; master_process off; pid DIR/pid; error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path DIR; proxy_temp_path DIR; fastcgi_temp_path DIR; uwsgi_temp_path DIR; scgi_temp_path DIR;
	ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/cert.pem;
	server { listen ` + address + " " + s.listen + `; return 200; }
}
`,
			})
			peers.Start(t, []string{address}, nginx, "-c", filepath.Join(dir, "nginx.conf"), "-p", dir, "-e", "stderr")
			s.check(t, address)
		})
	}
}

func TestCheckHAProxy(t *testing.T) {
	haproxy := peers.Need(t, "haproxy", "haproxy")
	_, pem := certificate()
	for _, s := range []server{
		{"haproxy", "", false, "A444444", "other", "off"},
		{"haproxy accept-proxy", "accept-proxy", false, ".AAA44.", "other", "on"},
		{"haproxy ssl", "ssl crt DIR/cert.pem", true, "A......", "off", ""},
		// Over TLS, a second header is not a ClientHello: the connection is closed.
		{"haproxy ssl accept-proxy", "ssl crt DIR/cert.pem accept-proxy", true, ".AAA...", "on", ""},
		// HAProxy closes connections with plain HTTP, which must not count as a refusal.
		{"haproxy ssl, asked without TLS", "ssl crt DIR/cert.pem", false, ".......", "other", "refused"},
		{"haproxy ssl accept-proxy, asked without TLS", "ssl crt DIR/cert.pem accept-proxy", false, ".......", "other", "refused"},
	} {
		t.Run(s.name, func(t *testing.T) {
			address := freeAddress(t)
			dir := peers.Files(t, map[string]string{
				"cert.pem": string(pem),
				"haproxy.cfg": fmt.Sprintf(`
defaults
	mode http
	timeout client 30s
	timeout server 30s
	timeout connect 30s
frontend test
	bind %s %s
	http-request return status 200
`, address, s.listen),
			})
			peers.Start(t, []string{address}, haproxy, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
			s.check(t, address)
		})
	}
}

// TestCheckBehindHAProxy asserts the output of check, run in front of a load balancer, for a
// listener behind it in mode on.
func TestCheckBehindHAProxy(t *testing.T) {
	haproxy := peers.Need(t, "haproxy", "haproxy")
	behind := freeAddress(t)
	run(t, "", object{"srv0": httpServer(behind, false, object{"wrapper": "proxy_protocol_mode", "mode": "on"})})
	address := freeAddress(t)
	dir := peers.Files(t, map[string]string{"haproxy.cfg": fmt.Sprintf(`
defaults
	mode tcp
	timeout client 30s
	timeout server 30s
	timeout connect 30s
listen test
	bind %s
	server caddy %s send-proxy-v2
`, address, behind)})
	peers.Start(t, []string{address}, haproxy, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	// HAProxy sends its own header first, so a header of a probe is the second one.
	server{"caddy on behind haproxy", "", false, "A......", "off", ""}.check(t, address)
}
