package proxyprotocol

import (
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

func TestRefusalsBeyondTheLimitAreSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		log := newConnLog(zap.New(core), false)
		const missing, forbidden = 3 * refusalsLogged, refusalsLogged + 7
		for range missing {
			log.refused(connPeer, connLocal, On, reasonMissing, nil)
		}
		for range forbidden {
			log.refused(connPeer, connLocal, Off, reasonForbidden, nil)
		}
		synctest.Wait()
		assert.Equal(t, 2*refusalsLogged, logs.Len(), "each reason has a limit of its own")

		time.Sleep(refusalInterval + time.Second) // in no time: the bubble's clock
		synctest.Wait()
		left := make(map[any]any)
		for _, entry := range logs.FilterMessage("further lines with this message were not logged").All() {
			assert.Equal(t, zapcore.WarnLevel, entry.Level)
			left[entry.ContextMap()["message"]] = entry.ContextMap()["count"]
		}
		assert.Equal(t, map[any]any{
			refusalMessages[reasonMissing]:   uint64(missing - refusalsLogged),
			refusalMessages[reasonForbidden]: uint64(forbidden - refusalsLogged),
		}, left)

		logs.TakeAll()
		log.refused(connPeer, connLocal, On, reasonMissing, nil)
		time.Sleep(2 * refusalInterval)
		synctest.Wait()
		assert.Equal(t, 1, logs.Len(), "a new interval, in which nothing is left out")
	})
}

func TestRefusalSaysWhoWhereAndWhy(t *testing.T) {
	for why := reasonMissing; why < outcomes; why++ {
		t.Run(why.String(), func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			log := newConnLog(zap.New(core), false)
			log.refused(connPeer, connLocal, On, why, fmt.Errorf("what is wrong"))
			log.wait()
			require.Equal(t, 1, logs.Len())
			entry := logs.All()[0]
			level := zapcore.WarnLevel
			if why == reasonSilent {
				level = zapcore.DebugLevel
			}
			assert.Equal(t, level, entry.Level)
			assert.NotEmpty(t, entry.Message)
			assert.Equal(t, map[string]any{
				"peer": connPeer.String(), "local": connLocal.String(), "mode": "on",
				"reason": why.String(), "error": "what is wrong",
			}, entry.ContextMap())
		})
	}
}

func TestRefusalSaysWhatWasRefused(t *testing.T) {
	for _, datagrams := range []bool{false, true} {
		core, logs := observer.New(zapcore.DebugLevel)
		log := newConnLog(zap.New(core), datagrams)
		log.refused(connPeer, connLocal, On, reasonMissing, nil)
		log.wait()
		require.Equal(t, 1, logs.Len())
		what := "refused connection"
		if datagrams {
			what = "dropped datagram"
		}
		entry := logs.All()[0]
		assert.Equal(t, what+" without PROXY protocol header", entry.Message)
		assert.NotContains(t, entry.ContextMap(), "error")
	}
}

// Health checks that only connect cost nothing that has a limit, unless their lines are wanted.
func TestRefusalThatIsNoNewsIsLoggedAtDebugOnly(t *testing.T) {
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel} {
		core, logs := observer.New(level)
		log := newConnLog(zap.New(core), false)
		log.refused(connPeer, connLocal, On, reasonSilent, nil)
		log.wait()
		wanted := level == zapcore.DebugLevel
		assert.Equal(t, wanted, logs.Len() == 1)
		assert.Equal(t, wanted, log.limits[reasonSilent] != lineLimit{})
	}
}

func TestMarkedConnectionsAreWarnedOfOnceAMinute(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	log := newConnLog(zap.New(core), false)
	rules, _ := connRules(Unspecified)
	c := connOf(connSays(connV1), rules)
	c.RemoteAddr()
	lines := 0
	for _, at := range []struct {
		now    time.Duration
		logged bool
	}{
		{0, true}, {time.Second, false}, {markedInterval - 1, false}, {markedInterval, true}, {markedInterval + 1, false},
		{2*markedInterval - 1, false}, {2*markedInterval + 1, true}, {3 * markedInterval, false},
	} {
		log.marked(c.peer, c.Conn, &c.header, monotime.Time(at.now))
		log.wait()
		if at.logged {
			lines++
		}
		require.Equal(t, lines, logs.Len(), at.now)
	}
	assert.Equal(t, map[string]any{
		"peer": connPeer.String(), "local": connLocal.String(), "claimed": c.header.Source().String(),
	}, logs.All()[2].ContextMap())
}

func TestAcceptedHeaderIsLoggedAtDebugOnly(t *testing.T) {
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel} {
		core, logs := observer.New(level)
		rules, _ := connRules(On, func(r *rules) { r.log = newConnLog(zap.New(core), false) })
		c := connOf(connSays(connV1), rules)
		c.RemoteAddr()
		rules.log.wait()
		if level != zapcore.DebugLevel {
			assert.Zero(t, logs.Len(), "nor is it warned of")
			continue
		}
		require.Equal(t, 1, logs.Len())
		entry := logs.All()[0]
		assert.Equal(t, level, entry.Level)
		assert.Equal(t, "accepted PROXY protocol header", entry.Message)
		assert.Equal(t, map[string]any{
			"peer": connPeer.String(), "mode": "on", "version": uint8(1),
			"source": c.header.Source().String(), "destination": c.header.Destination().String(),
		}, entry.ContextMap())
	}
}

// Health checks that only connect are not worth a place in the record of refusals.
func TestRefusalsThatAreRemembered(t *testing.T) {
	for _, tt := range []struct {
		name string
		why  outcome
		err  error
		want int
	}{
		{"connection that says nothing", reasonSilent, nil, 0},
		{"connection that is reset before it says anything", reasonSilent, errConnReset, 0},
		{"connection that fails", reasonIO, errConnReset, 1},
		{"connection that this server closes", reasonIO, &net.OpError{Op: "read", Err: net.ErrClosed}, 0},
		{"closed before its header was complete", reasonIO, errClosedBefore, 1},
		{"header cut off", reasonMalformed, errCutOff, 1},
		{"malformed, and then the end", reasonMalformed, io.EOF, 1},
		{"second header", reasonDuplicate, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := connRules(On)
			rules.stats = newStats()
			rules.refuse(connPeer, connLocal, On, tt.why, nil, tt.err)
			assert.Len(t, rules.stats.lastRefusals(), tt.want)
		})
	}
}
