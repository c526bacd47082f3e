package caddytest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// Transport is a way to send requests over TCP.
type Transport string

// The transports. H2C is HTTP/2 without TLS, with prior knowledge.
const (
	HTTP1  Transport = "HTTP1"
	H2C    Transport = "h2c"
	HTTPS1 Transport = "HTTPS1"
	HTTPS2 Transport = "HTTPS2"
)

// Transports has all transports.
var Transports = []Transport{HTTP1, H2C, HTTPS1, HTTPS2}

// IsTLS reports whether requests are sent over TLS.
func (tr Transport) IsTLS() bool { return tr == HTTPS1 || tr == HTTPS2 }

// URL returns the URL of a path.
func (tr Transport) URL(path string) string {
	if tr.IsTLS() {
		return "https://localhost" + path
	}
	return "http://localhost" + path
}

// Client returns an HTTP client of the transport, whose connections come from dial.
func (tr Transport) Client(dial func(ctx context.Context) (net.Conn, error)) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(tr == HTTP1 || tr == HTTPS1)
	protocols.SetHTTP2(tr == HTTPS2)
	protocols.SetUnencryptedHTTP2(tr == H2C)
	return &http.Client{
		Timeout: Patience,
		Transport: &http.Transport{
			Protocols:       protocols,
			TLSClientConfig: ClientTLS(),
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Sender returns an HTTP client whose connections begin with a preamble.
func Sender(t testing.TB, tr Transport, e Endpoint, preamble string) *http.Client {
	client := tr.Client(func(ctx context.Context) (net.Conn, error) {
		c, err := e.Open(ctx, "")
		if err == nil {
			_, err = io.WriteString(c, preamble)
		}
		return c, err
	})
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// Get sends a request over a new connection that begins with the preamble, and returns
// the response and its body.
func Get(t testing.TB, tr Transport, e Endpoint, preamble, path string) (*http.Response, string) {
	t.Helper()
	response, body, err := TryGet(t, tr, e, preamble, path)
	require.NoError(t, err)
	return response, body
}

// TryGet is Get for a request that may fail: it returns the error.
func TryGet(t testing.TB, tr Transport, e Endpoint, preamble, path string) (*http.Response, string, error) {
	t.Helper()
	client := Sender(t, tr, e, preamble)
	defer client.CloseIdleConnections()
	response, err := client.Get(tr.URL(path))
	if err != nil {
		return nil, "", err
	}
	body, err := readBody(response)
	return response, body, err
}

// readBody reads and closes the body of a response.
func readBody(response *http.Response) (string, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// Session sends requests over one connection that begins with a preamble.
type Session struct {
	t  testing.TB
	tr Transport
	// Client sends the requests.
	Client *http.Client
	// Peer is the client's end of the latest connection. It is nil before the first request.
	Peer net.Addr
	// Dials is the number of connections so far.
	Dials int
}

// NewSession returns a session. It connects with the first request.
func NewSession(t testing.TB, tr Transport, e Endpoint, preamble string) *Session {
	t.Helper()
	s := &Session{t: t, tr: tr}
	s.Client = tr.Client(func(ctx context.Context) (net.Conn, error) {
		c, err := e.Open(ctx, "")
		if err != nil {
			return nil, err
		}
		s.Dials++
		s.Peer = c.LocalAddr()
		_, err = io.WriteString(c, preamble)
		return c, err
	})
	// Otherwise the client may open a second connection while the first is not idle yet.
	s.Client.Transport.(*http.Transport).MaxConnsPerHost = 1
	t.Cleanup(s.Client.CloseIdleConnections)
	return s
}

// In makes the session report failures to a subtest.
func (s *Session) In(t testing.TB) { s.t = t }

// Get requests a path, and returns the response and its body. header has the names and values of
// header fields in turn.
func (s *Session) Get(path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.tr.URL(path), nil)
	require.NoError(s.t, err)
	for ; len(header) > 0; header = header[2:] {
		if header[0] == "Host" {
			r.Host = header[1]
		}
		r.Header.Set(header[0], header[1])
	}
	response, err := s.Client.Do(r)
	require.NoError(s.t, err)
	body, err := readBody(response)
	require.NoError(s.t, err)
	return response, body
}

// Present makes the client present a certificate in TLS handshakes.
func (s *Session) Present(c ClientCertificate) {
	s.Client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{c.TLS}
}

// Close closes the connection.
func (s *Session) Close() { s.Client.CloseIdleConnections() }
