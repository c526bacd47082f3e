package record

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
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
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The ends of a connection.
var (
	testPeer  net.Addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:4711"))
	testLocal net.Addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.2:443"))
)

var errReset = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// socket is a socket with this address.
type socket struct{ addr net.Addr }

func (s socket) LocalAddr() net.Addr { return s.addr }

func refusalOf(peer, local net.Addr, mode policy.Mode, reason Outcome, err error) *Refusal {
	return &Refusal{Time: time.Now(), Peer: peer, Local: local, Mode: mode, Reason: reason, Err: err}
}

func testHeader() *wire.Header {
	r := wire.Decode([]byte("PROXY TCP4 203.0.113.7 198.51.100.9 56324 8443\r\n"), wire.MaxSize)
	return &r.Header
}

func TestLog_SumsUpRefusalsBeyondTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		log := NewLog(zap.New(core), false)
		const missing, forbidden = 3 * RefusalsLogged, RefusalsLogged + 7
		for range missing {
			log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
		}
		for range forbidden {
			log.refusal(refusalOf(testPeer, testLocal, policy.Off, Forbidden, nil))
		}
		synctest.Wait()
		assert.Equal(t, 2*RefusalsLogged, logs.Len(), "each reason has a limit of its own")

		time.Sleep(RefusalInterval + time.Second) // in no time: the bubble's clock
		synctest.Wait()
		left := make(map[any]any)
		for _, entry := range logs.FilterMessage("further lines with this message were not logged").All() {
			assert.Equal(t, zapcore.WarnLevel, entry.Level)
			left[entry.ContextMap()["message"]] = entry.ContextMap()["count"]
		}
		assert.Equal(t, map[any]any{
			refusalMessages[Missing]:   uint64(missing - RefusalsLogged),
			refusalMessages[Forbidden]: uint64(forbidden - RefusalsLogged),
		}, left)

		logs.TakeAll()
		log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
		time.Sleep(2 * RefusalInterval)
		synctest.Wait()
		assert.Equal(t, 1, logs.Len(), "a new interval, in which nothing is left out")

		for range RefusalsLogged + 3 {
			log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
		}
		time.Sleep(2 * RefusalInterval)
		synctest.Wait()
		again := logs.FilterMessage("further lines with this message were not logged").All()
		require.Len(t, again, 1)
		assert.Equal(t, uint64(3), again[0].ContextMap()["count"], "since the last summary")
	})
}

func TestLog_RefusalHasPeerLocalModeAndReason(t *testing.T) {
	for why := Missing; why < Outcomes; why++ {
		t.Run(why.String(), func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			log := NewLog(zap.New(core), false)
			log.refusal(refusalOf(testPeer, testLocal, policy.On, why, fmt.Errorf("what is wrong")))
			log.Flush()
			require.Equal(t, 1, logs.Len())
			entry := logs.All()[0]
			level := zapcore.WarnLevel
			if why == Silent {
				level = zapcore.DebugLevel
			}
			assert.Equal(t, level, entry.Level)
			assert.NotEmpty(t, entry.Message)
			fields := entry.ContextMap()
			delete(fields, "hint") // see TestRefusal_Hint
			assert.Equal(t, map[string]any{
				"peer": testPeer.String(), "local": testLocal.String(), "mode": "on",
				"reason": why.String(), "error": "what is wrong",
			}, fields)
		})
	}
}

func TestLog_TellsConnectionsFromDatagrams(t *testing.T) {
	for _, datagrams := range []bool{false, true} {
		core, logs := observer.New(zapcore.DebugLevel)
		log := NewLog(zap.New(core), datagrams)
		log.refusal(refusalOf(testPeer, testLocal, policy.On, Missing, nil))
		log.Flush()
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
func TestLog_SilentConnectionsAreLoggedAtDebugOnly(t *testing.T) {
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel} {
		core, logs := observer.New(level)
		log := NewLog(zap.New(core), false)
		log.refusal(refusalOf(testPeer, testLocal, policy.On, Silent, nil))
		log.Flush()
		wanted := level == zapcore.DebugLevel
		assert.Equal(t, wanted, logs.Len() == 1)
		assert.Equal(t, wanted, log.limits[Silent] != lineLimit{})
	}
}

func TestLog_WarnsOfMarkedConnectionsOnceAMinute(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	log := NewLog(zap.New(core), false)
	h := testHeader()
	lines := 0
	for _, at := range []struct {
		now    time.Duration
		logged bool
	}{
		{0, true}, {time.Second, false}, {markedInterval - 1, false}, {markedInterval, true}, {markedInterval + 1, false},
		{2*markedInterval - 1, false}, {2*markedInterval + 1, true}, {3 * markedInterval, false},
	} {
		log.marked(testPeer, socket{testLocal}, h, monotime.Time(at.now))
		log.Flush()
		if at.logged {
			lines++
		}
		require.Equal(t, lines, logs.Len(), at.now)
	}
	assert.Equal(t, map[string]any{
		"peer": testPeer.String(), "local": testLocal.String(), "claimed": h.Source().String(),
	}, logs.All()[2].ContextMap())
}

func TestLog_AcceptedHeadersAreLoggedAtDebugOnly(t *testing.T) {
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel} {
		core, logs := observer.New(level)
		r, h := Recorder{NewLog(zap.New(core), false), NewStats()}, testHeader()
		r.LogHeader(&Accepted{Peer: testPeer, Header: *h}, socket{testLocal}, policy.On)
		r.Log.Flush()
		if level != zapcore.DebugLevel {
			assert.Zero(t, logs.Len(), "nor is it warned of")
			continue
		}
		require.Equal(t, 1, logs.Len())
		entry := logs.All()[0]
		assert.Equal(t, level, entry.Level)
		assert.Equal(t, "accepted PROXY protocol header", entry.Message)
		assert.Equal(t, map[string]any{
			"peer": testPeer.String(), "mode": "on", "version": uint8(1),
			"source": h.Source().String(), "destination": h.Destination().String(),
		}, entry.ContextMap())
	}
}

// Health checks that only connect are not worth a place in the record of refusals.
func TestRecorder_RemembersRefusals(t *testing.T) {
	for _, tt := range []struct {
		name string
		why  Outcome
		err  error
		want int
	}{
		{"connection that says nothing", Silent, nil, 0},
		{"connection that is reset before it says anything", Silent, errReset, 0},
		{"connection that fails", IO, errReset, 1},
		{"connection that this server closes", IO, &net.OpError{Op: "read", Err: net.ErrClosed}, 0},
		{"closed before its header was complete", IO, errors.New("closed before"), 1},
		{"header cut off", Malformed, errors.New("cut off"), 1},
		{"malformed, and then the end", Malformed, io.EOF, 1},
		{"second header", Duplicate, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Recorder{NewLog(zap.NewNop(), false), NewStats()}
			r.Refuse(*refusalOf(testPeer, testLocal, policy.On, tt.why, tt.err), nil)
			assert.Len(t, r.Stats.LastRefusals(), tt.want)
		})
	}
}

func TestLog_RefusalSaysWhatArrivedAndWhatToDo(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	r := Recorder{NewLog(zap.New(core), false), NewStats()}
	refusal := *refusalOf(testPeer, testLocal, policy.On, Duplicate, nil)
	refusal.First = testHeader().Source()
	r.Refuse(refusal, []byte("PROXY TCP4 1.2.3.4"))
	r.Refuse(*refusalOf(testPeer, testLocal, policy.On, Silent, nil), nil)
	r.Log.Flush()
	require.Equal(t, 2, logs.Len())
	fields := logs.All()[0].ContextMap()
	assert.Equal(t, "v1", fields["received"])
	assert.Equal(t, "203.0.113.7:56324", fields["source"])
	assert.Contains(t, fields["hint"], "the first header names 203.0.113.7:56324")
	fields = logs.All()[1].ContextMap()
	assert.Equal(t, "nothing", fields["received"])
	assert.NotContains(t, fields, "source")
	assert.NotContains(t, fields, "hint")
}

func TestRecorder_CountsAndRemembers(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	r := Recorder{NewLog(zap.New(core), false), NewStats()}
	r.Count(policy.On, 1, Client)
	assert.EqualValues(t, 1, r.Stats.Total(Client))
	r.ObserveHeader(time.Second)
	n, _, _ := r.Stats.HeaderTimes()
	assert.EqualValues(t, 1, n)
	r.SawPeer(netip.MustParseAddr("192.0.2.1"), policy.On)
	peers, _ := r.Stats.SeenPeers()
	assert.Len(t, peers, 1)
	header := Accepted{Peer: testPeer, Header: *testHeader(), Marked: true}
	r.LogHeader(&header, socket{testLocal}, policy.Unspecified)
	assert.Empty(t, r.Stats.LastHeaders(), "another one may follow")
	r.RememberHeader(&header)
	assert.Len(t, r.Stats.LastHeaders(), 1)
	r.Refuse(*refusalOf(testPeer, testLocal, policy.On, Missing, nil), nil)
	r.Log.Warn("what is wrong", zap.String("field", "value"))
	r.Log.Flush()
	assert.Equal(t, 1, logs.FilterMessageSnippet("a client address is unverified").Len())
	assert.Equal(t, 1, logs.FilterMessage("refused connection without PROXY protocol header").Len())
	warnings := logs.FilterMessage("what is wrong").All()
	require.Len(t, warnings, 1)
	assert.Equal(t, zapcore.WarnLevel, warnings[0].Level)
	assert.Equal(t, map[string]any{"field": "value"}, warnings[0].ContextMap())
}
