package command_test

// Tests of how check and send connect, and of how a running Caddy tells a check apart.

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// onFor returns the configuration of a wrapper with mode on for these peers.
func onFor(ranges ...string) object {
	return object{"wrapper": "proxy_protocol_mode", "mode": "on", "trusted_proxies": object{"source": "static", "ranges": ranges}}
}

// listenerAt returns the status of a listener, once it has counted these connections of checks. A
// refused connection is closed before it is counted.
func listenerAt(t testing.TB, address string, checks map[string]uint64) (found statusapi.Listener) {
	t.Helper()
	caddytest.Eventually(t, func() bool {
		for _, found = range caddytest.CurrentStatus(t).Listeners {
			if found.Address == address {
				return checks == nil || assert.ObjectsAreEqual(checks, found.Checks)
			}
		}
		return false
	}, "%s: not the connections %v", address, checks)
	return found
}

// The status has the connections of a check apart, and what others did is not changed by it.
func TestCheck_IsCountedApart(t *testing.T) {
	plain, secure, behind, admin := freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	headers := httpServer(behind, true, onFor("127.0.0.1"))
	headers["packet_conn_wrappers"] = []object{onFor("127.0.0.1")}
	run(t, admin, object{
		"srv0": httpServer(plain, false, onFor("127.0.0.1")),
		"srv1": httpServer(secure, true, object{"wrapper": "proxy_protocol_mode", "mode": "off"}),
		"srv2": headers,
	})
	onProbes := map[string]uint64{"client": 2, "local": 1, "missing": 1, "duplicate": 2, "checksum": 1}

	c := check(t, "--address", admin, plain)
	assert.Equal(t, "on", c.Verdict)
	assert.Empty(t, c.NotApart)
	l := listenerAt(t, plain, onProbes)
	assert.Empty(t, l.Outcomes)
	assert.Empty(t, l.Refusals)
	assert.Zero(t, l.Peers.Count)
	assert.Empty(t, l.Hints)
	output, err := proxyProtocol(t, "", "status", "--address", admin)
	require.NoError(t, err)
	assert.Regexp(t, `connections +none\n +checks +client 2, duplicate 2, checksum 1, local 1, missing 1\n`, output)

	c = check(t, "--address", admin, "--bind", "127.0.0.2", "--expect", "refused", plain)
	assert.Equal(t, "refused", c.Verdict)
	assert.Empty(t, c.NotApart)
	l = listenerAt(t, plain, map[string]uint64{"client": 2, "local": 1, "missing": 1, "duplicate": 2, "checksum": 1, "untrusted": 14})
	assert.Empty(t, l.Outcomes)
	assert.Empty(t, l.Refusals)

	c = check(t, "--address", admin, "--tls", "--sni", "localhost", secure)
	assert.Equal(t, "off", c.Verdict)
	assert.Empty(t, c.NotApart)
	l = listenerAt(t, secure, map[string]uint64{"direct": 1, "forbidden": 6})
	assert.Empty(t, l.Outcomes)

	c = check(t, "--address", admin, "--tls", "--sni", "localhost", "--timeout", "5s", behind)
	assert.Equal(t, "HA", c.did("HTTP/3"))
	listenerAt(t, behind, onProbes)
	l = listenerAt(t, "udp/"+behind, nil)
	assert.NotZero(t, l.Checks["client"])
	assert.NotZero(t, l.Checks["missing"])
	assert.Empty(t, l.Outcomes)
	assert.Empty(t, l.Refusals)

	for server := range record.Listeners.Totals() {
		for _, outcome := range []record.Outcome{record.Client, record.Missing, record.Untrusted, record.Direct} {
			assert.Zero(t, record.Listeners.Totals()[server].Total(outcome), "metrics do not count checks")
		}
	}

	// Behind a load balancer, the peer is not the one that was announced.
	balancer := serve(t, func(conn net.Conn) {
		back, err := net.Dial("tcp", plain)
		if err != nil {
			return
		}
		defer back.Close()
		go func() {
			_, _ = io.Copy(back, conn)
			_ = back.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(conn, back)
	})
	c = check(t, "--address", admin, balancer)
	assert.Equal(t, "on", c.Verdict)
	assert.Equal(t, "the Caddy whose admin API is at "+admin+" saw none of them: it does not have this listener, or a NAT or a load balancer stands between", c.NotApart)
	caddytest.Eventually(t, func() bool { return assert.ObjectsAreEqual(onProbes, listenerAt(t, plain, nil).Outcomes) }, "they count like any other")
}

// An admin API that does not answer as it should changes no verdict.
func TestCheck_GoesOnWithoutAnnouncements(t *testing.T) {
	dead := deadAddress(t)
	hung := serve(t, func(conn net.Conn) { do(conn, hangs) })
	answer := func(code int, body string, after int32) string {
		var asked atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) > after {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, body)
				return
			}
			_, _ = io.WriteString(w, `{"connections":[]}`)
		}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	for _, test := range []struct{ name, admin, timeout, why string }{
		{"none", dead, patience.String(), "there is no admin API at " + dead},
		{"hangs", hung, impatience, "they could not be announced: no answer from the admin API at " + hung + " within 500ms"},
		{"another Caddy", answer(http.StatusNotFound, "", 0), patience.String(), "does not contain this module"},
		{"no JSON", answer(http.StatusOK, "<html>\x1b[2J", 0), patience.String(), "did not answer as this module does"},
		{"forbidden", answer(http.StatusForbidden, `{"error":"\u001b[2J"}`, 0), patience.String(), "HTTP 403"},
		{"full", answer(http.StatusTooManyRequests, "", 3), patience.String(), "HTTP 429"},
		{"full at the end", answer(http.StatusTooManyRequests, "", 8), patience.String(), "HTTP 429"},
		{"no address", "localhost:1-2", patience.String(), "invalid admin address localhost:1-2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, flags := range [][]string{nil, {"--json"}} {
				args := append([]string{"check", "--address", test.admin, "--timeout", test.timeout, "--expect", "on"}, flags...)
				output, err := proxyProtocol(t, "", append(args, likeOn.serve(t))...)
				require.NoError(t, err)
				requireHarmless(t, output)
				assert.Contains(t, strings.Join(strings.Fields(output), " "), test.why)
			}
		})
	}
}

func TestCheck_OfAUnixSocket(t *testing.T) {
	path := caddytest.SocketPath(t)
	run(t, "", object{"srv0": httpServer("unix/"+path, false, onFor("127.0.0.1"))})
	for _, argument := range []string{"unix/" + path, "unix/" + path + "|0222"} {
		output, err := proxyProtocol(t, "", "check", "--expect", "on", argument)
		require.NoError(t, err)
		assert.True(t, strings.HasPrefix(output, "Listener: unix/"+path), output)
		assert.Contains(t, output, "Not counted apart in Caddy's status: the peers of a Unix socket look alike.")
	}
	_, err := proxyProtocol(t, "", "check", "unix/"+path+"x")
	require.ErrorContains(t, err, "no connection")
}

// The peers of an abstract socket are not trusted: the whole is tried, but for HTTP/3.
func TestCheck_OfAnAbstractSocket(t *testing.T) {
	name := "@caddy-proxy-protocol-test-" + freeAddress(t)
	if l, err := net.Listen("unix", name+"-try"); err != nil {
		t.Skip("no abstract sockets here")
	} else {
		l.Close()
	}
	run(t, "", object{"srv0": httpServer("unix/"+name, false, onFor("127.0.0.1"))})
	c := check(t, "--expect", "refused", "unix/"+name)
	assert.Equal(t, "refused", c.Verdict)
	assert.Equal(t, ".......", c.did("HTTP"))
	assert.Equal(t, ".......", c.did("TLS"))
	assert.Empty(t, c.did("HTTP/3"))
}

func TestCheck_BindsToTheSourceAddress(t *testing.T) {
	peers := make(chan netip.Addr, 100)
	address := serve(t, func(conn net.Conn) { peers <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() })
	caddyAdmin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"connections":[]}`)
	}))
	defer caddyAdmin.Close()
	for _, admin := range []string{deadAddress(t), caddyAdmin.Listener.Addr().String()} {
		check(t, "--bind", "127.0.0.2", "--address", admin, address)
		for range 14 {
			assert.Equal(t, "127.0.0.2", (<-peers).String())
		}
		// 192.0.2.1 belongs to no host.
		_, err := proxyProtocol(t, "", "check", "--bind", "192.0.2.1", "--address", admin, address)
		require.ErrorContains(t, err, "no connection")
		output, err := proxyProtocol(t, "", "check", "--bind", "::1", "--address", admin, address)
		require.ErrorContains(t, err, "no connection", "of another family")
		assert.NotContains(t, output, "Not counted", "there was nothing to count")
	}
}

func TestSend_ConnectsElsewhere(t *testing.T) {
	plain, secure, path := freeAddress(t), freeAddress(t), caddytest.SocketPath(t)
	answer := func(address string, tls bool) object {
		server := httpServer(address, tls, object{"wrapper": "proxy_protocol_mode", "mode": "on"})
		server["routes"] = []object{{"handle": []object{{
			"handler": "static_response",
			"body":    "host {http.request.host} sni {http.request.tls.server_name} peer {http.proxy_protocol.peer_ip} client {http.request.remote} to {http.proxy_protocol.destination}",
		}}}}
		return server
	}
	run(t, "", object{"srv0": answer(plain, false), "srv1": answer(secure, true), "srv2": answer("unix/"+path, false)})
	for _, test := range []struct {
		args []string
		body string
	}{
		{[]string{"--connect", plain, "--source", "203.0.113.7:1", "http://shop.example"}, "host shop.example sni  peer 127.0.0.1 client 203.0.113.7:1 to " + plain},
		{[]string{"--connect", plain, "--bind", "127.0.0.2", "http://shop.example"}, "peer 127.0.0.2 client 127.0.0.2:"},
		{[]string{"--bind", "127.0.0.3", "http://" + plain}, "host 127.0.0.1 sni  peer 127.0.0.3"},
		{[]string{"--connect", secure, "-k", "https://localhost"}, "host localhost sni localhost peer"},
		{[]string{"--connect", secure, "-k", "--sni", "localhost", "https://shop.example"}, "host shop.example sni localhost peer"},
		{[]string{"--connect", "unix/" + path, "--source", "203.0.113.7:1", "http://shop.example"}, "host shop.example sni  peer  client 203.0.113.7:1 to 0.0.0.0:0"},
		{[]string{"--connect", "unix/" + path, "--v1", "--destination", "[2001:db8::7]:443", "http://shop.example"}, "client [::]:0 to [2001:db8::7]:443"},
		{[]string{"--connect", "unix/" + path, "--local", "http://shop.example"}, "client @ to "},
	} {
		output, err := proxyProtocol(t, "", append([]string{"send"}, test.args...)...)
		require.NoError(t, err, "%v", test.args)
		assert.Contains(t, output, test.body, "%v", test.args)
	}
	_, err := proxyProtocol(t, "", "send", "--connect", secure, "--sni", "shop.example", "https://localhost")
	require.ErrorContains(t, err, "no response", "no certificate for this name")
}

func TestConnectBadInput(t *testing.T) {
	for _, test := range []struct {
		args []string
		err  string
	}{
		{[]string{"check", "unix/"}, "check needs a host:port, such as example.com:443, or unix//<path>, not 'unix/'"},
		{[]string{"check", "unix/|0222"}, "not 'unix/|0222'"},
		{[]string{"check", "--bind", "localhost", "a:1"}, "--bind must be an IP address such as 192.0.2.1 or 2001:db8::1, not 'localhost'"},
		{[]string{"check", "--bind", "127.0.0.1:1", "a:1"}, "--bind must be an IP address"},
		{[]string{"check", "--bind", "127.0.0.1", "unix//run/caddy.sock"}, "--bind: connections to a Unix socket have no source address: remove it"},
		{[]string{"send", "--connect", "example.com", "http://a"}, "--connect must be a host:port, such as 10.0.0.20:443, or unix//<path>, not 'example.com'"},
		{[]string{"send", "--connect", "\x1b[2J", "http://a"}, `not '\x1b[2J'`},
		{[]string{"send", "--bind", "x", "http://a"}, "--bind must be an IP address"},
		{[]string{"send", "--bind", "::1", "--connect", "unix//run/caddy.sock", "--local", "http://a"}, "--bind: connections to a Unix socket"},
		{[]string{"send", "--connect", "unix//run/caddy.sock", "http://a"}, "a Unix socket has no IP addresses for the header: give --source, or --local for a header without addresses"},
		{[]string{"send", "--sni", "a", "http://a"}, "--sni needs a URL that begins with https"},
		{[]string{"send", "--sni", "a b", "https://a"}, "--sni must be a name such as example.com, not 'a b'"},
		{[]string{"send", "--connect", "unix//nowhere/caddy.sock", "--local", "http://a"}, "no connection: dial unix /nowhere/caddy.sock: connect: no such file or directory"},
	} {
		output, err := proxyProtocol(t, "", test.args...)
		require.ErrorContains(t, err, test.err, "%v", test.args)
		assert.Empty(t, output)
	}
}

func TestCheck_IsCountedApartOverIPv6(t *testing.T) {
	caddytest.NeedIPv6(t)
	address, admin := fmt.Sprintf("[::1]:%d", caddytest.FreePort(t)), freeAddress(t)
	run(t, admin, object{"srv0": httpServer(address, true, object{"wrapper": "proxy_protocol_mode", "mode": "off"})})
	for _, bind := range [][]string{nil, {"--bind", "::1"}} {
		c := check(t, append(bind, "--address", admin, "--tls", "--sni", "localhost", address)...)
		assert.Equal(t, "off", c.Verdict)
		assert.Empty(t, c.NotApart)
	}
	l := listenerAt(t, address, map[string]uint64{"direct": 2, "forbidden": 12})
	assert.Empty(t, l.Outcomes)
	assert.Empty(t, l.Refusals)
}
