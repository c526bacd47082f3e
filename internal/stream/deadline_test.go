package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestDeadline_SurvivesTheHeader(t *testing.T) {
	want := time.Now().Add(time.Minute)
	configFor := func(timeout time.Duration) *Config {
		config, _ := testConfig(policy.On, func(config *Config) { config.Timeout = timeout })
		return config
	}
	for _, timeout := range []time.Duration{time.Second, time.Hour} {
		for name, call := range calls {
			t.Run(fmt.Sprint(name, " with timeout ", timeout), func(t *testing.T) {
				t.Run("set before", func(t *testing.T) {
					socket := says(headerV1 + "data")
					c := wrapTrusted(socket, configFor(timeout))
					require.NoError(t, c.SetReadDeadline(want))
					require.NoError(t, call(c))
					assert.WithinDuration(t, want, socket.deadline, time.Second)
				})
				t.Run("set before with the write deadline", func(t *testing.T) {
					socket := says(headerV1 + "data")
					c := wrapTrusted(socket, configFor(timeout))
					require.NoError(t, c.SetDeadline(want))
					require.NoError(t, call(c))
					assert.WithinDuration(t, want, socket.deadline, time.Second)
				})
				t.Run("never set", func(t *testing.T) {
					socket := says(headerV1 + "data")
					c := wrapTrusted(socket, configFor(timeout))
					require.NoError(t, call(c))
					assert.Zero(t, socket.deadline)
				})
				t.Run("set after", func(t *testing.T) {
					socket := says(headerV1 + "data")
					c := wrapTrusted(socket, configFor(timeout))
					require.NoError(t, call(c))
					require.NoError(t, c.SetReadDeadline(want))
					assert.Equal(t, want, socket.deadline)
				})
			})
		}
	}
	for _, network := range networks {
		t.Run("set while the header is awaited on "+network, func(t *testing.T) {
			client, c := dial(t, network, configFor(time.Hour))
			done := async(c.RemoteAddr)
			untilHeaderIsRead(t, c)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
			send(client, headerV1)
			assert.Equal(t, clientAddr, wait(t, done).String())
			assert.ErrorIs(t, soon(t, func() result { return readOnce(c, 1) }).err, os.ErrDeadlineExceeded)
		})
	}
}

func TestDeadline_OfTheHeaderIsTheEarlierOne(t *testing.T) {
	accepted := time.Now()
	soon, late := accepted.Add(time.Second), accepted.Add(time.Hour)
	timeout := accepted.Add(time.Minute)
	tests := []struct {
		name       string
		user, want time.Time
		op         op
	}{
		{"a read has none of its own", time.Time{}, timeout, opRead},
		{"a read has an earlier one", soon, soon, opRead},
		{"a read has a later one", late, timeout, opRead},
		{"a read has one beyond all bounds", accepted.AddDate(1000, 0, 0), timeout, opRead},
		{"an address is asked for and there is none", time.Time{}, timeout, opAddr},
		{"an address is asked for and there is an earlier one", soon, timeout, opAddr},
		{"an address is asked for and there is a later one", late, timeout, opAddr},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, _ := testConfig(policy.On, func(config *Config) { config.Timeout = time.Minute })
			socket := says()
			c := newConn(socket, config, policy.On, policy.Trusted, monotime.Of(accepted))
			require.NoError(t, c.SetReadDeadline(tt.user))
			c.op = tt.op
			require.NoError(t, c.beforeWait())
			assert.WithinDuration(t, tt.want, socket.deadline, time.Second)
			c.restoreDeadline()
			if century := accepted.AddDate(100, 0, 0); tt.user.After(century) {
				assert.True(t, socket.deadline.After(century), socket.deadline)
			} else {
				assert.WithinDuration(t, tt.user, socket.deadline, time.Second)
			}
		})
	}
}

func TestDeadline_ShorterThanTheTimeoutIsNotSticky(t *testing.T) {
	sent := []string{"", "P", "PROXY", headerV1[:len(headerV1)-1], headerV2[:11], headerV2[:len(headerV2)-1]}
	for _, network := range append(networks, "pipe") {
		for _, first := range sent {
			for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
				t.Run(fmt.Sprintf("%s/%s/%q", network, mode, first), func(t *testing.T) {
					config, logs := testConfig(mode)
					var client net.Conn
					var c *conn
					if network == "pipe" {
						var server net.Conn
						client, server = net.Pipe()
						c = wrapTrusted(server, config)
						defer client.Close()
					} else {
						client, c = dial(t, network, config)
					}
					send(client, first)
					for range 2 {
						require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
						got := soon(t, func() result { return readOnce(c, 100) })
						var netErr net.Error
						require.ErrorAs(t, got.err, &netErr)
						assert.True(t, netErr.Timeout())
						assert.Empty(t, got.data)
						var opErr *net.OpError
						if network != "pipe" && assert.ErrorAs(t, got.err, &opErr) {
							assert.Equal(t, "read", opErr.Op, "net/http keeps silent on these")
						}
					}
					assert.Equal(t, statePending, c.state.Load())

					require.NoError(t, c.SetReadDeadline(time.Time{}))
					header := headerV1
					if strings.HasPrefix(first, "\r") {
						header = headerV2
					}
					send(client, strings.TrimPrefix(header, first)+"data")
					got := soon(t, func() result { return readOnce(c, 100) })
					assert.Equal(t, result{"data", nil}, got)
					host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
					assert.Equal(t, "203.0.113.7", host)
					assert.Empty(t, logs.Reasons())
				})
			}
		}
	}
}

func TestDeadline_IsIgnoredByAddresses(t *testing.T) {
	for _, network := range networks {
		for _, name := range []string{"RemoteAddr", "LocalAddr", "Write"} {
			t.Run(network+"/"+name, func(t *testing.T) {
				config, _ := testConfig(policy.On)
				client, c := dial(t, network, config)
				require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
				done := async(func() error { return calls[name](c) })
				untilHeaderIsRead(t, c)
				send(client, headerV1)
				assert.NoError(t, wait(t, done))
				assert.Equal(t, clientAddr, c.RemoteAddr().String())
			})
		}
	}
}

// net/http aborts a pending read with a deadline in the past, which it then clears.
func TestDeadline_AbortedReadLosesNothing(t *testing.T) {
	tests := []struct {
		name         string
		mode         policy.Mode
		header, held string
		then         string
		want         string // or refused, if empty
	}{
		{"nothing said under off", policy.Off, "", "", "GET /", "GET /"},
		{"beginning of v1 under off", policy.Off, "", "PRO", "PFIND /", "PROPFIND /"},
		{"beginning of v2 under off", policy.Off, "", "\r\n\r\n", "GET /", "\r\n\r\nGET /"},
		{"all but a byte of a signature under off", policy.Off, "", wire.SignatureV2[:11], "x", wire.SignatureV2[:11] + "x"},
		{"header in two pieces under off", policy.Off, "", "PROX", "Y", ""},
		{"nothing said under unspecified", policy.Unspecified, "", "", "GET /", "GET /"},
		{"beginning of v1 under unspecified", policy.Unspecified, "", "P", "UT /", "PUT /"},
		{"nothing behind a header", policy.On, headerV1, "", "GET /", "GET /"},
		{"beginning of v1 behind a header", policy.On, headerV1, "PRO", "PFIND /", "PROPFIND /"},
		{"beginning of v2 behind a header", policy.On, headerV2, "\r", "\nGET /", "\r\nGET /"},
		{"second header in two pieces", policy.On, headerV2, wire.SignatureV2[:11], "\n", ""},
	}
	for _, network := range networks {
		for _, tt := range tests {
			t.Run(network+"/"+tt.name, func(t *testing.T) {
				config, _ := testConfig(tt.mode)
				client, c := dial(t, network, config)
				send(client, tt.header+tt.held)
				read := async(func() result { return readOnce(c, 100) })
				if tt.header != "" {
					untilWatching(t, c)
				}
				for range 3 {
					// The read may not have begun yet; that must not matter either.
					require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
					got := wait(t, read)
					assert.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
					assert.Empty(t, got.data)
					require.NoError(t, c.SetReadDeadline(time.Time{}))
					read = async(func() result { return readOnce(c, 100) })
				}
				send(client, tt.then)
				got := wait(t, read)
				if tt.want == "" {
					assert.ErrorIs(t, got.err, record.ErrRefused)
					assert.Empty(t, got.data)
					return
				}
				for len(got.data) < len(tt.want) && got.err == nil {
					more := soon(t, func() result { return readOnce(c, 100) })
					got = result{got.data + more.data, more.err}
				}
				assert.Equal(t, result{tt.want, nil}, got)
			})
		}
	}
}

func TestDeadline_AppliesWhileWatching(t *testing.T) {
	for _, tt := range []struct {
		mode   policy.Mode
		header string
	}{{policy.On, headerV1}, {policy.Unspecified, headerV2}, {policy.Unspecified, ""}, {policy.Off, ""}} {
		t.Run(fmt.Sprintf("%s/%d", tt.mode, len(tt.header)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config, _ := testConfig(tt.mode, func(config *Config) { config.Timeout = 5 * time.Second })
				client, c := pipe(config)
				defer client.Close()
				defer c.Close()
				send(client, tt.header)
				start := time.Now()
				require.NoError(t, c.SetReadDeadline(start.Add(30*time.Second)))
				c.RemoteAddr()
				got := readOnce(c, 100)
				assert.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
				assert.Equal(t, 30*time.Second, time.Since(start))
				assert.Equal(t, stateWatching, c.state.Load())
			})
		})
	}
}

// noReadDeadline is a connection whose SetReadDeadline fails if err is set.
type noReadDeadline struct {
	net.Conn
	err error
}

func (c *noReadDeadline) SetReadDeadline(t time.Time) error {
	if c.err != nil {
		return c.err
	}
	return c.Conn.SetReadDeadline(t)
}

func TestDeadline_ThatCannotBeSetIsARefusal(t *testing.T) {
	for in, want := range map[string]string{"": "silent", "PRO": "io"} {
		config, logs := testConfig(policy.On)
		broken := &noReadDeadline{Conn: says(in, headerV1), err: errors.New("broken")}
		if in != "" {
			broken.err = nil
		}
		c := wrapTrusted(broken, config)
		if in != "" {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
			broken.Conn.(*script).events = []event{{in, nil}, {"", errDeadline}}
			require.ErrorIs(t, readOnce(c, 100).err, os.ErrDeadlineExceeded)
			broken.err = errors.New("broken")
		}
		assert.Equal(t, result{"", broken.err}, readOnce(c, 100))
		assert.Equal(t, []string{want}, logs.Reasons())
		assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
	}
	for _, name := range []string{"RemoteAddr", "LocalAddr", "Write", "ReadFrom"} {
		config, logs := testConfig(policy.On)
		c := wrapTrusted(&noReadDeadline{Conn: says(headerV1), err: errors.New("broken")}, config)
		_ = calls[name](c)
		assert.Equal(t, []string{"silent"}, logs.Reasons(), name)
		assert.Equal(t, peerAddr, c.RemoteAddr(), name)
	}
	for _, name := range []string{"RemoteAddr", "LocalAddr", "Write", "ReadFrom"} {
		config, logs := testConfig(policy.On)
		broken := &noReadDeadline{Conn: says(headerV1)}
		c := wrapTrusted(broken, config)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute))) // the caller's is replaced
		broken.err = errors.New("broken")
		_ = calls[name](c)
		assert.Equal(t, []string{"silent"}, logs.Reasons(), name)
		assert.Equal(t, peerAddr, c.RemoteAddr(), name)
	}
}

func TestDeadline_ReachesTheSocketDuringARead(t *testing.T) {
	config, _ := testConfig(policy.On, func(config *Config) { config.Timeout = time.Hour })
	socket := &duringRead{script: says(headerV1 + "data")}
	broken := &noReadDeadline{Conn: socket}
	c := wrapTrusted(broken, config)
	at := time.Now().Add(time.Minute)
	socket.during = func() {
		assert.NoError(t, c.SetReadDeadline(at))
		assert.WithinDuration(t, at, socket.deadline, time.Second)
		broken.err = errors.New("broken")
		assert.Equal(t, broken.err, c.SetReadDeadline(at))
		broken.err = nil
	}
	assert.Equal(t, result{"data", nil}, readOnce(c, 100))
	assert.Nil(t, socket.during, "it was called")
}

func TestDeadline_SetDeadlineReturnsTheReadError(t *testing.T) {
	config, _ := testConfig(policy.Off)
	broken := &noReadDeadline{Conn: says("GET"), err: errors.New("broken")}
	assert.Equal(t, broken.err, wrapTrusted(broken, config).SetDeadline(time.Now()))
}

func TestDeadline_ReturnsErrorsOfTheSocket(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Off} {
		config, _ := testConfig(mode)
		_, server := socketPair(t, "tcp4")
		c := wrapTrusted(server, config)
		require.NoError(t, c.Close())
		assert.ErrorIs(t, c.SetReadDeadline(time.Now()), net.ErrClosed, mode)
	}
}

func TestDeadline_ReturnsErrorsBeforeTheHeader(t *testing.T) {
	config, _ := testConfig(policy.On)
	broken := &noReadDeadline{Conn: says(headerV1), err: errors.New("broken")}
	assert.Equal(t, broken.err, wrapTrusted(broken, config).SetReadDeadline(time.Now()))
}

func TestDeadline_OfARefusedConnectionIsAnError(t *testing.T) {
	for _, name := range []string{"RemoteAddr", "Read", "Write"} {
		config, _ := testConfig(policy.On)
		client, c := dial(t, "tcp4", config)
		send(client, getRequest)
		_ = soon(t, func() error { return calls[name](c) })
		require.Equal(t, stateRefused, c.state.Load())
		assert.ErrorIs(t, c.SetReadDeadline(time.Now()), net.ErrClosed, name)
	}
}

// A header that is there already is read without setting a deadline, which costs more than the read.
func TestDeadline_IsTheCallersUntilTheSocketWaits(t *testing.T) {
	late := time.Now().Add(2 * time.Hour) // later than the timeout
	for _, op := range []op{opAddr, opRead, opWrite} {
		config, _ := testConfig(policy.On)
		socket := says()
		c := wrapTrusted(socket, config)
		c.op = op
		untouched := time.Unix(1, 0)
		socket.deadline = untouched
		c.restoreDeadline()
		assert.Equal(t, untouched, socket.deadline, "none is removed")
		require.NoError(t, c.SetReadDeadline(late))
		assert.Equal(t, late, socket.deadline)
		c.restoreDeadline()
		assert.Equal(t, late, socket.deadline)
		require.NoError(t, c.beforeWait())
		assert.WithinDuration(t, c.headerDeadline(), socket.deadline, 0, "the earlier one")
		socket.deadline = untouched
		require.NoError(t, c.beforeWait())
		assert.Equal(t, untouched, socket.deadline, "it is set once")
		c.restoreDeadline()
		assert.WithinDuration(t, late, socket.deadline, time.Second)
	}
}

func TestDeadline_BetweenReadsReachesTheSocketAsItIs(t *testing.T) {
	config, _ := testConfig(policy.On)
	socket := &script{events: []event{{"", errDeadline}}}
	c := wrapTrusted(socket, config)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	require.ErrorIs(t, readOnce(c, 1).err, os.ErrDeadlineExceeded)
	for _, deadline := range []time.Time{{}, time.Now().Add(2 * config.Timeout)} {
		require.NoError(t, c.SetReadDeadline(deadline))
		assert.Equal(t, deadline, socket.deadline)
	}
}

// The header's own deadline is removed again, also if the caller has removed another one meanwhile.
func TestDeadline_ClearedDuringAReadLeavesNone(t *testing.T) {
	config, _ := testConfig(policy.On)
	socket := says()
	c := wrapTrusted(socket, config)
	c.op = opRead
	require.NoError(t, c.beforeWait())
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	assert.WithinDuration(t, c.headerDeadline(), socket.deadline, 0)
	c.restoreDeadline()
	assert.Zero(t, socket.deadline)
}

// The time that means "none" inside is one that a caller can ask for.
func TestDeadline_AtTheStartOfTheProcessIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // on its clock no time passes between the calls
		config, _ := testConfig(policy.On)
		socket := says(headerV1 + "data")
		c := wrapTrusted(socket, config)
		at := noDeadline.ToTime()
		require.Equal(t, noDeadline, monotime.Of(at))
		require.NoError(t, c.SetReadDeadline(at))
		assert.Equal(t, clientAddr, c.RemoteAddr().String())
		assert.WithinDuration(t, at, socket.deadline, time.Nanosecond)
	})
}

func TestDeadline_ThatHasPassedComesBeforeData(t *testing.T) {
	config, _ := testConfig(policy.On)
	client, c := dial(t, "tcp4", config)
	send(client, headerV1+"data")
	require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	assert.ErrorIs(t, readOnce(c, 100).err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	assert.Equal(t, result{"data", nil}, readOnce(c, 100))
}

func TestDeadline_SetWhileTheHeaderIsReadIsKept(t *testing.T) {
	config, _ := testConfig(policy.On)
	deadline := time.Unix(1, 0)
	for range 2000 {
		gate := gatedRead{says(headerV1), make(chan struct{}), make(chan struct{})}
		c := newConn(gate, config, policy.On, policy.Trusted, monotime.Now())
		done := async(c.RemoteAddr)
		<-gate.got
		close(gate.goOn)
		require.NoError(t, c.SetReadDeadline(deadline)) // before, while or after the header is read
		wait(t, done)
		got := gate.Conn.(*script).deadline
		require.False(t, got.IsZero())
		require.False(t, got.After(monotime.Time(0).ToTime()))
	}
}

func TestDeadline_ClearedWhileTheHeaderIsReadStaysCleared(t *testing.T) {
	ln := listen(t, "tcp4")
	for range 300 {
		config, _ := testConfig(policy.On)
		client, err := net.Dial("tcp4", ln.Addr().String())
		require.NoError(t, err)
		accepted, err := (&Listener{Listener: ln, Config: config}).Accept()
		require.NoError(t, err)
		send(client, headerV1+"data")
		stop := make(chan struct{})
		var changes sync.WaitGroup
		changes.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					assert.NoError(t, accepted.SetReadDeadline(time.Unix(1, 0)))
					assert.NoError(t, accepted.SetReadDeadline(time.Time{}))
				}
			}
		})
		assert.Equal(t, clientAddr, accepted.RemoteAddr().String())
		close(stop)
		changes.Wait()
		assert.Equal(t, result{"data", nil}, readOnce(accepted.(*conn), 100))
		require.NoError(t, client.Close())
		require.NoError(t, accepted.Close())
	}
}

func TestTimeout_RefusesUnlessAHeaderIsOptional(t *testing.T) {
	const timeout = 5 * time.Second
	nothing := []string{"", "P", "PROX", "\r", wire.SignatureV2[:11]}
	begun := []string{"PROXY", "PROXY TCP4 203.0.113.7 198.51.", headerV1[:len(headerV1)-1], wire.SignatureV2, headerV2[:15], headerV2[:len(headerV2)-1]}
	tests := []struct {
		mode    policy.Mode
		sent    []string
		refused bool
	}{
		{policy.On, nothing, true},
		{policy.On, begun, true},
		{policy.Unspecified, nothing, false},
		{policy.Unspecified, begun, true},
	}
	for _, tt := range tests {
		for _, sent := range tt.sent {
			for name, call := range calls {
				if name == "Read" && !tt.refused {
					continue // goes on waiting: see below
				}
				t.Run(fmt.Sprintf("%s/%q/%s", tt.mode, sent, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						config, logs := testConfig(tt.mode, func(config *Config) { config.Timeout = timeout })
						client, c := pipe(config)
						defer client.Close()
						defer c.Close()
						go io.Copy(io.Discard, client)
						send(client, sent)
						start := time.Now()
						err := call(c)
						assert.Equal(t, timeout, time.Since(start))
						assert.Equal(t, "pipe", c.RemoteAddr().String())
						if tt.refused {
							assert.Equal(t, stateRefused, c.state.Load())
							reason := "timeout"
							if sent == "" {
								reason = "silent"
							}
							assert.Equal(t, []string{reason}, logs.Reasons())
						} else {
							assert.NoError(t, err)
							assert.Equal(t, stateWatching, c.state.Load())
							assert.Empty(t, logs.Reasons())
						}
					})
				})
			}
		}
	}
}

func TestTimeout_RunsFromAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, _ := testConfig(policy.On, func(config *Config) { config.Timeout = 5 * time.Second })
		client, c := pipe(config)
		defer client.Close()
		start := time.Now()
		time.Sleep(3 * time.Second)
		c.RemoteAddr()
		assert.Equal(t, 5*time.Second, time.Since(start))
		assert.Equal(t, stateRefused, c.state.Load())
	})
}

func TestTimeout_FirstUseAfterItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, logs := testConfig(policy.On, func(config *Config) { config.Timeout = 5 * time.Second })
		client, c := pipe(config)
		defer client.Close()
		send(client, headerV1)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "pipe", c.RemoteAddr().String())
		assert.Equal(t, []string{"silent"}, logs.Reasons(), "nothing was received")
	})
}

// A header that is there before the first read is refused if that read comes after the timeout. The
// connection is not counted as silent.
func TestTimeout_RefusesAHeaderReadTooLate(t *testing.T) {
	for _, network := range networks {
		for _, name := range []string{"first use", "after a read that the user's deadline ended"} {
			t.Run(network+"/"+name, func(t *testing.T) {
				config, logs := testConfig(policy.On, func(config *Config) { config.Timeout = time.Hour })
				client, c := dial(t, network, config)
				if name != "first use" {
					require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
					require.ErrorIs(t, readOnce(c, 1).err, os.ErrDeadlineExceeded)
					require.NoError(t, c.SetReadDeadline(time.Time{}))
				}
				c.acceptedAt = c.acceptedAt.Add(-2 * config.Timeout)
				send(client, headerV1)
				assert.Equal(t, c.info.Peer, soon(t, c.RemoteAddr))
				assert.Equal(t, []string{"timeout"}, logs.Reasons())
			})
		}
	}
}

func TestTimeout_PassesAtItsVeryEnd(t *testing.T) {
	for early, overdue := range map[time.Duration]bool{time.Nanosecond: false, 0: true, -time.Nanosecond: true} {
		synctest.Test(t, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			socket := says()
			c := wrapTrusted(socket, config)
			time.Sleep(config.Timeout - early)
			require.NoError(t, c.beforeRead())
			assert.Equal(t, overdue, c.overdue, early)
			assert.Equal(t, overdue, !socket.deadline.IsZero(), "the read must fail: %s", early)

			broken := errors.New("broken")
			c = newConn(&noReadDeadline{socket, broken}, config, policy.On, policy.Trusted, c.acceptedAt)
			assert.Equal(t, overdue, c.beforeRead() == broken, "or it would not: %s", early)
		})
	}
}

func TestTimeout_EndsADribbler(t *testing.T) {
	for _, header := range []string{headerV1, headerV2} {
		for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
			for _, call := range []string{"RemoteAddr", "Read"} {
				t.Run(fmt.Sprintf("%q/%s/%s", header[:5], mode, call), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						config, logs := testConfig(mode, func(config *Config) { config.Timeout = 20500 * time.Millisecond })
						client, c := pipe(config)
						done := async(func() error {
							for i := range len(header) {
								if _, err := io.WriteString(client, header[i:i+1]); err != nil {
									return err
								}
								time.Sleep(time.Second)
							}
							return nil
						})
						start := time.Now()
						_ = calls[call](c)
						assert.Equal(t, config.Timeout, time.Since(start))
						assert.Equal(t, []string{"timeout"}, logs.Reasons())
						assert.ErrorIs(t, <-done, io.ErrClosedPipe)
					})
				})
			}
		}
	}
}

// A client may be silent behind its header.
func TestTimeout_EndsWithTheHeader(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
		t.Run(mode.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config, logs := testConfig(mode, func(config *Config) { config.Timeout = 5 * time.Second })
				client, c := pipe(config)
				defer client.Close()
				defer c.Close()
				send(client, headerV1)
				start := time.Now()
				assert.NotEqual(t, "pipe", c.RemoteAddr().String())
				assert.Zero(t, time.Since(start), "the address is known at once")
				read := async(func() result { return readOnce(c, 100) })
				time.Sleep(time.Hour)
				send(client, "data")
				assert.Equal(t, result{"data", nil}, <-read)
				assert.Empty(t, logs.Reasons())
			})
		})
	}
}

// An address that was returned must not change later. A timeout before the header's deadline comes
// from a socket that sets deadlines itself.
func TestTimeout_OfTheSocketItselfIsARefusal(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
		for _, name := range []string{"RemoteAddr", "LocalAddr", "Write"} {
			for begun, want := range map[string]string{"": "silent", "PRO": "io"} {
				t.Run(mode.String()+"/"+name+"/"+begun, func(t *testing.T) {
					config, logs := testConfig(mode)
					c := wrapTrusted(&script{events: []event{{begun, errDeadline}, {headerV1[len(begun):], nil}}}, config)
					_ = calls[name](c)
					assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
					assert.Equal(t, peerAddr, c.RemoteAddr())
					assert.Equal(t, []string{want}, logs.Reasons())
				})
			}
		}
	}
}

func TestTimeout_SocketErrorAfterItIsNoTimeout(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Unspecified} {
		config, logs := testConfig(mode)
		socket := &script{events: []event{{"", errReset}}}
		c := newConn(socket, config, mode, policy.Trusted, monotime.Now().Add(-2*config.Timeout))
		assert.Equal(t, error(errReset), readOnce(c, 100).err, mode)
		assert.Equal(t, []string{"silent"}, logs.Reasons(), mode)
	}
}
