package record

import (
	"net"
	"net/netip"
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

func addrPorts(texts ...string) (all []netip.AddrPort) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

func tcpPeer(text string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text))
}

// Only what was announced is recognized, once, and for what it was announced.
func TestAnnouncements_AreForOneConnection(t *testing.T) {
	var a Announcements
	assert.False(t, a.Take(tcpPeer("127.0.0.1:1")))
	require.NoError(t, a.Announce(addrPorts("127.0.0.1:1", "[::ffff:127.0.0.1]:2", "[fe80::1%eth0]:3", "[::1]:4"), false))
	require.NoError(t, a.Announce(nil, true))
	for _, peer := range []net.Addr{
		tcpPeer("127.0.0.1:9"), tcpPeer("127.0.0.2:1"), tcpPeer("[::1]:1"), nil, (*net.TCPAddr)(nil),
		&net.UnixAddr{Name: "127.0.0.1:1", Net: "unix"}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1},
	} {
		assert.False(t, a.Take(peer), "%v", peer)
	}
	assert.False(t, a.Has(netip.MustParseAddrPort("127.0.0.1:1")), "announced for a connection")
	for _, peer := range []string{"127.0.0.1:1", "127.0.0.1:2", "[fe80::1%2]:3", "[::ffff:0:1]:4", "[::1]:4"} {
		assert.Equal(t, peer != "[::ffff:0:1]:4", a.Take(tcpPeer(peer)), peer)
		assert.False(t, a.Take(tcpPeer(peer)), "%s: once", peer)
	}
	assert.Zero(t, a.size.Load(), "then it costs nothing")
}

func TestAnnouncements_AreForTheDatagramsOfASender(t *testing.T) {
	var a Announcements
	sender := addrPorts("[::ffff:127.0.0.1]:1")
	assert.False(t, a.Has(sender[0]))
	require.NoError(t, a.Announce(sender, true))
	assert.False(t, a.Take(tcpPeer("127.0.0.1:1")), "announced for datagrams")
	for range 3 {
		assert.True(t, a.Has(netip.MustParseAddrPort("127.0.0.1:1")))
	}
	assert.False(t, a.Has(netip.MustParseAddrPort("127.0.0.1:2")))
	assert.Empty(t, a.Withdraw(addrPorts("127.0.0.1:1"), false))
	assert.Len(t, a.Withdraw(sender, true), 1)
	assert.False(t, a.Has(sender[0]))
	assert.Zero(t, a.size.Load())
}

func TestAnnouncements_Expire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Announcements
		require.NoError(t, a.Announce(addrPorts("127.0.0.1:1"), false))
		time.Sleep(AnnouncedFor - time.Nanosecond)
		require.NoError(t, a.Announce(addrPorts("127.0.0.1:2"), true))
		assert.True(t, a.Take(tcpPeer("127.0.0.1:1")))
		require.NoError(t, a.Announce(addrPorts("127.0.0.1:1"), false))
		time.Sleep(AnnouncedFor - time.Nanosecond)
		assert.True(t, a.Has(netip.MustParseAddrPort("127.0.0.1:2")))
		time.Sleep(time.Nanosecond)
		assert.False(t, a.Has(netip.MustParseAddrPort("127.0.0.1:2")))
		assert.False(t, a.Take(tcpPeer("127.0.0.1:1")))
		synctest.Wait()
		assert.Zero(t, a.size.Load())
		assert.Empty(t, a.until, "without a connection")
	})
}

func TestAnnouncements_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Announcements
		var peers []netip.AddrPort
		for port := range AnnouncedKept {
			peers = append(peers, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port+1)))
		}
		require.ErrorIs(t, a.Announce(append(peers, peers[0]), false), ErrAnnouncedTooMany)
		assert.Zero(t, a.size.Load(), "none is added")
		require.NoError(t, a.Announce(peers, false))
		require.ErrorIs(t, a.Announce(addrPorts("127.0.0.2:1"), true), ErrAnnouncedTooMany)
		assert.Equal(t, peers[:1], a.Withdraw(peers[:1], false))
		assert.Empty(t, a.Withdraw(peers[:1], false))
		require.NoError(t, a.Announce(addrPorts("127.0.0.2:1"), true))
		time.Sleep(AnnouncedFor)
		require.NoError(t, a.Announce(peers, true), "there is room again")
	})
}

func TestAnnouncements_NeedAnAddressAndAPort(t *testing.T) {
	var a Announcements
	for _, peer := range []netip.AddrPort{{}, netip.MustParseAddrPort("127.0.0.1:0"), netip.AddrPortFrom(netip.Addr{}, 1)} {
		require.ErrorIs(t, a.Announce([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), peer}, false), ErrAnnouncedNoPeer)
		assert.Zero(t, a.size.Load())
	}
}

// However much a check does, it displaces no refusal in the status, and no line in the log.
func TestRecorder_ForCheckRecordsApart(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	r := Recorder{NewLog(zap.New(core), false), NewStats()}
	peer, local := tcpPeer("192.0.2.1:1"), tcpPeer("192.0.2.2:443")
	refusal := Refusal{Peer: peer, Local: local, Mode: policy.On, Reason: Malformed}
	accepted := Accepted{Peer: peer, Header: *testHeader(), Marked: true}
	r.Refuse(refusal, []byte("PROXY x"))
	check := r.ForCheck()
	for range 3 * RefusalsLogged {
		check.Count(policy.On, 1, Malformed)
		check.SawPeer(netip.MustParseAddr("192.0.2.9"), policy.On)
		check.Refuse(refusal, []byte("PROXY y"))
		check.LogHeader(&accepted, &net.TCPConn{}, policy.Unspecified)
		check.RememberHeader(&accepted)
		check.CheckPayload(PlainPayload, []byte{0x16}, peer, &net.TCPConn{}, testHeader())
	}
	r.Refuse(refusal, []byte("PROXY z"))
	r.Log.Flush()

	require.Len(t, r.Stats.LastRefusals(), 2)
	assert.Zero(t, r.Stats.Total(Malformed))
	assert.EqualValues(t, 3*RefusalsLogged, r.Stats.Checks().Total(Malformed))
	assert.Empty(t, r.Stats.LastHeaders())
	tls, _ := r.Stats.WrongPayloads()
	assert.Zero(t, tls)
	peers, _ := r.Stats.SeenPeers()
	assert.Empty(t, peers)
	warned := logs.FilterMessage(Malformed.Message(false)).Filter(func(e observer.LoggedEntry) bool { return e.Level == zapcore.WarnLevel })
	assert.Equal(t, 2, warned.Len())
	assert.Zero(t, warned.FilterFieldKey("check").Len())
	of := logs.FilterField(zap.Bool("check", true))
	assert.Equal(t, RefusalsLogged, of.FilterMessage(Malformed.Message(false)).Len())
	assert.Equal(t, 1, of.FilterMessageSnippet("unverified").Len())
	for _, entry := range of.All() {
		assert.LessOrEqual(t, entry.Level, zapcore.InfoLevel)
	}
}
