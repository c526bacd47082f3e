package proxyprotocol

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

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// requireSame checks that requests came over one connection all the time.
func requireSame(t *testing.T, c *h3Client, conn *quic.Conn) {
	t.Helper()
	require.Same(t, conn, c.conn(), "the client opened another connection")
}

// settle sends requests until the answer is this one. A migration takes a round trip to be
// confirmed, in which requests are answered as before.
func settle(t *testing.T, c *h3Client, status int, want string) {
	t.Helper()
	conn := c.conn()
	eventually(t, func() bool {
		response, body := c.get("/")
		return response.StatusCode == status && strings.Contains(body, want)
	}, "not answered with %d %s", status, want)
	requireSame(t, c, conn)
}

// Migration

func TestMigratedConnectionHasTheNewClient(t *testing.T) {
	port := freePort(t)
	startCaddy(t, packets("", "on {\ntrusted_proxies static 127.0.0.2\n}"), h3Site(t, port, "@blue proxy_protocol {\ntlv authority blue.test\n}\nheader @blue tlv blue"))
	red, blue := []wire.TLV(nil), []wire.TLV{{Type: wire.TypeAuthority, Value: []byte("blue.test")}}
	for _, test := range []struct {
		name string
		next netip.AddrPort
	}{
		{"a NAT forgot the client", netip.AddrPortFrom(client4.Addr(), 60000)},
		{"the client is somewhere else", netip.MustParseAddrPort("198.51.100.9:7")},
		{"and has other addresses there", client6},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := startRelay(t, "127.0.0.2", tcp4(port), dgram(client4, server4, red...))
			client := newH3Client(t, r.address())
			response, body := client.get("/")
			assert.Contains(t, body, client4.String()+" marked=false present=true")
			assert.Empty(t, response.Header.Get("tlv"))
			conn := client.conn()

			r.speak(dgram(test.next, server4Or6(test.next), blue...))
			settle(t, client, http.StatusOK, test.next.String()+" marked=false present=true mode=on peer=127.0.0.2")
			response, _ = client.get("/")
			assert.Empty(t, response.Header.Get("tlv"), "what else is known is what the connection began with")

			r.speak(dgram(client4, server4, red...))
			settle(t, client, http.StatusOK, client4.String())
			requireSame(t, client, conn)
		})
	}
}

func server4Or6(client netip.AddrPort) netip.AddrPort {
	if client.Addr().Is4() {
		return server4
	}
	return server6
}

// The client itself moves to another socket, as a phone does that leaves its Wi-Fi.
func TestClientMayMigrate(t *testing.T) {
	for _, test := range []struct{ packet, before, after string }{
		{"on", client4.String() + " marked=false", "198.51.100.9:7 marked=false"},
		{"unspecified", client4.Addr().String() + ":0 marked=true", "198.51.100.9:0 marked=true"},
	} {
		t.Run(test.packet, func(t *testing.T) {
			port := freePort(t)
			startCaddy(t, packets("", test.packet), h3Site(t, port, ""))
			r := startRelay(t, "127.0.0.2", tcp4(port), dgram(netip.MustParseAddrPort("198.51.100.9:7"), server4))
			client := newH3Client(t, r.address())
			r.speakFor(client, dgram(client4, server4))
			_, body := client.get("/")
			assert.Contains(t, body, test.before)

			other := &quic.Transport{Conn: listenUDP(t, "127.0.0.1")}
			t.Cleanup(func() { other.Close() })
			path, err := client.conn().AddPath(other)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			require.NoError(t, path.Probe(ctx))
			require.NoError(t, path.Switch())
			settle(t, client, http.StatusOK, test.after)
		})
	}
}

// A connection is marked or it is not, as long as it lives.
func TestMarkDoesNotChangeWithMigration(t *testing.T) {
	for _, test := range []struct {
		name, before, after string
	}{
		{"a client without header claims an address", "", dgram(client4, server4)},
		{"a client without header claims that of its peer", "", dgram(netip.MustParseAddrPort("127.0.0.2:1"), server4)},
		{"a LOCAL one claims an address", local(), dgram(client4, server4)},
		{"a marked client loses its header", dgram(client4, server4), ""},
		{"a marked client becomes LOCAL", dgram(client4, server4), local()},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			c := startCaddy(t, packets("", "unspecified"), h3Site(t, port, ""))
			r := startRelay(t, "127.0.0.2", tcp4(port), test.before)
			client := newH3Client(t, r.address())
			response, _ := client.get("/")
			require.Equal(t, http.StatusOK, response.StatusCode)
			r.speak(test.after)
			settle(t, client, http.StatusMisdirectedRequest, "")
			response, _ = client.get("/")
			assert.Empty(t, response.Header.Values("Alt-Svc"), "HTTP/3 is not what is wrong")
			c.logs.waitFor(t, ofAccess.with(fields{"status": float64(http.StatusMisdirectedRequest)}))

			response, _ = newH3Client(t, r.address()).get("/")
			assert.Equal(t, http.StatusOK, response.StatusCode, "a new connection may")
		})
	}
}

// What is known of a connection is what it began with, but for the client's address.
func TestMigrationToADirectPeerKeepsTheBeginning(t *testing.T) {
	port := freePort(t)
	startCaddy(t, packets("", "on {\noff 127.0.0.3\n}"), h3Site(t, port, "proxy_protocol on"))
	r := startRelay(t, "127.0.0.2", tcp4(port), dgram(client4, server4))
	client := newH3Client(t, r.address())
	response, _ := client.get("/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	r.mu.Lock()
	r.from, r.header = "127.0.0.3", ""
	r.mu.Unlock()
	r.forget()
	settle(t, client, http.StatusOK, fmt.Sprintf("127.0.0.3:%d marked=false present=true mode=on peer=127.0.0.2", r.backPort(client)))
}

// Limits

// QUIC knows a client by the address it shows. Where that stays the same, it does not see
// that replies must take another way. This is what docs/http3.md says.
func TestMarkedClientThatGetsAnotherPortIsAnswered(t *testing.T) {
	port := freePort(t)
	startCaddy(t, packets("", "unspecified"), h3Site(t, port, ""))
	r := startRelay(t, "127.0.0.2", tcp4(port), dgram(client4, server4))
	client := newH3Client(t, r.address())
	client.get("/")
	conn := client.conn()
	r.speak(dgram(netip.AddrPortFrom(client4.Addr(), 60000), server4))
	r.forget()
	response, _ := client.get("/")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	requireSame(t, client, conn)
}

func TestClientThatComesThroughAnotherPeerIsNotAnswered(t *testing.T) {
	port := freePort(t)
	startCaddy(t, packets("", "on"), h3Site(t, port, ""))
	r := startRelay(t, "127.0.0.2", tcp4(port), dgram(client4, server4))
	client := newH3Client(t, r.address())
	client.get("/")
	conn := client.conn()
	r.mu.Lock()
	r.from = "127.0.0.3"
	r.mu.Unlock()
	r.forget()

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err := client.try(ctx, http.MethodGet, "/", nil)
	assert.ErrorIs(t, err, context.DeadlineExceeded, "replies go to where the client was")
	require.NoError(t, conn.CloseWithError(0, ""))

	response, _ := newH3Client(t, r.address()).get("/")
	assert.Equal(t, http.StatusOK, response.StatusCode, "a new connection works")
}

// Reload

func TestReloadChangesTheRulesOfALiveListener(t *testing.T) {
	port := freePort(t)
	c := startCaddy(t, packets("", "off"), h3Site(t, port, ""))
	_, body := newH3Client(t, tcp4(port).address).get("/")
	assert.Contains(t, body, "present=false mode=off")
	behind := func(from, header string) string { return startRelay(t, from, tcp4(port), header).address() }
	refused := func(address, reason string) {
		t.Helper()
		before := datagramsOf(t)[reason]
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		client := newH3Client(t, address)
		go client.try(ctx, http.MethodGet, "/", nil)
		eventually(t, func() bool { return datagramsOf(t)[reason] > before }, "not dropped as %s", reason)
	}
	refused(behind("127.0.0.2", dgram(client4, server4)), "forbidden")

	require.NoError(t, c.load(packets("", "on {\ntrusted_proxies static 127.0.0.2\n}"), h3Site(t, port, "")))
	h3Eventually(t, behind("127.0.0.2", dgram(client4, server4)), http.StatusOK, client4.String()+" marked=false present=true mode=on")
	refused(tcp4(port).address, "untrusted")
	refused(behind("127.0.0.3", dgram(client4, server4)), "untrusted")

	require.NoError(t, c.load(packets("", "on {\ntrusted_proxies static 127.0.0.3\n}"), h3Site(t, port, "")))
	h3Eventually(t, behind("127.0.0.3", dgram(client4, server4)), http.StatusOK, "peer=127.0.0.3")
	refused(behind("127.0.0.2", dgram(client4, server4)), "untrusted")

	// A reload that fails leaves the rules.
	require.Error(t, c.load(packets("", "off"), h3Site(t, port, "tls {\nissuer nobody\n}")))
	require.Error(t, c.load(packets("", "off"), h3Site(t, port, "")+fmt.Sprintf("http://192.0.2.1:%d {\nbind 192.0.2.1\n}\n", port)))
	h3Eventually(t, behind("127.0.0.3", dgram(client4, server4)), http.StatusOK, "mode=on peer=127.0.0.3")

	// Without a wrapper datagrams pass as they are.
	require.NoError(t, c.load(packets("", ""), h3Site(t, port, "")))
	_, body = h3Eventually(t, tcp4(port).address, http.StatusOK, "marked={http.proxy_protocol.port_zero}") // no placeholders
	assert.True(t, strings.HasPrefix(body, "127.0.0.1:"))

	require.NoError(t, c.load(packets("on", "on"), h3Site(t, port, "")))
	h3Eventually(t, behind("127.0.0.2", dgram(client4, server4)), http.StatusOK, client4.String()+" marked=false present=true mode=on")
}

// The listener of a server that had no wrapper is not wrapped later. Then nobody judges its
// datagrams.
func TestListenerOlderThanTheWrapperIsRefused(t *testing.T) {
	port := freePort(t)
	site := h3Site(t, port, "")
	c := startCaddy(t, packets("", ""), site)
	newH3Client(t, tcp4(port).address).get("/")
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
		require.NoError(t, c.load(packets(test.listener, test.packet), site))
		logs := c.logs.tail()
		if !test.refused {
			// Nothing is known of a header.
			h3Eventually(t, tcp4(port).address, http.StatusOK, " marked= present= mode= peer=")
			continue
		}
		response, body := h3Eventually(t, tcp4(port).address, http.StatusMisdirectedRequest, "")
		assert.Equal(t, []string{"clear"}, response.Header.Values("Alt-Svc"))
		assert.Empty(t, body)
		entry := logs.waitFor(t, fields{"level": "warn", "server_name": "srv0", "msg": "refused HTTP/3: its UDP listener was opened before 'proxy_protocol_mode' was added to 'packet_conn_wrappers', and Caddy keeps the listener across reloads; restart Caddy"})
		assert.NotEmpty(t, entry)
		logs.waitFor(t, fields{"logger": "http.log.access", "status": float64(http.StatusMisdirectedRequest)})
	}
}

func TestReloadDropsNoLiveRequests(t *testing.T) {
	port := freePort(t)
	site := h3Site(t, port, "handle /slow {\nreverse_proxy 127.0.0.1:"+fmt.Sprint(slowServer(t))+"\n}")
	c := newCaddy(t)
	c.grace = patience
	require.NoError(t, c.load(packets("on", "on"), site))
	r := startRelay(t, "127.0.0.2", tcp4(port), dgram(client4, server4))
	var stop atomic.Bool
	var wait sync.WaitGroup
	var answered, lost atomic.Int64
	for range 4 {
		client := newH3Client(t, r.address())
		wait.Go(func() {
			for !stop.Load() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				response, body, err := client.try(ctx, http.MethodGet, "/slow", nil)
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
		require.NoError(t, c.load(packets("on", mode), site))
		eventually(t, func() bool { return answered.Load() > before+4 }, "nothing is answered any more")
	}
	stop.Store(true)
	wait.Wait()
	t.Logf("%d answered, %d lost", answered.Load(), lost.Load())
	assert.LessOrEqual(t, lost.Load(), int64(10*4), "at most the request that met the end of its connection, each time")
	assert.Zero(t, datagramsOf(t)["missing"]+datagramsOf(t)["forbidden"]+datagramsOf(t)["direct"])
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
