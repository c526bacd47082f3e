package proxyprotocol

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
)

// connTCP is both ends of a real connection, not wrapped.
func connTCP(t testing.TB, network string) (client, server net.Conn) {
	ln := connListen(t, network)
	client, err := net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

type noWaiter struct{}

func (noWaiter) beforeRead() error { return nil }
func (noWaiter) beforeWait() error { return nil }

// connKinds are connections that are read in different ways.
var connKinds = []struct {
	name, network string
	wrap          func(net.Conn) net.Conn
}{
	{"TCP over IPv4", "tcp4", nil},
	{"TCP over IPv6", "tcp6", nil},
	{"Unix socket", "unix", nil},
	{"another type", "tcp4", func(c net.Conn) net.Conn { return struct{ net.Conn }{c} }},
}

func TestReceiveFirstReturnsWhatThereIs(t *testing.T) {
	for _, kind := range connKinds {
		for _, size := range []int{1, 100, bufferSize, bufferSize + 1} {
			t.Run(fmt.Sprint(kind.name, "/", size), func(t *testing.T) {
				client, server := connTCP(t, kind.network)
				if kind.wrap != nil {
					server = kind.wrap(server)
				}
				sent := strings.Repeat("x", size)
				type first struct {
					in  *buffer
					err error
				}
				done := connGo(func() first { in, err := readFirst(server, noWaiter{}); return first{in, err} })
				_, err := io.WriteString(client, sent)
				require.NoError(t, err)
				got := connWait(t, done)
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

func TestReceiveFirstReturnsNoBufferWithAnError(t *testing.T) {
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
	for _, kind := range connKinds {
		for _, tt := range tests {
			for _, waiting := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", kind.name, tt.name, waiting), func(t *testing.T) {
					client, server := connTCP(t, kind.network)
					if kind.wrap != nil {
						server = kind.wrap(server)
					}
					if !waiting {
						tt.cause(client, server)
					}
					read := connGo(func() error {
						in, err := readFirst(server, noWaiter{})
						assert.Nil(t, in)
						return err
					})
					if waiting {
						tt.cause(client, server)
					}
					err := connWait(t, read)
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

// Types that embed a TCP connection may have a Read that must not be passed by.
func TestReceiveReadsThroughOtherTypes(t *testing.T) {
	client, server := connTCP(t, "tcp4")
	upper := &connUpper{TCPConn: server.(*net.TCPConn)}
	rules, _ := connRules(On)
	c := connOf(upper, rules)
	_, err := io.WriteString(client, strings.ToLower(connV1)+"data")
	require.NoError(t, err)
	assert.Equal(t, connClient, connSoon(t, c.RemoteAddr).String())
	assert.Equal(t, connResult{"DATA", nil}, connSoon(t, func() connResult { return connRead(c, 100) }))
}

// connUpper changes what it reads to upper case.
type connUpper struct{ *net.TCPConn }

func (c *connUpper) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

// waiterBroken is a waiter that cannot set a deadline.
type waiterBroken struct{ error }

func (waiterBroken) beforeRead() error   { return nil }
func (w waiterBroken) beforeWait() error { return w.error }

func TestReceiveDoesNotWaitWithoutADeadline(t *testing.T) {
	_, server := connTCP(t, "tcp4")
	broken := errors.New("broken")
	err := connSoon(t, func() error { _, err := readFirst(server, waiterBroken{broken}); return err })
	assert.Equal(t, broken, err)
}

func TestReceiveSaysThatTheConnectionWasReset(t *testing.T) {
	client, server := connTCP(t, "tcp4")
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
