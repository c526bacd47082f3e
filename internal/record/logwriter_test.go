package proxyprotocol

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// A log writer is another module's code. While it panics or blocks, Caddy goes on accepting
// connections, refuses what it must and serves the rest.
func TestLogWriterThatFailsStopsNothing(t *testing.T) {
	for name, fail := range map[string]func(over <-chan struct{}){
		"panics": func(<-chan struct{}) { panic("log writer is broken") },
		"blocks": func(over <-chan struct{}) { <-over },
	} {
		for refused, text := range map[string]string{
			"in the accept loop":           "", // of an untrusted peer
			"in the connection's own time": caddytest.Request("/"),
		} {
			t.Run(name+"/"+refused, func(t *testing.T) {
				port := caddytest.FreePort(t)
				c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on {\ntrusted_proxies static 127.0.0.1\n}"), caddytest.PlainSite(port))
				over := make(chan struct{})
				var failed atomic.Int32
				before := func(line []byte) {
					if bytes.Contains(line, []byte("refused connection")) {
						failed.Add(1)
						fail(over)
					}
				}
				caddytest.BeforeWrite.Store(&before)
				release := sync.OnceFunc(func() {
					caddytest.BeforeWrite.Store(nil)
					close(over)
				})
				defer release()
				for range 3 * refusalsLogged {
					from := "127.0.0.1"
					if text == "" {
						from = "127.0.0.2"
					}
					conn := caddytest.DialFrom(t, from, port)
					caddytest.Send(t, conn, text)
					caddytest.RequireRefused(t, conn)
					require.NoError(t, conn.Close())
				}
				assert.Positive(t, failed.Load())
				if name == "blocks" {
					assert.EqualValues(t, 1, failed.Load(), "one goroutine waits for the writer")
				}
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				caddytest.Send(t, conn, caddytest.HeaderV1(caddytest.Client4, caddytest.Server4)+caddytest.Request("/"))
				response, body := caddytest.ReadResponse(t, conn)
				assert.Equal(t, http.StatusOK, response.StatusCode)
				assert.Equal(t, caddytest.Client4.String(), body)
				release()
				c.Logs.WaitFor(t, caddytest.OfAccess)
			})
		}
	}
}

// blockingCore is a log that blocks until it is released.
type blockingCore struct {
	zapcore.Core
	released chan struct{}
}

func (c blockingCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c blockingCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	<-c.released
	return c.Core.Write(e, fields)
}

// What waits for a log that blocks is bounded, and what is left out is summed up.
func TestLinesThatWaitForTheLogAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		released := make(chan struct{})
		log := newConnLog(zap.New(blockingCore{core, released}), false)
		refuse := func() {
			for why := reasonMissing; why <= reasonIO; why++ {
				for range refusalsLogged {
					log.refused(connPeer, connLocal, On, why, errors.New("what is wrong"))
				}
			}
		}
		const each = int(reasonIO-reasonMissing+1) * refusalsLogged
		refuse()
		synctest.Wait()
		assert.LessOrEqual(t, len(log.waiting), linesWaiting, "and one is being written")
		assert.GreaterOrEqual(t, len(log.waiting), linesWaiting-1)
		time.Sleep(time.Hour) // of the bubble: the log blocks on
		refuse()
		assert.Equal(t, linesWaiting, len(log.waiting))
		assert.Zero(t, logs.Len())

		close(released)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, log.waiting)
		left := 0
		for _, entry := range logs.FilterMessage("further lines with this message were not logged").All() {
			left += int(entry.ContextMap()["count"].(uint64))
		}
		written := logs.FilterMessageSnippet("PROXY protocol").Len() + logs.FilterMessageSnippet("untrusted").Len()
		assert.Equal(t, 2*each, written+left, "every refusal is either logged or summed up")
	})
}

// The time of a line is that of the refusal, however long it waited.
func TestLineHasTheTimeOfTheRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		released := make(chan struct{})
		log := newConnLog(zap.New(blockingCore{core, released}), false)
		began := time.Now()
		for range 2 {
			log.refused(connPeer, connLocal, On, reasonMissing, nil)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		close(released)
		synctest.Wait()
		require.Equal(t, 2, logs.Len())
		for i, entry := range logs.All() {
			assert.Equal(t, began.Add(time.Duration(i)*time.Second), entry.Time)
		}
	})
}

func TestRefusalOfAConnectionWithoutAddressesIsLogged(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	log := newConnLog(zap.New(core), false)
	for _, addr := range []net.Addr{nil, connBadAddr{}, (*net.TCPAddr)(nil)} {
		log.refused(addr, addr, On, reasonMissing, nil)
	}
	log.wait()
	assert.Equal(t, 3, logs.Len())
}

// A burst of refusals that fills the queue must not cost the warning of a marked address.
func TestMarkedLineIsNotLostWhenTheQueueIsFull(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	released := make(chan struct{})
	log := newConnLog(zap.New(blockingCore{core, released}), false)
	log.debug = false // or the line of the accepted header blocks as well
	log.refused(connPeer, connLocal, Unspecified, reasonIO, nil)
	caddytest.Eventually(t, func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return len(log.waiting) == 0
	}, "the writer does not take the first line, and would make room later")
	for why := reasonMissing; why <= reasonMalformed; why++ {
		for range refusalsLogged {
			log.refused(connPeer, connLocal, Unspecified, why, nil)
		}
	}
	rules, _ := connRules(Unspecified, func(r *rules) { r.log = log })
	connOf(connSays(connV1), rules).RemoteAddr()
	close(released)
	log.wait()
	assert.Zero(t, logs.FilterMessageSnippet("a client address is unverified").Len())
	for range 2 {
		connOf(connSays(connV1), rules).RemoteAddr() // the queue is empty again
	}
	log.wait()
	assert.Equal(t, 1, logs.FilterMessageSnippet("a client address is unverified").Len())
}

type goexitCore struct {
	blockingCore
	once *sync.Once
}

func (c goexitCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}
func (c goexitCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	c.once.Do(runtime.Goexit)
	return c.Core.Write(e, f)
}

// A writer that ends its goroutine must not end the log.
func TestLogWriterThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		log := newConnLog(zap.New(goexitCore{blockingCore{core, nil}, new(sync.Once)}), false)
		log.refused(connPeer, connLocal, On, reasonMissing, nil)
		synctest.Wait()
		log.refused(connPeer, connLocal, On, reasonMissing, nil)
		synctest.Wait()
		assert.Equal(t, 1, logs.Len())
	})
}
