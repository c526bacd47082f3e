package datagram

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// BenchmarkDatagram checks a datagram that has been read already.
func BenchmarkDatagram(b *testing.B) {
	for _, bench := range []struct {
		name  string
		mode  policy.Mode
		bytes string
	}{
		{"known", policy.On, headertest.UDP(headertest.Client4, headertest.Server4) + quicLike},
		{"none under off", policy.Off, quicLike},
		{"missing", policy.On, quicLike},
		{"malformed", policy.On, headertest.V2(headertest.Client4, headertest.Server4) + quicLike},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := newPacketConn(listenUDP(b, "127.0.0.1"), true).forQUIC().(udpPacketConn)
			config := quietConfig(bench.mode)
			config.Stats = record.NewStats()
			c.config.Store(config)
			d := datagram{bytes: []byte(bench.bytes), from: netip.MustParseAddrPort("192.0.2.1:7")}
			b.ReportAllocs()
			for b.Loop() {
				c.accept(&d)
			}
		})
	}
	b.Run("invented", func(b *testing.B) {
		c := newPacketConn(listenUDP(b, "127.0.0.1"), true).forQUIC().(udpPacketConn)
		config := quietConfig(policy.On)
		config.Stats = record.NewStats()
		c.config.Store(config)
		d := datagram{bytes: []byte(headertest.Text(wire.NewProxy(2, wire.Dgram, headertest.Client4, headertest.Server4)) + quicLike), from: netip.MustParseAddrPort("192.0.2.1:7")}
		b.ReportAllocs()
		for n := uint32(0); b.Loop(); n++ {
			binary.BigEndian.PutUint32(d.bytes[16:], n)
			c.accept(&d)
		}
	})
}
