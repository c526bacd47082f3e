package stream

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// serial is a connection whose reads take turns, as those of sockets do.
type serial struct {
	net.Conn
	mu sync.Mutex
}

func (c *serial) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn.Read(p)
}

// Every byte is returned by one Read, and buffered bytes before those of the socket.
func TestConn_ConcurrentReadsTakeTurns(t *testing.T) {
	const size, readers = 4, 8
	var sent []string
	for i := range 900 {
		sent = append(sent, fmt.Sprintf("%0*d", size, i))
	}
	together, behind := sent[:700], sent[700:]
	config, _ := testConfig(policy.On)
	c := wrapTrusted(&serial{Conn: says(append([]string{headerV1 + strings.Join(together, "")}, behind...)...)}, config)
	require.Equal(t, clientAddr, c.RemoteAddr().String())
	require.Equal(t, stateBuffered, c.state.Load())

	var mu sync.Mutex
	var got []string
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			p := make([]byte, size)
			for {
				n, err := c.Read(p)
				if err != nil {
					return
				}
				mu.Lock()
				got = append(got, string(p[:n]))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	assert.ElementsMatch(t, sent, got)
	assert.Equal(t, stateOpen, c.state.Load())
}

// After the first one no header can follow, and the second one reads from the socket.
func TestConn_ReadThatWaitedForAnotherReads(t *testing.T) {
	for range 100 {
		config, _ := testConfig(policy.Off)
		gate := gatedRead{says("GET", "more"), make(chan struct{}, 2), make(chan struct{})}
		c := wrapTrusted(gate, config)
		first := async(func() result { return readOnce(c, 100) })
		<-gate.got
		second := async(func() result { return readOnce(c, 100) })
		for range 100 {
			runtime.Gosched() // until the second one waits, or else nothing is tested
		}
		close(gate.goOn)
		require.Equal(t, result{"GET", nil}, wait(t, first))
		require.Equal(t, result{"more", nil}, wait(t, second))
	}
}

// Two reads may see the same state at the same instant.
func TestConn_SimultaneousReadsTakeTurns(t *testing.T) {
	const rounds = 30_000
	config, _ := testConfig(policy.On)
	var c atomic.Pointer[conn] // of the round, or nil once the other has read
	var other result
	var failed atomic.Bool
	defer failed.Store(true)
	ended := async(func() bool {
		for range rounds {
			for spins := 1; c.Load() == nil && !failed.Load(); spins++ {
				if spins%1000 == 0 {
					runtime.Gosched() // there may be one processor only
				}
			}
			if failed.Load() {
				return false
			}
			other = readOnce(c.Load(), 1)
			c.Store(nil)
		}
		return true
	})
	for range rounds {
		next := wrapTrusted(says(headerV1+"ab"), config)
		require.Equal(t, clientAddr, next.RemoteAddr().String())
		c.Store(next)
		got := readOnce(next, 1)
		for spins := 1; c.Load() != nil; spins++ {
			if spins%1000 == 0 {
				runtime.Gosched()
			}
		}
		if got.data == "b" {
			got, other = other, got
		}
		require.Equal(t, [2]result{{"a", nil}, {"b", nil}}, [2]result{got, other})
		require.Equal(t, stateOpen, next.state.Load())
	}
	wait(t, ended)
}

func TestConn_ConcurrentUse(t *testing.T) {
	inputs := []string{headerV1 + "data", headerV2 + "PROPFIND", headerV1 + headerV2, getRequest, "PROXY nonsense\r\n", headerV2[:20], ""}
	for _, mode := range []policy.Mode{policy.On, policy.Off, policy.Unspecified} {
		t.Run(mode.String(), func(t *testing.T) {
			config, logs := testConfig(mode, func(config *Config) { config.Timeout = 10 * time.Millisecond })
			ln := listen(t, "tcp4")
			for i := range 300 {
				random := rand.New(rand.NewPCG(uint64(mode), uint64(i)))
				in := inputs[random.IntN(len(inputs))]
				splits := waysToCut(in)
				pieces := splits[random.IntN(len(splits))]
				closeAfter := time.Duration(random.IntN(20)) * time.Millisecond
				client, err := net.Dial("tcp4", ln.Addr().String())
				require.NoError(t, err)
				accepted, err := (&Listener{Listener: ln, Config: config}).Accept()
				require.NoError(t, err)
				c := accepted.(*conn)
				peer, socket := c.NetConn().RemoteAddr().String(), c.NetConn().LocalAddr().String()

				var wg sync.WaitGroup
				wg.Go(func() {
					for _, piece := range pieces {
						io.WriteString(client, piece)
					}
					if in != "" && i%2 == 0 {
						client.Close()
					}
				})
				for range 2 {
					wg.Go(func() {
						for {
							if _, err := c.Read(make([]byte, 3)); err != nil && !isTimeout(err) {
								return
							}
						}
					})
				}
				wg.Go(func() {
					for range 5 {
						c.Write([]byte("hello"))
						c.SetReadDeadline(time.Now().Add(-time.Second))
						c.SetReadDeadline(time.Time{})
						c.SetDeadline(time.Now().Add(time.Second))
					}
				})
				wg.Go(func() {
					for range 5 {
						assert.Contains(t, []string{peer, clientAddr, "203.0.113.7:0"}, c.RemoteAddr().String())
						assert.Contains(t, []string{socket, serverAddr}, c.LocalAddr().String())
						c.NetConn()
						c.SyscallConn()
					}
					if i%3 == 0 {
						c.Close()
					}
				})
				closer := time.AfterFunc(closeAfter, func() { c.Close() })
				soon(t, func() bool { wg.Wait(); return true })
				closer.Stop()
				client.Close()
				c.Close()
				assert.Contains(t, []string{peer, clientAddr, "203.0.113.7:0"}, c.RemoteAddr().String())
			}
			assert.LessOrEqual(t, len(logs.Reasons()), 300, "no more than one refusal each")
		})
	}
}
