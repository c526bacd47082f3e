package caddytest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
)

// HTTP3Client is an HTTP/3 client with a UDP socket of its own.
type HTTP3Client struct {
	t    testing.TB
	udp  *net.UDPConn
	quic *quic.Transport
	// HTTP sends the requests.
	HTTP *http3.Transport

	mu   sync.Mutex
	last *quic.Conn // latest connection; guarded by mu
}

// NewHTTP3Client returns a client of the server at an address. It is closed when the test ends.
func NewHTTP3Client(t testing.TB, address string) *HTTP3Client {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", address)
	require.NoError(t, err)
	at := net.IPv4(127, 0, 0, 1)
	if to.IP.To4() == nil {
		at = net.IPv6loopback
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at})
	require.NoError(t, err)
	c := &HTTP3Client{t: t, udp: udp, quic: &quic.Transport{Conn: udp}}
	c.HTTP = &http3.Transport{
		TLSClientConfig:    ClientTLS(http3.NextProtoH3),
		QUICConfig:         &quic.Config{HandshakeIdleTimeout: Patience, MaxIdleTimeout: Patience},
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			conn, err := c.quic.DialEarly(ctx, to, tlsConfig, config)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.last = conn
			return conn, err
		},
	}
	t.Cleanup(func() {
		c.HTTP.Close()
		c.quic.Close()
		udp.Close()
	})
	return c
}

// Conn returns the client's latest connection.
func (c *HTTP3Client) Conn() *quic.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Try sends a request and returns the response with its body.
func (c *HTTP3Client) Try(ctx context.Context, method, path string, body io.Reader) (*http.Response, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://localhost"+path, body)
	if err != nil {
		return nil, "", err
	}
	response, err := c.HTTP.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	text, err := readBody(response)
	return response, text, err
}

// Get requests a path, and returns the response and its body.
func (c *HTTP3Client) Get(path string) (*http.Response, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), Patience)
	defer cancel()
	response, body, err := c.Try(ctx, http.MethodGet, path, nil)
	require.NoError(c.t, err)
	return response, body
}

// EventuallyHTTP3 sends requests, each over a new connection, until a response has this status and
// want in its body. Right after a reload, Caddy may lose a new connection, or the last configuration
// may answer.
func EventuallyHTTP3(t testing.TB, address string, status int, want string) (response *http.Response, body string) {
	t.Helper()
	const attempt = Patience / 10
	Eventually(t, func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), attempt)
		defer cancel()
		client := NewHTTP3Client(t, address)
		defer client.HTTP.Close()
		var err error
		response, body, err = client.Try(ctx, http.MethodGet, "/", nil)
		return err == nil && response.StatusCode == status && strings.Contains(body, want)
	}, "not answered with %d %s", status, want)
	return response, body
}
