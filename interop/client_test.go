//go:build interop

package interop

// This file has the clients of load balancers, and the backend behind Caddy.

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

// protocol is the protocol between client and load balancer, and between load balancer and Caddy.
type protocol struct {
	name  string
	http2 bool
	tls   bool   // whether the client uses TLS
	ends  tlsEnd // where the client's TLS connection ends
}

// tlsEnd is the place at which the client's TLS connection ends.
type tlsEnd int

const (
	atCaddy    tlsEnd = iota // at Caddy: the load balancer passes TLS through
	atBalancer               // at the load balancer, which connects to Caddy without TLS
	atBoth                   // at the load balancer, which connects to Caddy with TLS
)

// The protocols of tests.
var (
	http1         = protocol{name: "HTTP1"}
	h2c           = protocol{name: "h2c", http2: true}
	http1Through  = protocol{name: "HTTPS1 passed through", tls: true, ends: atCaddy}
	http2Through  = protocol{name: "HTTPS2 passed through", http2: true, tls: true, ends: atCaddy}
	http1Ended    = protocol{name: "HTTPS1 ended", tls: true, ends: atBalancer}
	http2Ended    = protocol{name: "HTTPS2 ended", http2: true, tls: true, ends: atBalancer}
	http1Repeated = protocol{name: "HTTPS1 ended and begun again", tls: true, ends: atBoth}
	http2Repeated = protocol{name: "HTTPS2 ended and begun again", http2: true, tls: true, ends: atBoth}
)

// balancerTLS reports whether the client's TLS connection ends at the load balancer.
func (p protocol) balancerTLS() bool { return p.tls && p.ends != atCaddy }

// caddyTLS reports whether a TLS connection ends at Caddy: the client's or the load balancer's.
func (p protocol) caddyTLS() bool { return p.tls && p.ends != atBalancer }

// alpn returns the name of the version of HTTP in TLS.
func (p protocol) alpn() string {
	if p.http2 {
		return "h2"
	}
	return "http/1.1"
}

// version returns the name of the version of HTTP in logs.
func (p protocol) version() string {
	if p.http2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// client is a client of a load balancer. All its requests use one connection.
type client struct {
	protocol
	*http.Client
	tls *tls.Config
	// ip is the IP address from which the client connects.
	ip string
	// address is the address of the load balancer.
	address string
	// local is the client's end of the latest connection. It is empty before the first request.
	local string
	// dials is the number of connections so far.
	dials int
	// received is the number of bytes that the client has received.
	received atomic.Int64
}

// newClient returns a client of the load balancer at an address. The client presents the last of
// the certificates, if there is one.
func newClient(t testing.TB, p protocol, f family, address string, roots authority, certificates ...certificate) *client {
	t.Helper()
	c := &client{protocol: p, ip: f.client(), address: address}
	c.tls = &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool(), NextProtos: []string{p.alpn()}}
	c.tls.RootCAs.AddCert(roots.cert)
	for _, certificate := range certificates {
		// The certificate is sent even if the server does not name its authority.
		c.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &certificate.tls, nil
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!p.http2)
	protocols.SetHTTP2(p.http2 && p.tls)
	protocols.SetUnencryptedHTTP2(p.http2 && !p.tls)
	c.Client = &http.Client{
		Timeout: 3 * patience,
		Transport: &http.Transport{
			Protocols:       protocols,
			TLSClientConfig: c.tls,
			MaxConnsPerHost: 1,
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		},
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// dial opens a connection and counts it.
func (c *client) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.ip)}}
	conn, err := dialer.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	c.local = conn.LocalAddr().String()
	c.dials++
	return receiving{conn, &c.received}, nil
}

// receiving is a connection that counts the received bytes.
type receiving struct {
	net.Conn
	count *atomic.Int64
}

func (r receiving) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.count.Add(int64(n))
	return n, err
}

// url returns the URL of a path.
func (c *client) url(path string) string {
	if c.protocol.tls {
		return "https://localhost" + path
	}
	return "http://localhost" + path
}

// requests counts requests, so that each gets a path of its own.
var requests atomic.Int64

// ask sends a request, and returns the site's answer, the log entry of the request and the state of
// the client's TLS connection, which is nil without TLS. header has the names and values of header
// fields in turn.
func (c *client) ask(t testing.TB, logs logFile, header ...string) (answer, entry, *tls.ConnectionState) {
	t.Helper()
	path := fmt.Sprintf("/%d", requests.Add(1))
	request, err := http.NewRequest(http.MethodGet, c.url(path), nil)
	require.NoError(t, err)
	for ; len(header) > 0; header = header[2:] {
		request.Header.Set(header[0], header[1])
	}
	response, err := c.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	a := readAnswer(t, response.Body)
	e := logs.waitFor(t, func(e entry) bool { return e.Message == "handled request" && e.Request.URI == path })
	return a, e, response.TLS
}

// transferSize is the number of bytes of an upload or a download.
const transferSize = 64 << 20

// transfer returns the contents of uploads and downloads: pseudorandom bytes, always the same.
func transfer() io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{}), transferSize)
}

// sum reads r to its end and returns the checksum.
func sum(r io.Reader) (string, error) {
	hash := sha256.New()
	_, err := io.Copy(hash, r)
	return hex.EncodeToString(hash.Sum(nil)), err
}

// transferSum returns the checksum of transfer.
var transferSum = sync.OnceValues(func() (string, error) { return sum(transfer()) })

// startBackend runs a backend of Caddy until the test ends, and returns its address. The backend
// serves downloads, answers uploads with their checksum and echoes WebSocket messages. It also
// returns the client's address that it got from Caddy in X-Forwarded-For.
func startBackend(t testing.TB) string {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /backend/download", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Client", r.Header.Get("X-Forwarded-For"))
		_, _ = io.Copy(w, transfer())
	})
	mux.HandleFunc("POST /backend/upload", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Client", r.Header.Get("X-Forwarded-For"))
		text, err := sum(r.Body)
		if err != nil {
			text = err.Error()
		}
		_, _ = io.WriteString(w, text)
	})
	mux.Handle("GET /backend/websocket", websocket.Handler(func(conn *websocket.Conn) {
		if websocket.Message.Send(conn, conn.Request().Header.Get("X-Forwarded-For")) == nil {
			_, _ = io.Copy(conn, conn)
		}
	}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// download gets a large file, and asserts its contents and the client's address.
func (c *client) download(t testing.TB) {
	t.Helper()
	want, err := transferSum()
	require.NoError(t, err)
	response, err := c.Get(c.url("/backend/download"))
	require.NoError(t, err)
	defer response.Body.Close()
	got, err := sum(response.Body)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, c.ip, response.Header.Get("X-Client"))
}

// upload sends a large file, and asserts the received contents and the client's address.
func (c *client) upload(t testing.TB) {
	t.Helper()
	want, err := transferSum()
	require.NoError(t, err)
	response, err := c.Post(c.url("/backend/upload"), "application/octet-stream", transfer())
	require.NoError(t, err)
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Equal(t, want, string(got))
	assert.Equal(t, c.ip, response.Header.Get("X-Client"))
}

// websocket opens a connection of its own, and asserts the client's address and that messages come
// back.
func (c *client) websocket(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := c.dial(ctx)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	if c.protocol.tls {
		conn = tls.Client(conn, c.tls)
	}
	config, err := websocket.NewConfig("ws://localhost/backend/websocket", "http://localhost")
	require.NoError(t, err)
	ws, err := websocket.NewClient(config, conn)
	require.NoError(t, err)
	var message string
	require.NoError(t, websocket.Message.Receive(ws, &message))
	assert.Equal(t, c.ip, message)
	for i := range 3 {
		sent := fmt.Sprintf("message %d", i)
		require.NoError(t, websocket.Message.Send(ws, sent))
		require.NoError(t, websocket.Message.Receive(ws, &message))
		assert.Equal(t, sent, message)
	}
}
