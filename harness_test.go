package proxyprotocol

// What tests against a running Caddy have in common. There is one Caddy in a process:
// a test that runs one must not be parallel to another that does. Its own subtests may be.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/freeport"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

const (
	// patience bounds every wait for something that must happen. It is long, because a
	// slow machine is no failure.
	patience = 20 * time.Second
	// tick is how often a condition is looked at.
	tick = 2 * time.Millisecond
)

// Caddy

// running is the Caddy of a test.
type running struct {
	t     testing.TB
	logs  logCapture
	dir   string
	grace time.Duration // how long stopping waits for connections
}

// startCaddy runs Caddy with a Caddyfile made of global options and sites, until the
// test ends.
func startCaddy(t testing.TB, options, sites string) *running {
	t.Helper()
	c := newCaddy(t)
	require.NoError(t, c.load(options, sites))
	return c
}

// startCaddyJSON is startCaddy with the JSON of apps.
func startCaddyJSON(t testing.TB, apps string) *running {
	t.Helper()
	c := newCaddy(t)
	require.NoError(t, c.loadJSON(apps))
	return c
}

// newCaddy prepares a Caddy that runs nothing yet.
func newCaddy(t testing.TB) *running {
	t.Helper()
	c := &running{t: t, logs: logCapture{all: new(logEntries)}, dir: t.TempDir(), grace: time.Second}
	captured.Store(c.logs.all)
	t.Cleanup(c.stop)
	return c
}

// stop stops Caddy. That must not hang, whatever the test left behind.
func (c *running) stop() {
	stopped := make(chan error, 1)
	go func() { stopped <- caddy.Stop() }()
	select {
	case err := <-stopped:
		assert.NoError(c.t, err)
	case <-time.After(patience):
		assert.Fail(c.t, "Caddy does not stop")
	}
}

// load makes this the running config, or returns an error and leaves the last one.
func (c *running) load(options, sites string) error {
	return c.loadCaddyfile(c.caddyfile(options, sites))
}

// loadCaddyfile is load with a whole Caddyfile.
func (c *running) loadCaddyfile(text string) error {
	config, err := adapt(text)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// unlogged are Caddy's events. To log them at the debug level, a handshake reads what the TLS
// app still writes when it starts, which may be after HTTP/3: a race of Caddy's own.
const unlogged = "events"

// loadJSON is load with the JSON of apps.
func (c *running) loadJSON(apps string) error {
	return caddy.Load(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"storage": {"module": "file_system", "root": %q},
		"logging": {"logs": {"default": {"level": "DEBUG", "exclude": [%q], "writer": {"output": "proxy_protocol_test"}, "encoder": {"format": "json"}}}},
		"apps": %s
	}`, c.dir, unlogged, apps), true)
}

// caddyfile is the whole Caddyfile for some global options and sites.
func (c *running) caddyfile(options, sites string) string {
	return fmt.Sprintf(`{
		admin off
		persist_config off
		skip_install_trust
		grace_period %s
		storage file_system %s
		log {
			output proxy_protocol_test
			format json
			level DEBUG
			exclude %s
		}
		%s
	}
	%s
	`, c.grace, strconv.Quote(c.dir), unlogged, options, sites)
}

// wrappers are the global options that put listener wrappers on all servers.
func wrappers(lines string) string { return "servers {\nlistener_wrappers {\n" + lines + "\n}\n}\n" }

// plainSite is an HTTP site on loopback that answers the address it sees.
func plainSite(port int) string {
	return fmt.Sprintf("http://:%d {\nbind %s\nlog\nrespond {remote}\n}\n", port, strings.Join(loopbacks(), " "))
}

// secureSite is an HTTPS site on loopback that answers the address it sees.
func secureSite(t testing.TB, port int) string {
	return fmt.Sprintf("https://localhost:%d {\nbind %s\ntls %s\nlog\nrespond {remote}\n}\n", port, strings.Join(loopbacks(), " "), tlsFiles(t))
}

// adapt makes JSON of a Caddyfile.
func adapt(text string) ([]byte, error) {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	for _, warning := range warnings {
		if err == nil && !strings.Contains(warning.Message, "not formatted") {
			err = errors.New(warning.String())
		}
	}
	return config, err
}

// Logs

// captured is what the log writer of this name writes to.
var captured atomic.Pointer[logEntries]

func init() { caddy.RegisterModule(testLogWriter{}) }

type testLogWriter struct{}

func (testLogWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.proxy_protocol_test",
		New: func() caddy.Module { return new(testLogWriter) },
	}
}

func (testLogWriter) String() string                                  { return "proxy_protocol_test" }
func (testLogWriter) WriterKey() string                               { return "proxy_protocol_test" }
func (testLogWriter) OpenWriter() (io.WriteCloser, error)             { return testLogWriter{}, nil }
func (testLogWriter) Close() error                                    { return nil }
func (testLogWriter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

// beforeWrite is called with each line before it is captured, unless it is nil: a log writer
// is another module's code.
var beforeWrite atomic.Pointer[func(line []byte)]

func (testLogWriter) Write(p []byte) (int, error) {
	if before := beforeWrite.Load(); before != nil {
		(*before)(p)
	}
	return captured.Load().Write(p)
}

// testAccept is a listener wrapper that logs the connections that Caddy accepts. Below
// `proxy_protocol_mode`, it tells when the timeout starts to run.
type testAccept struct{ logger *zap.Logger }

const testAcceptName = "proxy_protocol_test"

func init() { caddy.RegisterModule(testAccept{}) }

func (testAccept) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners." + testAcceptName,
		New: func() caddy.Module { return new(testAccept) },
	}
}

func (a *testAccept) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	return nil
}

func (*testAccept) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (a *testAccept) WrapListener(l net.Listener) net.Listener {
	return testAcceptListener{l, a.logger}
}

type testAcceptListener struct {
	net.Listener
	logger *zap.Logger
}

func (l testAcceptListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.logger.Debug("accepted", zap.Stringer("peer", c.RemoteAddr()), zap.Stringer("local", c.LocalAddr()))
	}
	return c, err
}

// fields are those of a log entry, or the ones it must have. The name of a nested field
// has dots: "request.remote_ip".
type fields map[string]any

func (f fields) get(name string) any {
	var value any = map[string]any(f)
	for part := range strings.SplitSeq(name, ".") {
		nested, _ := value.(map[string]any)
		value = nested[part]
	}
	return value
}

func (f fields) str(name string) string { s, _ := f.get(name).(string); return s }

func (f fields) has(want fields) bool {
	for name, value := range want {
		if f.get(name) != value {
			return false
		}
	}
	return true
}

// The fields that say what an entry is.
var (
	// A sub-logger of the module would have another name.
	ofModule = fields{"logger": "caddy.listeners.proxy_protocol_mode"}
	ofAccess = fields{"msg": "handled request"}
	ofAccept = fields{"logger": "caddy.listeners." + testAcceptName}
)

// with returns these fields and those.
func (f fields) with(more fields) fields {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

// logCapture has the log entries of one test, in order, or those from a point on.
type logCapture struct {
	all  *logEntries
	from int
}

type logEntries struct {
	mu      sync.Mutex
	entries []fields
}

func (l *logEntries) Write(line []byte) (int, error) {
	var entry fields
	if err := json.Unmarshal(line, &entry); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return len(line), nil
}

// tail has the entries from now on.
func (l logCapture) tail() logCapture {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	return logCapture{l.all, len(l.all.entries)}
}

// forget gives up all entries: what tests keep is not the memory of Caddy.
func (l logCapture) forget() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.all.entries = nil
}

// find returns the entries so far that have all these fields.
func (l logCapture) find(want fields) []fields {
	l.all.mu.Lock()
	entries := l.all.entries[l.from:]
	l.all.mu.Unlock() // entries do not change
	var found []fields
	for _, entry := range entries {
		if entry.has(want) {
			found = append(found, entry)
		}
	}
	return found
}

// waitFor returns the first entry that has all these fields.
func (l logCapture) waitFor(t testing.TB, want fields) fields {
	t.Helper()
	var found []fields
	eventually(t, func() bool {
		found = l.find(want)
		return len(found) > 0
	}, "no log entry with %v", want)
	return found[0]
}

// refusals returns the refusals so far that have all these fields.
func (l logCapture) refusals(want fields) []fields {
	var found []fields
	for _, entry := range l.find(ofModule.with(want)) {
		if entry.get("reason") != nil {
			found = append(found, entry)
		}
	}
	return found
}

// waitForRefusal returns the one refusal that has all these fields.
func (l logCapture) waitForRefusal(t testing.TB, want fields) fields {
	t.Helper()
	var found []fields
	eventually(t, func() bool {
		found = l.refusals(want)
		return len(found) > 0
	}, "no refusal with %v", want)
	require.Len(t, found, 1)
	return found[0]
}

// warnings returns the messages so far that the module logged about the config.
func (l logCapture) warnings() []string {
	var messages []string
	for _, entry := range l.find(ofModule.with(fields{"level": "warn"})) {
		if entry.get("peer") == nil {
			messages = append(messages, entry.str("msg"))
		}
	}
	return messages
}

// eventually is require.Eventually that looks at once, and from the test's goroutine.
func eventually(t testing.TB, condition func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(tick) {
		if time.Now().After(deadline) {
			require.Fail(t, fmt.Sprintf(format, args...))
		}
	}
}

// Addresses

// freePort returns a port that nobody listens at.
func freePort(t testing.TB) int {
	t.Helper()
	return freeport.Get(t)
}

// loopbacks are the loopback addresses of this machine; it may have no IPv6.
func loopbacks() []string { return freeport.Loopbacks() }

// needIPv6 skips a test on a machine without IPv6.
func needIPv6(t testing.TB) {
	t.Helper()
	if len(loopbacks()) < 2 {
		t.Skip("no IPv6 here")
	}
}

// socketPath returns a path for a Unix socket. Those of t.TempDir may be too long.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// endpoint is where to connect to.
type endpoint struct{ network, address string }

func tcp4(port int) endpoint          { return endpoint{"tcp", fmt.Sprintf("127.0.0.1:%d", port)} }
func tcp6(port int) endpoint          { return endpoint{"tcp", fmt.Sprintf("[::1]:%d", port)} }
func unixSocket(path string) endpoint { return endpoint{"unix", path} }

// open connects. The client's end of a Unix socket has a name, in dir, if that is not empty.
func (e endpoint) open(ctx context.Context, dir string) (net.Conn, error) {
	var dialer net.Dialer
	if e.network == "unix" && dir != "" {
		path := filepath.Join(dir, strconv.FormatUint(clients.Add(1), 36))
		dialer.LocalAddr = &net.UnixAddr{Name: path, Net: "unix"}
		defer os.Remove(path)
	}
	return dialer.DialContext(ctx, e.network, e.address)
}

var clients atomic.Uint64

// Bytes

// dial connects, with a deadline for all that a test does.
func dial(t testing.TB, e endpoint) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := e.open(ctx, "")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// send writes.
func send(t testing.TB, c net.Conn, parts ...string) {
	t.Helper()
	for _, part := range parts {
		_, err := io.WriteString(c, part)
		require.NoError(t, err)
	}
}

// readResponse reads one HTTP/1.1 response and its body.
func readResponse(t testing.TB, c net.Conn) (*http.Response, string) {
	t.Helper()
	// One byte at a time, so that nothing behind it is lost.
	response, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

// requireRefused asserts that the connection is closed without a byte.
func requireRefused(t testing.TB, c net.Conn) {
	t.Helper()
	var b [512]byte
	n, err := c.Read(b[:])
	require.Zero(t, n, "got %q", b[:n])
	requireClosed(t, err)
}

// requireClosed asserts that a read failed because the other end closed the connection.
// What the other end had not read by then makes it a reset instead of an EOF.
func requireClosed(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.False(t, isTimeout(err), "still open: %v", err)
	require.NotErrorIs(t, err, net.ErrClosed, "closed by this end")
}

// Headers

var (
	client4 = netip.MustParseAddrPort("203.0.113.7:51234")
	server4 = netip.MustParseAddrPort("192.0.2.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8::7]:51234")
	server6 = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

// encode is the text of a header. It panics on a wrong one, so that tables can use it.
func encode(h wire.Header, err error) string { return encodeTLVs(h, err, false) }

// encodeTLVs is encode with TLVs.
func encodeTLVs(h wire.Header, err error, checksum bool, tlvs ...wire.TLV) string {
	if err != nil {
		panic(err)
	}
	b, err := wire.Append(nil, h, tlvs, checksum)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// v1 and v2 are the text of a header of a TCP connection.
func v1(src, dst netip.AddrPort) string { return encode(wire.NewProxy(1, wire.Stream, src, dst)) }
func v2(src, dst netip.AddrPort) string { return encode(wire.NewProxy(2, wire.Stream, src, dst)) }

// local is the text of a LOCAL header.
func local() string { return encode(wire.NewLocal(), nil) }

// unknown is the text of a header of a connection without known addresses.
func unknown(version uint8) string { return encode(wire.NewUnknown(version), nil) }

// TLS

// testCertificate is a certificate for any host here, and whom to trust for it.
var testCertificate = sync.OnceValue(func() (c struct {
	certPEM, keyPEM []byte
	roots           *x509.CertPool
}) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "proxyprotocol test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"localhost", "*.test"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	c.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	c.roots = x509.NewCertPool()
	c.roots.AppendCertsFromPEM(c.certPEM)
	return c
})

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// tlsFiles writes the test certificate for the site directive `tls <cert> <key>`, of
// which it returns the arguments.
func tlsFiles(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, testCertificate().certPEM, 0o600))
	require.NoError(t, os.WriteFile(key, testCertificate().keyPEM, 0o600))
	return strconv.Quote(cert) + " " + strconv.Quote(key)
}

// clientTLS trusts the test certificate.
func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{ServerName: "localhost", RootCAs: testCertificate().roots, NextProtos: protocols}
}

// Requests

// transport is how a request is sent.
type transport string

const (
	http1  transport = "HTTP1"
	h2c    transport = "h2c"
	https1 transport = "HTTPS1"
	https2 transport = "HTTPS2"
)

var transports = []transport{http1, h2c, https1, https2}

func (tr transport) isTLS() bool { return tr == https1 || tr == https2 }

// url is that of a path.
func (tr transport) url(path string) string {
	if tr.isTLS() {
		return "https://localhost" + path
	}
	return "http://localhost" + path
}

// client sends requests in this way over connections that dial makes.
func (tr transport) client(dial func(ctx context.Context) (net.Conn, error)) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(tr == http1 || tr == https1)
	protocols.SetHTTP2(tr == https2)
	protocols.SetUnencryptedHTTP2(tr == h2c)
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			Protocols:       protocols,
			TLSClientConfig: clientTLS(),
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// sender sends requests over new connections, each of which begins with the preamble.
func sender(t testing.TB, tr transport, e endpoint, preamble string) *http.Client {
	client := tr.client(func(ctx context.Context) (net.Conn, error) {
		c, err := e.open(ctx, "")
		if err == nil {
			_, err = io.WriteString(c, preamble)
		}
		return c, err
	})
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// get sends a request over a new connection that begins with the preamble, and returns
// the response and its body.
func get(t testing.TB, tr transport, e endpoint, preamble, path string) (*http.Response, string) {
	t.Helper()
	response, body, err := tryGet(t, tr, e, preamble, path)
	require.NoError(t, err)
	return response, body
}

func tryGet(t testing.TB, tr transport, e endpoint, preamble, path string) (*http.Response, string, error) {
	t.Helper()
	client := sender(t, tr, e, preamble)
	defer client.CloseIdleConnections()
	response, err := client.Get(tr.url(path))
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(response.Body)
	return response, body.String(), err
}
