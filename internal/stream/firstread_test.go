package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

type noWaiter struct{}

func (noWaiter) beforeRead() error { return nil }
func (noWaiter) beforeWait() error { return nil }

// kinds are connections of types that readFirst reads in different ways.
var kinds = []struct {
	name, network string
	wrap          func(net.Conn) net.Conn
}{
	{"TCP over IPv4", "tcp4", nil},
	{"TCP over IPv6", "tcp6", nil},
	{"Unix socket", "unix", nil},
	{"another type", "tcp4", func(c net.Conn) net.Conn { return struct{ net.Conn }{c} }},
}

func TestReadFirst_ReturnsDataThatIsThere(t *testing.T) {
	for _, kind := range kinds {
		for _, size := range []int{1, 100, bufferSize, bufferSize + 1} {
			t.Run(fmt.Sprint(kind.name, "/", size), func(t *testing.T) {
				client, server := socketPair(t, kind.network)
				if kind.wrap != nil {
					server = kind.wrap(server)
				}
				sent := strings.Repeat("x", size)
				type first struct {
					in  *buffer
					err error
				}
				done := async(func() first { in, err := readFirst(server, noWaiter{}); return first{in, err} })
				_, err := io.WriteString(client, sent)
				require.NoError(t, err)
				got := wait(t, done)
				require.NoError(t, got.err)
				require.NotNil(t, got.in)
				require.NotEmpty(t, got.in.data())
				rest := make([]byte, size-len(got.in.data()))
				_, err = io.ReadFull(server, rest)
				require.NoError(t, err)
				assert.Equal(t, sent, string(got.in.data())+string(rest))
			})
		}
	}
}

func TestReadFirst_ReturnsNoBufferWithAnError(t *testing.T) {
	tests := []struct {
		name  string
		cause func(client, server net.Conn)
		check func(*testing.T, error)
	}{
		{"end of connection", func(client, _ net.Conn) { client.Close() }, func(t *testing.T, err error) {
			assert.Equal(t, io.EOF, err)
		}},
		{"deadline in the past", func(_, server net.Conn) { server.SetReadDeadline(time.Now().Add(-time.Second)) }, func(t *testing.T, err error) {
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.True(t, isTimeout(err))
		}},
		{"deadline to come", func(_, server net.Conn) { server.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) }, func(t *testing.T, err error) {
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}},
		{"closed", func(_, server net.Conn) { server.Close() }, func(t *testing.T, err error) {
			assert.Error(t, err)
		}},
		{"reset", func(client, _ net.Conn) {
			if tcp, ok := client.(*net.TCPConn); ok {
				tcp.SetLinger(0)
			}
			client.Close()
		}, func(t *testing.T, err error) {
			if runtime.GOOS == "linux" && !errors.Is(err, io.EOF) { // a Unix socket just ends
				assert.ErrorIs(t, err, syscall.ECONNRESET)
			}
		}},
	}
	for _, kind := range kinds {
		for _, tt := range tests {
			for _, waiting := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", kind.name, tt.name, waiting), func(t *testing.T) {
					client, server := socketPair(t, kind.network)
					if kind.wrap != nil {
						server = kind.wrap(server)
					}
					if !waiting {
						tt.cause(client, server)
					}
					read := async(func() error {
						in, err := readFirst(server, noWaiter{})
						assert.Nil(t, in)
						return err
					})
					if waiting {
						tt.cause(client, server)
					}
					err := wait(t, read)
					require.Error(t, err)
					tt.check(t, err)
					var opErr *net.OpError
					if errors.As(err, &opErr) {
						assert.Equal(t, "read", opErr.Op, "net/http keeps silent on these")
						assert.Equal(t, server.LocalAddr(), opErr.Source)
					}
				})
			}
		}
	}
}

// A type that embeds a TCP connection may have its own Read, which must not be bypassed.
func TestReadFirst_ReadsThroughOtherTypes(t *testing.T) {
	client, server := socketPair(t, "tcp4")
	upper := &upperCase{TCPConn: server.(*net.TCPConn)}
	config, _ := testConfig(policy.On)
	c := wrapTrusted(upper, config)
	_, err := io.WriteString(client, strings.ToLower(headerV1)+"data")
	require.NoError(t, err)
	assert.Equal(t, clientAddr, soon(t, c.RemoteAddr).String())
	assert.Equal(t, result{"DATA", nil}, soon(t, func() result { return readOnce(c, 100) }))
}

// upperCase changes what it reads to upper case.
type upperCase struct{ *net.TCPConn }

func (c *upperCase) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

// brokenWaiter is a waiter that cannot set a deadline.
type brokenWaiter struct{ error }

func (brokenWaiter) beforeRead() error   { return nil }
func (w brokenWaiter) beforeWait() error { return w.error }

func TestReadFirst_DoesNotWaitWithoutADeadline(t *testing.T) {
	_, server := socketPair(t, "tcp4")
	broken := errors.New("broken")
	err := soon(t, func() error { _, err := readFirst(server, brokenWaiter{broken}); return err })
	assert.Equal(t, broken, err)
}

// overdueWaiter is a waiter whose deadline has passed, and cannot be set.
type overdueWaiter struct{ error }

func (w overdueWaiter) beforeRead() error { return w.error }
func (overdueWaiter) beforeWait() error   { return nil }

func TestReadFirst_DoesNotReadAfterAnError(t *testing.T) {
	client, server := socketPair(t, "tcp4")
	send(client, headerV1)
	broken := errors.New("broken")
	in, err := readFirst(server, overdueWaiter{broken})
	assert.Nil(t, in)
	assert.Equal(t, broken, err)

	in, err = readFirst(new(net.TCPConn), noWaiter{})
	assert.Nil(t, in)
	assert.ErrorIs(t, err, syscall.EINVAL)
}

func TestReadFirst_ReportsAReset(t *testing.T) {
	client, server := socketPair(t, "tcp4")
	require.NoError(t, client.(*net.TCPConn).SetLinger(0))
	require.NoError(t, client.Close())
	in, err := readFirst(server, noWaiter{})
	assert.Nil(t, in)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	var opErr *net.OpError
	require.ErrorAs(t, err, &opErr)
	assert.Equal(t, "read", opErr.Op)
	assert.Equal(t, server.LocalAddr(), opErr.Source)
}
