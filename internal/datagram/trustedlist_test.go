package datagram

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// listOf is a list whose source answers like this, and what it logs. Its context ends with the
// bubble of the test.
func listOf(t *testing.T, answer func(ctx context.Context, peer net.Addr) []netip.Prefix) (*TrustedList, *observer.ObservedLogs) {
	time.Sleep(time.Until(monotime.Time(0).ToTime())) // a bubble's time begins in the past
	core, logs := observer.New(zap.DebugLevel)
	return NewTrustedList(t.Context(), answer, zap.New(core)), logs
}

var (
	peer2, peer3  = netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	range2        = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	range3, empty = []netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.3/128")}, []netip.Prefix{}
)

// requireTrusted checks that a list trusts these peers, or has no valid answer if want is nil.
func requireTrusted(t *testing.T, l *TrustedList, want ...netip.Addr) {
	t.Helper()
	ranges, err := l.Ranges()
	if want == nil {
		require.Error(t, err)
		return
	}
	require.NoError(t, err)
	for _, peer := range []netip.Addr{peer2, peer3} {
		trusted := false
		for _, w := range want {
			trusted = trusted || w == peer
		}
		require.Equal(t, trusted, ranges.Contains(peer), peer)
	}
}

func TestTrustedList_AsksOnceASecondForAllPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		answer := range2
		l, _ := listOf(t, func(ctx context.Context, peer net.Addr) []netip.Prefix {
			asked.Add(1)
			assert.Equal(t, "0.0.0.0:0", peer.String())
			return answer
		})
		synctest.Wait()
		require.Zero(t, asked.Load(), "before it is needed")
		first, err := l.Ranges()
		require.NoError(t, err)
		for range 1000 {
			again, err := l.Ranges()
			require.NoError(t, err)
			require.Same(t, first, again)
		}
		require.EqualValues(t, 1, asked.Load())
		time.Sleep(trustedFor)
		again, err := l.Ranges()
		require.NoError(t, err)
		require.Same(t, first, again, "the source says the same")
		require.EqualValues(t, 2, asked.Load())

		answer = range3
		requireTrusted(t, l, peer2)
		time.Sleep(trustedFor)
		requireTrusted(t, l, peer3)
		answer = empty
		time.Sleep(time.Hour)
		require.EqualValues(t, 3, asked.Load(), "no datagram needs it")
		requireTrusted(t, l, []netip.Addr{}...)
		ranges, err := l.Ranges()
		require.NoError(t, err, "the answer is that it trusts no peer")
		require.Zero(t, ranges.Size())
	})
}

func TestTrustedList_SlowSourceHoldsUpNoDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 500 * time.Millisecond
		l, _ := listOf(t, func(context.Context, net.Addr) []netip.Prefix { time.Sleep(takes); return range2 })
		waits := func() time.Duration {
			began := time.Now()
			_, _ = l.Ranges()
			return time.Since(began)
		}
		require.Equal(t, promptly, waits(), "it might answer at once")
		require.Zero(t, waits(), "others do not wait")
		requireTrusted(t, l)
		time.Sleep(takes)
		requireTrusted(t, l, peer2)
		for range 5 {
			time.Sleep(trustedFor)
			require.Zero(t, waits(), "it is known to be slow, and its last answer holds")
			requireTrusted(t, l, peer2)
			time.Sleep(takes)
		}
		time.Sleep(trustedAtMost)
		require.Equal(t, promptly, waits(), "no answer holds")
		time.Sleep(takes) // or the source is left behind
	})
}

func TestTrustedList_AsksAgainWhenItIsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var takes time.Duration
		l, _ := listOf(t, func(context.Context, net.Addr) []netip.Prefix {
			asked.Add(1)
			time.Sleep(takes)
			panic("of a test")
		})
		for _, step := range []struct {
			after time.Duration
			asked int32
		}{{0, 1}, {trustedFor - 1, 1}, {1, 2}, {trustedFor, 3}} {
			time.Sleep(step.after)
			requireTrusted(t, l)
			require.Equal(t, step.asked, asked.Load())
		}
		takes = 3 * trustedFor
		for range 3 {
			time.Sleep(trustedFor)
			requireTrusted(t, l)
			require.EqualValues(t, 4, asked.Load(), "one question at a time")
		}
		time.Sleep(trustedFor)
		requireTrusted(t, l)
		require.EqualValues(t, 5, asked.Load())
		time.Sleep(takes) // or the source is left behind
	})
}

func TestTrustedList_AnswerHoldsForItsTimeToTheNanosecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		l, _ := listOf(t, func(context.Context, net.Addr) []netip.Prefix {
			if fails.Load() {
				panic("of a test")
			}
			return range2
		})
		requireTrusted(t, l, peer2)
		fails.Store(true)
		time.Sleep(trustedAtMost - 1)
		requireTrusted(t, l, peer2)
		time.Sleep(time.Nanosecond)
		requireTrusted(t, l)
	})
}

// Datagrams wait for a source that is prompt, as long as it takes, and let go of the question.
func TestTrustedList_WaitsForAPromptSource(t *testing.T) {
	for _, test := range []struct {
		takes, waits time.Duration
		slow         bool
	}{
		{0, 0, false},
		{promptly / 2, promptly / 2, false},
		{promptly, promptly, false},
		{promptly + 1, promptly, true},
		{trustedFor / 2, promptly, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var question context.Context
			l, _ := listOf(t, func(ctx context.Context, peer net.Addr) []netip.Prefix {
				question = ctx
				time.Sleep(test.takes)
				return range2
			})
			began := time.Now()
			_, _ = l.Ranges()
			assert.Equal(t, test.waits, time.Since(began), test.takes)
			time.Sleep(test.takes)
			synctest.Wait()
			requireTrusted(t, l, peer2)
			assert.ErrorIs(t, question.Err(), context.Canceled)
			l.mu.Lock()
			defer l.mu.Unlock()
			assert.Equal(t, test.slow, l.slow, test.takes)
		})
	}
}

// Why there is no answer is the error of the last question that was answered, until another one
// is asked without an answer that holds.
func TestTrustedList_SaysWhyItHasNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var source atomic.Pointer[func(ctx context.Context)]
		l, _ := listOf(t, func(ctx context.Context, peer net.Addr) []netip.Prefix {
			(*source.Load())(ctx)
			return range2
		})
		becomes := func(f func(context.Context)) { source.Store(&f) }
		becomes(func(context.Context) {})
		requireTrusted(t, l, peer2)
		becomes(func(context.Context) { panic("of a test") })
		time.Sleep(trustedAtMost - 2*trustedFor)
		requireTrusted(t, l, peer2)
		becomes(func(ctx context.Context) { <-ctx.Done() })
		time.Sleep(trustedFor)
		requireTrusted(t, l, peer2)
		time.Sleep(trustedFor)
		_, err := l.Ranges()
		require.EqualError(t, err, "panic: of a test")
		becomes(func(ctx context.Context) { <-ctx.Done(); panic("after all") })
		time.Sleep(answerWithin)
		_, err = l.Ranges()
		require.ErrorIs(t, err, errNotAnswered)
		time.Sleep(answerWithin - trustedFor)
		_, err = l.Ranges()
		require.ErrorIs(t, err, errNotAnswered)
		time.Sleep(trustedFor - promptly)
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		require.EqualError(t, l.err, "panic: after all")
	})
}

func TestTrustedList_TrustsAFailingSourceForAWhile(t *testing.T) {
	for _, test := range []struct {
		name  string
		fails func(ctx context.Context)
		err   string
	}{
		{"it panics", func(context.Context) { panic("of a test") }, "panic: of a test"},
		{"it exits", func(context.Context) { runtime.Goexit() }, errNotAnswered.Error()},
		{"it hangs until its context ends", func(ctx context.Context) { <-ctx.Done() }, errAnswerLate.Error()},
		{"it hangs longer", func(context.Context) { time.Sleep(time.Minute) }, errNotAnswered.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var failing atomic.Bool
				var asked atomic.Int32
				l, _ := listOf(t, func(ctx context.Context, peer net.Addr) []netip.Prefix {
					asked.Add(1)
					if failing.Load() {
						test.fails(ctx)
					}
					return range2
				})
				requireTrusted(t, l, peer2)
				failing.Store(true)
				began := time.Now()
				for time.Since(began) < trustedAtMost-trustedFor {
					requireTrusted(t, l, peer2)
					time.Sleep(trustedFor / 2)
				}
				require.LessOrEqual(t, asked.Load(), int32(trustedAtMost/trustedFor)+1)
				time.Sleep(2 * trustedFor)
				requireTrusted(t, l)
				_, err := l.Ranges()
				assert.Contains(t, []string{test.err, errNotAnswered.Error()}, err.Error())

				failing.Store(false)
				time.Sleep(2 * time.Minute)
				_, _ = l.Ranges()
				synctest.Wait()
				requireTrusted(t, l, peer2)
			})
		})
	}
}

// A source whose context has ended may answer anything.
func TestTrustedList_LateAnswerDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, logs := listOf(t, func(ctx context.Context, peer net.Addr) []netip.Prefix { <-ctx.Done(); return range2 })
		requireTrusted(t, l)
		time.Sleep(answerWithin)
		synctest.Wait()
		assert.NotZero(t, logs.Len())
		requireTrusted(t, l)
		_, err := l.Ranges()
		assert.True(t, errors.Is(err, errAnswerLate) || errors.Is(err, errNotAnswered))
	})
}

func TestTrustedList_AsksNoMoreWhenTheConfigurationEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(monotime.Time(0).ToTime()))
		ctx, cancel := context.WithCancel(t.Context())
		core, logs := observer.New(zap.DebugLevel)
		var asked atomic.Int32
		l := NewTrustedList(ctx, policy.Source(func(ctx context.Context, peer net.Addr) []netip.Prefix {
			asked.Add(1)
			<-ctx.Done()
			return range2
		}), zap.New(core))
		requireTrusted(t, l)
		cancel()
		synctest.Wait() // the question ends with it
		time.Sleep(time.Minute)
		requireTrusted(t, l)
		assert.EqualValues(t, 1, asked.Load())
		assert.Zero(t, logs.Len(), "the source did not fail")
	})
}

// What costs an attacker nothing must not cost a question.
func TestTrustedList_IsNotAskedForWhatTheBytesDecide(t *testing.T) {
	var asked atomic.Int32
	for _, test := range []struct {
		mode     policy.Mode
		datagram string
		reason   string
	}{
		{policy.On, quicLike, "missing"},
		{policy.On, "", "missing"},
		{policy.On, headertest.V2(headertest.Client4, headertest.Server4) + "x", "malformed"},
		{policy.On, headertest.UDP(headertest.Client4, headertest.Server4)[:20], "malformed"},
		{policy.On, headertest.UDP(headertest.Client4, headertest.Server4), "malformed"},
		{policy.On, headertest.Local() + headertest.Local(), "duplicate"},
		{policy.Unspecified, unixDatagram + "x", "malformed"},
		{policy.Unspecified, headertest.Local(), "malformed"},
	} {
		config, logs := testConfig(test.mode, trusting(&asked, "127.0.0.2/32"))
		c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.3")
		_, err := peer.WriteTo([]byte(test.datagram), c.LocalAddr())
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, _, err = c.ReadFrom(make([]byte, 10))
		require.Error(t, err)
		assert.Equal(t, []string{test.reason}, logs.Reasons(), test.datagram)
	}
	assert.Zero(t, asked.Load())
}

func TestTrustedList_DatagramsAreCheckedByItsAnswer(t *testing.T) {
	var asked atomic.Int32
	var answer atomic.Pointer[[]netip.Prefix]
	answer.Store(&range2)
	config, logs := testConfig(policy.On)
	config.Source = policy.Source(func(context.Context, net.Addr) []netip.Prefix {
		asked.Add(1)
		if a := answer.Load(); a != nil {
			return *a
		}
		panic("of a test")
	})
	config.TrustedList = NewTrustedList(t.Context(), config.Source, zap.NewNop())
	c, peer, other := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.2"), listenUDP(t, "127.0.0.3")
	// The answer is old, or too old.
	age := func(by time.Duration) {
		last := *config.TrustedList.last.Load()
		last.asked = last.asked.Add(-by)
		config.TrustedList.last.Store(&last)
		config.TrustedList.mu.Lock()
		defer config.TrustedList.mu.Unlock()
		config.TrustedList.next = 0
		config.TrustedList.slow = false
	}
	send := func() {
		t.Helper()
		_, err := other.WriteTo([]byte(headertest.UDP(headertest.Client4, headertest.Server4)+"bad"), c.LocalAddr())
		require.NoError(t, err)
	}
	_, first := pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	for range 20 {
		send()
		_, again := pass(t, peer, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
		require.Same(t, first, again)
	}
	require.EqualValues(t, 1, asked.Load(), "for all peers and datagrams")
	require.Equal(t, "untrusted", logs.Reasons()[19])
	peers, _ := config.Stats.SeenPeers()
	require.Len(t, peers, 1, "others may be forged")
	require.Equal(t, peer2, peers[0].Addr)

	answer.Store(&range3)
	age(trustedFor)
	_, err := peer.WriteTo([]byte(headertest.UDP(headertest.Client4, headertest.Server4)+"bad"), c.LocalAddr())
	require.NoError(t, err)
	_, changed := pass(t, other, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"good")
	assert.Equal(t, policy.Trusted, changed.info.Trust)
	assert.Equal(t, "untrusted", logs.Reasons()[20])
	assert.NotContains(t, logs.All()[20].ContextMap(), "error", "the source trusts others")

	answer.Store(&empty)
	age(trustedFor)
	send()
	_, _ = other.WriteTo([]byte("no header"), c.LocalAddr())
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, _, err = c.ReadFrom(make([]byte, 10))
	require.Error(t, err)
	dropped := logs.All()
	assert.Equal(t, "trusted_proxies: the source returned no ranges, so no peer may send a header", dropped[len(dropped)-2].ContextMap()["error"])
	assert.Equal(t, "missing", dropped[len(dropped)-1].ContextMap()["reason"])

	answer.Store(&range3)
	age(trustedFor)
	_, changed = pass(t, other, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"good")
	answer.Store(nil)
	age(trustedFor)
	_, still := pass(t, other, c, "127.0.0.1", headertest.UDP(headertest.Client4, headertest.Server4)+"a")
	assert.Same(t, changed, still)
	age(trustedAtMost)
	send()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, _, err = c.ReadFrom(make([]byte, 10))
	require.Error(t, err)
	reasons := logs.Reasons()
	assert.Equal(t, "io", reasons[len(reasons)-1])
	assert.Contains(t, fmt.Sprint(logs.All()[len(logs.All())-1].ContextMap()["error"]), "panic: of a test")
}

func TestPacketConn_ListsNoUntrustedPeersUnderOn(t *testing.T) {
	for _, test := range []struct {
		mode   policy.Mode
		trusts string
		want   int
	}{
		{policy.On, "127.0.0.9/32", 0},
		{policy.On, "127.0.0.2/32", 1},
		{policy.Unspecified, "127.0.0.9/32", 2},
	} {
		config, _ := testConfig(test.mode)
		config.Trusted, _ = policy.NewSet([]string{test.trusts})
		c := wrappedSocket(t, "udp", "127.0.0.1:0", config)
		for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
			for _, datagram := range []string{"x", headertest.UDP(headertest.Client4, headertest.Server4) + "x"} {
				_, err := listenUDP(t, ip).WriteTo([]byte(datagram), c.LocalAddr())
				require.NoError(t, err)
			}
		}
		require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		for {
			if _, _, err := c.ReadFrom(make([]byte, 10)); err != nil {
				break
			}
		}
		peers, _ := config.Stats.SeenPeers()
		assert.Len(t, peers, test.want, "%s, %s", test.mode, test.trusts)
	}
}

// A log that blocks or panics while the source fails costs the list nothing.
func TestTrustedList_DoesNotWaitForTheLog(t *testing.T) {
	released := make(chan struct{})
	for name, write := range map[string]func(){
		"blocks": func() { <-released },
		"panics": func() { panic("log writer is broken") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(monotime.Time(0).ToTime()))
				core, _ := observer.New(zap.DebugLevel)
				released = make(chan struct{})
				defer close(released)
				var well atomic.Bool
				l := NewTrustedList(t.Context(), policy.Source(func(context.Context, net.Addr) []netip.Prefix {
					if !well.Load() {
						panic("once")
					}
					return range2
				}), zap.New(failingCore{core, write}))
				requireTrusted(t, l)
				well.Store(true)
				time.Sleep(time.Hour)
				requireTrusted(t, l, peer2)
			})
		})
	}
}

// failingCore is a log whose writing is up to a test.
type failingCore struct {
	zapcore.Core
	write func()
}

func (c failingCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c failingCore) With([]zapcore.Field) zapcore.Core { return c }

func (c failingCore) Write(zapcore.Entry, []zapcore.Field) error {
	c.write()
	return nil
}
