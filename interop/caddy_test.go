//go:build interop

package interop

// This file runs the Caddy behind the load balancers, in a process of its own, as users run it.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/freeport"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

const (
	// patience bounds every wait for an event that must happen. It is long, so that a slow
	// machine does not fail tests.
	patience = 20 * time.Second
	// tick is the time between two evaluations of a condition.
	tick = 5 * time.Millisecond
)

// caddyProgram is the path of a Caddy with this module in it.
var caddyProgram string

// caddyVariable is the environment variable with the path of a caddyProgram that is there already.
const caddyVariable = "CADDY_PROGRAM"

// TestMain builds caddyProgram and runs the tests.
func TestMain(m *testing.M) {
	if caddyProgram = os.Getenv(caddyVariable); caddyProgram != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "interop")
	if err == nil {
		caddyProgram = filepath.Join(dir, "caddy")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", caddyProgram, "../cmd/caddy")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		err = build.Run()
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// The IP addresses of clients and servers. With IPv6, all have the same.
const (
	clientIP4      = "127.0.0.9"
	otherClientIP4 = "127.0.0.10"
	serverIP4      = "127.0.0.1"
	loopback6      = "::1"
)

// family is a version of IP.
type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// server returns the IP address at which servers and load balancers listen, and from which load
// balancers connect.
func (f family) server() string {
	if f == ipv4 {
		return serverIP4
	}
	return loopback6
}

// client returns the IP address from which clients connect.
func (f family) client() string {
	if f == ipv4 {
		return clientIP4
	}
	return loopback6
}

// address returns the address of a server or load balancer with a port.
func (f family) address(port int) string { return net.JoinHostPort(f.server(), strconv.Itoa(port)) }

// transport returns the name in headers of TCP over this version of IP.
func (f family) transport() string { return fmt.Sprintf("TCP%d", int(f)) }

// freeAddress returns an address with a free port.
func (f family) freeAddress(t testing.TB) string { return f.address(freeport.Get(t)) }

// server is a server of Caddy. It listens at a plain and at a TLS port, over IPv4 and IPv6.
type server struct{ plain, secure int }

// address returns the address of the server's plain or TLS port.
func (s server) address(f family, tls bool) string {
	if tls {
		return f.address(s.secure)
	}
	return f.address(s.plain)
}

// caddy is a running Caddy.
type caddy struct {
	authority
	logs logFile
	// servers are Caddy's servers by their listener wrapper.
	servers map[string]server
	// files is the directory of certificates: ca.pem, server.pem (with its key), and
	// key.pem.
	files string
}

// The listener wrappers of Caddy's servers.
const (
	// on trusts load balancers. It does not trust IPv4 clients, whose address is another.
	on  = "proxy_protocol_mode on {\ntrusted_proxies static " + serverIP4 + " " + loopback6 + "\n}"
	off = "proxy_protocol_mode off"
	// allowing also accepts the headers that nginx writes for a destination of another family.
	allowing    = "proxy_protocol_mode on {\ntrusted_proxies static " + serverIP4 + " " + loopback6 + "\nmismatched_destination allow\n}"
	unspecified = "proxy_protocol_mode unspecified"
	// distrusting trusts only an address that is not a load balancer's.
	distrusting = "proxy_protocol_mode on {\ntrusted_proxies static 192.0.2.1\n}"
)

// startCaddy runs Caddy until the test ends, with a server for each of these listener
// wrappers.
//
// The sites answer with the placeholders of the connection, and log them. Requests for /backend go
// to the backend of startBackend, and /certificate answers with the client's certificate.
func startCaddy(t testing.TB, wrappers ...string) *caddy {
	t.Helper()
	c := &caddy{authority: newAuthority(t), servers: make(map[string]server)}
	certificate := c.server(t)
	var options, sites strings.Builder
	var listening []string
	for _, wrapper := range wrappers {
		s := server{freeport.Get(t), freeport.Get(t)}
		c.servers[wrapper] = s
		for _, tls := range []bool{false, true} {
			address := s.address(ipv4, tls)
			fmt.Fprintf(&options, "servers %s {\nprotocols h1 h2 h2c\nlistener_wrappers {\n%s\ntls\n}\n}\n", address, wrapper)
			listening = append(listening, address, s.address(ipv6, tls))
		}
		fmt.Fprintf(&sites, "http://:%d {\nimport site\n}\nhttps://:%d {\ntls DIR/server.pem DIR/key.pem\nimport site\n}\n", s.plain, s.secure)
	}
	c.files = peers.Files(t, map[string]string{
		"ca.pem":     c.pem,
		"server.pem": certificate.pem + certificate.key,
		"key.pem":    certificate.key,
		"Caddyfile": `{
	admin off
	persist_config off
	skip_install_trust
	auto_https disable_redirects
	grace_period 1s
	storage file_system DIR/storage
	log {
		output file DIR/log
		format json
		level DEBUG
	}
	` + options.String() + `
}
(site) {
	bind ` + serverIP4 + " " + loopback6 + `
	log
	log_append proxy_protocol {http.proxy_protocol}
	handle /backend* {
		reverse_proxy ` + startBackend(t) + `
	}
	handle /certificate {
		@unverified proxy_protocol {
			tlv ssl.verified false
		}
		header @unverified Unverified yes
		respond <<CERTIFICATE
			{http.proxy_protocol.tlv.ssl.cn}
			{http.proxy_protocol.tlv.ssl.verified}
			{http.proxy_protocol.tlv.ssl.verify_result}
			{http.proxy_protocol.tlv.ssl.cert_conn}
			{http.proxy_protocol.tlv.ssl.cert_sess}
			{http.proxy_protocol.tlv.ssl.version}
			CERTIFICATE
	}
	respond <<ANSWER
		{remote}
		{client_ip}
		{http.proxy_protocol.client_ip}
		{http.proxy_protocol.client_port}
		{http.proxy_protocol.server_ip}
		{http.proxy_protocol.server_port}
		{http.proxy_protocol.peer_ip}
		{http.proxy_protocol.tlv.0x03}
		{http.proxy_protocol}
		ANSWER
}
` + sites.String(),
	})
	c.logs = logFile{path: filepath.Join(c.files, "log")}
	peers.Start(t, listening, caddyProgram, "run", "--config", filepath.Join(c.files, "Caddyfile"))
	return c
}

// facts is the value of {http.proxy_protocol}.
type facts struct {
	Mode        string `json:"mode"`
	Peer        string `json:"peer"`
	Present     bool   `json:"present"`
	Version     int    `json:"version"`
	Command     string `json:"command"`
	Transport   string `json:"transport"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	PortZero    bool   `json:"port_zero"`
	// Authenticated is how the header has proved who made it.
	Authenticated string            `json:"authenticated"`
	TLV           map[string]string `json:"tlv"`
}

// answer has the values of placeholders in a site's answer.
type answer struct {
	remote, clientIP     string
	headerClient, server string // client and server of the header, with ports
	peerIP               string
	crc32c               bool // whether the header had a checksum
	proxyProtocol        facts
}

// readAnswer reads an answer of a site.
func readAnswer(t testing.TB, r io.Reader) (a answer) {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	lines := strings.Split(string(b), "\n")
	require.Len(t, lines, 9, "%s", b)
	require.NoError(t, json.Unmarshal([]byte(lines[8]), &a.proxyProtocol), "%s", b)
	a.remote, a.clientIP = lines[0], lines[1]
	a.headerClient = net.JoinHostPort(lines[2], lines[3])
	a.server = net.JoinHostPort(lines[4], lines[5])
	a.peerIP, a.crc32c = lines[6], lines[7] != ""
	return a
}

// entry is a line of Caddy's log. Its fields are those of requests and of refusals.
type entry struct {
	Level   string `json:"level"`
	Logger  string `json:"logger"`
	Message string `json:"msg"`
	Request struct {
		RemoteIP   string `json:"remote_ip"`
		RemotePort string `json:"remote_port"`
		ClientIP   string `json:"client_ip"`
		Proto      string `json:"proto"`
		URI        string `json:"uri"`
	} `json:"request"`
	Status        int   `json:"status"`
	ProxyProtocol facts `json:"proxy_protocol"`

	Peer   string `json:"peer"`
	Mode   string `json:"mode"`
	Reason string `json:"reason"`
	Error  string `json:"error"`
}

// isRefusal reports whether the entry is the warning about a refused connection. Connections that
// were closed without sending a byte are logged at a lower level.
func (e entry) isRefusal() bool {
	return e.Level == "warn" && e.Logger == "caddy.listeners.proxy_protocol_mode" && e.Reason != ""
}

// logFile is the part of a log file from an offset on.
type logFile struct {
	path   string
	offset int64
}

// now returns the part of the log that is written from now on.
func (l logFile) now(t testing.TB) logFile {
	t.Helper()
	info, err := os.Stat(l.path)
	require.NoError(t, err)
	return logFile{l.path, info.Size()}
}

// find returns the entries so far that match.
func (l logFile) find(t testing.TB, match func(entry) bool) (found []entry) {
	t.Helper()
	file, err := os.Open(l.path)
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Seek(l.offset, io.SeekStart)
	require.NoError(t, err)
	for lines := bufio.NewReader(file); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return found // the last line is not complete yet
		}
		var e entry
		// Lines whose fields have other types are of no interest.
		if err := json.Unmarshal(line, &e); err == nil && match(e) {
			found = append(found, e)
		}
	}
}

// waitFor waits for an entry that matches, and returns the first.
func (l logFile) waitFor(t testing.TB, match func(entry) bool) entry {
	t.Helper()
	var found []entry
	eventually(t, "no such log entry", func() bool {
		found = l.find(t, match)
		return len(found) > 0
	})
	return found[0]
}

// eventually waits until a condition is true.
func eventually(t testing.TB, otherwise string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(tick) {
		require.True(t, time.Now().Before(deadline), otherwise)
	}
}
