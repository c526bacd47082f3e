package proxyprotocol_test

// Which configuration has a say in which socket, and in which request.

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// h3Server is a server in JSON that answers its name, and the fields of its packet wrapper, if
// it has one.
type h3Server struct {
	name   string
	listen []string
	packet string
	more   string // fields of the server
}

const (
	offPackets         = `"mode": "off"`
	unspecifiedPackets = `"mode": "unspecified"`
)

// onPackets are the fields of a packet wrapper that trusts these ranges.
func onPackets(ranges ...string) string {
	text, err := json.Marshal(ranges)
	caddytest.Must(err)
	return `"mode": "on", "trusted_proxies": {"source": "static", "ranges": ` + string(text) + `}`
}

// h3Apps are the apps of these servers, with more of them.
func h3Apps(t testing.TB, more string, servers ...h3Server) string {
	t.Helper()
	var all []string
	for _, s := range servers {
		listen, err := json.Marshal(s.listen)
		require.NoError(t, err)
		fields := []string{
			fmt.Sprintf(`"listen": %s`, listen),
			`"tls_connection_policies": [{}], "automatic_https": {"disable": true}`,
			fmt.Sprintf(`"routes": [{"handle": [{"handler": "static_response", "body": "%s {http.request.remote}"}]}]`, s.name),
		}
		if s.packet != "" {
			fields = append(fields, `"packet_conn_wrappers": [{"wrapper": "proxy_protocol_mode", `+s.packet+`}]`)
		}
		if s.more != "" {
			fields = append(fields, s.more)
		}
		all = append(all, fmt.Sprintf(`"%s": {%s}`, s.name, strings.Join(fields, ", ")))
	}
	files := strings.Fields(caddytest.CertificateFiles(t))
	return fmt.Sprintf(`{%s "http": {"grace_period": "100ms", "servers": {%s}}, "tls": {"certificates": {"load_files": [{"certificate": %s, "key": %s}]}}}`,
		more, strings.Join(all, ", "), files[0], files[1])
}

// dropsOf returns how many datagrams the packet wrappers of a server dropped.
func dropsOf(t testing.TB, server string) (n uint64) {
	t.Helper()
	for _, l := range caddytest.CurrentStatus(t).Listeners {
		if l.Server != server || !strings.HasPrefix(l.Address, "udp/") {
			continue
		}
		for outcome, count := range l.Outcomes {
			switch outcome {
			case "client", "marked", "local", "direct":
			default:
				n += count
			}
		}
	}
	return n
}

// requireDropped sends a request over a new connection, which must not be answered: its
// datagrams are dropped by a server.
func requireDropped(t *testing.T, server, address string) {
	t.Helper()
	before := dropsOf(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
	defer cancel()
	client := caddytest.NewHTTP3Client(t, address)
	answered := make(chan string, 1)
	go func() {
		if response, body, err := client.Try(ctx, http.MethodGet, "/", nil); err == nil {
			answered <- fmt.Sprint(response.StatusCode, " ", body)
		}
	}()
	caddytest.Eventually(t, func() bool { return dropsOf(t, server) > before || len(answered) > 0 }, "%s drops nothing", server)
	select {
	case answer := <-answered:
		t.Fatalf("%s was asked without a header, and the answer is %s", server, answer)
	default:
	}
}

// requireAnsweredOrDropped sends a request over a new connection, which one server must answer or
// the other must drop.
func requireAnsweredOrDropped(t *testing.T, answers, drops, address string) {
	t.Helper()
	before := dropsOf(t, drops)
	ctx, cancel := context.WithTimeout(t.Context(), caddytest.Patience)
	defer cancel()
	client := caddytest.NewHTTP3Client(t, address)
	answered := make(chan string, 1)
	go func() {
		if _, body, err := client.Try(ctx, http.MethodGet, "/", nil); err == nil {
			answered <- body
		}
	}()
	caddytest.Eventually(t, func() bool { return dropsOf(t, drops) > before || len(answered) > 0 }, "%s answers nothing, and %s drops nothing", answers, drops)
	if len(answered) > 0 {
		require.Equal(t, answers, strings.Fields(<-answered)[0])
	}
}

// requireAnswered sends a request over a new connection, which this server must answer.
func requireAnswered(t *testing.T, server, address string) {
	t.Helper()
	_, body := caddytest.NewHTTP3Client(t, address).Get("/")
	require.Equal(t, server, strings.Fields(body)[0])
}

// Both sockets have an unspecified address and the same port.
func TestReload_WildcardsOfBothFamiliesKeepTheirRules(t *testing.T) {
	caddytest.NeedIPv6(t)
	c := caddytest.New(t)
	for i := range 50 {
		port := caddytest.FreePort(t)
		// Caddy provisions and starts servers in the order of a map.
		names := [][2]string{{"first", "second"}, {"second", "first"}}[i%2]
		on := h3Server{name: names[0], listen: []string{fmt.Sprintf("tcp4/0.0.0.0:%d", port)}, packet: onPackets("127.0.0.2")}
		off := h3Server{name: names[1], listen: []string{fmt.Sprintf("tcp6/[::]:%d", port)}, packet: offPackets}
		require.NoError(t, c.LoadJSON(h3Apps(t, "", on, off)))
		requireDropped(t, on.name, caddytest.TCP4(port).Address)
		requireAnswered(t, off.name, caddytest.TCP6(port).Address)
		if i%10 == 0 {
			requireAnswered(t, on.name, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address())
			require.NoError(t, c.LoadJSON(h3Apps(t, "", on, off)), "a reload")
			requireDropped(t, on.name, caddytest.TCP4(port).Address)
			requireAnswered(t, off.name, caddytest.TCP6(port).Address)
		}
	}
}

// Sockets that look alike, and the address by which each is reached.
func TestReload_ServersGovernTheirOwnSocketsOnly(t *testing.T) {
	caddytest.NeedIPv6(t)
	for _, test := range []struct {
		name             string
		on, off          string // what the servers listen on, with the port as N
		reachOn, reachIt string
		both             bool // the sockets of both servers can get what is sent to reachIt
	}{
		{"an address and the wildcard", "127.0.0.1:N", ":N", "127.0.0.1", "::1", false},
		{"the wildcard and an address", ":N", "127.0.0.1:N", "::1", "127.0.0.1", false},
		// Go opens a socket of both families for 0.0.0.0. Linux gives IPv6 datagrams to the socket
		// that Caddy opened first.
		{"two wildcards as written", "0.0.0.0:N", "tcp6/[::]:N", "127.0.0.1", "::1", true},
		{"a name and an address", "tcp4/localhost:N", "tcp6/[::1]:N", "127.0.0.1", "::1", false},
		{"two addresses", "127.0.0.1:N", "127.0.0.7:N", "127.0.0.1", "127.0.0.7", false},
		{"a scoped address", "[::1%lo]:N", "127.0.0.1:N", "::1", "127.0.0.1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			at := func(s string) []string { return []string{strings.Replace(s, "N", fmt.Sprint(port), 1)} }
			to := func(ip string) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }
			on, off := h3Server{name: "on", listen: at(test.on), packet: onPackets("192.0.2.10")}, h3Server{name: "off", listen: at(test.off), packet: offPackets}
			c := caddytest.New(t)
			for range 3 {
				require.NoError(t, c.LoadJSON(h3Apps(t, "", on, off)))
				requireDropped(t, "on", to(test.reachOn))
				if test.both {
					requireAnsweredOrDropped(t, "off", "on", to(test.reachIt))
				} else {
					requireAnswered(t, "off", to(test.reachIt))
				}
			}
		})
	}
}

func TestReload_PortsOfARangeBelongToTheirServer(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.New(t)
	on := h3Server{name: "on", listen: []string{fmt.Sprintf("127.0.0.1:%d-%d", port, port+1)}, packet: onPackets("192.0.2.10")}
	off := h3Server{name: "off", listen: []string{fmt.Sprintf("127.0.0.7:%d-%d", port, port+1)}, packet: offPackets}
	for range 2 {
		require.NoError(t, c.LoadJSON(h3Apps(t, "", on, off)))
		for _, port := range []int{port, port + 1} {
			requireDropped(t, "on", fmt.Sprintf("127.0.0.1:%d", port))
			requireAnswered(t, "off", fmt.Sprintf("127.0.0.7:%d", port))
		}
	}
}

// Caddy hands a socket over by its key, so the rules go with the key.
func TestReload_SocketsChangeHandsWithTheirKey(t *testing.T) {
	port := caddytest.FreePort(t)
	first, second := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.7:%d", port)
	on := func(at ...string) h3Server { return h3Server{name: "on", listen: at, packet: onPackets("192.0.2.10")} }
	off := func(at ...string) h3Server { return h3Server{name: "off", listen: at, packet: offPackets} }
	c := caddytest.New(t)
	check := func(on, off string) {
		t.Helper()
		requireDropped(t, "on", on)
		caddytest.EventuallyHTTP3(t, off, http.StatusOK, "off ")
	}
	require.NoError(t, c.LoadJSON(h3Apps(t, "", on(first), off(second))))
	check(first, second)
	require.NoError(t, c.LoadJSON(h3Apps(t, "", on(second), off(first))), "two servers swap their addresses")
	check(second, first)

	// What has the address of another family or network is another socket.
	require.Error(t, c.LoadJSON(h3Apps(t, `"proxy_protocol_test_fails": {},`, on(first), off(second))), "a reload that fails")
	check(second, first)
	require.Error(t, c.LoadJSON(h3Apps(t, `"proxy_protocol_test_fails": {},`, off(first, second))))
	check(second, first)

	require.NoError(t, c.LoadJSON(h3Apps(t, "", h3Server{name: "plain", listen: []string{second}}, off(first))), "a server drops its wrapper")
	caddytest.EventuallyHTTP3(t, second, http.StatusOK, "plain ")
	caddytest.EventuallyHTTP3(t, first, http.StatusOK, "off ")
	require.NoError(t, c.LoadJSON(h3Apps(t, "", on(first, second))), "and another one takes over both")
	requireDropped(t, "on", first)
	requireDropped(t, "on", second)
}

// Caddy gives servers on the TCP and the UDP network of an address the same socket, and
// either of them any of its connections.
func TestReload_ServersThatShareASocketKeepTheirOwnRules(t *testing.T) {
	port := caddytest.FreePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	c := caddytest.New(t)
	for range 3 {
		require.NoError(t, c.LoadJSON(h3Apps(t, "",
			h3Server{name: "on", listen: []string{address}, packet: onPackets("127.0.0.2")},
			h3Server{name: "off", listen: []string{"udp/" + address}, packet: offPackets, more: `"protocols": ["h3"]`},
		)))
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second/5)
			response, body, err := caddytest.NewHTTP3Client(t, address).Try(ctx, http.MethodGet, "/", nil)
			cancel()
			if err == nil && response.StatusCode == http.StatusOK {
				require.Equal(t, "off", strings.Fields(body)[0])
			}
		}
	}
}

// An operating system chooses port 0 once, and Caddy keeps the socket.
func TestReload_ChangesTheRulesOfPort0(t *testing.T) {
	c := caddytest.New(t)
	server := h3Server{name: "any", listen: []string{"127.0.0.1:0"}, packet: offPackets, more: `"protocols": ["h3"]`}
	require.NoError(t, c.LoadJSON(h3Apps(t, "", server)))
	var address string
	for _, l := range caddytest.CurrentStatus(t).Listeners {
		if l.Server == "any" {
			address = strings.TrimPrefix(l.Address, "udp/")
		}
	}
	requireAnswered(t, "any", address)
	server.packet = onPackets("192.0.2.10")
	require.NoError(t, c.LoadJSON(h3Apps(t, "", server)))
	requireDropped(t, "any", address)
}

// testFails is an app that does not start.
type testFails struct{}

func init() { caddy.RegisterModule(testFails{}) }

func (testFails) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "proxy_protocol_test_fails", New: func() caddy.Module { return new(testFails) }}
}

func (testFails) Start() error { return fmt.Errorf("of a test") }
func (testFails) Stop() error  { return nil }

// testSlow is an app that starts when it may.
type testSlow struct{}

// testSlowStarts gets a channel from the app when it starts, and it goes on when that is
// closed.
var testSlowStarts = make(chan chan struct{})

func init() { caddy.RegisterModule(testSlow{}) }

func (testSlow) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "proxy_protocol_test_slow", New: func() caddy.Module { return new(testSlow) }}
}

func (testSlow) Start() error {
	goOn := make(chan struct{})
	testSlowStarts <- goOn
	<-goOn
	return nil
}
func (testSlow) Stop() error { return nil }

// While another app of a new configuration starts, its HTTP server may run already, and the
// configuration before still judges the datagrams.
func TestReload_RequestIsJudgedByTheConfigurationThatServesIt(t *testing.T) {
	const header = "header"
	for _, test := range []struct {
		name          string
		before, after string
		with          string // what the client's datagrams begin with
		more          string
		fits          bool
	}{
		{"off to on", offPackets, onPackets("127.0.0.2"), "", "", false},
		{"unspecified to on, no header", unspecifiedPackets, onPackets("127.0.0.2"), "", "", false},
		{"unspecified to on, marked", unspecifiedPackets, onPackets("127.0.0.2"), header, "", false},
		{"trusted peers get fewer", onPackets("127.0.0.2"), onPackets("127.0.0.3"), header, "", false},
		{"on to off", onPackets("127.0.0.2"), offPackets, header, "", false},
		{"on to unspecified", onPackets("127.0.0.2"), unspecifiedPackets, header, "", false},
		{"a range is on", offPackets, offPackets + `, "ranges": [{"mode": "on", "ranges": ["127.0.0.2"]}]`, "", "", false},
		{"a range is off no more", onPackets("127.0.0.2") + `, "ranges": [{"mode": "off", "ranges": ["127.0.0.2"]}]`, onPackets("127.0.0.2"), "", "", false},
		{"the wrapper goes away", onPackets("127.0.0.2"), "", header, `"listener_wrappers": [{"wrapper": "proxy_protocol_mode", "mode": "off"}, {"wrapper": "tls"}]`, false},
		{"off to unspecified", offPackets, unspecifiedPackets, "", "", true},
		{"on to on", onPackets("127.0.0.2"), onPackets("127.0.0.2", "127.0.0.3"), header, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			preamble := ""
			if test.with == header {
				preamble = headertest.UDP(headertest.Client4, headertest.Server4)
			}
			relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), preamble).Address()
			at := []string{fmt.Sprintf("127.0.0.1:%d", port)}
			c := caddytest.New(t)
			seen := make(map[string]int) // answers of the new configuration
			for attempt := 0; attempt < 20 && len(seen) == 0; attempt++ {
				require.NoError(t, c.LoadJSON(h3Apps(t, "", h3Server{name: "before", listen: at, packet: test.before})))
				caddytest.EventuallyHTTP3(t, relay, http.StatusOK, "before ")
				loaded := make(chan error, 1)
				go func() {
					loaded <- c.LoadJSON(h3Apps(t, `"proxy_protocol_test_slow": {},`, h3Server{name: "after", listen: at, packet: test.after, more: test.more}))
				}()
				var goOn chan struct{}
				select {
				case goOn = <-testSlowStarts:
				case err := <-loaded:
					t.Fatal(err)
				}
				for range 6 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					response, body, err := caddytest.NewHTTP3Client(t, relay).Try(ctx, http.MethodGet, "/", nil)
					cancel()
					if err == nil && !strings.HasPrefix(body, "before") {
						seen[fmt.Sprint(response.StatusCode, " ", strings.Fields(body + " -")[0])]++
					}
				}
				close(goOn)
				require.NoError(t, <-loaded)
			}
			require.Len(t, seen, 1, "the new configuration answered nothing, or not the same: %v", seen)
			if test.fits {
				assert.NotZero(t, seen["200 after"], seen)
			} else {
				assert.NotZero(t, seen["421 -"], seen)
			}
		})
	}
}

// Caddy opens no socket for HTTP/3 without TLS. What has its key is another server's.
func TestPacketConnWrapper_WithoutTLSClaimsNoSocket(t *testing.T) {
	c := caddytest.New(t)
	for i := range 6 {
		port := caddytest.FreePort(t)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		require.NoError(t, c.LoadJSON(h3Apps(t, "",
			h3Server{name: "on", listen: []string{"udp/" + address}, packet: onPackets("127.0.0.2"), more: `"protocols": ["h3"]`},
			h3Server{name: "plain", listen: []string{address}, packet: offPackets, more: `"tls_connection_policies": null`},
		)))
		for _, l := range caddytest.CurrentStatus(t).Listeners {
			if l.Address == "udp/"+address {
				assert.Equal(t, "on", l.Mode, "start %d: the rules of another server", i)
			}
		}
	}
}
