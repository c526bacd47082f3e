package proxyprotocol

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// connListener is a listener with these connections to accept, and then an error.
type connListener struct {
	conns []net.Conn
	err   error
}

func (l *connListener) Accept() (net.Conn, error) {
	if len(l.conns) == 0 {
		return nil, l.err
	}
	c := l.conns[0]
	l.conns = l.conns[1:]
	return c, nil
}

func (l *connListener) Close() error   { return l.err }
func (l *connListener) Addr() net.Addr { return connLocal }

// connFrom is a scripted connection from a peer.
type connFrom struct {
	*connScript
	peer net.Addr
}

func (c connFrom) RemoteAddr() net.Addr { return c.peer }

func TestListenerPassesErrorsOn(t *testing.T) {
	rules, _ := connRules(On)
	want := errors.New("listener is broken")
	l := &listener{Listener: &connListener{err: want}, rules: rules}
	_, err := l.Accept()
	assert.Equal(t, want, err)
	assert.Equal(t, want, l.Close())
	assert.Equal(t, connLocal, l.Addr())
}

func TestListenerAcceptsWithoutReading(t *testing.T) {
	for _, mode := range []Mode{On, Off, Unspecified} {
		script := connSays(connV1)
		rules, _ := connRules(mode)
		l := &listener{Listener: &connListener{conns: []net.Conn{script}}, rules: rules}
		accepted, err := l.Accept()
		require.NoError(t, err)
		require.IsType(t, (*conn)(nil), accepted)
		assert.Equal(t, mode, accepted.(*conn).mode)
		assert.Zero(t, script.reads)
		assert.Zero(t, script.deadline)
	}
}

func TestListenerAcceptsTheNextAfterARefusal(t *testing.T) {
	stranger, balancer := &connFrom{connSays(connV1), connTCPAddr("198.51.100.1:1")}, connSays(connV1)
	rules, logs := connRules(On)
	rules.trusted = connSet(t, "192.0.2.0/24")
	l := &listener{Listener: &connListener{conns: []net.Conn{stranger, stranger, balancer}}, rules: rules}
	accepted, err := l.Accept()
	require.NoError(t, err)
	assert.Same(t, balancer, accepted.(*conn).NetConn())
	assert.Equal(t, connClient, accepted.RemoteAddr().String())

	assert.True(t, stranger.closed)
	assert.Zero(t, stranger.reads, "refused before a byte is read")
	assert.Empty(t, stranger.written)
	assert.Equal(t, []string{"untrusted", "untrusted"}, connReasons(logs))
	fields := logs.FilterMessage(refusalMessages[reasonUntrusted]).All()[0].ContextMap()
	assert.Equal(t, "198.51.100.1:1", fields["peer"])
	assert.Equal(t, connLocal.String(), fields["local"])
	assert.Equal(t, "on", fields["mode"])
}

func TestListenerJudgesByRange(t *testing.T) {
	rules, _ := connRules(On)
	rules.trusted = connSet(t)
	rules.ranges = connTable(t, map[string]Mode{"198.51.100.0/24": Off, "198.51.100.1": Unspecified})
	for peer, want := range map[string]Mode{"198.51.100.9:1": Off, "198.51.100.1:1": Unspecified} {
		l := &listener{Listener: &connListener{conns: []net.Conn{&connFrom{connSays(), connTCPAddr(peer)}}}, rules: rules}
		accepted, err := l.Accept()
		require.NoError(t, err)
		assert.Equal(t, want, accepted.(*conn).mode)
	}
}

func TestListenerAcceptsStrangersUnderUnspecified(t *testing.T) {
	rules, _ := connRules(Unspecified)
	rules.trusted = connSet(t, "198.51.100.0/24")
	l := &listener{Listener: &connListener{conns: []net.Conn{connSays(connGET), connSays(connV1)}}, rules: rules}
	plain, err := l.Accept()
	require.NoError(t, err)
	assert.Equal(t, connResult{connGET, nil}, connReadAll(plain))
	liar, err := l.Accept()
	require.NoError(t, err)
	assert.ErrorIs(t, connReadAll(liar).err, errRefused)
	assert.Equal(t, connPeer, liar.RemoteAddr())
}

// A dynamic source must not hold up the accept loop.
func TestListenerDoesNotAskTheSource(t *testing.T) {
	rules, _ := connRules(On)
	rules.source = connSource(nil) // would panic
	l := &listener{Listener: &connListener{conns: []net.Conn{connSays(connV1)}}, rules: rules}
	accepted, err := l.Accept()
	require.NoError(t, err)
	assert.Equal(t, unasked, accepted.(*conn).trust)
}

func TestListenerRefusesWhatIsTLSAlready(t *testing.T) {
	for _, mode := range []Mode{On, Off, Unspecified} {
		script := connSays("\x16\x03\x01")
		rules, logs := connRules(mode)
		l := &listener{Listener: &connListener{conns: []net.Conn{tls.Server(script, &tls.Config{})}, err: io.EOF}, rules: rules}
		_, err := l.Accept()
		assert.Equal(t, io.EOF, err)
		assert.True(t, script.closed)
		assert.Zero(t, script.reads)
		assert.Equal(t, []string{"io"}, connReasons(logs))
		entry := logs.All()[0]
		assert.Equal(t, zap.WarnLevel, entry.Level)
		assert.Contains(t, entry.ContextMap()["error"], "put 'proxy_protocol_mode' before 'tls'")
	}
}

// A panic in the accept loop would end the process.
func TestListenerSurvivesPanicsBelow(t *testing.T) {
	for _, names := range []string{"RemoteAddr", "LocalAddr", "RemoteAddr Close", "RemoteAddr LocalAddr Read Close SetReadDeadline"} {
		t.Run(names, func(t *testing.T) {
			broken, whole := connSays(connV1), connSays(connV1)
			rules, logs := connRules(On)
			l := &listener{Listener: &connListener{conns: []net.Conn{connPanics{broken, names}, whole}}, rules: rules}
			var accepted net.Conn
			require.NotPanics(t, func() { accepted, _ = l.Accept() })
			require.NotNil(t, accepted)
			assert.Same(t, whole, accepted.(*conn).NetConn())
			require.Equal(t, []string{"io"}, connReasons(logs))
			assert.Contains(t, logs.All()[0].ContextMap()["error"], "connection is broken")
		})
	}
	t.Run("a wrapper of nothing", func(t *testing.T) {
		rules, logs := connRules(On)
		l := &listener{Listener: &connListener{conns: []net.Conn{struct{ net.Conn }{}}, err: io.EOF}, rules: rules}
		require.NotPanics(t, func() { l.Accept() })
		assert.Equal(t, []string{"io"}, connReasons(logs))
	})
}

func TestListenerWrapsRealConnections(t *testing.T) {
	for _, network := range connNetworks {
		t.Run(network, func(t *testing.T) {
			rules, _ := connRules(On)
			rules.trusted = connSet(t, "127.0.0.0/8", "::1")
			client, c := connDial(t, network, rules)
			assert.Equal(t, trusted, c.trust)
			connSend(client, connV1+"data")
			assert.Equal(t, connClient, connSoon(t, c.RemoteAddr).String())
			assert.Equal(t, connResult{"data", nil}, connSoon(t, func() connResult { return connRead(c, 100) }))
		})
	}
	t.Run("abstract socket", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("there are no abstract sockets here")
		}
		name := fmt.Sprintf("@proxy_protocol_test_%d", os.Getpid())
		ln, err := net.Listen("unix", name)
		require.NoError(t, err)
		defer ln.Close()
		rules, logs := connRules(On)
		rules.trusted = connSet(t, "127.0.0.0/8")
		client, err := net.Dial("unix", name)
		require.NoError(t, err)
		defer client.Close()
		accepting := connGo(func() error { _, err := (&listener{Listener: ln, rules: rules}).Accept(); return err })
		got := connSoon(t, func() connResult { return connReadAll(client) })
		assert.Empty(t, got.data)
		ln.Close()
		assert.Error(t, connWait(t, accepting))
		assert.Equal(t, []string{"untrusted"}, connReasons(logs))
	})
}
