package stream

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mastercactapus "github.com/mastercactapus/proxyprotocol"
	pires "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/cputime"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// memoryConn is a connection in memory that returns the same bytes again and again. It costs
// nothing, so that benchmarks measure the wrapper.
type memoryConn struct {
	says string
	at   int
}

func (c *memoryConn) Read(p []byte) (int, error) {
	n := copy(p, c.says[c.at:])
	c.at += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *memoryConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) RemoteAddr() net.Addr             { return peerAddr }
func (c *memoryConn) LocalAddr() net.Addr              { return socketAddr }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// quietConfig returns a configuration as in production, where headers are not logged.
func quietConfig(mode policy.Mode) *Config {
	config, _ := testConfig(mode)
	config.Log = listenertest.QuietLog(false)
	config.Timeout = 5 * time.Second
	return config
}

// headerAWS has the TLVs that an AWS network load balancer sends.
var headerAWS = headerWithChecksum(clientAddr, serverAddr,
	wire.TLV{Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
	wire.TLV{Type: wire.TypeNoop, Value: make([]byte, 54)},
)

var benchHeaders = []struct{ name, header string }{
	{"v1/ipv4", headerV1},
	{"v1/ipv6", headerText(1, wire.Stream, "[2001:db8:1::203:7]:56324", "[2001:db8:2::113:9]:8443")},
	{"v2/ipv4", headerV2},
	{"v2/ipv6", headerText(2, wire.Stream, "[2001:db8:1::203:7]:56324", "[2001:db8:2::113:9]:8443")},
	{"v2/aws", headerAWS},
}

// BenchmarkConn wraps a connection, asks for its RemoteAddr and reads its first data.
func BenchmarkConn(b *testing.B) {
	onConfig, unspecifiedConfig := quietConfig(policy.On), quietConfig(policy.Unspecified)
	use := pires.WithPolicy(pires.USE)
	peers := []struct {
		name string
		wrap func(net.Conn) net.Conn
	}{
		{"this on", func(c net.Conn) net.Conn { return newConn(c, onConfig, policy.On, policy.Trusted, monotime.Now()) }},
		{"this unspecified", func(c net.Conn) net.Conn {
			return newConn(c, unspecifiedConfig, policy.Unspecified, policy.Trusted, monotime.Now())
		}},
		{"pires", func(c net.Conn) net.Conn { return pires.NewConn(c, use) }},
		{"mastercactapus", func(c net.Conn) net.Conn {
			return mastercactapus.NewConn(c, time.Now().Add(5*time.Second))
		}},
	}
	for _, h := range benchHeaders {
		for _, peer := range peers {
			if peer.name == "mastercactapus" && h.name == "v2/aws" {
				continue // refuses headers with TLVs
			}
			b.Run(h.name+"/"+peer.name, func(b *testing.B) {
				below := &memoryConn{says: h.header + getRequest}
				p := make([]byte, 4096)
				b.ReportAllocs()
				defer cputime.Report(b)()
				for b.Loop() {
					below.at = 0
					c := peer.wrap(below)
					if c.RemoteAddr() == peerAddr {
						b.Fatal("the header is ignored")
					}
					if n, err := c.Read(p); n != len(getRequest) || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkRead reads behind the header, where a wrapper should cost nothing.
func BenchmarkRead(b *testing.B) {
	const size = 1024
	forever := func(wrap func(net.Conn) net.Conn) func(*testing.B) {
		return func(b *testing.B) {
			below := &memoryConn{says: headerV2 + strings.Repeat("x", size)}
			c := wrap(below)
			p := make([]byte, size)
			if _, ok := c.(*memoryConn); ok {
				below.at = len(headerV2)
			}
			if n, err := io.ReadFull(c, p); n != size || err != nil {
				b.Fatal(n, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				below.at = len(headerV2)
				if n, err := c.Read(p); n != size || err != nil {
					b.Fatal(n, err)
				}
			}
		}
	}
	config := quietConfig(policy.On)
	b.Run("bare", forever(func(c net.Conn) net.Conn { return c }))
	b.Run("this", forever(func(c net.Conn) net.Conn { return newConn(c, config, policy.On, policy.Trusted, monotime.Now()) }))
	b.Run("pires", forever(func(c net.Conn) net.Conn { return pires.NewConn(c, pires.WithPolicy(pires.USE)) }))
	b.Run("mastercactapus", forever(func(c net.Conn) net.Conn { return mastercactapus.NewConn(c, time.Time{}) }))
}

func TestMetrics_AllocateNothingOnTheGoodPath(t *testing.T) {
	config := quietConfig(policy.On)
	config.Stats = record.NewStats()
	c := newConn(wrapTrusted(says(""), config).Conn, config, policy.On, policy.Trusted, monotime.Now())
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		config.Count(policy.On, 2, record.Client)
		config.ObserveHeader(time.Millisecond)
		config.SawPeer(netip.MustParseAddr("203.0.113.7"), policy.On)
		accepted := record.Accepted{Peer: c.info.Peer, Header: c.info.Header}
		config.LogHeader(&accepted, c.Conn, c.info.Mode)
		config.RememberHeader(&accepted)
		config.CheckPayload(record.PlainPayload, []byte(getRequest), c.info.Peer, c.Conn, &c.info.Header)
	}))
}

func BenchmarkRefusal(b *testing.B) {
	config := quietConfig(policy.On)
	config.Stats = record.NewStats()
	var p [64]byte
	b.ReportAllocs()
	for b.Loop() {
		c := newConn(says(getRequest), config, policy.On, policy.Trusted, monotime.Now())
		if _, err := c.Read(p[:]); err == nil {
			b.Fatal("not refused")
		}
	}
}
