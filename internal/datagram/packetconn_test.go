package proxyprotocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	pires "github.com/pires/go-proxyproto"
	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// What a request sees

func TestHTTP3HasTheClientOfTheHeader(t *testing.T) {
	for _, test := range []struct {
		name, packet, header, want string
	}{
		{"on, IPv4", "on", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, IPv6", "on", caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6), caddytest.Client6.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, mapped", "on", caddytest.HeaderUDP(netip.AddrPortFrom(netip.AddrFrom16(caddytest.Client4.Addr().As16()), 7), caddytest.Server6), caddytest.Client4.Addr().String() + ":7 marked=false present=true mode=on peer=127.0.0.2"},
		{"on, LOCAL", "on", caddytest.HeaderLocal(), "127.0.0.2:PORT marked=false present=true mode=on peer=127.0.0.2"},
		{"on, trusted", "on {\ntrusted_proxies static 127.0.0.2\n}", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, trusted by a source that is asked", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on for a range", "off {\non 127.0.0.2\n}", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"off for a range", "on {\noff 127.0.0.2\n}", "", "127.0.0.2:PORT marked=false present=false mode=off peer=127.0.0.2"},
		{"off", "off", "", "127.0.0.2:PORT marked=false present=false mode=off peer=127.0.0.2"},
		{"unspecified, IPv4", "unspecified", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.Client4.Addr().String() + ":0 marked=true present=true mode=unspecified peer=127.0.0.2"},
		{"unspecified, IPv6", "unspecified", caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6), "[" + caddytest.Client6.Addr().String() + "]:0 marked=true present=true mode=unspecified peer=127.0.0.2"},
		{"unspecified, LOCAL", "unspecified", caddytest.HeaderLocal(), "127.0.0.2:PORT marked=false present=true mode=unspecified peer=127.0.0.2"},
		{"unspecified, none", "unspecified", "", "127.0.0.2:PORT marked=false present=false mode=unspecified peer=127.0.0.2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, port, ""))
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), test.header)
			client := caddytest.NewHTTP3Client(t, r.Address())
			response, body := client.Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode)
			want := strings.Replace(test.want, "PORT", fmt.Sprint(r.BackPort(client)), 1)
			assert.Equal(t, want, body)

			host, portOf, err := net.SplitHostPort(strings.Fields(want)[0])
			require.NoError(t, err)
			c.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.proto": "HTTP/3.0", "request.remote_ip": host, "request.remote_port": portOf}))
		})
	}
}

func TestHTTP3HasTheClientOfTheHeaderOverIPv6(t *testing.T) {
	caddytest.NeedIPv6(t)
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on {\ntrusted_proxies static ::1\n}"), caddytest.HTTP3Site(t, port, ""))
	for _, header := range []string{caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6)} {
		r := caddytest.StartRelay(t, "::1", caddytest.TCP6(port), header)
		_, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/")
		assert.Contains(t, body, " marked=false present=true mode=on peer=::1")
	}
}

// testAsked is a source of ranges that must be asked, and trusts 127.0.0.2 alone.
type testAsked struct{}

func init() { caddy.RegisterModule(testAsked{}) }

func (testAsked) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.ip_sources.proxy_protocol_test_asked", New: func() caddy.Module { return new(testAsked) }}
}

func (*testAsked) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*testAsked) GetIPRanges(*http.Request) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
}

func TestHTTP3HasEverythingOfTheHeader(t *testing.T) {
	const site = `
		log_append whole {http.proxy_protocol}
		@endpoint {
			path /matcher
			proxy_protocol {
				tlv aws_vpce_id vpce-1
				version v2
				peer 127.0.0.2
			}
		}
		respond @endpoint matched
		@marked {
			path /marked
			proxy_protocol port_zero
		}
		respond @marked matched
		@pinned {
			path /pinned
			pinned_ip 203.0.113.7
		}
		respond @pinned matched
		@cel expression path('/cel') && proxy_protocol('present', 'version:v2') && pinned_ip('203.0.113.7')
		respond @cel matched
		@remote {
			path /remote
			remote_ip 203.0.113.7
		}
		respond @remote matched
		handle /on {
			proxy_protocol on
			respond matched
		}
		handle /off {
			proxy_protocol off
			respond matched
		}
		respond /header "{http.proxy_protocol.version} {http.proxy_protocol.command} {http.proxy_protocol.transport} {http.proxy_protocol.source} {http.proxy_protocol.destination} {http.proxy_protocol.client_ip} {http.proxy_protocol.client_port} {http.proxy_protocol.server_ip} {http.proxy_protocol.server_port} {http.proxy_protocol.tlv.aws_vpce_id} {client_ip}"
	`
	port := caddytest.FreePort(t)
	header := caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")})
	c := caddytest.New(t)
	for _, test := range []struct {
		packet, header string
		matched        string
		told           string
	}{
		{
			"on", header, "/matcher /pinned /cel /remote /on",
			"2 PROXY UDP4 203.0.113.7:51234 192.0.2.1:443 203.0.113.7 51234 192.0.2.1 443 vpce-1 203.0.113.7",
		},
		{
			"unspecified", header, "/marked /remote",
			fmt.Sprintf("2 PROXY UDP4 203.0.113.7:51234 192.0.2.1:443 203.0.113.7 0 127.0.0.1 %d vpce-1 203.0.113.7", port),
		},
		{
			"off", "", "/off",
			fmt.Sprintf("   \x20\x20127.0.0.2 PORT 127.0.0.1 %d  127.0.0.2", port),
		},
	} {
		t.Run(test.packet, func(t *testing.T) {
			require.NoError(t, c.Load(caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, port, site)))
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), test.header)
			client := caddytest.NewHTTP3Client(t, r.Address())
			var matched []string
			for _, path := range []string{"/matcher", "/marked", "/pinned", "/cel", "/remote", "/on", "/off"} {
				switch response, body := client.Get(path); {
				case body == "matched":
					matched = append(matched, path)
				case path == "/on" || path == "/off":
					assert.Equal(t, http.StatusForbidden, response.StatusCode)
				}
			}
			assert.Equal(t, test.matched, strings.Join(matched, " "))
			_, body := client.Get("/header")
			assert.Equal(t, strings.Fields(strings.Replace(test.told, "PORT", fmt.Sprint(r.BackPort(client)), 1)), strings.Fields(body))
			entry := c.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": "/header", "whole.mode": test.packet}))
			if test.header != "" {
				assert.Equal(t, "UDP4", entry.Get("whole.transport"))
				assert.Equal(t, caddytest.Client4.String(), entry.Get("whole.source"))
			}
		})
	}
}

func TestClientsStayApart(t *testing.T) {
	for _, packet := range []string{"on", "unspecified"} {
		t.Run(packet, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.Start(t, caddytest.Packets("", packet), caddytest.HTTP3Site(t, port, "")+"")
			var wait sync.WaitGroup
			for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
				r := caddytest.StartRelay(t, from, caddytest.TCP4(port), "")
				for i := range 4 {
					// Two each share an IP address, and under unspecified all they have to show.
					said := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i / 2)}), uint16(1000+i))
					shown := said
					if packet == "unspecified" {
						shown = netip.AddrPortFrom(said.Addr(), 0)
					}
					client := caddytest.NewHTTP3Client(t, r.Address())
					r.SpeakFor(client, caddytest.HeaderUDP(said, caddytest.Server4))
					wait.Go(func() {
						for n := range 20 {
							mine := fmt.Sprintf("/%s/%d/%d", from, i, n)
							response, body := client.Get(mine)
							assert.Equal(t, http.StatusOK, response.StatusCode)
							assert.Equal(t, shown.String(), strings.Fields(body)[0])
							assert.Contains(t, body, "peer="+from)
						}
					})
				}
			}
			wait.Wait()
		})
	}
}

// caddy-l4 makes headers like this, with the library of its own listener wrapper: before each
// datagram, and with 127.0.0.1 where it does not know its own address.
func TestHeadersOfAnotherSenderAreTaken(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
	for _, test := range []struct{ client, server *net.UDPAddr }{
		{&net.UDPAddr{IP: net.ParseIP("203.0.113.7"), Port: 51234}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1).To4(), Port: 443}},
		{&net.UDPAddr{IP: net.ParseIP("203.0.113.7").To4(), Port: 51234}, &net.UDPAddr{IP: net.ParseIP("192.0.2.1"), Port: 443}},
		{&net.UDPAddr{IP: net.ParseIP("2001:db8::7"), Port: 51234}, &net.UDPAddr{IP: net.IP{127, 0, 0, 1}, Port: 443}},
		{&net.UDPAddr{IP: net.ParseIP("2001:db8::7"), Port: 51234}, &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 443}},
	} {
		header := pires.HeaderProxyFromAddrs(2, test.client, test.server)
		header.Command = pires.PROXY
		text, err := header.Format()
		require.NoError(t, err)
		_, body := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), string(text)).Address()).Get("/")
		assert.Contains(t, body, test.client.String()+" marked=false present=true mode=on")
	}
}

// Bad input

// quicLike is a datagram that QUIC takes for one of a connection it does not know.
var quicLike = "\x40" + strings.Repeat("x", 1199)

// unixDatagram is a v2 header of a Unix datagram socket.
var unixDatagram = wire.SignatureV2 + "\x21\x32\x00\xd8" + strings.Repeat("x", 216)

func TestBadDatagramsAreDroppedAndCounted(t *testing.T) {
	announced := func(size uint16) string {
		b := []byte(caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4))
		binary.BigEndian.PutUint16(b[14:], size)
		return string(b)
	}
	flipped := []byte(caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4))
	flipped[16] ^= 1
	family := func(b byte) string {
		h := []byte(caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4))
		h[13] = b
		return string(h)
	}
	bare := func(src, dst netip.AddrPort) string { return caddytest.Header(wire.NewProxy(2, wire.Dgram, src, dst)) }
	version := []byte(bare(caddytest.Client4, caddytest.Server4))
	version[12] = 0x11
	trusting := "on {\ntrusted_proxies static 127.0.0.2\n}"
	for _, test := range []struct {
		name, packet, from, datagram, reason string
	}{
		{"no header", "on", "127.0.0.2", quicLike, "missing"},
		{"nothing", "on", "127.0.0.2", "", "missing"},
		{"a beginning", "on", "127.0.0.2", wire.SignatureV2[:11], "missing"},
		{"v1", "on", "127.0.0.2", caddytest.HeaderV1(caddytest.Client4, caddytest.Server4) + quicLike, "missing"},
		{"a signature", "on", "127.0.0.2", wire.SignatureV2, "malformed"},
		{"a signature and half a length", "on", "127.0.0.2", wire.SignatureV2 + "\x21\x11\x00", "malformed"},
		{"truncated", "on", "127.0.0.2", bare(caddytest.Client4, caddytest.Server4)[:20], "malformed"},
		{"STREAM", "on", "127.0.0.2", caddytest.HeaderV2(caddytest.Client4, caddytest.Server4) + quicLike, "malformed"},
		{"STREAM over IPv6", "on", "127.0.0.2", caddytest.HeaderV2(caddytest.Client6, caddytest.Server6) + quicLike, "malformed"},
		{"unknown", "on", "127.0.0.2", caddytest.HeaderUnknown(2) + quicLike, "malformed"},
		{"unspecified transport", "on", "127.0.0.2", family(0x10) + quicLike, "malformed"},
		{"Unix", "on", "127.0.0.2", family(0x32) + strings.Repeat("x", 300), "malformed"},
		{"Unix, as long as it should be", "on", "127.0.0.2", unixDatagram + quicLike, "malformed"},
		{"an unknown family", "on", "127.0.0.2", family(0x42) + quicLike, "malformed"},
		{"another version", "on", "127.0.0.2", string(version) + quicLike, "malformed"},
		{"a wrong checksum", "on", "127.0.0.2", string(flipped) + quicLike, "checksum"},
		{"64 KiB announced", "on", "127.0.0.2", announced(65535) + quicLike, "too_large"},
		{"64 KiB announced and allowed", "on {\nmax_header_size 65551\n}", "127.0.0.2", announced(65535) + quicLike, "malformed"},
		{"4 KiB announced", "on", "127.0.0.2", announced(4000) + quicLike, "malformed"},
		{"too large", "on {\nmax_header_size 536\n}", "127.0.0.2", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, 600)}) + quicLike, "too_large"},
		{"two headers", "on", "127.0.0.2", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, "duplicate"},
		{"two headers, one LOCAL", "on", "127.0.0.2", caddytest.HeaderLocal() + caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, "duplicate"},
		{"a header and nothing", "on", "127.0.0.2", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), "malformed"},
		{"LOCAL and nothing", "on", "127.0.0.2", caddytest.HeaderLocal(), "malformed"},
		{"a header and nothing under unspecified", "unspecified", "127.0.0.2", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), "malformed"},
		{"a header and nothing under off", "off {\non 127.0.0.2\n}", "127.0.0.3", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), "forbidden"},
		{"from an untrusted peer", trusting, "127.0.0.3", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, "untrusted"},
		{"from an untrusted peer, no header", trusting, "127.0.0.3", quicLike, "untrusted"},
		{"from a peer that a source does not trust", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", "127.0.0.4", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, "untrusted"},
		{"no header, from a peer that a source does not trust", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", "127.0.0.4", quicLike, "missing"},
		{"malformed, from a peer that a source does not trust", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", "127.0.0.4", caddytest.HeaderV2(caddytest.Client4, caddytest.Server4) + quicLike, "malformed"},
		{"a header under off", "off {\non 127.0.0.2\n}", "127.0.0.3", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, "forbidden"},
		{"LOCAL under off", "off {\non 127.0.0.2\n}", "127.0.0.3", caddytest.HeaderLocal() + quicLike, "forbidden"},
		{"half a header under off", "off {\non 127.0.0.2\n}", "127.0.0.3", wire.SignatureV2 + "\x21", "forbidden"},
		{"a header of an untrusted peer under unspecified", "unspecified {\ntrusted_proxies static 127.0.0.2\n}", "127.0.0.3", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, "untrusted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, port, ""))
			good := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)).Address())
			good.Get("/")
			before := caddytest.Datagrams(t)

			bad, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(test.from)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
			require.NoError(t, err)
			defer bad.Close()
			for range 3 {
				_, err = io.WriteString(bad, test.datagram)
				require.NoError(t, err)
			}
			caddytest.Eventually(t, func() bool { return caddytest.Datagrams(t)[test.reason] == before[test.reason]+3 }, "not dropped as %s: %v", test.reason, caddytest.Datagrams(t))
			for reason, n := range caddytest.Datagrams(t) {
				if reason != test.reason && reason != "client" && reason != "marked" {
					assert.Equal(t, before[reason], n, reason)
				}
			}
			entry := c.Logs.WaitFor(t, caddytest.OfPackets.With(caddytest.Fields{"reason": test.reason}))
			assert.Equal(t, bad.LocalAddr().String(), entry.Get("peer"))
			assert.Contains(t, entry.Str("msg"), "dropped datagram")
			response, _ := good.Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode, "for everyone else HTTP/3 goes on")
		})
	}
}

func TestLogSaysWhyADatagramIsDropped(t *testing.T) {
	for _, test := range []struct{ name, datagram, err string }{
		{"missing", "x", ""},
		{"a signature", wire.SignatureV2, errDatagramCutOff.Error()},
		{"half a size", wire.SignatureV2 + "\x21\x12\x00", errDatagramCutOff.Error()},
		{"cut off", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)[:20], errDatagramCutOff.Error()},
		{"STREAM", caddytest.HeaderV2(caddytest.Client4, caddytest.Server4), errNotDatagrams.Error()},
		{"Unix", unixDatagram, errNotDatagrams.Error()},
		{"two", caddytest.HeaderLocal() + caddytest.HeaderLocal(), ""},
		{"nothing behind it", caddytest.HeaderLocal(), errNoPayload.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules, logs := packetRules(On)
			c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.1")
			_, err := peer.WriteTo([]byte(test.datagram), c.LocalAddr())
			require.NoError(t, err)
			pass(t, peer, c, "127.0.0.1", caddytest.HeaderLocal()+"x")
			require.Len(t, logs.All(), 1)
			said, _ := logs.All()[0].ContextMap()["error"].(string)
			assert.Equal(t, test.err, said)
		})
	}
}

func TestLogSaysThatAClientOfDatagramsIsMarked(t *testing.T) {
	rules, logs := packetRules(Unspecified)
	c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", rules), caddytest.ListenUDP(t, "127.0.0.1")
	pass(t, peer, c, "127.0.0.1", caddytest.HeaderLocal()+"x")
	require.Empty(t, logs.All())
	pass(t, peer, c, "127.0.0.1", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"x")
	rules.log.wait()
	require.Equal(t, 1, logs.FilterMessageSnippet("a client address is unverified").Len())
	assert.Equal(t, caddytest.Client4.String(), logs.All()[0].ContextMap()["claimed"])
}

// What is left out of the table for its size: a header that is larger than all that QUIC
// reads at once, with a full datagram of QUIC behind it.
func TestLargeHeaderDoesNotCutOffTheDatagram(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on {\nmax_header_size 60000\n}"), caddytest.HTTP3Site(t, port, ""))
	for _, size := range []int{500, 1400, 30000, 50000} {
		header := caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4, wire.TLV{Type: 0xe1, Value: make([]byte, size)})
		r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), header)
		response, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/" + strings.Repeat("x", 4000))
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Contains(t, body, caddytest.Client4.String())
	}
}

// A load balancer may say something else before each datagram.
func TestHeaderMayDifferFromDatagramToDatagram(t *testing.T) {
	for _, size := range []int{4, 2000} {
		port := caddytest.FreePort(t)
		caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
		var n atomic.Uint32
		udp := &headerConn{PacketConn: caddytest.ListenUDP(t, "127.0.0.2")}
		udp.next = func() string {
			value := binary.BigEndian.AppendUint32(make([]byte, size), n.Add(1))
			return caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4, wire.TLV{Type: 0xe1, Value: value})
		}
		client := newHeaderClient(t, udp, port)
		for range 20 {
			response := roundTrip(t, client, http.MethodGet, "/", nil)
			assert.Contains(t, response, caddytest.Client4.String()+" marked=false")
		}
		assert.Greater(t, n.Load(), uint32(20))
	}
}

// Amounts

func TestHTTP3CarriesLargeBodies(t *testing.T) {
	const size = 100 << 20
	dir := t.TempDir()
	big, err := os.Create(filepath.Join(dir, "big"))
	require.NoError(t, err)
	require.NoError(t, big.Truncate(size))
	require.NoError(t, big.Close())
	port := caddytest.FreePort(t)
	received := make(chan int64, 1)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, fmt.Sprintf("handle /big {\nroot %s\nfile_server\n}\nhandle /up {\nreverse_proxy 127.0.0.1:%d\n}", dir, sink(t, received))))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4))
	client := caddytest.NewHTTP3Client(t, r.Address())

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost/big", nil)
	require.NoError(t, err)
	response, err := client.HTTP.RoundTrip(request)
	require.NoError(t, err)
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	assert.EqualValues(t, size, n)

	request, err = http.NewRequestWithContext(t.Context(), http.MethodPost, "https://localhost/up", io.LimitReader(zeros{}, size))
	require.NoError(t, err)
	response, err = client.HTTP.RoundTrip(request)
	require.NoError(t, err)
	defer response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.EqualValues(t, size, <-received)
}

// A flood of clients that a trusted peer invented leaves nothing behind.
func TestFloodOfInventedClientsIsBounded(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
	good := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)).Address())
	good.Get("/")
	before := caddytest.Datagrams(t)["client"]

	flood, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	require.NoError(t, err)
	defer flood.Close()
	value := strings.Repeat("x", 400)
	const invented = 50_000
	for i := range uint32(invented) {
		ip := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0a000000+i)))
		_, _ = io.WriteString(flood, caddytest.HeaderUDP(netip.AddrPortFrom(ip, 1), caddytest.Server4, wire.TLV{Type: 0xe1, Value: []byte(value)})+quicLike)
		if i%5000 == 0 {
			response, _ := good.Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode)
		}
	}
	caddytest.Eventually(t, func() bool { return caddytest.Datagrams(t)["client"] > before+invented/10 }, "the flood does not arrive")
	response, body := good.Get("/")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Contains(t, body, caddytest.Client4.String())
}

// each calls f for each socket that is known.
func (p *packetConnPool) each(f func(c *packetConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		f(c)
	}
}

// Sockets

func TestRepliesComeFromWhereTheDatagramWasSentTo(t *testing.T) {
	for _, bind := range []string{"", "bind 0.0.0.0", "bind 127.0.0.7"} {
		t.Run(bind, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.Start(t, caddytest.Packets("", "on"), fmt.Sprintf("https://localhost:%d {\n%s\ntls %s\nrespond {http.proxy_protocol.server_ip}\n}\n", port, bind, caddytest.CertificateFiles(t)))
			// The kernel would reply from 127.0.0.1, and the relay's socket is connected.
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.Endpoint{Network: "udp", Address: fmt.Sprintf("127.0.0.7:%d", port)}, caddytest.HeaderLocal())
			_, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/")
			assert.Equal(t, "127.0.0.7", body)
		})
	}
}

func TestSocketOfAllAddressesKnowsWhichOneADatagramWasSentTo(t *testing.T) {
	for _, test := range []struct{ network, address, to string }{
		{"udp4", "0.0.0.0:0", "127.0.0.7"},
		{"udp6", "[::]:0", "::1"},
		{"udp", ":0", "127.0.0.7"},
		{"udp", ":0", "::1"},
	} {
		t.Run(test.network+" "+test.to, func(t *testing.T) {
			from := "127.0.0.2"
			if test.to == "::1" {
				caddytest.NeedIPv6(t)
				from = test.to
			}
			rules, _ := packetRules(On)
			c, peer := wrappedSocket(t, test.network, test.address, rules), caddytest.ListenUDP(t, from)
			_, addr := pass(t, peer, c, test.to, caddytest.HeaderLocal()+"x")
			want := netip.AddrPortFrom(netip.MustParseAddr(test.to), c.addr.Port())
			assert.Equal(t, want, addr.local)
			_, err := c.WriteTo([]byte("reply"), addr)
			require.NoError(t, err)
			var p [10]byte
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(caddytest.Patience)))
			n, replied, err := peer.ReadFromUDPAddrPort(p[:])
			require.NoError(t, err)
			assert.Equal(t, "reply", string(p[:n]))
			assert.Equal(t, want, unmapped(replied))
		})
	}
}

// The kernel's control messages say where to, or something else.
func TestControlMessagesMakeControlMessages(t *testing.T) {
	c := &packetConn{addr: netip.MustParseAddrPort("[::]:443")}
	for _, test := range []struct {
		name           string
		control, reply []byte
		local          string
	}{
		{"none", nil, nil, "[::]:443"},
		{"another", (&ipv6.ControlMessage{TrafficClass: 1}).Marshal(), nil, "[::]:443"},
		{"cut off", []byte{1}, nil, "[::]:443"},
		{
			"IPv6", (&ipv6.ControlMessage{Src: caddytest.Client6.Addr().AsSlice(), IfIndex: 7}).Marshal(),
			(&ipv6.ControlMessage{Src: caddytest.Client6.Addr().AsSlice()}).Marshal(), netip.AddrPortFrom(caddytest.Client6.Addr(), 443).String(),
		},
		{
			"mapped", bytes.Replace((&ipv6.ControlMessage{Src: caddytest.Client6.Addr().AsSlice(), IfIndex: 7}).Marshal(), caddytest.Client6.Addr().AsSlice(), net.ParseIP("192.0.2.1"), 1),
			(&ipv4.ControlMessage{Src: net.ParseIP("192.0.2.1")}).Marshal(), "192.0.2.1:443",
		},
	} {
		local, reply := c.replyWith(test.control)
		assert.Equal(t, test.local, local.String(), test.name)
		assert.Equal(t, test.reply, reply, test.name)
	}
}

// A wrapper below sees each datagram that comes and goes.
func TestOtherPacketWrappersAreNotPassedBy(t *testing.T) {
	for _, test := range []struct{ name, wrappers string }{
		{"below", "proxy_protocol_test_counts\nproxy_protocol_mode on {\ntrusted_proxies static 127.0.0.2\n}"},
		{"above", "proxy_protocol_mode on {\ntrusted_proxies static 127.0.0.2\n}\nproxy_protocol_test_counts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			countedPackets.Store(0)
			caddytest.Start(t, "auto_https disable_redirects\nservers {\npacket_conn_wrappers {\n"+test.wrappers+"\n}\n}\n", caddytest.HTTP3Site(t, port, ""))
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4))
			response, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Contains(t, body, caddytest.Client4.String()+" marked=false")
			assert.Greater(t, countedPackets.Load(), int64(4))
		})
	}
}

var countedPackets atomic.Int64

// countingWrapper counts the datagrams in both directions.
type countingWrapper struct{}

func init() { caddy.RegisterModule(countingWrapper{}) }

func (countingWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.packetconns.proxy_protocol_test_counts", New: func() caddy.Module { return new(countingWrapper) }}
}

func (countingWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (countingWrapper) WrapPacketConn(c net.PacketConn) net.PacketConn  { return countingConn{c} }

type countingConn struct{ net.PacketConn }

func (c countingConn) Unwrap() net.PacketConn { return c.PacketConn }

func (c countingConn) ReadFrom(p []byte) (int, net.Addr, error) {
	countedPackets.Add(1)
	return c.PacketConn.ReadFrom(p)
}

func (c countingConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	countedPackets.Add(1)
	return c.PacketConn.WriteTo(p, addr)
}

// The socket and what is known of it must not outlive Caddy's use of it, though nobody says
// when that ends.
func TestNothingIsLeftOfAClosedSocket(t *testing.T) {
	forgotten := func() bool {
		packetConns.mu.Lock()
		defer packetConns.mu.Unlock()
		return len(packetConns.conns) == 0
	}
	caddytest.Eventually(t, forgotten, "something is left of other tests")
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, caddytest.SoonIdle(caddytest.Packets("", "on")), caddytest.HTTP3Site(t, port, ""))
	client := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)).Address())
	client.Get("/")
	require.NoError(t, c.Load(caddytest.SoonIdle(caddytest.Packets("", "off")), caddytest.HTTP3Site(t, port, "")))
	require.False(t, forgotten())
	require.NoError(t, c.Load("", caddytest.PlainSite(caddytest.FreePort(t))))
	caddytest.Eventually(t, forgotten, "the socket is not forgotten")
	assert.False(t, caddytest.ListensOnUDP(t, port))
}

// Costs

func TestDatagramsAllocateNothingOnTheGoodPath(t *testing.T) {
	for _, test := range []struct {
		mode  Mode
		bytes string
	}{
		{On, caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike},
		{On, caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6, wire.TLV{Type: 0xe1, Value: make([]byte, 300)}) + quicLike},
		{Unspecified, caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike},
		{Off, quicLike},
	} {
		udp := caddytest.ListenUDP(t, "127.0.0.1")
		c := newPacketConn(udp, true).forQUIC().(udpPacketConn)
		rules := packetQuiet(test.mode)
		rules.stats = newStats()
		c.config.Store(rules)
		sender := caddytest.ListenUDP(t, "127.0.0.1")
		var p [2000]byte
		answers := make([]byte, 2000)
		to, bytes := udp.LocalAddr().(*net.UDPAddr).AddrPort(), []byte(test.bytes)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if _, err := sender.WriteToUDPAddrPort(bytes, to); err != nil {
				t.Fatal(err)
			}
			n, addr, err := c.ReadFrom(p[:])
			if err != nil || n != len(quicLike) {
				t.Fatal(n, err)
			}
			if _, err := c.WriteTo(p[:n], addr); err != nil {
				t.Fatal(err)
			}
			if n, _, err := sender.ReadFromUDPAddrPort(answers); err != nil || n != len(quicLike) {
				t.Fatal(n, err)
			}
		}))
	}
}

// A datagram that is dropped costs what its record costs.
func TestDroppedDatagramsAllocateForTheirRecordOnly(t *testing.T) {
	for _, test := range []struct {
		name, datagram string
		mode           Mode
		trusts         string
	}{
		{"missing", quicLike, On, "127.0.0.1/32"},
		{"untrusted", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, On, "127.0.0.2/32"},
		{"malformed", caddytest.HeaderV2(caddytest.Client4, caddytest.Server4) + quicLike, On, "127.0.0.1/32"},
		{"duplicate", caddytest.HeaderLocal() + caddytest.HeaderLocal(), Unspecified, "127.0.0.1/32"},
		{"forbidden", caddytest.HeaderLocal() + quicLike, Off, "127.0.0.1/32"},
	} {
		rules := packetQuiet(test.mode)
		rules.stats = newStats()
		rules.trusted, _ = compileSet([]string{test.trusts})
		c := newPacketConn(caddytest.ListenUDP(t, "127.0.0.1"), true)
		c.config.Store(rules)
		d := datagram{bytes: []byte(test.datagram), from: netip.MustParseAddrPort("127.0.0.1:7")}
		for range refusalsLogged {
			assert.Nil(t, c.accept(&d)) // what is logged costs more
		}
		record := testing.AllocsPerRun(100, func() { rules.refuse(peerOf(&d), c.LocalAddr(), test.mode, reasonMissing, d.bytes, nil) })
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { c.accept(&d) }), record+1, test.name)
	}
}

// Replies of many to many keep their order and their bounds, whatever leaves together.
func TestRepliesArriveWholeAndInOrder(t *testing.T) {
	udp := caddytest.ListenUDP(t, "127.0.0.1")
	c := newPacketConn(udp, true).forQUIC().(udpPacketConn)
	c.config.Store(packetQuiet(On))
	c.config.Load().stats = newStats()
	var wait sync.WaitGroup
	for i := range 4 {
		client := caddytest.ListenUDP(t, "127.0.0.1")
		require.NoError(t, client.SetReadBuffer(1<<22))
		_, err := client.WriteTo([]byte(caddytest.HeaderUDP(netip.AddrPortFrom(caddytest.Client4.Addr(), uint16(i+1)), caddytest.Server4)+quicLike), udp.LocalAddr())
		require.NoError(t, err)
		var p [2000]byte
		_, addr, err := c.ReadFrom(p[:])
		require.NoError(t, err)
		const replies = 500
		sizeOf := func(n int) int { return []int{1200, 1200, 1200, 600, 1452, 8, 1200}[n%7] }
		wait.Go(func() {
			for n := range replies {
				b := make([]byte, sizeOf(n))
				binary.BigEndian.PutUint32(b, uint32(n))
				_, err := c.WriteTo(b, addr)
				assert.NoError(t, err)
			}
		})
		wait.Go(func() {
			var p [1 << 16]byte
			for n := range replies {
				_ = client.SetReadDeadline(time.Now().Add(caddytest.Patience))
				size, _, err := client.ReadFrom(p[:])
				if !assert.NoError(t, err) || !assert.EqualValues(t, n, binary.BigEndian.Uint32(p[:])) {
					return
				}
				assert.Equal(t, sizeOf(n), size)
			}
		})
	}
	wait.Wait()
}

// QUIC learns of the end of the socket, and only of that.
func TestOnlyTheSocketsOwnErrorsSurface(t *testing.T) {
	udp := caddytest.ListenUDP(t, "127.0.0.1")
	c := newPacketConn(udp, true).forQUIC()
	c.(udpPacketConn).config.Store(packetQuiet(On))
	c.(udpPacketConn).config.Load().stats = newStats()
	sender := caddytest.ListenUDP(t, "127.0.0.1")
	for _, bad := range []string{"", "x", quicLike, wire.SignatureV2, caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)} {
		_, err := sender.WriteTo([]byte(bad), udp.LocalAddr())
		require.NoError(t, err)
	}
	_, err := sender.WriteTo([]byte(caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)+"good"), udp.LocalAddr())
	require.NoError(t, err)
	var p [100]byte
	n, addr, err := c.ReadFrom(p[:])
	require.NoError(t, err)
	assert.Equal(t, "good", string(p[:n]))
	assert.Equal(t, caddytest.Client4.String(), addr.String())

	_, err = c.WriteTo(p[:], sender.LocalAddr())
	assert.ErrorIs(t, err, errNotOurs)
	require.NoError(t, c.Close())
	_, _, err = c.ReadFrom(p[:])
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.ErrorIs(t, c.(udpPacketConn).SetReadBuffer(1<<16), net.ErrClosed)
	assert.ErrorIs(t, c.(udpPacketConn).SetWriteBuffer(1<<16), net.ErrClosed)
	_, oob := c.(quic.OOBCapablePacketConn)
	assert.False(t, oob, "QUIC would read past ReadFrom")
}

// Fuzzing

// packetMemory is a socket that has one datagram and then ends.
type packetMemory struct {
	net.PacketConn
	says string
	from net.Addr
}

func (c *packetMemory) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}
}

func (c *packetMemory) ReadFrom(p []byte) (int, net.Addr, error) {
	if c.from == nil {
		return 0, nil, net.ErrClosed
	}
	from := c.from
	c.from = nil
	return copy(p, c.says), from, nil
}

// FuzzDatagram compares what becomes of a datagram with the decision table, written down a
// second time.
func FuzzDatagram(f *testing.F) {
	for _, seed := range []string{"", quicLike, wire.SignatureV2, caddytest.HeaderLocal() + "x", caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4) + quicLike, caddytest.HeaderUDP(caddytest.Client6, caddytest.Server6) + "x", caddytest.HeaderV2(caddytest.Client4, caddytest.Server4) + "x", caddytest.HeaderV1(caddytest.Client4, caddytest.Server4), caddytest.HeaderUnknown(2), caddytest.HeaderLocal() + caddytest.HeaderLocal()} {
		for mode := range modeNames {
			f.Add([]byte(seed), uint8(mode), true)
			f.Add([]byte(seed), uint8(mode), false)
		}
	}
	f.Fuzz(func(t *testing.T, says []byte, m uint8, trusting bool) {
		says = says[:min(len(says), maxDatagram)]
		mode := Mode(m % uint8(len(modeNames)))
		rules := packetQuiet(mode)
		rules.stats = newStats()
		rules.trusted, _ = compileSet([]string{"192.0.2.0/24"})
		peer := "198.51.100.1:7"
		if trusting {
			peer = "192.0.2.1:7"
		}
		c := newPacketConn(&packetMemory{says: string(says), from: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(peer))}, false)
		c.config.Store(rules)
		var p [2000]byte
		n, addr, err := c.ReadFrom(p[:])

		payload, client, ok := datagramModel(says, mode, trusting, peer, rules.maxHeaderSize)
		if !ok || len(payload) == 0 {
			require.ErrorIs(t, err, net.ErrClosed)
			return
		}
		require.NoError(t, err)
		require.Equal(t, payload[:min(len(payload), len(p))], p[:n])
		require.Equal(t, client, addr.String())
		require.Equal(t, strings.HasSuffix(client, ":0") && mode == Unspecified, addr.(*quicAddr).Marked())
	})
}

// datagramModel is the decision table.
func datagramModel(b []byte, mode Mode, trusting bool, peer string, maxSize int) (payload []byte, client string, ok bool) {
	header := bytes.HasPrefix(b, []byte(wire.SignatureV2))
	switch {
	case mode == On && (!trusting || !header), mode == Off && header, header && !trusting:
		return nil, "", false
	case !header:
		return b, peer, true
	}
	r := wire.Decode(b, maxSize)
	if r.State != wire.Complete || bytes.HasPrefix(b[r.Size:], []byte(wire.SignatureV2)) {
		return nil, "", false
	}
	client = peer
	switch h := r.Header; {
	case h.Command() == wire.Local:
	case !h.HasAddrs() || h.Transport() != wire.Dgram:
		return nil, "", false
	case mode == Unspecified:
		client = netip.AddrPortFrom(h.Source().Addr().Unmap(), 0).String()
	default:
		client = netip.AddrPortFrom(h.Source().Addr().Unmap(), h.Source().Port()).String()
	}
	return b[r.Size:], client, true
}

// Go makes of 0.0.0.0 a socket of both families.
func TestSocketOfAllIPv4AddressesKeepsItsRulesOverReload(t *testing.T) {
	port := caddytest.FreePort(t)
	site := fmt.Sprintf("https://localhost:%d {\nbind 0.0.0.0\ntls %s\nrespond `%s`\n}\n", port, caddytest.CertificateFiles(t), caddytest.HTTP3Answer)
	c := caddytest.Start(t, caddytest.Packets("", "on"), site)
	relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(caddytest.Client4, caddytest.Server4)).Address()
	caddytest.EventuallyHTTP3(t, relay, http.StatusOK, caddytest.Client4.String())
	require.NoError(t, c.Load(caddytest.Packets("", "on {\nmax_header_size 5KiB\n}"), site))
	caddytest.EventuallyHTTP3(t, relay, http.StatusOK, caddytest.Client4.String())
}

// An address that came under a configuration does not keep it.
func TestConfigurationsThatAreGoneAreForgotten(t *testing.T) {
	port := caddytest.FreePort(t)
	options := func(i int) string {
		return caddytest.SoonIdle(caddytest.Packets("", fmt.Sprintf("on {\nmax_header_size %dB\n}", 1000+i)))
	}
	c := caddytest.Start(t, options(0), caddytest.HTTP3Site(t, port, ""))
	const reloads = 10
	gone := make(chan int, reloads)
	for i := range reloads {
		relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), caddytest.HeaderUDP(netip.AddrPortFrom(caddytest.Client4.Addr(), uint16(i+1)), caddytest.Server4))
		client := caddytest.NewHTTP3Client(t, relay.Address())
		client.Get("/")
		client.HTTP.Close()
		packetConns.each(func(c *packetConn) {
			if c.addr == netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)) {
				runtime.AddCleanup(c.adopted[len(c.adopted)-1].config, func(i int) { gone <- i }, i)
			}
		})
		require.NoError(t, c.Load(options(i+1), caddytest.HTTP3Site(t, port, "")))
	}
	caddytest.Eventually(t, func() bool {
		runtime.GC()
		return len(gone) >= reloads-1
	}, "old configurations are kept")
}
