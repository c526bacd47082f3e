package proxyprotocol_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

func TestPacketConnWrapper_Caddyfile(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"proxy_protocol_mode", `{}`},
		{"proxy_protocol_mode on {\ntrusted_proxies static\n}", `{"mode": "on", "trusted_proxies": {"source": "static"}}`},
		{"proxy_protocol_mode off", `{"mode": "off"}`},
		{
			"proxy_protocol_mode on {\ntrusted_proxies static 10.0.0.0/8\noff ::1\nmax_header_size 1KB\n}",
			`{"mode": "on", "trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8"]}, "ranges": [{"mode": "off", "ranges": ["::1"]}], "max_header_size": 1000}`,
		},
	} {
		pw := new(proxyprotocol.PacketConnWrapper)
		require.NoError(t, pw.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.text)))
		got, err := json.Marshal(pw)
		require.NoError(t, err)
		assert.JSONEq(t, test.want, string(got))
	}
}

func TestPacketConnWrapper_ThatCannotWorkDoesNotLoad(t *testing.T) {
	for _, test := range []struct{ name, packet, want string }{
		{"another mode", "maybe", "unknown mode 'maybe': use on, off or unspecified"},
		{"timeout", "on {\ntimeout 5s\n}", "timeout: not supported for datagrams, because a header arrives whole or not at all: remove it"},
		{"version", "on {\nversion v2\n}", "version: not supported for datagrams, because they have v2 headers only: remove it"},
		{"http3", "on {\nhttp3 allow\n}", "http3: an option of the listener wrapper, which does not need it beside this packet conn wrapper: remove it"},
		{"mismatched_destination", "on {\nmismatched_destination allow\n}", "mismatched_destination: not supported for datagrams, because only v1 headers can have a mismatched destination: remove it"},
		{"another option", "on {\ntrust\n}", "unrecognized option 'trust': use trusted_proxies, require, max_header_size, or a mode (on, off or unspecified) with ranges"},
		{"trust under off", "off {\ntrusted_proxies static 10.0.0.0/8\n}", "trusted_proxies: not allowed under mode 'off', which refuses every header"},
		{"two modes for a range", "on {\noff 10.0.0.0/8\nunspecified 10.0.0.0/8\n}", "10.0.0.0/8 already has mode 'off' and cannot also have mode 'unspecified': remove one"},
		{"no size", "on {\nmax_header_size 1\n}", "max_header_size: 1 bytes is out of bounds: use 536 to 65551"},
		{"twice", "off\nproxy_protocol_mode off", "duplicate packet conn wrapper 'proxy_protocol_mode': a datagram has only one header: remove one wrapper"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := caddytest.New(t).Load(caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, caddytest.FreePort(t), ""))
			require.Error(t, err)
			assert.Contains(t, err.Error(), test.want)
		})
	}
	for _, test := range []struct{ name, fields, want string }{
		{"timeout", `"timeout": "5s"`, `unknown field "timeout"`},
		{"mismatched_destination", `"mismatched_destination": "allow"`, `unknown field "mismatched_destination"`},
		{"trust under off", `"mode": "off", "trusted_proxies": {"source": "static"}`, "trusted_proxies: not allowed under mode 'off', which refuses every header"},
		{"no size", `"max_header_size": 1`, "max_header_size: 1 bytes is out of bounds: use 536 to 65551"},
		{"a range without mode", `"ranges": [{"ranges": ["::1"]}]`, "ranges[0].mode: missing"},
	} {
		t.Run("JSON, "+test.name, func(t *testing.T) {
			err := caddytest.New(t).LoadJSON(fmt.Sprintf(`{"http": {"servers": {"srv0": {
				"listen": ["127.0.0.1:%d"],
				"packet_conn_wrappers": [{"wrapper": "proxy_protocol_mode", %s}]
			}}}}`, caddytest.FreePort(t), test.fields))
			require.Error(t, err)
			assert.Contains(t, err.Error(), test.want)
		})
	}
}

// UDP proves nothing of its sender, so that nobody is trusted by default.
func TestPacketConnWrapper_ThatIsOnMustSayWhomItTrusts(t *testing.T) {
	const lines = `
	packet_conn_wrappers {
		proxy_protocol_mode on {
			trusted_proxies static 192.0.2.10
		}
	}
`
	site := caddytest.HTTP3Site(t, caddytest.FreePort(t), "")
	options := func(packet string) string {
		return "auto_https disable_redirects\nservers {\npacket_conn_wrappers {\nproxy_protocol_mode " + packet + "\n}\n}\n"
	}
	for _, packet := range []string{"on", "on {\nmax_header_size 1KB\n}", "on {\noff 127.0.0.1\n}", "on {\non 10.0.0.0/8\n}"} {
		c := caddytest.New(t)
		err := c.Load(options(packet), site)
		require.Error(t, err)
		assert.Contains(t, err.Error(), "trusted_proxies: missing: mode 'on'")
		assert.Contains(t, err.Error(), lines)
		assert.Contains(t, err.Error(), "0.0.0.0/0 ::/0")
		text := c.Caddyfile(options(packet), site)
		line := strings.Count(text[:strings.Index(text, "proxy_protocol_mode")], "\n") + 1
		assert.Contains(t, err.Error(), fmt.Sprintf("Caddyfile:%d", line), "the line of the wrapper")
	}
	// The lines can be used as they stand.
	require.NoError(t, caddytest.New(t).Load("auto_https disable_redirects\nservers {"+lines+"}\n", site))
	for _, packet := range []string{"on {\ntrusted_proxies static 0.0.0.0/0 ::/0\n}", "on {\ntrusted_proxies static\n}", "off {\non 127.0.0.2\n}", "unspecified", "unspecified {\non 127.0.0.2\n}"} {
		assert.NoError(t, caddytest.New(t).Load(options(packet), site), packet)
	}

	at := []string{fmt.Sprintf("127.0.0.1:%d", caddytest.FreePort(t))}
	for _, packet := range []string{`"mode": "on"`, `"mode": "on", "ranges": [{"mode": "on", "ranges": ["127.0.0.2"]}]`} {
		err := caddytest.New(t).LoadJSON(h3Apps(t, "", h3Server{name: "srv0", listen: at, packet: packet}))
		require.Error(t, err)
		assert.Contains(t, err.Error(), "trusted_proxies: missing: mode 'on'")
		_, field, _ := strings.Cut(err.Error(), "beside \"mode\": \"on\":")
		field, _, _ = strings.Cut(strings.TrimSpace(field), "\n")
		assert.NoError(t, caddytest.New(t).LoadJSON(h3Apps(t, "", h3Server{name: "srv0", listen: at, packet: packet + ", " + field})))
	}
}

func TestPacketConnWrapper_WarnsOfWhatItLetsPass(t *testing.T) {
	for _, test := range []struct{ packet, want string }{
		{"on {\ntrusted_proxies static\n}", "'trusted_proxies' has no ranges: no peer may send a header"},
		{"on {\ntrusted_proxies static 0.0.0.0/0 ::/0\n}", ""},
		{"unspecified", "mode 'unspecified' is for tests only"},
		{"on {\ntrusted_proxies static 10.0.0.0/8\n}", ""},
		{"off", ""},
	} {
		c := caddytest.Start(t, caddytest.Packets("", test.packet), caddytest.HTTP3Site(t, caddytest.FreePort(t), ""))
		var warned []string
		for _, entry := range c.Logs.Find(caddytest.OfPackets.With(caddytest.Fields{"level": "warn", "server_name": "srv0"})) {
			warned = append(warned, entry.Str("msg"))
		}
		if test.want == "" {
			assert.Empty(t, warned)
		} else if assert.Len(t, warned, 1) {
			assert.Contains(t, warned[0], test.want)
		}
	}
}

// HTTP/3 stays where the listener wrapper mandates a header if the packet wrapper does so
// as well, for the same peers.
func TestHTTP3_StaysBehindThePacketWrapper(t *testing.T) {
	const as = "'proxy_protocol_mode' in 'packet_conn_wrappers' has mode "
	for _, test := range []struct{ listener, packet, way string }{
		{"on", "on", ""},
		{"off {\non 10.0.0.0/8\n}", "on", ""},
		{"on {\ntrusted_proxies static 127.0.0.2\n}", "on {\ntrusted_proxies static 127.0.0.2\n}", ""},
		{"on {\noff 127.0.0.1\n}", "on {\noff 127.0.0.1\n}", ""},
		{"on {\noff 127.0.0.0/8\n}", "on", ""},
		{"on", "on {\non 127.0.0.1\n}", ""},
		{"on", "off", as + "'off'"},
		{"on", "unspecified", as + "'unspecified'"},
		{"on", "off {\non 0.0.0.0/0\n}", as + "'off'"},
		{"on", "on {\noff 127.0.0.1\n}", as + "'off' for 127.0.0.1/32, but the listener wrapper does not"},
		{"on", "on {\nunspecified 10.0.0.0/8\n}", as + "'unspecified' for 10.0.0.0/8, but the listener wrapper does not"},
		{"on {\noff 127.0.0.1\n}", "on {\noff 127.0.0.0/8\n}", as + "'off' for 127.0.0.0/8, but the listener wrapper does not"},
		{"on {\nunspecified 127.0.0.1\n}", "on {\noff 127.0.0.1\n}", as + "'off' for 127.0.0.1/32, but the listener wrapper does not"},
		{"on {\noff 10.0.0.0/8\non 10.1.0.0/16\n}", "on {\noff 10.0.0.0/8\n}", as + "'off' for 10.1.0.0/16, but the listener wrapper has mode 'on'"},
		{"on {\noff 10.0.0.0/8\non 10.1.0.0/16\n}", "on {\noff 10.0.0.0/8\non 10.1.0.0/16\n}", ""},
		{"off {\non 10.0.0.0/8\noff 127.0.0.1\n}", "on {\noff 127.0.0.1\n}", ""},
	} {
		t.Run(test.listener+" and "+test.packet, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Packets(test.listener, test.packet), caddytest.HTTP3Site(t, port, ""))
			assert.Equal(t, test.way == "", caddytest.ListensOnUDP(t, port))
			disabled := c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"level": "warn", "msg": strings.Replace(ofHTTP3, "this wrapper cannot check UDP", test.way, 1)}))
			assert.Equal(t, test.way != "", len(disabled) == 1)
		})
	}
}

// testApp has a socket with the packet wrapper and no HTTP server.
type testApp struct {
	// Late is to load the wrapper when the events have begun, and Conflict is to have other
	// metrics under the name of the wrapper's.
	Late, Conflict bool

	ctx    caddy.Context
	socket net.PacketConn
	err    error
}

// testAppRuns gets the app of a configuration that is loaded.
var testAppRuns = make(chan *testApp, 1)

func init() { caddy.RegisterModule(testApp{}) }

func (testApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "proxy_protocol_test_app", New: func() caddy.Module { return new(testApp) }}
}

func (a *testApp) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	testAppRuns <- a
	if a.Conflict {
		ctx.GetMetricsRegistry().MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "caddy_proxy_protocol_connections_total"}))
	}
	if !a.Late {
		a.load()
	}
	return nil
}

func (a *testApp) load() {
	var pw any
	if pw, a.err = a.ctx.LoadModuleByID("caddy.packetconns.proxy_protocol_mode", json.RawMessage(`{"mode": "on", "trusted_proxies": {"source": "static", "ranges": ["127.0.0.0/8"]}}`)); a.err != nil {
		return
	}
	if a.socket, a.err = net.ListenPacket("udp", "127.0.0.1:0"); a.err == nil {
		a.socket = pw.(caddy.PacketConnWrapper).WrapPacketConn(a.socket)
	}
}

func (a *testApp) Start() error {
	if a.Late {
		events, err := a.ctx.App("events")
		if err != nil {
			return err
		}
		if err := events.(caddy.App).Start(); err != nil {
			return err
		}
		a.load()
	}
	return nil
}

func (a *testApp) Stop() error {
	if a.socket != nil {
		return a.socket.Close()
	}
	return nil
}

func TestPacketConnWrapper_OutsideOfAnHTTPServer(t *testing.T) {
	load := func(t *testing.T, options string) *testApp {
		require.NoError(t, caddytest.New(t).LoadJSON(`{"proxy_protocol_test_app": {`+options+`}}`))
		return <-testAppRuns
	}
	t.Run("works", func(t *testing.T) {
		app := load(t, "")
		require.NoError(t, app.err)
		peer := caddytest.ListenUDP(t, "127.0.0.1")
		for _, datagram := range []string{"no header", headertest.UDP(headertest.Client4, headertest.Server4) + "x"} {
			_, err := peer.WriteTo([]byte(datagram), app.socket.LocalAddr())
			require.NoError(t, err)
		}
		require.NoError(t, app.socket.SetReadDeadline(time.Now().Add(caddytest.Patience)))
		var p [100]byte
		n, addr, err := app.socket.ReadFrom(p[:])
		require.NoError(t, err)
		assert.Equal(t, "x", string(p[:n]))
		assert.Equal(t, headertest.Client4.String(), addr.String())
		assert.Equal(t, policy.On, addr.(*datagram.Addr).Info().Mode)
	})
	t.Run("too late to learn when the configuration runs", func(t *testing.T) {
		assert.ErrorContains(t, load(t, `"late": true`).err, "new subscriptions")
	})
	t.Run("beside other metrics of this name", func(t *testing.T) {
		assert.ErrorContains(t, load(t, `"conflict": true`).err, "caddy_proxy_protocol_connections_total")
	})
}

// Caddy loads apps in any order.
func TestPacketConnWrapper_NeedsTheEvents(t *testing.T) {
	for range 10 {
		require.ErrorContains(t, caddytest.New(t).LoadJSON(`{"proxy_protocol_test_app": {}, "events": {"nothing": true}}`), `unknown field "nothing"`)
		select {
		case app := <-testAppRuns:
			require.ErrorContains(t, app.err, "loading events app module")
		default:
		}
	}
}

// The header of a datagram is nothing to TCP.
func TestPacketConnWrapper_IsNeededForHTTP3Only(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("", "on"), caddytest.HTTP3Site(t, port, ""))
	for _, tr := range []caddytest.Transport{caddytest.HTTPS1, caddytest.HTTPS2} {
		response, _ := caddytest.Get(t, tr, caddytest.TCP4(port), "", "/")
		assert.Equal(t, http.StatusOK, response.StatusCode)
	}
}

func TestHTTP3_AltSvcStaysBehindThePacketWrapper(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("on", "on"), caddytest.HTTP3Site(t, port, ""))
	response, _ := caddytest.Get(t, caddytest.HTTPS2, caddytest.TCP4(port), headerV2, "/")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Contains(t, response.Header.Get("Alt-Svc"), fmt.Sprintf(`h3=":%d"`, port))
	// TCP and UDP have the facts of their own headers.
	_, body := caddytest.Get(t, caddytest.HTTPS2, caddytest.TCP4(port), headertest.V2(headertest.Client6, headertest.Server6), "/")
	assert.Contains(t, body, headertest.Client6.String()+" marked=false present=true mode=on peer=127.0.0.1")
	_, body = caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address()).Get("/")
	assert.Contains(t, body, headertest.Client4.String()+" marked=false present=true mode=on peer=127.0.0.2")
}

func TestPacketConnWrapper_DatagramsAreInMetricsAndStatus(t *testing.T) {
	port, metrics := caddytest.FreePort(t), caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Packets("on", "on"), caddytest.HTTP3Site(t, port, "")+fmt.Sprintf("http://:%d {\nbind 127.0.0.9\nmetrics\n}\n", metrics))
	caddytest.NewHTTP3Client(t, caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4)).Address()).Get("/")
	sender := caddytest.ListenUDP(t, "127.0.0.3")
	_, err := sender.WriteTo([]byte(quicPacket), caddytest.StartRelay(t, "127.0.0.3", caddytest.TCP4(port), "").Front.LocalAddr())
	require.NoError(t, err)
	caddytest.Eventually(t, func() bool { return caddytest.Datagrams(t)["missing"] == 1 }, "not counted")

	_, text := caddytest.Get(t, caddytest.HTTP1, caddytest.Endpoint{Network: "tcp", Address: fmt.Sprintf("127.0.0.9:%d", metrics)}, headerV1, "/")
	assert.Regexp(t, `(?m)^caddy_proxy_protocol_datagrams_total\{mode="on",outcome="client",server="srv\d",version="v2"\} \d+$`, text)
	assert.Regexp(t, `(?m)^caddy_proxy_protocol_datagrams_total\{mode="on",outcome="missing",server="srv\d",version="none"\} 1$`, text)
	var found bool
	for _, l := range caddytest.CurrentStatus(t).Listeners {
		if l.Address != fmt.Sprintf("udp/127.0.0.1:%d", port) {
			continue
		}
		found = true
		assert.Equal(t, "on", l.Mode)
		assert.Equal(t, "static", l.TrustedProxies)
		assert.Equal(t, 2, l.Peers.Count)
		require.Len(t, l.Refusals, 1)
		assert.Equal(t, "missing", l.Refusals[0].Reason)
		assert.Equal(t, strings.Repeat("78", 15), l.Refusals[0].Bytes[2:])
	}
	assert.True(t, found)
}
