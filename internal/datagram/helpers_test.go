package datagram

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// eventually waits until a condition is true.
func eventually(t testing.TB, condition func() bool, message string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.Fail(t, message)
		}
	}
}

// listenUDP returns a socket at any port of an address.
func listenUDP(t testing.TB, host string) *net.UDPConn {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
	require.NoError(t, err)
	t.Cleanup(func() { udp.Close() })
	return udp
}

func needIPv6(t testing.TB) {
	t.Helper()
	socket, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	socket.Close()
}

// counted returns how many datagrams of an outcome a config has counted.
func counted(config *Config, mode policy.Mode, version string, o record.Outcome) (total uint64) {
	config.Stats.Each(func(m policy.Mode, v string, outcome record.Outcome, n uint64) {
		if m == mode && v == version && outcome == o {
			total += n
		}
	})
	return total
}

// testConfig returns a config that logs everything, with stats of its own, and its log.
func testConfig(mode policy.Mode, options ...func(*Config)) (*Config, *listenertest.Logs) {
	log, logs := listenertest.NewLog(true)
	config := &Config{
		Policy:        policy.Policy{Mode: mode},
		MaxHeaderSize: 4096,
		Recorder:      record.Recorder{Log: log, Stats: record.NewStats()},
	}
	for _, option := range options {
		option(config)
	}
	if config.Source != nil {
		config.TrustedList = NewTrustedList(context.Background(), config.Source, zap.NewNop())
	}
	return config, logs
}

// quietConfig returns a config as in production, where headers are not logged.
func quietConfig(mode policy.Mode) *Config {
	config, _ := testConfig(mode)
	config.Log = listenertest.QuietLog(true)
	return config
}

// trusting is an option: a source that trusts these ranges; asked counts its calls.
func trusting(asked *atomic.Int32, ranges ...string) func(*Config) {
	return func(c *Config) { c.Source = listenertest.Source(asked, ranges...) }
}

// wrappedSocket is a wrapped socket at an address of this machine, with a config.
func wrappedSocket(t *testing.T, network, address string, config *Config) *packetConn {
	t.Helper()
	socket, err := net.ListenPacket(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	c := newPacketConn(socket, true)
	c.config.Store(config)
	return c
}

// pass sends a datagram to a socket at this IP address, and returns what QUIC reads next, and
// its address.
func pass(t *testing.T, from *net.UDPConn, c *packetConn, ip, datagram string) (string, *Addr) {
	t.Helper()
	_, err := from.WriteToUDPAddrPort([]byte(datagram), netip.AddrPortFrom(netip.MustParseAddr(ip), c.addr.Port()))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	var p [maxDatagram]byte
	n, addr, err := c.ReadFrom(p[:])
	require.NoError(t, err)
	return string(p[:n]), addr.(*Addr)
}

// each calls f for each socket that is known.
func (p *sockets) each(f func(c *packetConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		f(c)
	}
}
