package proxyprotocol

// What the tests of placeholders, matchers and the site directive have in common.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Servers

// unwrapped is a server without the listener wrapper, where others have their mode.
const unwrapped = "unwrapped"

// farm is a Caddy with a plain and a TLS server for each of some modes, and the same site
// on all of them.
type farm struct {
	*running
	plain, secure map[string]int
}

// startFarm runs servers of these modes. Their site has this content.
func startFarm(t testing.TB, modes []string, options, site string) *farm {
	t.Helper()
	f := &farm{running: newCaddy(t), plain: make(map[string]int), secure: make(map[string]int)}
	require.NoError(t, f.load(f.config(t, modes, options, site)))
	return f
}

// config gives the servers ports.
func (f *farm) config(t testing.TB, modes []string, options, site string) (globalOptions, sites string) {
	t.Helper()
	// Requests of other tests must not come to a server of this one by its default port.
	options += "\nauto_https disable_redirects"
	cert := tlsFiles(t)
	for _, mode := range modes {
		if f.plain[mode] != 0 {
			continue
		}
		f.plain[mode], f.secure[mode] = freePort(t), freePort(t)
		wrapper := "proxy_protocol_mode " + mode + "\ntls"
		if mode == unwrapped {
			wrapper = ""
		}
		options += serverOptions(f.plain[mode], wrapper, "protocols h1 h2c") + serverOptions(f.secure[mode], wrapper, "protocols h1 h2")
		sites += fmt.Sprintf("http://:%d {\n%s\n}\nhttps://localhost:%d {\ntls %s\n%s\n}\n", f.plain[mode], site, f.secure[mode], cert, site)
	}
	return options, sites
}

// serverOptions are the global options of the server on a port.
func serverOptions(port int, wrappers string, more ...string) string {
	if wrappers != "" {
		wrappers = "listener_wrappers {\n" + wrappers + "\n}\n"
	}
	return fmt.Sprintf("\nservers :%d {\n%s%s\n}\n", port, wrappers, strings.Join(more, "\n"))
}

// at is the server of a mode for a transport.
func (f *farm) at(mode string, tr transport) endpoint {
	if tr.isTLS() {
		return tcp4(f.secure[mode])
	}
	return tcp4(f.plain[mode])
}

func init() { caddy.RegisterModule(hidingWrapper{}) }

// hidingWrapper is a listener wrapper whose connections have no other methods than those
// of net.Conn, and no way to the connection below.
type hidingWrapper struct{}

func (hidingWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.proxy_protocol_test_hide",
		New: func() caddy.Module { return new(hidingWrapper) },
	}
}

func (hidingWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (hidingWrapper) WrapListener(l net.Listener) net.Listener        { return hidingListener{l} }

type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

// runningServer is the server that listens at a port.
func runningServer(t testing.TB, port int) *caddyhttp.Server {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	for _, server := range app.(*caddyhttp.App).Servers {
		if slices.Contains(server.Listen, fmt.Sprintf(":%d", port)) {
			return server
		}
	}
	require.Fail(t, "no such server", "port %d", port)
	return nil
}

// Connections

// session sends requests over one connection that begins with a preamble.
type session struct {
	t      testing.TB
	tr     transport
	client *http.Client
	// peer is this end of the connection, once there was a request.
	peer net.Addr
	// dials counts connections.
	dials int
}

func newSession(t testing.TB, tr transport, e endpoint, preamble string) *session {
	t.Helper()
	s := &session{t: t, tr: tr}
	s.client = tr.client(func(ctx context.Context) (net.Conn, error) {
		c, err := e.open(ctx, "")
		if err != nil {
			return nil, err
		}
		s.dials++
		s.peer = c.LocalAddr()
		_, err = io.WriteString(c, preamble)
		return c, err
	})
	// Else it may connect while the connection of the last request is not idle yet.
	s.client.Transport.(*http.Transport).MaxConnsPerHost = 1
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// get requests a path. Header fields come in pairs.
func (s *session) get(path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.tr.url(path), nil)
	require.NoError(s.t, err)
	for ; len(header) > 0; header = header[2:] {
		if header[0] == "Host" {
			r.Host = header[1]
		}
		r.Header.Set(header[0], header[1])
	}
	response, err := s.client.Do(r)
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response, string(body)
}

// present makes the session one of a client with this certificate.
func (s *session) present(c clientCertificate) {
	s.client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{c.tls}
}

// close ends the connection.
func (s *session) close() { s.client.CloseIdleConnections() }

// Headers

// v2With is the text of a v2 header of a TCP connection with TLVs.
func v2With(tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Stream, client4, server4)
	return encodeTLVs(h, err, false, tlvs...)
}

// textTLV is one with text in it.
func textTLV(typ wire.Type, value string) wire.TLV { return wire.TLV{Type: typ, Value: []byte(value)} }

// sslTLV is a pp2_ssl (specification, section 2.2.6).
func sslTLV(client byte, verify uint32, sub ...wire.TLV) wire.TLV {
	value := binary.BigEndian.AppendUint32([]byte{client}, verify)
	for _, s := range sub {
		value = append(value, byte(s.Type))
		value = binary.BigEndian.AppendUint16(value, uint16(len(s.Value)))
		value = append(value, s.Value...)
	}
	return wire.TLV{Type: wire.TypeSSL, Value: value}
}

// The bits of a pp2_ssl's client field.
const (
	sslUsed     = 0x01
	sslCertConn = 0x02
	sslCertSess = 0x04
)

// Certificates of clients

// clientCertificate is a certificate and what it was signed with.
type clientCertificate struct {
	tls    tls.Certificate
	der    []byte
	base64 string
}

// clientCA signs the certificates of clients.
var clientCA = sync.OnceValue(func() (ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "proxyprotocol test clients"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	ca.cert, err = x509.ParseCertificate(der)
	must(err)
	ca.key = key
	return ca
})

// clientCert is a certificate of a client that is good for these addresses.
func clientCert(t testing.TB, ips ...string) clientCertificate {
	t.Helper()
	ca := clientCA()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "client.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"not-an-address.test"},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	require.NoError(t, err)
	return clientCertificate{
		tls:    tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		der:    der,
		base64: base64.StdEncoding.EncodeToString(der),
	}
}

// startTLS makes a connection one of TLS.
func startTLS(t testing.TB, c net.Conn, config *tls.Config) net.Conn {
	t.Helper()
	secure := tls.Client(c, config)
	require.NoError(t, secure.Handshake())
	return secure
}

// readAll reads until the other end closes the connection.
func readAll(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(b)
}

// Requests without a Caddy

// newTestConn is a connection that began like this.
func newTestConn(mode Mode, beginning string) *conn {
	rules, _ := connRules(mode)
	c := connOf(connSays(beginning), rules)
	c.RemoteAddr() // judges it
	return c
}

// requestOn is a request on a connection, as Caddy prepares it.
func requestOn(c *conn) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	ctx := context.WithValue(r.Context(), http.LocalAddrContextKey, c.LocalAddr())
	r.RemoteAddr = c.RemoteAddr().String()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: host})
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{RemoteAddr: r.RemoteAddr})
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	return r.WithContext(ctx)
}

// placeholderOf is what the replacer of a request says of http.proxy_protocol with this
// behind it.
func placeholderOf(t testing.TB, r *http.Request, name string) (value any, known bool) {
	t.Helper()
	match, err := placeholders{}.MatchWithError(r)
	require.NoError(t, err)
	require.False(t, match)
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Get("http.proxy_protocol" + name)
}

// withoutLocalAddr is the context of a request whose connection nothing is known of.
type withoutLocalAddr struct{ context.Context }

func (c withoutLocalAddr) Value(key any) any {
	if key == http.LocalAddrContextKey {
		return nil
	}
	return c.Context.Value(key)
}

// tlsState is that of a request with or without a complete handshake.
func tlsState(complete bool) *tls.ConnectionState {
	return &tls.ConnectionState{HandshakeComplete: complete}
}

// Golden files

var update = flag.Bool("update", false, "write the golden files in testdata instead of comparing with them")

// requireGolden compares with a file in testdata.
func requireGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run this test with -update")
	require.Equal(t, string(want), got, "if the change is meant, run this test with -update")
}

// matches is what a matcher says without an error.
func matches(t testing.TB, m caddyhttp.RequestMatcherWithError, r *http.Request) bool {
	t.Helper()
	match, err := m.MatchWithError(r)
	require.NoError(t, err)
	return match
}
