package stream

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

func TestClose_EndsTheReadOfTheHeaderAtOnce(t *testing.T) {
	for _, network := range append(networks, "pipe") {
		for _, sent := range []string{"", "PROXY TCP4"} {
			for name, call := range calls {
				t.Run(fmt.Sprintf("%s/%q/%s", network, sent, name), func(t *testing.T) {
					config, _ := testConfig(policy.On)
					var client net.Conn
					var c *conn
					if network == "pipe" {
						client, c = pipe(config)
						defer client.Close()
					} else {
						client, c = dial(t, network, config)
					}
					send(client, sent)
					done := async(func() error { return call(c) })
					untilHeaderIsRead(t, c)
					require.NoError(t, c.Close())
					err := wait(t, done)
					if name != "RemoteAddr" && name != "LocalAddr" {
						assert.Error(t, err)
					}
					for _, again := range calls {
						soon(t, func() error { return again(c) }) // does not hang either
					}
					assert.Equal(t, c.NetConn().RemoteAddr().String(), c.RemoteAddr().String())
				})
			}
		}
	}
}

func TestClose_EndsAWatchingReadAtOnce(t *testing.T) {
	for _, network := range networks {
		for mode, sent := range map[policy.Mode]string{policy.Off: "PRO", policy.On: headerV1 + "PRO"} {
			t.Run(network+"/"+mode.String(), func(t *testing.T) {
				config, _ := testConfig(mode)
				client, c := dial(t, network, config)
				send(client, sent)
				read := async(func() result { return readOnce(c, 100) })
				untilWatching(t, c)
				require.NoError(t, c.Close())
				got := wait(t, read)
				assert.ErrorIs(t, got.err, net.ErrClosed)
				assert.Empty(t, got.data)
			})
		}
	}
}

// countedAs returns the names of the outcomes under which a connection is counted.
func countedAs(t *testing.T, mode policy.Mode, use func(*conn), pieces ...string) (counted []string) {
	config, _ := testConfig(mode)
	config.Stats = record.NewStats()
	use(wrapTrusted(says(pieces...), config))
	for o := range record.Outcomes {
		for range config.Stats.Total(o) {
			counted = append(counted, o.String())
		}
	}
	return counted
}

func TestConn_IsCountedOnceItsOutcomeIsKnown(t *testing.T) {
	closes := func(c *conn) { c.Close() }
	asks := func(c *conn) { c.RemoteAddr() }
	reads := func(c *conn) { _, _ = io.ReadAll(c) }
	both := func(f, g func(*conn)) func(*conn) { return func(c *conn) { f(c); g(c) } }
	for _, tt := range []struct {
		name   string
		mode   policy.Mode
		use    func(*conn)
		pieces []string
		want   []string
	}{
		{"closed before anything", policy.On, closes, nil, []string{"silent"}},
		{"closed before anything under off", policy.Off, closes, nil, []string{"silent"}},
		{"closed before anything under unspecified", policy.Unspecified, closes, nil, []string{"silent"}},
		{"ended before anything", policy.On, both(reads, closes), nil, []string{"silent"}},
		{"ended before anything under off", policy.Off, both(reads, closes), nil, []string{"silent"}},
		{"ended before anything under unspecified", policy.Unspecified, both(asks, both(reads, closes)), nil, []string{"silent"}},
		{"closed where a signature may begin under off", policy.Off, both(reads, closes), []string{"PRO"}, []string{"direct"}},
		{"ended where a signature may begin", policy.Unspecified, asks, []string{"PRO"}, []string{"direct"}},
		{"ended where a signature may begin, after a byte", policy.Unspecified, asks, []string{"P"}, []string{"direct"}},
		{"closed twice", policy.On, both(closes, closes), nil, []string{"silent"}},
		{"closed behind its header", policy.On, both(asks, closes), []string{headerV1}, []string{"client"}},
		{"a header may still follow", policy.On, asks, []string{headerV1}, nil},
		{"no header can follow, nothing is read", policy.On, asks, []string{headerV1 + "GET"}, []string{"client"}},
		{"no header can follow, nothing is read, then closed", policy.Unspecified, both(asks, closes), []string{"GET"}, []string{"direct"}},
		{"a header followed after all", policy.On, both(asks, both(reads, closes)), []string{headerV1, headerV2}, []string{"duplicate"}},
		{"everything is read", policy.Unspecified, both(reads, closes), []string{headerV1, "GET"}, []string{"marked"}},
		{"a read deadline was set", policy.On, both(func(c *conn) { _ = c.SetReadDeadline(time.Now().Add(time.Hour)) }, asks), []string{headerV1 + "GET"}, []string{"client"}},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, countedAs(t, tt.mode, tt.use, tt.pieces...)) })
	}
}

func TestClose_WhileTheHeaderIsReadCountsOnce(t *testing.T) {
	for _, timed := range []bool{false, true} {
		for said, want := range map[string]struct {
			peer    string
			outcome record.Outcome
		}{
			headerV1 + "GET":    {clientAddr, record.Client},
			headerV1:            {clientAddr, record.Client},
			headerV1 + headerV2: {peerAddr.String(), record.Duplicate},
			"PROXY TCP4 ":       {peerAddr.String(), record.IO},
			"PRO":               {peerAddr.String(), record.IO},
			"":                  {peerAddr.String(), record.Silent},
		} {
			config, _ := testConfig(policy.On)
			config.Stats = record.NewStats()
			socket := &duringRead{script: says(said)}
			c := wrapTrusted(socket, config)
			if timed {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
			}
			socket.during = func() { assert.NoError(t, c.Close()) }
			assert.Equal(t, want.peer, c.RemoteAddr().String())
			assert.NotEqual(t, statePending, c.state.Load())
			_, _ = io.ReadAll(c)
			require.NoError(t, c.Close())
			for o := range record.Outcomes {
				assert.EqualValues(t, map[bool]int{true: 1}[o == want.outcome], config.Stats.Total(o), "%q: %s", said, o)
			}
		}
	}
}

func TestClose_WhileAReadOfTheHeaderEndsCountsOnce(t *testing.T) {
	for begun, want := range map[string]record.Outcome{"": record.Silent, "PRO": record.IO} {
		for _, timed := range []bool{false, true} {
			config, _ := testConfig(policy.On)
			config.Stats = record.NewStats()
			socket := &duringRead{script: &script{events: []event{{begun, errDeadline}}}}
			c := wrapTrusted(socket, config)
			if timed {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
			}
			socket.during = func() { assert.NoError(t, c.Close()) }
			assert.ErrorIs(t, readOnce(c, 100).err, os.ErrDeadlineExceeded, "the caller's own")
			assert.EqualValues(t, 1, config.Stats.Total(want), "%q", begun)
			require.NoError(t, c.Close())
			assert.EqualValues(t, 1, config.Stats.Total(want), "%q", begun)
		}
	}
}

func TestClose_UnderUnspecifiedWhileReadCountsOnce(t *testing.T) {
	for said, want := range map[string]record.Outcome{"": record.Silent, "GET": record.Direct, headerV1: record.Marked} {
		config, _ := testConfig(policy.Unspecified)
		config.Stats = record.NewStats()
		socket := &duringRead{script: says(said)}
		if said == "" {
			socket.script = &script{events: []event{{err: io.EOF}}}
		}
		c := wrapTrusted(socket, config)
		socket.during = func() { assert.NoError(t, c.Close()) }
		c.RemoteAddr()
		_, _ = io.ReadAll(c)
		require.NoError(t, c.Close())
		for o := range record.Outcomes {
			assert.EqualValues(t, map[bool]int{true: 1}[o == want], config.Stats.Total(o), "%q: %s", said, o)
		}
	}
}

// http.Server closes connections, and so does the goroutine that serves a connection.
func TestClose_TwiceWhileTheHeaderIsReadCountsOnce(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	config.Stats = record.NewStats()
	gate := gatedRead{says(headerV1), make(chan struct{}), make(chan struct{})}
	c := newConn(gate, config, policy.Unspecified, policy.Trusted, monotime.Now())
	done := async(c.RemoteAddr)
	<-gate.got
	require.NoError(t, c.Close())
	close(gate.goOn)
	wait(t, done)
	require.NoError(t, c.Close())
	var n uint64
	for o := range record.Outcomes {
		n += config.Stats.Total(o)
	}
	assert.EqualValues(t, 1, n)
	assert.EqualValues(t, 1, config.Stats.Total(record.Marked), "its header was there")
}

// A header that was read when Close came is logged once, under the reason that was counted.
func TestClose_WhileWatchingLogsOnce(t *testing.T) {
	config, logs := testConfig(policy.Off, func(config *Config) { config.Stats = record.NewStats() })
	socket := &afterRead{script: says(headerV1)}
	c := wrapTrusted(socket, config)
	socket.after = func() { c.Close() }
	readOnce(c, 100)
	reasons := logs.Reasons()
	assert.Len(t, reasons, 1)
	for o := range record.Outcomes {
		if config.Stats.Total(o) > 0 {
			assert.Equal(t, []string{o.String()}, reasons, "what is counted")
		}
	}
}

// A connection that was counted as served is not counted and logged again as refused.
func TestClose_ThenAPanicOfTheSocketCountsOnce(t *testing.T) {
	config, logs := testConfig(policy.On, func(config *Config) { config.Stats = record.NewStats() })
	socket := &afterRead{script: says(headerV1), after: func() {}}
	c := wrapTrusted(socket, config)
	c.RemoteAddr()
	require.NoError(t, c.Close())
	socket.after = func() { panic("closed") }
	assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
	assert.EqualValues(t, 1, config.Stats.Total(record.Client))
	assert.Zero(t, config.Stats.Total(record.IO))
	assert.Empty(t, logs.Reasons())
}

// A read that ends without bytes because of Close counts the connection, which Close could not.
func TestClose_WhileASilentReadEndsCountsOnce(t *testing.T) {
	for _, mode := range []policy.Mode{policy.Off, policy.Unspecified} {
		config, logs := testConfig(mode, func(config *Config) { config.Stats = record.NewStats() })
		socket := &afterRead{script: &script{events: []event{{err: errDeadline}}}, after: func() {}}
		c := newConn(socket, config, mode, policy.Trusted, monotime.Now().Add(-2*config.Timeout))
		c.RemoteAddr() // the timeout is over
		require.Equal(t, stateWatching, c.state.Load())
		socket.events = []event{{err: errReset}}
		socket.after = func() { require.NoError(t, c.Close()) }
		require.Error(t, readOnce(c, 100).err)
		assert.EqualValues(t, 1, config.Stats.Total(record.Silent), mode)
		require.NoError(t, c.Close())
		assert.EqualValues(t, 1, config.Stats.Total(record.Silent), mode)
		assert.Equal(t, []string{"silent"}, logs.Reasons(), mode)
	}
}

// A connection whose bytes are returned after Close is not silent.
func TestClose_WhileARequestIsReadIsNotSilent(t *testing.T) {
	config, _ := testConfig(policy.Off, func(config *Config) { config.Stats = record.NewStats() })
	socket := &afterRead{script: says(getRequest)}
	c := wrapTrusted(socket, config)
	socket.after = func() { c.Close() }
	assert.Equal(t, getRequest, readOnce(c, 100).data)
	require.NoError(t, c.Close())
	assert.Zero(t, config.Stats.Total(record.Silent))
	assert.EqualValues(t, 1, config.Stats.Total(record.Direct))
}

// Bytes that may be the beginning of a signature are bytes of the connection.
func TestClose_WhereASignatureMayBeginIsNotSilent(t *testing.T) {
	for _, begun := range []string{"P", "PRO"} {
		config, _ := testConfig(policy.Off, func(config *Config) { config.Stats = record.NewStats() })
		c := wrapTrusted(&script{events: []event{{begun, errDeadline}}}, config)
		require.ErrorIs(t, readOnce(c, 100).err, os.ErrDeadlineExceeded)
		require.NoError(t, c.Close())
		assert.EqualValues(t, 1, config.Stats.Total(record.Direct), begun)
		assert.Zero(t, config.Stats.Total(record.Silent), begun)
	}
}

// closeHook calls functions before and after the first Close of the socket, once each.
type closeHook struct {
	*script
	onClose, afterClose func()
}

func (c *closeHook) Close() error {
	callOnce(&c.onClose)
	err := c.script.Close()
	callOnce(&c.afterClose)
	return err
}

// callOnce calls a function unless it is nil, and sets it to nil.
func callOnce(f *func()) {
	if call := *f; call != nil {
		*f = nil
		call()
	}
}

func TestClose_WhileRefusedCountsTheRefusal(t *testing.T) {
	for said, want := range map[string]record.Outcome{
		getRequest:          record.Missing,
		headerV1 + headerV2: record.Duplicate,
		"PROXY foo\r\n":     record.Malformed,
	} {
		config, logs := testConfig(policy.On, func(config *Config) { config.Stats = record.NewStats() })
		socket := &closeHook{script: says(said)}
		c := wrapTrusted(socket, config)
		socket.afterClose = func() { wait(t, async(c.Close)) } // as Server.Shutdown does
		c.RemoteAddr()
		for o := range record.Outcomes {
			assert.EqualValues(t, map[bool]int{true: 1}[o == want], config.Stats.Total(o), "%q: %s", said, o)
		}
		assert.Equal(t, []string{want.String()}, logs.Reasons())
		assert.Len(t, config.Stats.LastRefusals(), 1)
	}
}

func TestClose_ReadMeanwhileIsNotSilent(t *testing.T) {
	config, _ := testConfig(policy.Off, func(config *Config) { config.Stats = record.NewStats() })
	socket := &closeHook{script: &script{events: []event{{err: errDeadline}, {data: "GET"}}}}
	c := wrapTrusted(socket, config)
	socket.onClose = func() {
		assert.ErrorIs(t, readOnce(c, 100).err, os.ErrDeadlineExceeded)
		assert.Equal(t, "GET", readOnce(c, 100).data)
	}
	require.NoError(t, c.Close())
	assert.EqualValues(t, 1, config.Stats.Total(record.Direct))
	assert.Zero(t, config.Stats.Total(record.Silent))
}
