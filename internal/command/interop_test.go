//go:build interop

package command_test

// What check says of other servers: go test -tags interop ./internal/command

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// program returns the path of a program that must be there.
func program(t testing.TB, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	require.NoError(t, err, "%s is not installed: %s", name, install)
	return path
}

// lockedBuffer is what a program prints.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a server until the test ends, and waits until it accepts connections.
func start(t testing.TB, address, program string, args ...string) {
	t.Helper()
	var printed lockedBuffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	// A child of the program may hold its output open.
	cmd.WaitDelay = time.Second
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", address, patience)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, patience, 10*time.Millisecond, "%s does not listen: %s", program, &printed)
}

// files writes files to a directory and returns it. Each DIR in them becomes its path.
func files(t testing.TB, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range contents {
		content = strings.ReplaceAll(content, "DIR", dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

// server is how a server listens, and what check finds out about that.
type server struct {
	name string
	// listen is the server's own option.
	listen string
	// tls says that check speaks TLS.
	tls              bool
	did              string
	verdict, closest string
}

// check checks a server at some address.
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
	nginx := program(t, "nginx", "apt-get install -y nginx-light")
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
			dir := files(t, map[string]string{
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
			start(t, address, nginx, "-c", filepath.Join(dir, "nginx.conf"), "-p", dir, "-e", "stderr")
			s.check(t, address)
		})
	}
}

func TestCheckHAProxy(t *testing.T) {
	haproxy := program(t, "haproxy", "apt-get install -y haproxy")
	_, pem := certificate()
	for _, s := range []server{
		{"haproxy", "", false, "A444444", "other", "off"},
		{"haproxy accept-proxy", "accept-proxy", false, ".AAA44.", "other", "on"},
		{"haproxy ssl", "ssl crt DIR/cert.pem", true, "A......", "off", ""},
		// Over TLS, a second header is no ClientHello: the connection is closed.
		{"haproxy ssl accept-proxy", "ssl crt DIR/cert.pem accept-proxy", true, ".AAA...", "on", ""},
		// It closes connections on plain HTTP, which must not pass for a refusal.
		{"haproxy ssl, asked without TLS", "ssl crt DIR/cert.pem", false, ".......", "other", "refused"},
		{"haproxy ssl accept-proxy, asked without TLS", "ssl crt DIR/cert.pem accept-proxy", false, ".......", "other", "refused"},
	} {
		t.Run(s.name, func(t *testing.T) {
			address := freeAddress(t)
			dir := files(t, map[string]string{
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
			start(t, address, haproxy, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
			s.check(t, address)
		})
	}
}

// TestCheckBehindHAProxy asserts what check says of a listener in mode on from outside the
// load balancer in front of it.
func TestCheckBehindHAProxy(t *testing.T) {
	haproxy := program(t, "haproxy", "apt-get install -y haproxy")
	behind := freeAddress(t)
	run(t, "", object{"srv0": httpServer(behind, false, object{"wrapper": "proxy_protocol_mode", "mode": "on"})})
	address := freeAddress(t)
	dir := files(t, map[string]string{"haproxy.cfg": fmt.Sprintf(`
defaults
	mode tcp
	timeout client 30s
	timeout server 30s
	timeout connect 30s
listen test
	bind %s
	server caddy %s send-proxy-v2
`, address, behind)})
	start(t, address, haproxy, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	// The load balancer's own header makes any other the second.
	server{"caddy on behind haproxy", "", false, "A......", "off", ""}.check(t, address)
}
