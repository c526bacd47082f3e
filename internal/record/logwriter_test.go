package record

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

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
func TestLog_QueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		released := make(chan struct{})
		log := NewLog(zap.New(blockingCore{core, released}), false)
		refuse := func() {
			for why := Missing; why <= IO; why++ {
				for range RefusalsLogged {
					log.refusal(refusalOf(testPeer, testLocal, policy.On, why, errors.New("what is wrong")))
				}
			}
		}
		waiting := func() int {
			log.mu.Lock()
			defer log.mu.Unlock()
			return len(log.waiting)
		}
		const each = int(IO-Missing+1) * RefusalsLogged
		refuse()
		synctest.Wait()
		assert.LessOrEqual(t, waiting(), linesWaiting, "and one is being written")
		assert.GreaterOrEqual(t, waiting(), linesWaiting-1)
		time.Sleep(time.Hour) // of the bubble: the log blocks on
		refuse()
		assert.Equal(t, linesWaiting, waiting())
		assert.Zero(t, logs.Len())

		close(released)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Zero(t, waiting())
		left := 0
		for _, entry := range logs.FilterMessage("further lines with this message were not logged").All() {
			left += int(entry.ContextMap()["count"].(uint64))
		}
		written := logs.FilterMessageSnippet("PROXY protocol").Len() + logs.FilterMessageSnippet("untrusted").Len()
		assert.Equal(t, 2*each, written+left, "every refusal is either logged or summed up")
	})
}

// The time of a line is that of the refusal, however long it waited.
func TestLog_LineHasTheTimeOfTheRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		released := make(chan struct{})
		log := NewLog(zap.New(blockingCore{core, released}), false)
		began := time.Now()
		for range 2 {
			log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
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

// badAddr is an address that cannot be shown.
type badAddr struct{ net.Addr }

func (badAddr) String() string { panic("no address") }

func TestLog_RefusalOfAConnectionWithoutAddresses(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	log := NewLog(zap.New(core), false)
	for _, addr := range []net.Addr{nil, badAddr{}, (*net.TCPAddr)(nil)} {
		log.refusal(refusalOf(addr, addr, policy.On, Missing, nil))
	}
	log.Flush()
	assert.Equal(t, 3, logs.Len())
}

// A burst of refusals that fills the queue must not cost the warning of a marked address.
func TestLog_MarkedLineIsNotLostWhenTheQueueIsFull(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	released := make(chan struct{})
	log := NewLog(zap.New(blockingCore{core, released}), false)
	log.debug = false // or the line of the accepted header blocks as well
	log.refusal(refusalOf(testPeer, testLocal, policy.Unspecified, IO, nil))
	require.Eventually(t, func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return len(log.waiting) == 0
	}, 10*time.Second, time.Millisecond, "the writer does not take the first line, and would make room later")
	for why := Missing; why <= Malformed; why++ {
		for range RefusalsLogged {
			log.refusal(refusalOf(testPeer, testLocal, policy.Unspecified, why, nil))
		}
	}
	accept := func() {
		log.accepted(&Accepted{Peer: testPeer, Header: *testHeader(), Marked: true}, socket{testLocal}, policy.Unspecified)
	}
	accept()
	close(released)
	log.Flush()
	assert.Zero(t, logs.FilterMessageSnippet("a client address is unverified").Len())
	for range 2 {
		accept() // the queue is empty again
	}
	log.Flush()
	assert.Equal(t, 1, logs.FilterMessageSnippet("a client address is unverified").Len())
}

// onceCore is a log whose first write does something else.
type onceCore struct {
	blockingCore
	once *sync.Once
	do   func()
}

func (c onceCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}
func (c onceCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	c.once.Do(c.do)
	return c.Core.Write(e, f)
}

// A writer that panics or ends its goroutine must not end the log, let alone the process.
func TestLog_SurvivesAWriterThatFails(t *testing.T) {
	for name, fails := range map[string]func(){"panics": func() { panic("log is broken") }, "ends its goroutine": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zapcore.DebugLevel)
				released := make(chan struct{})
				close(released)
				log := NewLog(zap.New(onceCore{blockingCore{core, released}, new(sync.Once), fails}), false)
				log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
				synctest.Wait()
				log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
				synctest.Wait()
				assert.Equal(t, 1, logs.Len())
			})
		})
	}
}
