package proxyprotocol_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/cputime"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// headerConn is a client's socket that puts a header before each datagram. It costs the
// client the same with an empty header.
type headerConn struct {
	net.PacketConn
	header string
	next   func() string // the next header, if each is another
	buffer []byte
}

func (c *headerConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if c.next != nil {
		c.header = c.next()
	}
	c.buffer = append(append(c.buffer[:0], c.header...), p...)
	n, err := c.PacketConn.WriteTo(c.buffer, addr)
	return max(0, n-len(c.header)), err
}

func (c *headerConn) SetReadBuffer(n int) error { return c.PacketConn.(*net.UDPConn).SetReadBuffer(n) }

func (c *headerConn) SetWriteBuffer(n int) error {
	return c.PacketConn.(*net.UDPConn).SetWriteBuffer(n)
}

// newHeaderClient is an HTTP/3 client that puts a header before each datagram.
func newHeaderClient(t testing.TB, udp *headerConn, port int) *http3.Transport {
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	transport := &quic.Transport{Conn: udp}
	client := &http3.Transport{
		TLSClientConfig:    caddytest.ClientTLS(http3.NextProtoH3),
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return transport.Dial(ctx, to, tlsConfig, config)
		},
	}
	t.Cleanup(func() {
		client.Close()
		transport.Close()
	})
	return client
}

// roundTrip sends a request that must be answered with 200 and returns the body.
func roundTrip(t testing.TB, client *http3.Transport, method, path string, body io.Reader) string {
	r, err := http.NewRequestWithContext(t.Context(), method, "https://localhost"+path, body)
	require.NoError(t, err)
	response, err := client.RoundTrip(r)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)
	return string(text)
}

// BenchmarkHTTP3 compares HTTP/3 behind the packet wrapper with Caddy's own.
func BenchmarkHTTP3(b *testing.B) {
	dir := b.TempDir()
	const size = 16 << 20
	require.NoError(b, os.WriteFile(filepath.Join(dir, "big"), make([]byte, size), 0o600))
	for _, bench := range []struct{ name, wrapper, header string }{
		{"unwrapped", "", ""},
		{"off", "off", ""},
		{"on", "on", headertest.UDP(headertest.Client4, headertest.Server4)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			port := caddytest.FreePort(b)
			caddytest.Start(b, caddytest.Packets("", bench.wrapper), fmt.Sprintf(
				"https://localhost:%d {\nbind 127.0.0.1\ntls %s\nhandle /big {\nroot %s\nfile_server\n}\nhandle /up {\nreverse_proxy 127.0.0.1:%d\n}\nrespond ok\n}\n",
				port, caddytest.CertificateFiles(b), dir, sink(b, make(chan int64, 1))))
			client := newHeaderClient(b, &headerConn{PacketConn: caddytest.ListenUDP(b, "127.0.0.1"), header: bench.header}, port)
			do := func(b *testing.B, method, path string, body io.Reader, want int64) {
				r, err := http.NewRequest(method, "https://localhost"+path, body)
				require.NoError(b, err)
				response, err := client.RoundTrip(r)
				require.NoError(b, err)
				n, err := io.Copy(io.Discard, response.Body)
				require.NoError(b, err)
				require.Equal(b, http.StatusOK, response.StatusCode)
				require.Equal(b, want, n)
				response.Body.Close()
			}
			b.Run("request", func(b *testing.B) {
				b.ReportAllocs()
				defer cputime.Report(b)()
				for b.Loop() {
					do(b, http.MethodGet, "/", nil, 2)
				}
			})
			b.Run("download", func(b *testing.B) {
				b.SetBytes(size)
				defer cputime.Report(b)()
				for b.Loop() {
					do(b, http.MethodGet, "/big", nil, size)
				}
			})
			b.Run("upload", func(b *testing.B) {
				b.SetBytes(size)
				defer cputime.Report(b)()
				for b.Loop() {
					do(b, http.MethodPost, "/up", io.LimitReader(zeros{}, size), 0)
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sink is a server that reads the bodies of requests. It sends their sizes to received, unless
// that is full.
func sink(t testing.TB, received chan<- int64) (port int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		select {
		case received <- n:
		default:
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().(*net.TCPAddr).Port
}
