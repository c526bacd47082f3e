package proxyprotocol

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mastercactapus "github.com/mastercactapus/proxyprotocol"
	pires "github.com/pires/go-proxyproto"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/cputime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// connMemory is a connection in memory that says the same over and over. It costs nothing,
// so that what is measured is the wrapper.
type connMemory struct {
	says string
	at   int
}

func (c *connMemory) Read(p []byte) (int, error) {
	n := copy(p, c.says[c.at:])
	c.at += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *connMemory) Write(p []byte) (int, error)      { return len(p), nil }
func (c *connMemory) Close() error                     { return nil }
func (c *connMemory) RemoteAddr() net.Addr             { return connPeer }
func (c *connMemory) LocalAddr() net.Addr              { return connLocal }
func (c *connMemory) SetDeadline(time.Time) error      { return nil }
func (c *connMemory) SetReadDeadline(time.Time) error  { return nil }
func (c *connMemory) SetWriteDeadline(time.Time) error { return nil }

// connQuiet are rules as in production, where a header is nothing to log.
func connQuiet(mode Mode) *rules {
	rules, _ := connRules(mode)
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	rules.log = newConnLog(zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel)), false)
	rules.timeout = defaultTimeout
	return rules
}

// connAWS has the TLVs that a network load balancer sends.
var connAWS = connChecked(connClient, connServer,
	wire.TLV{Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
	wire.TLV{Type: wire.TypeNoop, Value: make([]byte, 54)},
)

var connHeaders = []struct{ name, header string }{
	{"v1/ipv4", connV1},
	{"v1/ipv6", connHeader(1, wire.Stream, "[2001:db8:1::203:7]:56324", "[2001:db8:2::113:9]:8443")},
	{"v2/ipv4", connV2},
	{"v2/ipv6", connHeader(2, wire.Stream, "[2001:db8:1::203:7]:56324", "[2001:db8:2::113:9]:8443")},
	{"v2/aws", connAWS},
}

// BenchmarkConn wraps a connection, asks for its RemoteAddr and reads its first data.
func BenchmarkConn(b *testing.B) {
	onRules, unspecifiedRules := connQuiet(On), connQuiet(Unspecified)
	use := pires.WithPolicy(pires.USE)
	peers := []struct {
		name string
		wrap func(net.Conn) net.Conn
	}{
		{"this on", func(c net.Conn) net.Conn { return newConn(c, onRules, On, trusted, monotime.Now()) }},
		{"this unspecified", func(c net.Conn) net.Conn {
			return newConn(c, unspecifiedRules, Unspecified, trusted, monotime.Now())
		}},
		{"pires", func(c net.Conn) net.Conn { return pires.NewConn(c, use) }},
		{"mastercactapus", func(c net.Conn) net.Conn { return mastercactapus.NewConn(c, time.Now().Add(defaultTimeout)) }},
	}
	for _, h := range connHeaders {
		for _, peer := range peers {
			if peer.name == "mastercactapus" && h.name == "v2/aws" {
				continue // refuses headers with TLVs
			}
			b.Run(h.name+"/"+peer.name, func(b *testing.B) {
				below := &connMemory{says: h.header + connGET}
				p := make([]byte, 4096)
				b.ReportAllocs()
				defer cputime.Report(b)()
				for b.Loop() {
					below.at = 0
					c := peer.wrap(below)
					if c.RemoteAddr() == connPeer {
						b.Fatal("the header is not believed")
					}
					if n, err := c.Read(p); n != len(connGET) || err != nil {
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
			below := &connMemory{says: connV2 + strings.Repeat("x", size)}
			c := wrap(below)
			p := make([]byte, size)
			if _, ok := c.(*connMemory); ok {
				below.at = len(connV2)
			}
			if n, err := io.ReadFull(c, p); n != size || err != nil {
				b.Fatal(n, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				below.at = len(connV2)
				if n, err := c.Read(p); n != size || err != nil {
					b.Fatal(n, err)
				}
			}
		}
	}
	rules := connQuiet(On)
	b.Run("bare", forever(func(c net.Conn) net.Conn { return c }))
	b.Run("this", forever(func(c net.Conn) net.Conn { return newConn(c, rules, On, trusted, monotime.Now()) }))
	b.Run("pires", forever(func(c net.Conn) net.Conn { return pires.NewConn(c, pires.WithPolicy(pires.USE)) }))
	b.Run("mastercactapus", forever(func(c net.Conn) net.Conn { return mastercactapus.NewConn(c, time.Time{}) }))
}

// BenchmarkPolicy judges peers: it must not matter how many ranges there are.
func BenchmarkPolicy(b *testing.B) {
	prefix := func(i int) string {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String()
	}
	trusted := func(n int) policy {
		var all []string
		for i := range n {
			all = append(all, prefix(i))
		}
		return policy{mode: On, trusted: connSet(b, all...)}
	}
	modes := func(n int) policy {
		all := make(map[string]Mode)
		for i := range n {
			all[prefix(i)] = Off
		}
		return policy{mode: On, ranges: connTable(b, all)}
	}
	inTheLast := func(n int) net.Addr {
		return &net.TCPAddr{IP: net.IPv4(10, byte((n-1)>>8), byte(n-1), 7), Port: 4711}
	}
	inNone := func(int) net.Addr { return connPeer }
	for _, bb := range []struct {
		name   string
		policy func(n int) policy
		peer   func(n int) net.Addr
	}{
		{"trusted, in the last range", trusted, inTheLast},
		{"trusted, in no range", trusted, inNone},
		{"modes, in the last range", modes, inTheLast},
		{"modes, in no range", modes, inNone},
	} {
		for _, n := range []int{1, 10, 100, 1000, 10_000} {
			policy, peer := bb.policy(n), bb.peer(n)
			b.Run(fmt.Sprintf("%s/%d", bb.name, n), func(b *testing.B) {
				b.ReportAllocs()
				defer cputime.Report(b)()
				for b.Loop() {
					policy.judge(peer, connLocal)
				}
			})
		}
	}
}
