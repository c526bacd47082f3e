package caddytest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Dial returns a connection to an endpoint. All reads and writes share one deadline, Patience from
// now. The connection is closed when the test ends.
func Dial(t testing.TB, e Endpoint) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := e.Open(ctx, "")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(Patience)))
	return c
}

// Send writes the parts, each with a Write of its own.
func Send(t testing.TB, c net.Conn, parts ...string) {
	t.Helper()
	for _, part := range parts {
		_, err := io.WriteString(c, part)
		require.NoError(t, err)
	}
}

// ReadResponse reads one HTTP/1.1 response and its body.
func ReadResponse(t testing.TB, c net.Conn) (*http.Response, string) {
	t.Helper()
	// The buffer is as small as bufio allows, so that few bytes behind the response are lost.
	response, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

// RequireRefused asserts that the other end closes the connection without sending a byte.
func RequireRefused(t testing.TB, c net.Conn) {
	t.Helper()
	var b [512]byte
	n, err := c.Read(b[:])
	require.Zero(t, n, "got %q", b[:n])
	RequireClosed(t, err)
}

// RequireClosed asserts that a read failed because the other end closed the connection. The error
// may be io.EOF, or a reset if the other end had not read all bytes.
func RequireClosed(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.False(t, IsTimeout(err), "still open: %v", err)
	require.NotErrorIs(t, err, net.ErrClosed, "closed by this end")
}

// IsTimeout reports whether err means that a deadline has passed.
func IsTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// StartTLS makes a TLS handshake on a connection, and returns the TLS connection.
func StartTLS(t testing.TB, c net.Conn, config *tls.Config) net.Conn {
	t.Helper()
	secure := tls.Client(c, config)
	require.NoError(t, secure.Handshake())
	return secure
}

// ReadAll reads and returns all bytes until the other end closes the connection.
func ReadAll(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(b)
}

// DialFrom is Dial to a port of 127.0.0.1, from the IP address from if it is not empty.
func DialFrom(t testing.TB, from string, port int) net.Conn {
	t.Helper()
	dialer := net.Dialer{Timeout: Patience}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := dialer.DialContext(context.Background(), "tcp", TCP4(port).Address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(Patience)))
	return conn
}

// Request returns the text of an HTTP/1.1 request.
func Request(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }

// ListenUDP returns a UDP socket with any port of an IP address. It is closed when the test ends.
func ListenUDP(t testing.TB, host string) *net.UDPConn {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
	require.NoError(t, err)
	t.Cleanup(func() { udp.Close() })
	return udp
}
