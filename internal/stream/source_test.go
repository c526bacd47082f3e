package stream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

func TestSource_IsAskedOnceAConnection(t *testing.T) {
	tests := []struct {
		name, in string
		mode     policy.Mode
		ranges   []string
		asked    int32
		want     outcome
	}{
		{"trusted under on", headerV1 + "data", policy.On, []string{"192.0.2.0/24"}, 1, outcome{remote: clientAddr, local: serverAddr, handedOn: "data"}},
		{"untrusted under on", headerV1, policy.On, []string{"198.51.100.0/24"}, 1, refused("untrusted")},
		{"nobody trusted under on", headerV1, policy.On, nil, 1, refused("untrusted")},
		{"trusted without a header under on", getRequest, policy.On, []string{"192.0.2.0/24"}, 1, refused("missing")},
		{"untrusted without a header under on", getRequest, policy.On, nil, 1, refused("untrusted")},
		{"trusted under unspecified", headerV1 + "data", policy.Unspecified, []string{"192.0.2.0/24"}, 1, outcome{remote: "203.0.113.7:0", local: socketAddr.String(), handedOn: "data"}},
		{"untrusted under unspecified", headerV1, policy.Unspecified, nil, 1, refused("untrusted")},
		{"without a header under unspecified", "PROPFIND", policy.Unspecified, nil, 0, served("PROPFIND")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range waysToCut(tt.in) {
				for _, addrFirst := range []bool{true, false} {
					var asked atomic.Int32
					config, logs := testConfig(tt.mode, withSource(&asked, tt.ranges...))
					socket := new(script)
					for _, piece := range pieces {
						if !addrFirst { // every read that ends early is repeated
							socket.events = append(socket.events, event{err: errDeadline})
						}
						socket.events = append(socket.events, event{data: piece})
					}
					c := newConn(socket, config, tt.mode, policy.AskSource, monotime.Now())
					assert.Zero(t, asked.Load(), "not in the accept loop")
					require.Equal(t, tt.want, outcomeOf(t, c, logs, 100, addrFirst), "%q", pieces)
					io.WriteString(c, "answer")
					require.Equal(t, tt.asked, asked.Load(), "%q", pieces)
					if tt.want.reason == "untrusted" && tt.mode == policy.On {
						require.Zero(t, socket.reads, "refused before a byte is read")
					}
				}
			}
		})
	}
}

func TestSource_IsAskedOnceByConcurrentCalls(t *testing.T) {
	var asked atomic.Int32
	config, _ := testConfig(policy.On, withSource(&asked, "192.0.2.0/24"))
	c := newConn(says(headerV1+"data"), config, policy.On, policy.AskSource, monotime.Now())
	var wg sync.WaitGroup
	for _, call := range calls {
		for range 4 {
			wg.Go(func() { call(c) })
		}
	}
	soon(t, func() bool { wg.Wait(); return true })
	assert.Equal(t, int32(1), asked.Load())
	assert.Equal(t, clientAddr, c.RemoteAddr().String())
}

func TestSource_PanicIsARefusal(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
		for name, call := range calls {
			t.Run(mode.String()+"/"+name, func(t *testing.T) {
				config, logs := testConfig(mode, func(config *Config) {
					config.SetSource(func(_ context.Context, _ net.Addr) []netip.Prefix { panic("source is broken") })
				})
				socket := says(headerV1)
				c := newConn(socket, config, mode, policy.AskSource, monotime.Now())
				require.NotPanics(t, func() { call(c) })
				assert.Equal(t, []string{"io"}, logs.Reasons())
				assert.Contains(t, logs.All()[0].ContextMap()["error"], "source is broken")
				assert.True(t, socket.closed)
				assert.Empty(t, socket.written)
				assert.Equal(t, peerAddr, c.RemoteAddr())
				assert.ErrorIs(t, calls["Read"](c), record.ErrRefused)
			})
		}
	}
}

// The answer of the source is kept for the whole connection, even if the ranges change.
func TestSource_AnswerIsKept(t *testing.T) {
	var asked atomic.Int32
	config, _ := testConfig(policy.Unspecified)
	config.SetSource(func(_ context.Context, _ net.Addr) []netip.Prefix {
		if asked.Add(1) == 1 {
			return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}
		return nil
	})
	socket := &script{events: []event{{headerV2[:20], errDeadline}, {headerV2[20:], nil}}}
	c := newConn(socket, config, policy.Unspecified, policy.AskSource, monotime.Now())
	assert.ErrorIs(t, readOnce(c, 10).err, errDeadline)
	assert.Equal(t, result{"", io.EOF}, readOnce(c, 10))
	assert.Equal(t, "203.0.113.7:0", c.RemoteAddr().String())
	assert.Equal(t, int32(1), asked.Load())
}

func TestSource_IsGivenAsMuchTimeAsTheHeaderHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, logs := testConfig(policy.On, func(config *Config) {
			config.Timeout = 5 * time.Second
			config.SetSource(func(ctx context.Context, _ net.Addr) []netip.Prefix {
				deadline, _ := ctx.Deadline()
				assert.Equal(t, 3*time.Second, time.Until(deadline), "two seconds after accept")
				time.Sleep(4 * time.Second)
				return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
			})
		})
		c := newConn(says(headerV1), config, policy.On, policy.AskSource, monotime.Now())
		time.Sleep(2 * time.Second)
		assert.Equal(t, peerAddr, c.RemoteAddr())
		assert.Equal(t, []string{"timeout"}, logs.Reasons())
		time.Sleep(time.Hour)
	})
}

// A source may be slow within the timeout.
func TestSource_ThatIsSlowIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, _ := testConfig(policy.On, func(config *Config) {
			config.Timeout = 5 * time.Second
			config.SetSource(func(ctx context.Context, _ net.Addr) []netip.Prefix {
				time.Sleep(4 * time.Second)
				return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			})
		})
		c := newConn(says(headerV1), config, policy.On, policy.AskSource, monotime.Now())
		assert.Equal(t, clientAddr, fmt.Sprint(c.RemoteAddr()))
	})
}

func TestSource_IsLeftWhenTheConnectionIsClosed(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan struct{})
			config, logs := testConfig(mode, func(config *Config) {
				config.Stats = record.NewStats()
				config.SetSource(func(ctx context.Context, _ net.Addr) []netip.Prefix {
					close(asked)
					<-ctx.Done()
					return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				})
			})
			c := newConn(says(headerV1), config, mode, policy.AskSource, monotime.Now())
			began := time.Now()
			done := async(c.RemoteAddr)
			<-asked
			require.NoError(t, c.Close())
			assert.Equal(t, peerAddr, <-done)
			assert.Zero(t, time.Since(began), "at once")
			want := map[policy.Mode]struct{ reason, message string }{
				policy.On:          {"silent", "connection ended before its first byte"},
				policy.Unspecified: {"io", "connection failed before its PROXY protocol header"},
			}[mode]
			require.Equal(t, []string{want.reason}, logs.Reasons())
			assert.Equal(t, zap.DebugLevel, logs.FilterMessage(want.message).All()[0].Level, "this server closed it")
		})
	}
}

// Close may come before there is a call of the source that it could cancel.
func TestSource_OfAClosedConnectionIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, logs := testConfig(policy.Unspecified, func(config *Config) {
			config.SetSource(func(ctx context.Context, _ net.Addr) []netip.Prefix {
				<-ctx.Done()
				return nil
			})
		})
		socket := &duringRead{script: says(headerV1)}
		c := newConn(socket, config, policy.Unspecified, policy.AskSource, monotime.Now())
		socket.during = func() { assert.NoError(t, c.Close()) }
		began := time.Now()
		assert.Equal(t, peerAddr, c.RemoteAddr())
		assert.Zero(t, time.Since(began))
		assert.Equal(t, []string{"io"}, logs.Reasons())
	})
}
