package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// scriptedListener is a listener that returns these connections, and then an error.
type scriptedListener struct {
	conns []net.Conn
	err   error
}

func (l *scriptedListener) Accept() (net.Conn, error) {
	if len(l.conns) == 0 {
		return nil, l.err
	}
	c := l.conns[0]
	l.conns = l.conns[1:]
	return c, nil
}

func (l *scriptedListener) Close() error   { return l.err }
func (l *scriptedListener) Addr() net.Addr { return socketAddr }

// fromPeer is a scripted connection from a peer.
type fromPeer struct {
	*script
	peer net.Addr
}

func (c fromPeer) RemoteAddr() net.Addr { return c.peer }

func TestListener_ReturnsErrors(t *testing.T) {
	config, _ := testConfig(policy.On)
	want := errors.New("listener is broken")
	l := &Listener{Listener: &scriptedListener{err: want}, Config: config}
	_, err := l.Accept()
	assert.Equal(t, want, err)
	assert.Equal(t, want, l.Close())
	assert.Equal(t, socketAddr, l.Addr())
}

func TestListener_AcceptsWithoutReading(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Off, policy.Unspecified} {
		socket := says(headerV1)
		config, _ := testConfig(mode)
		l := &Listener{Listener: &scriptedListener{conns: []net.Conn{socket}}, Config: config}
		accepted, err := l.Accept()
		require.NoError(t, err)
		require.IsType(t, (*conn)(nil), accepted)
		assert.Equal(t, mode, accepted.(*conn).info.Mode)
		assert.Zero(t, socket.reads)
		assert.Zero(t, socket.deadline)
	}
}

func TestListener_AcceptsTheNextAfterARefusal(t *testing.T) {
	stranger, balancer := &fromPeer{says(headerV1), tcpAddr("198.51.100.1:1")}, says(headerV1)
	config, logs := testConfig(policy.On)
	config.Stats = record.NewStats()
	config.Trusted = rangeSet(t, "192.0.2.0/24")
	l := &Listener{Listener: &scriptedListener{conns: []net.Conn{stranger, stranger, balancer}}, Config: config}
	accepted, err := l.Accept()
	require.NoError(t, err)
	assert.Same(t, balancer, accepted.(*conn).NetConn())
	assert.Equal(t, clientAddr, accepted.RemoteAddr().String())

	assert.True(t, stranger.closed)
	assert.Zero(t, stranger.reads, "refused before a byte is read")
	assert.Empty(t, stranger.written)
	assert.Equal(t, []string{"untrusted", "untrusted"}, logs.Reasons())
	assert.EqualValues(t, 2, config.Stats.Total(record.Untrusted))
	peers, _ := config.Stats.SeenPeers()
	refused := record.Peer{Addr: netip.MustParseAddr("198.51.100.1"), Mode: policy.On, Connections: 2}
	refused.Refusals[record.Untrusted] = 2
	assert.Equal(t, []record.Peer{{Addr: netip.MustParseAddr("192.0.2.1"), Mode: policy.On, Connections: 1, Headers: 1}, refused}, peers, "trusted or not")
	fields := logs.FilterMessage("refused connection from untrusted peer").All()[0].ContextMap()
	assert.Equal(t, "198.51.100.1:1", fields["peer"])
	assert.Equal(t, socketAddr.String(), fields["local"])
	assert.Equal(t, "on", fields["mode"])
}

func TestListener_UsesTheModeOfTheRange(t *testing.T) {
	config, _ := testConfig(policy.On)
	config.Trusted = rangeSet(t)
	config.Ranges = modeTable(t, map[string]policy.Mode{"198.51.100.0/24": policy.Off, "198.51.100.1": policy.Unspecified})
	for peer, want := range map[string]policy.Mode{"198.51.100.9:1": policy.Off, "198.51.100.1:1": policy.Unspecified} {
		l := &Listener{Listener: &scriptedListener{conns: []net.Conn{&fromPeer{says(), tcpAddr(peer)}}}, Config: config}
		accepted, err := l.Accept()
		require.NoError(t, err)
		assert.Equal(t, want, accepted.(*conn).info.Mode)
	}
}

func TestListener_AcceptsStrangersUnderUnspecified(t *testing.T) {
	config, _ := testConfig(policy.Unspecified)
	config.Trusted = rangeSet(t, "198.51.100.0/24")
	l := &Listener{Listener: &scriptedListener{conns: []net.Conn{says(getRequest), says(headerV1)}}, Config: config}
	plain, err := l.Accept()
	require.NoError(t, err)
	assert.Equal(t, result{getRequest, nil}, readAll(plain))
	liar, err := l.Accept()
	require.NoError(t, err)
	assert.ErrorIs(t, readAll(liar).err, record.ErrRefused)
	assert.Equal(t, peerAddr, liar.RemoteAddr())
}

// A dynamic source must not hold up the accept loop.
func TestListener_DoesNotAskTheSource(t *testing.T) {
	config, _ := testConfig(policy.On)
	config.SetSource(func(context.Context, net.Addr) []netip.Prefix { panic("asked in the accept loop") })
	l := &Listener{Listener: &scriptedListener{conns: []net.Conn{says(headerV1)}}, Config: config}
	accepted, err := l.Accept()
	require.NoError(t, err)
	assert.Equal(t, policy.AskSource, accepted.(*conn).info.Trust)
}

func TestListener_RefusesTLSConnections(t *testing.T) {
	for _, mode := range []policy.Mode{policy.On, policy.Off, policy.Unspecified} {
		socket := says("\x16\x03\x01")
		config, logs := testConfig(mode)
		l := &Listener{Listener: &scriptedListener{conns: []net.Conn{tls.Server(socket, &tls.Config{})}, err: io.EOF}, Config: config}
		_, err := l.Accept()
		assert.Equal(t, io.EOF, err)
		assert.True(t, socket.closed)
		assert.Zero(t, socket.reads)
		assert.Equal(t, []string{"io"}, logs.Reasons())
		entry := logs.All()[0]
		assert.Equal(t, zap.WarnLevel, entry.Level)
		assert.Contains(t, entry.ContextMap()["error"], "put 'proxy_protocol_mode' before 'tls'")
	}
}

// A panic in the accept loop would end the process.
func TestListener_SurvivesPanicsOfConnections(t *testing.T) {
	for _, names := range []string{"RemoteAddr", "LocalAddr", "RemoteAddr Close", "RemoteAddr LocalAddr Read Close SetReadDeadline"} {
		t.Run(names, func(t *testing.T) {
			broken, whole := says(headerV1), says(headerV1)
			config, logs := testConfig(policy.On)
			l := &Listener{Listener: &scriptedListener{conns: []net.Conn{panicking{broken, names}, whole}}, Config: config}
			var accepted net.Conn
			require.NotPanics(t, func() { accepted, _ = l.Accept() })
			require.NotNil(t, accepted)
			assert.Same(t, whole, accepted.(*conn).NetConn())
			require.Equal(t, []string{"io"}, logs.Reasons())
			assert.Contains(t, logs.All()[0].ContextMap()["error"], "connection is broken")
		})
	}
	t.Run("a wrapper of nothing", func(t *testing.T) {
		config, logs := testConfig(policy.On)
		l := &Listener{Listener: &scriptedListener{conns: []net.Conn{struct{ net.Conn }{}}, err: io.EOF}, Config: config}
		require.NotPanics(t, func() { l.Accept() })
		assert.Equal(t, []string{"io"}, logs.Reasons())
	})
}

func TestListener_WrapsRealConnections(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			config.Trusted = rangeSet(t, "127.0.0.0/8", "::1")
			client, c := dial(t, network, config)
			assert.Equal(t, policy.Trusted, c.info.Trust)
			send(client, headerV1+"data")
			assert.Equal(t, clientAddr, soon(t, c.RemoteAddr).String())
			assert.Equal(t, result{"data", nil}, soon(t, func() result { return readOnce(c, 100) }))
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
		config, logs := testConfig(policy.On)
		config.Trusted = rangeSet(t, "127.0.0.0/8")
		client, err := net.Dial("unix", name)
		require.NoError(t, err)
		defer client.Close()
		accepting := async(func() error { _, err := (&Listener{Listener: ln, Config: config}).Accept(); return err })
		got := soon(t, func() result { return readAll(client) })
		assert.Empty(t, got.data)
		ln.Close()
		assert.Error(t, wait(t, accepting))
		assert.Equal(t, []string{"untrusted"}, logs.Reasons())
	})
}

// A header followed by TLS on a port for plain HTTP is served, and recorded.
func TestConn_RecordsAWrongPayload(t *testing.T) {
	const hello = "\x16\x03\x01\x00\x05hello"
	for name, says := range map[string]*script{
		"at once":        says(headerV1 + hello),
		"after a pause":  says(headerV1, hello),
		"byte by byte":   says(headerV1, hello[:1], hello[1:]),
		"behind a LOCAL": says(headertest.Local() + hello),
	} {
		t.Run(name, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			config.Stats, config.Payload = record.NewStats(), record.PlainPayload
			got := readAll(wrapTrusted(says, config))
			assert.Equal(t, hello, got.data)
			tls, http := config.Stats.WrongPayloads()
			assert.EqualValues(t, 1, tls)
			assert.Zero(t, http)
		})
	}
	t.Run("without a header it is the server's business", func(t *testing.T) {
		config, _ := testConfig(policy.Off)
		config.Stats, config.Payload = record.NewStats(), record.PlainPayload
		assert.Equal(t, hello, readAll(wrapTrusted(says(hello), config)).data)
		tls, _ := config.Stats.WrongPayloads()
		assert.Zero(t, tls)
	})
}

// An announced check is decided as any other connection, and recorded apart.
func TestListener_RecordsAnnouncedPeersApart(t *testing.T) {
	for _, test := range []struct {
		name, says, trusted string
		reason              string // or served
	}{
		{"trusted", headerV1, "192.0.2.0/24", ""},
		{"untrusted", headerV1, "198.51.100.0/24", "untrusted"},
		{"no header", "GET / HTTP/1.1\r\n\r\n", "192.0.2.0/24", "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, logs := testConfig(policy.On)
			config.Stats = record.NewStats()
			config.Trusted = rangeSet(t, test.trusted)
			require.NoError(t, record.Announced.Announce([]netip.AddrPort{netip.MustParseAddrPort(peerAddr.String())}, false))
			l := &Listener{Listener: &scriptedListener{conns: []net.Conn{says(test.says), says(test.says)}, err: io.EOF}, Config: config}
			for {
				accepted, err := l.Accept()
				if err != nil {
					break
				}
				_, err = accepted.Write([]byte("x"))
				assert.Equal(t, test.reason == "", err == nil)
				accepted.Close()
			}
			outcome := record.Client
			if test.reason != "" {
				outcome = outcomeNamed(test.reason)
				assert.Equal(t, []string{test.reason, test.reason}, logs.Reasons())
				assert.Equal(t, 1, logs.FilterMessage(outcome.Message(false)).FilterFieldKey("check").Len())
				assert.Len(t, config.Stats.LastRefusals(), 1)
			}
			assert.EqualValues(t, 1, config.Stats.Total(outcome), "the connection that was not announced")
			assert.EqualValues(t, 1, config.Stats.Checks().Total(outcome))
			peers, _ := config.Stats.SeenPeers()
			assert.Len(t, peers, 1)
		})
	}
}
