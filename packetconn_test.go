package proxyprotocol_test

import (
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

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	pires "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// What a request sees

func TestHTTP3_HasTheClientOfTheHeader(t *testing.T) {
	for _, test := range []struct {
		name, packet, header, want string
	}{
		{"on, IPv4", "on", headertest.UDP(headertest.Client4, headertest.Server4), headertest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, IPv6", "on", headertest.UDP(headertest.Client6, headertest.Server6), headertest.Client6.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, mapped", "on", headertest.UDP(netip.AddrPortFrom(netip.AddrFrom16(headertest.Client4.Addr().As16()), 7), headertest.Server6), headertest.Client4.Addr().String() + ":7 marked=false present=true mode=on peer=127.0.0.2"},
		{"on, LOCAL", "on", headertest.Local(), "127.0.0.2:PORT marked=false present=true mode=on peer=127.0.0.2"},
		{"on, trusted", "on {\ntrusted_proxies static 127.0.0.2\n}", headertest.UDP(headertest.Client4, headertest.Server4), headertest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on, trusted by a source that is asked", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", headertest.UDP(headertest.Client4, headertest.Server4), headertest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"on for a range", "off {\non 127.0.0.2\n}", headertest.UDP(headertest.Client4, headertest.Server4), headertest.Client4.String() + " marked=false present=true mode=on peer=127.0.0.2"},
		{"off for a range", "on {\noff 127.0.0.2\n}", "", "127.0.0.2:PORT marked=false present=false mode=off peer=127.0.0.2"},
		{"off", "off", "", "127.0.0.2:PORT marked=false present=false mode=off peer=127.0.0.2"},
		{"unspecified, IPv4", "unspecified", headertest.UDP(headertest.Client4, headertest.Server4), headertest.Client4.Addr().String() + ":0 marked=true present=true mode=unspecified peer=127.0.0.2"},
		{"unspecified, IPv6", "unspecified", headertest.UDP(headertest.Client6, headertest.Server6), "[" + headertest.Client6.Addr().String() + "]:0 marked=true present=true mode=unspecified peer=127.0.0.2"},
		{"unspecified, LOCAL", "unspecified", headertest.Local(), "127.0.0.2:PORT marked=false present=true mode=unspecified peer=127.0.0.2"},
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

func TestHTTP3_HasTheClientOfTheHeaderOverIPv6(t *testing.T) {
	caddytest.NeedIPv6(t)
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on {\ntrusted_proxies static ::1\n}"), caddytest.HTTP3Site(t, port, ""))
	for _, header := range []string{headertest.UDP(headertest.Client4, headertest.Server4), headertest.UDP(headertest.Client6, headertest.Server6)} {
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

func TestHTTP3_HasEverythingOfTheHeader(t *testing.T) {
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
	header := headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")})
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
				assert.Equal(t, headertest.Client4.String(), entry.Get("whole.source"))
			}
		})
	}
}

func TestPacketConn_ClientsStayApart(t *testing.T) {
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
					r.SpeakFor(client, headertest.UDP(said, headertest.Server4))
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
func TestPacketConn_TakesHeadersOfAnotherSender(t *testing.T) {
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

func TestPacketConn_DropsAndCountsBadDatagrams(t *testing.T) {
	announced := func(size uint16) string {
		b := []byte(headertest.UDP(headertest.Client4, headertest.Server4))
		binary.BigEndian.PutUint16(b[14:], size)
		return string(b)
	}
	flipped := []byte(headertest.UDP(headertest.Client4, headertest.Server4))
	flipped[16] ^= 1
	family := func(b byte) string {
		h := []byte(headertest.UDP(headertest.Client4, headertest.Server4))
		h[13] = b
		return string(h)
	}
	bare := func(src, dst netip.AddrPort) string { return headertest.Text(wire.NewProxy(2, wire.Dgram, src, dst)) }
	version := []byte(bare(headertest.Client4, headertest.Server4))
	version[12] = 0x11
	trusting := "on {\ntrusted_proxies static 127.0.0.2\n}"
	for _, test := range []struct {
		name, packet, from, datagram, reason string
	}{
		{"no header", "on", "127.0.0.2", quicLike, "missing"},
		{"nothing", "on", "127.0.0.2", "", "missing"},
		{"a beginning", "on", "127.0.0.2", wire.SignatureV2[:11], "missing"},
		{"v1", "on", "127.0.0.2", headertest.V1(headertest.Client4, headertest.Server4) + quicLike, "missing"},
		{"a signature", "on", "127.0.0.2", wire.SignatureV2, "malformed"},
		{"a signature and half a length", "on", "127.0.0.2", wire.SignatureV2 + "\x21\x11\x00", "malformed"},
		{"truncated", "on", "127.0.0.2", bare(headertest.Client4, headertest.Server4)[:20], "malformed"},
		{"STREAM", "on", "127.0.0.2", headertest.V2(headertest.Client4, headertest.Server4) + quicLike, "malformed"},
		{"STREAM over IPv6", "on", "127.0.0.2", headertest.V2(headertest.Client6, headertest.Server6) + quicLike, "malformed"},
		{"unknown", "on", "127.0.0.2", headertest.Unknown(2) + quicLike, "malformed"},
		{"unspecified transport", "on", "127.0.0.2", family(0x10) + quicLike, "malformed"},
		{"Unix", "on", "127.0.0.2", family(0x32) + strings.Repeat("x", 300), "malformed"},
		{"Unix, as long as it should be", "on", "127.0.0.2", unixDatagram + quicLike, "malformed"},
		{"an unknown family", "on", "127.0.0.2", family(0x42) + quicLike, "malformed"},
		{"another version", "on", "127.0.0.2", string(version) + quicLike, "malformed"},
		{"a wrong checksum", "on", "127.0.0.2", string(flipped) + quicLike, "checksum"},
		{"64 KiB announced", "on", "127.0.0.2", announced(65535) + quicLike, "too_large"},
		{"64 KiB announced and allowed", "on {\nmax_header_size 65551\n}", "127.0.0.2", announced(65535) + quicLike, "malformed"},
		{"4 KiB announced", "on", "127.0.0.2", announced(4000) + quicLike, "malformed"},
		{"too large", "on {\nmax_header_size 536\n}", "127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: wire.TypeNoop, Value: make([]byte, 600)}) + quicLike, "too_large"},
		{"two headers", "on", "127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4) + headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, "duplicate"},
		{"two headers, one LOCAL", "on", "127.0.0.2", headertest.Local() + headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, "duplicate"},
		{"a header and nothing", "on", "127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4), "malformed"},
		{"LOCAL and nothing", "on", "127.0.0.2", headertest.Local(), "malformed"},
		{"a header and nothing under unspecified", "unspecified", "127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4), "malformed"},
		{"a header and nothing under off", "off {\non 127.0.0.2\n}", "127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4), "forbidden"},
		{"from an untrusted peer", trusting, "127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, "untrusted"},
		{"from an untrusted peer, no header", trusting, "127.0.0.3", quicLike, "untrusted"},
		{"from a peer that a source does not trust", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", "127.0.0.4", headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, "untrusted"},
		{"no header, from a peer that a source does not trust", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", "127.0.0.4", quicLike, "missing"},
		{"malformed, from a peer that a source does not trust", "on {\ntrusted_proxies proxy_protocol_test_asked\n}", "127.0.0.4", headertest.V2(headertest.Client4, headertest.Server4) + quicLike, "malformed"},
		{"a header under off", "off {\non 127.0.0.2\n}", "127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, "forbidden"},
		{"LOCAL under off", "off {\non 127.0.0.2\n}", "127.0.0.3", headertest.Local() + quicLike, "forbidden"},
		{"half a header under off", "off {\non 127.0.0.2\n}", "127.0.0.3", wire.SignatureV2 + "\x21", "forbidden"},
		{"a header of an untrusted peer under unspecified", "unspecified {\ntrusted_proxies static 127.0.0.2\n}", "127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4) + quicLike, "untrusted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, port, ""))
			good := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address())
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

// What is left out of the table for its size: a header that is larger than all that QUIC
// reads at once, with a full datagram of QUIC behind it.
func TestPacketConn_LargeHeaderDoesNotCutOffTheDatagram(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on {\nmax_header_size 60000\n}"), caddytest.HTTP3Site(t, port, ""))
	for _, size := range []int{500, 1400, 30000, 50000} {
		header := headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: 0xe1, Value: make([]byte, size)})
		r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), header)
		response, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/" + strings.Repeat("x", 4000))
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Contains(t, body, headertest.Client4.String())
	}
}

// A load balancer may say something else before each datagram.
func TestPacketConn_HeaderMayDifferFromDatagramToDatagram(t *testing.T) {
	for _, size := range []int{4, 2000} {
		port := caddytest.FreePort(t)
		caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
		var n atomic.Uint32
		udp := &headerConn{PacketConn: caddytest.ListenUDP(t, "127.0.0.2")}
		udp.next = func() string {
			value := binary.BigEndian.AppendUint32(make([]byte, size), n.Add(1))
			return headertest.UDP(headertest.Client4, headertest.Server4, wire.TLV{Type: 0xe1, Value: value})
		}
		client := newHeaderClient(t, udp, port)
		for range 20 {
			response := roundTrip(t, client, http.MethodGet, "/", nil)
			assert.Contains(t, response, headertest.Client4.String()+" marked=false")
		}
		assert.Greater(t, n.Load(), uint32(20))
	}
}

// Amounts

func TestHTTP3_CarriesLargeBodies(t *testing.T) {
	const size = 100 << 20
	dir := t.TempDir()
	big, err := os.Create(filepath.Join(dir, "big"))
	require.NoError(t, err)
	require.NoError(t, big.Truncate(size))
	require.NoError(t, big.Close())
	port := caddytest.FreePort(t)
	received := make(chan int64, 1)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, fmt.Sprintf("handle /big {\nroot %s\nfile_server\n}\nhandle /up {\nreverse_proxy 127.0.0.1:%d\n}", dir, sink(t, received))))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
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
func TestPacketConn_FloodOfInventedClientsIsBounded(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
	good := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address())
	good.Get("/")
	before := caddytest.Datagrams(t)["client"]

	flood, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	require.NoError(t, err)
	defer flood.Close()
	value := strings.Repeat("x", 400)
	const invented = 50_000
	for i := range uint32(invented) {
		ip := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0a000000+i)))
		_, _ = io.WriteString(flood, headertest.UDP(netip.AddrPortFrom(ip, 1), headertest.Server4, wire.TLV{Type: 0xe1, Value: []byte(value)})+quicLike)
		if i%5000 == 0 {
			response, _ := good.Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode)
		}
	}
	caddytest.Eventually(t, func() bool { return caddytest.Datagrams(t)["client"] > before+invented/10 }, "the flood does not arrive")
	response, body := good.Get("/")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Contains(t, body, headertest.Client4.String())
}

func TestPacketConn_RepliesComeFromWhereTheDatagramWasSentTo(t *testing.T) {
	for _, bind := range []string{"", "bind 0.0.0.0", "bind 127.0.0.7"} {
		t.Run(bind, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.Start(t, caddytest.Packets("", "on"), fmt.Sprintf("https://localhost:%d {\n%s\ntls %s\nrespond {http.proxy_protocol.server_ip}\n}\n", port, bind, caddytest.CertificateFiles(t)))
			// The kernel would reply from 127.0.0.1, and the relay's socket is connected.
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.Endpoint{Network: "udp", Address: fmt.Sprintf("127.0.0.7:%d", port)}, headertest.Local())
			_, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/")
			assert.Equal(t, "127.0.0.7", body)
		})
	}
}

// A wrapper below sees each datagram that comes and goes.
func TestPacketConn_DoesNotPassOtherWrappersBy(t *testing.T) {
	for _, test := range []struct{ name, wrappers string }{
		{"below", "proxy_protocol_test_counts\nproxy_protocol_mode on {\ntrusted_proxies static 127.0.0.2\n}"},
		{"above", "proxy_protocol_mode on {\ntrusted_proxies static 127.0.0.2\n}\nproxy_protocol_test_counts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			countedPackets.Store(0)
			caddytest.Start(t, "auto_https disable_redirects\nservers {\npacket_conn_wrappers {\n"+test.wrappers+"\n}\n}\n", caddytest.HTTP3Site(t, port, ""))
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
			response, body := caddytest.NewHTTP3Client(t, r.Address()).Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Contains(t, body, headertest.Client4.String()+" marked=false")
			assert.Greater(t, countedPackets.Load(), int64(4))
		})
	}
}

var (
	countedPackets atomic.Int64
	countedConns   atomic.Int64 // that have not been garbage-collected
)

// countingWrapper counts the datagrams in both directions, and the sockets in memory.
type countingWrapper struct{}

func init() { caddy.RegisterModule(countingWrapper{}) }

func (countingWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.packetconns.proxy_protocol_test_counts", New: func() caddy.Module { return new(countingWrapper) }}
}

func (countingWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (countingWrapper) WrapPacketConn(c net.PacketConn) net.PacketConn {
	conn := &countingConn{c}
	countedConns.Add(1)
	runtime.AddCleanup(conn, func(n int64) { countedConns.Add(n) }, -1)
	return conn
}

type countingConn struct{ net.PacketConn }

func (c *countingConn) Unwrap() net.PacketConn { return c.PacketConn }

func (c *countingConn) ReadFrom(p []byte) (int, net.Addr, error) {
	countedPackets.Add(1)
	return c.PacketConn.ReadFrom(p)
}

func (c *countingConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	countedPackets.Add(1)
	return c.PacketConn.WriteTo(p, addr)
}

// The socket and what is known of it must not outlive Caddy's use of it, though Caddy does not
// report when that ends.
func TestSockets_KeepNothingOfAClosedSocket(t *testing.T) {
	forgotten := func() bool {
		runtime.GC()
		return countedConns.Load() == 0
	}
	// The wrapper that counts is below. What keeps a socket of the other one keeps its, too.
	packets := func(mode string) string {
		return caddytest.SoonIdle("auto_https disable_redirects\nservers {\npacket_conn_wrappers {\nproxy_protocol_test_counts\nproxy_protocol_mode " + mode + "\n}\n}\n")
	}
	caddytest.Eventually(t, forgotten, "something is left of other tests")
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, packets("on {\ntrusted_proxies static 127.0.0.0/8\n}"), caddytest.HTTP3Site(t, port, ""))
	client := caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address())
	client.Get("/")
	require.NoError(t, c.Load(packets("off"), caddytest.HTTP3Site(t, port, "")))
	require.False(t, forgotten())
	require.NoError(t, c.Load("", caddytest.PlainSite(caddytest.FreePort(t))))
	caddytest.Eventually(t, forgotten, "the socket is not forgotten")
	assert.False(t, caddytest.ListensOnUDP(t, port))
}

// Go makes of 0.0.0.0 a socket of both families.
func TestReload_SocketOfAllIPv4AddressesKeepsItsRules(t *testing.T) {
	port := caddytest.FreePort(t)
	site := fmt.Sprintf("https://localhost:%d {\nbind 0.0.0.0\ntls %s\nrespond `%s`\n}\n", port, caddytest.CertificateFiles(t), caddytest.HTTP3Answer)
	c := caddytest.Start(t, caddytest.Packets("", "on"), site)
	relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address()
	caddytest.EventuallyHTTP3(t, relay, http.StatusOK, headertest.Client4.String())
	require.NoError(t, c.Load(caddytest.Packets("", "on {\nmax_header_size 5KiB\n}"), site))
	caddytest.EventuallyHTTP3(t, relay, http.StatusOK, headertest.Client4.String())
}
