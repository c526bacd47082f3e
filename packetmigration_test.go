package proxyprotocol_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// requireSame checks that requests came over one connection all the time.
func requireSame(t *testing.T, c *caddytest.HTTP3Client, conn *quic.Conn) {
	t.Helper()
	require.Same(t, conn, c.Conn(), "the client opened another connection")
}

// settle sends requests until the answer is this one. A migration takes a round trip to be
// confirmed, in which requests are answered as before.
func settle(t *testing.T, c *caddytest.HTTP3Client, status int, want string) {
	t.Helper()
	conn := c.Conn()
	caddytest.Eventually(t, func() bool {
		response, body := c.Get("/")
		return response.StatusCode == status && strings.Contains(body, want)
	}, "not answered with %d %s", status, want)
	requireSame(t, c, conn)
}

// Migration

func TestMigration_ConnectionHasTheNewClient(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on {\ntrusted_proxies static 127.0.0.2\n}"), caddytest.HTTP3Site(t, port, "@blue proxy_protocol {\ntlv authority blue.test\n}\nheader @blue tlv blue"))
	red, blue := []wire.TLV(nil), []wire.TLV{{Type: wire.TypeAuthority, Value: []byte("blue.test")}}
	for _, test := range []struct {
		name string
		next netip.AddrPort
	}{
		{"a NAT forgot the client", netip.AddrPortFrom(headertest.Client4.Addr(), 60000)},
		{"the client is somewhere else", netip.MustParseAddrPort("198.51.100.9:7")},
		{"and has other addresses there", headertest.Client6},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4, red...))
			client := caddytest.NewHTTP3Client(t, r.Address())
			response, body := client.Get("/")
			assert.Contains(t, body, headertest.Client4.String()+" marked=false present=true")
			assert.Empty(t, response.Header.Get("tlv"))
			conn := client.Conn()

			r.Speak(headertest.UDP(test.next, server4Or6(test.next), blue...))
			settle(t, client, http.StatusOK, test.next.String()+" marked=false present=true mode=on peer=127.0.0.2")
			response, _ = client.Get("/")
			assert.Empty(t, response.Header.Get("tlv"), "what else is known is what the connection began with")

			r.Speak(headertest.UDP(headertest.Client4, headertest.Server4, red...))
			settle(t, client, http.StatusOK, headertest.Client4.String())
			requireSame(t, client, conn)
		})
	}
}

func server4Or6(client netip.AddrPort) netip.AddrPort {
	if client.Addr().Is4() {
		return headertest.Server4
	}
	return headertest.Server6
}

// The client itself moves to another socket, as a phone does that leaves its Wi-Fi.
func TestMigration_IsAllowed(t *testing.T) {
	for _, test := range []struct{ packet, before, after string }{
		{"on", headertest.Client4.String() + " marked=false", "198.51.100.9:7 marked=false"},
		{"unspecified", headertest.Client4.Addr().String() + ":0 marked=true", "198.51.100.9:0 marked=true"},
	} {
		t.Run(test.packet, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.Start(t, caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, port, ""))
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(netip.MustParseAddrPort("198.51.100.9:7"), headertest.Server4))
			client := caddytest.NewHTTP3Client(t, r.Address())
			r.SpeakFor(client, headertest.UDP(headertest.Client4, headertest.Server4))
			_, body := client.Get("/")
			assert.Contains(t, body, test.before)

			other := &quic.Transport{Conn: caddytest.ListenUDP(t, "127.0.0.1")}
			t.Cleanup(func() { other.Close() })
			path, err := client.Conn().AddPath(other)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
			defer cancel()
			require.NoError(t, path.Probe(ctx))
			require.NoError(t, path.Switch())
			settle(t, client, http.StatusOK, test.after)
		})
	}
}

// A connection is marked or it is not, as long as it lives.
func TestMigration_DoesNotChangeTheMark(t *testing.T) {
	for _, test := range []struct {
		name, before, after string
	}{
		{"a client without header claims an address", "", headertest.UDP(headertest.Client4, headertest.Server4)},
		{"a client without header claims that of its peer", "", headertest.UDP(netip.MustParseAddrPort("127.0.0.2:1"), headertest.Server4)},
		{"a LOCAL one claims an address", headertest.Local(), headertest.UDP(headertest.Client4, headertest.Server4)},
		{"a marked client loses its header", headertest.UDP(headertest.Client4, headertest.Server4), ""},
		{"a marked client becomes LOCAL", headertest.UDP(headertest.Client4, headertest.Server4), headertest.Local()},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Packets("", "unspecified"), caddytest.HTTP3Site(t, port, ""))
			r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), test.before)
			client := caddytest.NewHTTP3Client(t, r.Address())
			response, _ := client.Get("/")
			require.Equal(t, http.StatusOK, response.StatusCode)
			r.Speak(test.after)
			settle(t, client, http.StatusMisdirectedRequest, "")
			response, _ = client.Get("/")
			assert.Empty(t, response.Header.Values("Alt-Svc"), "HTTP/3 is not what is wrong")
			c.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"status": float64(http.StatusMisdirectedRequest)}))

			response, _ = caddytest.NewHTTP3Client(t, r.Address()).Get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode, "a new connection may")
		})
	}
}

// What is known of a connection is what it began with, but for the client's address.
func TestMigration_ToADirectPeerKeepsTheBeginning(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on {\noff 127.0.0.3\n}"), caddytest.HTTP3Site(t, port, "proxy_protocol on"))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
	client := caddytest.NewHTTP3Client(t, r.Address())
	response, _ := client.Get("/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	r.MoveTo("127.0.0.3", "")
	settle(t, client, http.StatusOK, fmt.Sprintf("127.0.0.3:%d marked=false present=true mode=on peer=127.0.0.2", r.BackPort(client)))
}

// Limits

// QUIC knows a client by the address it shows. Where that stays the same, it does not see
// that replies must take another way. This is what docs/http3.md says.
func TestMigration_MarkedClientWithAnotherPortIsAnswered(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "unspecified"), caddytest.HTTP3Site(t, port, ""))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
	client := caddytest.NewHTTP3Client(t, r.Address())
	client.Get("/")
	conn := client.Conn()
	r.Speak(headertest.UDP(netip.AddrPortFrom(headertest.Client4.Addr(), 60000), headertest.Server4))
	r.Forget()
	response, _ := client.Get("/")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	requireSame(t, client, conn)
}

func TestMigration_ClientThroughAnotherPeerIsNotAnswered(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
	client := caddytest.NewHTTP3Client(t, r.Address())
	client.Get("/")
	conn := client.Conn()
	r.MoveTo("127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4))

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err := client.Try(ctx, http.MethodGet, "/", nil)
	assert.ErrorIs(t, err, context.DeadlineExceeded, "replies go to where the client was")
	require.NoError(t, conn.CloseWithError(0, ""))

	response, _ := caddytest.NewHTTP3Client(t, r.Address()).Get("/")
	assert.Equal(t, http.StatusOK, response.StatusCode, "a new connection works")
}

// Reload

func TestReload_ChangesTheRulesOfALiveSocket(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, caddytest.Packets("", "off"), caddytest.HTTP3Site(t, port, ""))
	_, body := caddytest.NewHTTP3Client(t, caddytest.TCP4(port).Address).Get("/")
	assert.Contains(t, body, "present=false mode=off")
	behind := func(from, header string) string {
		return caddytest.StartRelay(t, from, caddytest.TCP4(port), header).Address()
	}
	refused := func(address, reason string) {
		t.Helper()
		before := caddytest.Datagrams(t)[reason]
		ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
		defer cancel()
		client := caddytest.NewHTTP3Client(t, address)
		go client.Try(ctx, http.MethodGet, "/", nil)
		caddytest.Eventually(t, func() bool { return caddytest.Datagrams(t)[reason] > before }, "not dropped as %s", reason)
	}
	refused(behind("127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4)), "forbidden")

	require.NoError(t, c.Load(caddytest.Packets("", "on {\ntrusted_proxies static 127.0.0.2\n}"), caddytest.HTTP3Site(t, port, "")))
	caddytest.EventuallyHTTP3(t, behind("127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4)), http.StatusOK, headertest.Client4.String()+" marked=false present=true mode=on")
	refused(caddytest.TCP4(port).Address, "untrusted")
	refused(behind("127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4)), "untrusted")

	require.NoError(t, c.Load(caddytest.Packets("", "on {\ntrusted_proxies static 127.0.0.3\n}"), caddytest.HTTP3Site(t, port, "")))
	caddytest.EventuallyHTTP3(t, behind("127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4)), http.StatusOK, "peer=127.0.0.3")
	refused(behind("127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4)), "untrusted")

	// A reload that fails leaves the rules.
	require.Error(t, c.Load(caddytest.Packets("", "off"), caddytest.HTTP3Site(t, port, "tls {\nissuer nobody\n}")))
	require.Error(t, c.Load(caddytest.Packets("", "off"), caddytest.HTTP3Site(t, port, "")+fmt.Sprintf("http://192.0.2.1:%d {\nbind 192.0.2.1\n}\n", port)))
	caddytest.EventuallyHTTP3(t, behind("127.0.0.3", headertest.UDP(headertest.Client4, headertest.Server4)), http.StatusOK, "mode=on peer=127.0.0.3")

	// Without a wrapper datagrams pass as they are.
	require.NoError(t, c.Load(caddytest.Packets("", ""), caddytest.HTTP3Site(t, port, "")))
	_, body = caddytest.EventuallyHTTP3(t, caddytest.TCP4(port).Address, http.StatusOK, "marked={http.proxy_protocol.port_zero}") // no placeholders
	assert.True(t, strings.HasPrefix(body, "127.0.0.1:"))

	require.NoError(t, c.Load(caddytest.Packets("on", "on"), caddytest.HTTP3Site(t, port, "")))
	caddytest.EventuallyHTTP3(t, behind("127.0.0.2", headertest.UDP(headertest.Client4, headertest.Server4)), http.StatusOK, headertest.Client4.String()+" marked=false present=true mode=on")
}

// The listener of a server that had no wrapper is not wrapped later. Then nobody judges its
// datagrams.
func TestReload_RefusesASocketOlderThanTheWrapper(t *testing.T) {
	port := caddytest.FreePort(t)
	site := caddytest.HTTP3Site(t, port, "")
	c := caddytest.Start(t, caddytest.Packets("", ""), site)
	caddytest.NewHTTP3Client(t, caddytest.TCP4(port).Address).Get("/")
	for _, test := range []struct {
		listener, packet string
		refused          bool
	}{
		{"on", "on", true},
		{"on {\nhttp3 allow\n}", "", false},
		{"on {\nhttp3 allow\n}", "on", true},
		{"on", "on", true},
		{"", "on", true},
		{"", "off {\non 10.0.0.0/8\n}", true},
		{"off", "off", false},
		{"unspecified", "", false},
	} {
		require.NoError(t, c.Load(caddytest.Packets(test.listener, test.packet), site))
		logs := c.Logs.Tail()
		if !test.refused {
			// Nothing is known of a header.
			caddytest.EventuallyHTTP3(t, caddytest.TCP4(port).Address, http.StatusOK, " marked= present= mode= peer=")
			continue
		}
		response, body := caddytest.EventuallyHTTP3(t, caddytest.TCP4(port).Address, http.StatusMisdirectedRequest, "")
		assert.Equal(t, []string{"clear"}, response.Header.Values("Alt-Svc"))
		assert.Empty(t, body)
		entry := logs.WaitFor(t, caddytest.Fields{"level": "warn", "server_name": "srv0", "msg": "refused HTTP/3: its UDP listener was opened before 'proxy_protocol_mode' was added to 'packet_conn_wrappers', and Caddy keeps the listener across reloads; restart Caddy"})
		assert.NotEmpty(t, entry)
		logs.WaitFor(t, caddytest.Fields{"logger": "http.log.access", "status": float64(http.StatusMisdirectedRequest)})
	}
}

func TestReload_DropsNoLiveRequests(t *testing.T) {
	port := caddytest.FreePort(t)
	site := caddytest.HTTP3Site(t, port, "handle /slow {\nreverse_proxy 127.0.0.1:"+fmt.Sprint(slowServer(t))+"\n}")
	c := caddytest.New(t)
	c.Grace = caddytest.Patience
	require.NoError(t, c.Load(caddytest.Packets("on", "on"), site))
	r := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4))
	var stop atomic.Bool
	var wait sync.WaitGroup
	var answered, lost atomic.Int64
	for range 4 {
		client := caddytest.NewHTTP3Client(t, r.Address())
		wait.Go(func() {
			for !stop.Load() {
				ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
				response, body, err := client.Try(ctx, http.MethodGet, "/slow", nil)
				cancel()
				// Caddy closes old connections when a configuration ends.
				if err != nil {
					lost.Add(1)
					continue
				}
				assert.Equal(t, http.StatusOK, response.StatusCode)
				assert.Equal(t, strings.Repeat("x", slowSize), body)
				answered.Add(1)
			}
		})
	}
	for i := range 10 {
		mode := []string{"on", "on {\ntrusted_proxies static 127.0.0.2\n}"}[i%2]
		before := answered.Load()
		require.NoError(t, c.Load(caddytest.Packets("on", mode), site))
		caddytest.Eventually(t, func() bool { return answered.Load() > before+4 }, "nothing is answered any more")
	}
	stop.Store(true)
	wait.Wait()
	t.Logf("%d answered, %d lost", answered.Load(), lost.Load())
	assert.LessOrEqual(t, lost.Load(), int64(10*4), "at most the request that met the end of its connection, each time")
	assert.Zero(t, caddytest.Datagrams(t)["missing"]+caddytest.Datagrams(t)["forbidden"]+caddytest.Datagrams(t)["direct"])
}

const slowSize = 1 << 16

// slowServer is a server whose answers take some milliseconds.
func slowServer(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 8 {
			_, _ = io.WriteString(w, strings.Repeat("x", slowSize/8))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(2 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// requestsAfterRestart returns how long a live connection waits for its next answer when the
// load balancer in between forgets all and goes on from other ports.
func requestsAfterRestart(t *testing.T, r *caddytest.Relay, client *caddytest.HTTP3Client) time.Duration {
	t.Helper()
	client.Get("/")
	conn := client.Conn()
	r.Forget()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
	defer cancel()
	_, _, err := client.Try(ctx, http.MethodGet, "/", nil)
	require.NoError(t, err)
	took := time.Since(began)
	requireSame(t, client, conn)
	return took
}

func TestMigration_RestartOfTheLoadBalancerCostsNoMore(t *testing.T) {
	wrapped, plain := caddytest.FreePort(t), caddytest.FreePort(t)
	at := func(port int) []string { return []string{fmt.Sprintf("127.0.0.1:%d", port)} }
	require.NoError(t, caddytest.New(t).LoadJSON(h3Apps(t, "",
		h3Server{name: "wrapped", listen: at(wrapped), packet: onPackets("127.0.0.2")},
		h3Server{name: "plain", listen: at(plain)},
	)))
	behind, beside := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(wrapped), headertest.UDP(headertest.Client4, headertest.Server4)), caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(plain), "")
	for range 3 {
		took, unwrapped := requestsAfterRestart(t, behind, caddytest.NewHTTP3Client(t, behind.Address())), requestsAfterRestart(t, beside, caddytest.NewHTTP3Client(t, beside.Address()))
		t.Logf("wrapped %s, unwrapped %s", took, unwrapped)
		assert.Less(t, took, unwrapped+time.Second)
	}
}
