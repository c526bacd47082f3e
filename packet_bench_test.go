package proxyprotocol

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
)

// headerConn is a client's socket that puts a header before each datagram. It costs the
// client the same with an empty header.
type headerConn struct {
	net.PacketConn
	header string
	buffer []byte
}

func (c *headerConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	c.buffer = append(append(c.buffer[:0], c.header...), p...)
	n, err := c.PacketConn.WriteTo(c.buffer, addr)
	return max(0, n-len(c.header)), err
}

func (c *headerConn) SetReadBuffer(n int) error  { return c.PacketConn.(*net.UDPConn).SetReadBuffer(n) }
func (c *headerConn) SetWriteBuffer(n int) error { return c.PacketConn.(*net.UDPConn).SetWriteBuffer(n) }

// newHeaderClient is an HTTP/3 client that puts a header before each datagram.
func newHeaderClient(t testing.TB, to *net.UDPAddr, header string) *http3.Transport {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	transport := &quic.Transport{Conn: &headerConn{PacketConn: udp, header: header}}
	client := &http3.Transport{
		TLSClientConfig:    clientTLS(http3.NextProtoH3),
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return transport.Dial(ctx, to, tlsConfig, config)
		},
	}
	t.Cleanup(func() {
		client.Close()
		transport.Close()
		udp.Close()
	})
	return client
}

// BenchmarkHTTP3 compares HTTP/3 behind the packet wrapper with Caddy's own.
func BenchmarkHTTP3(b *testing.B) {
	dir := b.TempDir()
	const size = 16 << 20
	require.NoError(b, os.WriteFile(filepath.Join(dir, "big"), make([]byte, size), 0o600))
	for _, bench := range []struct{ name, wrapper, header string }{
		{"unwrapped", "", ""},
		{"off", "off", ""},
		{"on", "on", dgram(client4, server4)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			port := freePort(b)
			startCaddy(b, packets("", bench.wrapper), fmt.Sprintf(
				"https://localhost:%d {\nbind 127.0.0.1\ntls %s\nhandle /big {\nroot %s\nfile_server\n}\nhandle /up {\nreverse_proxy 127.0.0.1:%d\n}\nrespond ok\n}\n",
				port, tlsFiles(b), dir, sink(b)))
			client := newHeaderClient(b, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, bench.header)
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
				for b.Loop() {
					do(b, http.MethodGet, "/", nil, 2)
				}
			})
			b.Run("download", func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					do(b, http.MethodGet, "/big", nil, size)
				}
			})
			b.Run("upload", func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					do(b, http.MethodPost, "/up", io.LimitReader(zeros{}, size), 0)
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sink is a server that reads what it is sent.
func sink(t testing.TB) (port int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().(*net.TCPAddr).Port
}
