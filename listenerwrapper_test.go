package proxyprotocol_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// testSource is an IP source whose answer is a function of the test.
type testSource struct {
	Name string `json:"name,omitempty"`
}

var _ caddyhttp.IPRangeSource = (*testSource)(nil)

var testSources sync.Map // by name: func(*http.Request) []netip.Prefix

func init() { caddy.RegisterModule(testSource{}) }

func (testSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.ip_sources.proxy_protocol_test",
		New: func() caddy.Module { return new(testSource) },
	}
}

func (s *testSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		for d.NextBlock(0) {
			if d.Val() != "name" || !d.AllArgs(&s.Name) {
				return d.ArgErr()
			}
		}
	}
	return nil
}

func (s *testSource) GetIPRanges(r *http.Request) []netip.Prefix {
	answer, ok := testSources.Load(s.Name)
	if !ok {
		return nil
	}
	return answer.(func(*http.Request) []netip.Prefix)(r)
}

// startWrapper runs a plain server with this wrapper, on IPv4, IPv6 where there is some,
// and a Unix socket.
func startWrapper(t *testing.T, wrapper string) (c *caddytest.Caddy, ip4, ip6, unix caddytest.Endpoint) {
	t.Helper()
	port, path := caddytest.FreePort(t), caddytest.SocketPath(t)
	site := strings.Replace(caddytest.PlainSite(port), "bind ", "bind unix/"+path+" ", 1)
	c = caddytest.Start(t, caddytest.Wrappers(wrapper), site)
	return c, caddytest.TCP4(port), caddytest.TCP6(port), caddytest.Unix(path)
}

// What a connection with a header, or a plain one, comes to: "client", "marked", "peer",
// or the reason for which it is refused.
const (
	asClient = "client"
	asMarked = "marked"
)

// outcomeOf tries a connection that begins like this.
func outcomeOf(t *testing.T, c *caddytest.Caddy, e caddytest.Endpoint, header string) string {
	t.Helper()
	logs := c.Logs.Tail()
	conn := caddytest.Dial(t, e)
	defer conn.Close()
	// It may be refused while this is written.
	_, _ = io.WriteString(conn, header+caddytest.Request("/"))
	in := bufio.NewReader(conn)
	if _, err := in.Peek(1); err != nil {
		caddytest.RequireClosed(t, err)
		entry := logs.WaitForRefusal(t, nil)
		assert.Empty(t, logs.Find(caddytest.OfAccess))
		return entry.Str("reason") + " under " + entry.Str("mode")
	}
	response, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Empty(t, logs.Refusals(nil))

	peer := conn.LocalAddr().String()
	if e.Network == "unix" {
		peer = "@"
	}
	switch string(body) {
	case headertest.Client4.String():
		return asClient
	case headertest.Client4.Addr().String() + ":0":
		return asMarked
	case peer:
		return "peer"
	default:
		return string(body)
	}
}

// fates are what comes of a connection with a header and of a plain one.
type fates struct{ header, plain string }

var (
	underOn          = fates{asClient, "missing under on"}
	underOff         = fates{"forbidden under off", "peer"}
	underUnspecified = fates{asMarked, "peer"}
	// Those of peers that are not trusted.
	untrustedOn          = fates{"untrusted under on", "untrusted under on"}
	untrustedUnspecified = fates{"untrusted under unspecified", "peer"}
)

func TestListenerWrapper_ModeIsInForceForEachPeer(t *testing.T) {
	for _, test := range []struct {
		name, wrapper  string
		ip4, ip6, unix fates
	}{
		{"the default", "", underUnspecified, underUnspecified, underUnspecified},
		{"on", "on", underOn, underOn, underOn},
		{"off", "off", underOff, underOff, underOff},
		{"unspecified", "unspecified", underUnspecified, underUnspecified, underUnspecified},
		{"a range of IPv4", "on {\noff 127.0.0.0/8\n}", underOff, underOn, underOn},
		{"an address of IPv6", "off {\non ::1\n}", underOff, underOn, underOff},
		{"a range of others", "on {\noff 10.0.0.0/8 2001:db8::/32\n}", underOn, underOn, underOn},
		{
			"the most specific one first",
			"on {\nunspecified 127.0.0.1\noff 127.0.0.0/8 ::/0\n}",
			underUnspecified, underOff, underOn,
		},
		{
			"the most specific one last",
			"on {\noff 127.0.0.0/8 ::/0\nunspecified 127.0.0.1/32 ::/1\non 127.0.0.0/16\n}",
			underUnspecified, underUnspecified, underOn,
		},
		{"an exception from a range, back to the wrapper's mode", "off {\non 127.0.0.0/8\noff 127.0.0.0/30\n}", underOff, underOff, underOff},
		{"an IPv4-mapped range", "on {\noff ::ffff:127.0.0.0/104\n}", underOff, underOn, underOn},
		{"an IPv4-mapped address", "on {\noff ::ffff:127.0.0.1\n}", underOff, underOn, underOn},
		{"a range that is not masked", "on {\noff 127.99.99.99/8 ff::1/0\n}", underOff, underOff, underOn},
		{"all of IPv4", "on {\noff 0.0.0.0/0\n}", underOff, underOn, underOn},
		{"all of IPv6", "on {\noff ::/0\n}", underOn, underOff, underOn},
		{"all private ranges", "on {\nunspecified private_ranges\n}", underUnspecified, underUnspecified, underOn},
		{
			"trusted_proxies static",
			"on {\ntrusted_proxies static 127.0.0.0/8\n}",
			underOn, untrustedOn, underOn,
		},
		{
			"trusted_proxies static under unspecified",
			"unspecified {\ntrusted_proxies static ::1\n}",
			untrustedUnspecified, underUnspecified, underUnspecified,
		},
		{
			"trusted_proxies static of an IPv4-mapped range",
			"on {\ntrusted_proxies static ::ffff:127.0.0.0/104\n}",
			underOn, untrustedOn, underOn,
		},
		{
			"trusted_proxies static of a range that is not masked",
			"on {\ntrusted_proxies static 127.3.4.5/8\n}",
			underOn, untrustedOn, underOn,
		},
		{
			"trusted_proxies static of all of IPv6",
			"on {\ntrusted_proxies static ::/0\n}",
			untrustedOn, underOn, underOn,
		},
		{
			"trusted_proxies static private_ranges",
			"on {\ntrusted_proxies static private_ranges\n}",
			underOn, underOn, underOn,
		},
		{
			"trusted_proxies static without ranges",
			"on {\ntrusted_proxies static\n}",
			untrustedOn, untrustedOn, underOn,
		},
		{
			"trusted_proxies of a source without answer",
			"on {\ntrusted_proxies proxy_protocol_test\n}",
			untrustedOn, untrustedOn, underOn,
		},
		{
			"trusted_proxies of a source without answer under unspecified",
			"unspecified {\ntrusted_proxies proxy_protocol_test\n}",
			untrustedUnspecified, untrustedUnspecified, underUnspecified,
		},
		{
			"ranges are not subject to trusted_proxies",
			"on {\ntrusted_proxies static 192.0.2.1\non 127.0.0.0/8\nunspecified ::1\n}",
			underOn, underUnspecified, underOn,
		},
		{
			"trusted peers with another mode",
			"on {\ntrusted_proxies static private_ranges\noff 127.0.0.1\n}",
			underOff, underOn, underOn,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, ip4, ip6, unix := startWrapper(t, "proxy_protocol_mode "+test.wrapper)
			for _, network := range []struct {
				name string
				caddytest.Endpoint
				want fates
			}{
				{"IPv4", ip4, test.ip4}, {"IPv6", ip6, test.ip6}, {"Unix", unix, test.unix},
			} {
				t.Run(network.name, func(t *testing.T) {
					if network.name == "IPv6" {
						caddytest.NeedIPv6(t)
					}
					got := fates{outcomeOf(t, c, network.Endpoint, headerV2), outcomeOf(t, c, network.Endpoint, "")}
					assert.Equal(t, network.want, got)
				})
			}
		})
	}
}

func TestListenerWrapper_RefusesUntrustedPeersAtAccept(t *testing.T) {
	for _, source := range []string{"static 192.0.2.1", "proxy_protocol_test"} {
		t.Run(source, func(t *testing.T) {
			c, ip4, _, _ := startWrapper(t, "proxy_protocol_mode on {\ntimeout 1h\ntrusted_proxies "+source+"\n}")
			conn := caddytest.Dial(t, ip4)
			caddytest.RequireRefused(t, conn)
			entry := c.Logs.WaitForRefusal(t, caddytest.Fields{"peer": conn.LocalAddr().String(), "local": ip4.Address})
			assert.Equal(t, "untrusted", entry.Str("reason"))
		})
	}
}

// Caddy hands a Unix socket on to the next config as a file of which it makes a listener.
func TestListenerWrapper_TrustsAUnixSocketAfterAReload(t *testing.T) {
	path := caddytest.SocketPath(t)
	options := caddytest.Wrappers("proxy_protocol_mode on {\ntrusted_proxies static 192.0.2.1\n}")
	site := fmt.Sprintf("http://:80 {\nbind unix/%s\nlog\nrespond {remote}\n}", path)
	c := caddytest.New(t)
	for range 3 {
		require.NoError(t, c.Load(options, site))
		// The last config takes some connections that come now, and drops them.
		caddytest.Eventually(t, func() bool {
			_, body, err := caddytest.TryGet(t, caddytest.HTTP1, caddytest.Unix(path), headerV2, "/")
			return err == nil && body == headertest.Client4.String()
		}, "not trusted")
	}
	assert.Empty(t, c.Logs.Refusals(caddytest.Fields{"reason": "untrusted"}))
}

func TestListenerWrapper_DoesNotTrustAnAbstractUnixSocket(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("abstract sockets are Linux's")
	}
	for _, test := range []struct {
		wrapper string
		want    fates
	}{
		// The socket has no permissions, so its peers count like any others.
		{"on", underOn},
		{"off", underOff},
		{"on {\ntrusted_proxies static private_ranges\n}", untrustedOn},
		{"on {\ntrusted_proxies proxy_protocol_test {\nname everyone\n}\n}", untrustedOn},
		{"unspecified {\ntrusted_proxies static 0.0.0.0/0 ::/0\n}", untrustedUnspecified},
	} {
		t.Run(test.wrapper, func(t *testing.T) {
			everyone := func(*http.Request) []netip.Prefix {
				return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
			}
			testSources.Store("everyone", everyone)
			socket := caddytest.Unix(fmt.Sprintf("@proxyprotocol-%d", caddytest.FreePort(t)))
			c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode "+test.wrapper), fmt.Sprintf("http://:80 {\nbind unix/%s\nlog\nrespond {remote}\n}", socket.Address))
			assert.Equal(t, test.want, fates{outcomeOf(t, c, socket, headerV2), outcomeOf(t, c, socket, "")})
			warned := c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"level": "warn", "msg": "no peer of an abstract Unix socket is trusted, because no file permissions guard the socket, so all connections are refused; use a socket file"}))
			if reflect.DeepEqual(test.want, untrustedOn) {
				require.Len(t, warned, 1)
				assert.Equal(t, []any{"unix/" + socket.Address}, warned[0].Get("listen"))
			} else {
				assert.Empty(t, warned)
			}
		})
	}
}

// Sources that are asked for each connection

func TestSource_IsToldWhoConnectedWhere(t *testing.T) {
	type question struct {
		remote   string
		server   string
		replacer bool
		vars     bool
	}
	questions := make(chan question, 10)
	answer := func(r *http.Request) []netip.Prefix {
		q := question{remote: r.RemoteAddr}
		if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
			q.server = server.Name()
		}
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			q.replacer = repl.ReplaceAll("{system.os}", "") == runtime.GOOS
		}
		caddyhttp.SetVar(r.Context(), "asked", true)
		q.vars = caddyhttp.GetVar(r.Context(), "asked") == true
		// What else sources use must not make them fail.
		_ = r.Header.Get("X-Forwarded-For") + r.URL.String() + r.Method + r.Host
		questions <- q
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	}
	for _, mode := range []string{"on", "unspecified"} {
		t.Run(mode, func(t *testing.T) {
			_, ip4, _, _ := startWrapper(t, askWrapper(t, mode, answer))
			for range 2 {
				conn := caddytest.Dial(t, ip4)
				caddytest.Send(t, conn, headerV2, caddytest.Request("/"), caddytest.Request("/"))
				caddytest.ReadResponse(t, conn)
				require.Len(t, questions, 1, "one question for one connection")
				assert.Equal(t, question{conn.LocalAddr().String(), "srv0", true, true}, <-questions)
			}
		})
	}
}

// askWrapper has this answer for a source.
func askWrapper(t *testing.T, mode string, answer func(*http.Request) []netip.Prefix) string {
	testSources.Store(t.Name(), answer)
	t.Cleanup(func() { testSources.Delete(t.Name()) })
	return fmt.Sprintf("proxy_protocol_mode %s {\ntrusted_proxies proxy_protocol_test {\nname %q\n}\n}", mode, t.Name())
}

func TestSource_MayChangeItsAnswer(t *testing.T) {
	var answer atomic.Pointer[[]netip.Prefix]
	c, ip4, _, _ := startWrapper(t, askWrapper(t, "on", func(*http.Request) []netip.Prefix { return *answer.Load() }))
	for _, step := range []struct {
		ranges []netip.Prefix
		want   string
	}{
		{nil, "untrusted under on"},
		{[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, asClient},
		{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "untrusted under on"},
		{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}, asClient},
		{[]netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.0/104")}, asClient},
		{[]netip.Prefix{netip.MustParsePrefix("::/0")}, "untrusted under on"},
		{[]netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("127.1.2.3"), 8)}, asClient},
		{[]netip.Prefix{{}}, "untrusted under on"},
	} {
		answer.Store(&step.ranges)
		assert.Equal(t, step.want, outcomeOf(t, c, ip4, headerV2), "%v", step.ranges)
	}
}

func TestSource_ConnectionOutlivesTrustInItsPeer(t *testing.T) {
	var revoked atomic.Bool
	c, ip4, _, _ := startWrapper(t, askWrapper(t, "on", func(*http.Request) []netip.Prefix {
		if revoked.Load() {
			return nil
		}
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}))
	conn := caddytest.Dial(t, ip4)
	caddytest.Send(t, conn, headerV2, caddytest.Request("/"))
	caddytest.ReadResponse(t, conn)
	revoked.Store(true)
	caddytest.Send(t, conn, caddytest.Request("/"))
	_, body := caddytest.ReadResponse(t, conn)
	assert.Equal(t, headertest.Client4.String(), body)
	assert.Equal(t, "untrusted under on", outcomeOf(t, c, ip4, headerV2))
}

func TestSource_ThatPanicsRefuses(t *testing.T) {
	var panics atomic.Bool
	for _, test := range []struct {
		mode, header, plain, then string
	}{
		{"on", "io under on", "io under on", asClient},
		{"unspecified", "io under unspecified", "peer", asMarked},
	} {
		t.Run(test.mode, func(t *testing.T) {
			panics.Store(true)
			c, ip4, _, _ := startWrapper(t, askWrapper(t, test.mode, func(*http.Request) []netip.Prefix {
				if panics.Load() {
					panic("out of ranges")
				}
				return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}))
			assert.Equal(t, test.header, outcomeOf(t, c, ip4, headerV2))
			assert.Equal(t, "panic: out of ranges", c.Logs.Refusals(nil)[0].Str("error"))
			assert.Equal(t, test.plain, outcomeOf(t, c, ip4, ""))
			panics.Store(false)
			assert.Equal(t, test.then, outcomeOf(t, c, ip4, headerV2), "all goes on")
		})
	}
}

func TestSource_ThatIsSlowHoldsUpNobodyElse(t *testing.T) {
	var slow atomic.Value
	slow.Store("")
	asked, release := make(chan struct{}), make(chan struct{})
	_, ip4, _, _ := startWrapper(t, askWrapper(t, "on", func(r *http.Request) []netip.Prefix {
		if r.RemoteAddr == slow.Load() {
			close(asked)
			<-release
		}
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}))
	// The peer has an address before it connects, so that the source can know it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	from := l.Addr()
	require.NoError(t, l.Close())
	slow.Store(from.String())
	dialer := net.Dialer{LocalAddr: from, Timeout: caddytest.Patience}
	first, err := dialer.Dial(ip4.Network, ip4.Address)
	require.NoError(t, err)
	defer first.Close()
	require.NoError(t, first.SetDeadline(time.Now().Add(caddytest.Patience)))
	caddytest.Send(t, first, headerV2, caddytest.Request("/"))
	<-asked

	_, body := caddytest.Get(t, caddytest.HTTP1, ip4, headerV1, "/")
	assert.Equal(t, headertest.Client4.String(), body)
	close(release)
	_, body = caddytest.ReadResponse(t, first)
	assert.Equal(t, headertest.Client4.String(), body)
}

// The other options

func TestListenerWrapper_RefusesAVersionThatIsNotAllowed(t *testing.T) {
	headers := map[string]string{"v1": headerV1, "v2": headerV2, "LOCAL": headerLocal, "UNKNOWN": headerUnknown, "none": ""}
	for _, test := range []struct {
		wrapper string
		want    map[string]string
	}{
		{"on {\nversion v1\n}", map[string]string{"v1": asClient, "v2": "version under on", "LOCAL": "version under on", "UNKNOWN": "peer", "none": "missing under on"}},
		{"on {\nversion v2\n}", map[string]string{"v1": "version under on", "v2": asClient, "LOCAL": "peer", "UNKNOWN": "version under on", "none": "missing under on"}},
		{"unspecified {\nversion v1\n}", map[string]string{"v1": asMarked, "v2": "version under unspecified", "LOCAL": "version under unspecified", "UNKNOWN": "peer", "none": "peer"}},
		{"unspecified {\nversion v2\n}", map[string]string{"v1": "version under unspecified", "v2": asMarked, "LOCAL": "peer", "UNKNOWN": "version under unspecified", "none": "peer"}},
		{"off {\nversion v1\n}", map[string]string{"v1": "forbidden under off", "v2": "forbidden under off", "LOCAL": "forbidden under off", "UNKNOWN": "forbidden under off", "none": "peer"}},
	} {
		t.Run(test.wrapper, func(t *testing.T) {
			c, ip4, _, _ := startWrapper(t, "proxy_protocol_mode "+test.wrapper)
			got := make(map[string]string)
			for name, header := range headers {
				got[name] = outcomeOf(t, c, ip4, header)
			}
			assert.Equal(t, test.want, got)
		})
	}
}

func TestListenerWrapper_MaxHeaderSizeCountsTheWholeHeader(t *testing.T) {
	for _, test := range []struct {
		option string
		max    int
	}{
		{"", 4096},
		{"max_header_size 536", 536},
		{"max_header_size 5KB", 5000},
		{"max_header_size 65551", 65551},
	} {
		t.Run(test.option, func(t *testing.T) {
			c, ip4, _, _ := startWrapper(t, "proxy_protocol_mode on {\n"+test.option+"\n}")
			assert.Equal(t, asClient, outcomeOf(t, c, ip4, padded(test.max)))
			assert.Equal(t, asClient, outcomeOf(t, c, ip4, headerV1))
			if test.max < wire.MaxSize {
				assert.Equal(t, "too_large under on", outcomeOf(t, c, ip4, padded(test.max+1)))
			}
		})
	}
}

func TestListenerWrapper_DefaultTimeoutIsFiveSeconds(t *testing.T) {
	c, ip4, _, _ := startWrapper(t, "proxy_protocol_mode on")
	started := time.Now()
	conn := caddytest.Dial(t, ip4)
	caddytest.Send(t, conn, headerV2[:20])
	caddytest.RequireRefused(t, conn)
	assert.InDelta(t, 5, time.Since(started).Seconds(), 2)
	assert.Equal(t, "timeout", c.Logs.WaitForRefusal(t, nil).Str("reason"))
}

// JSON

func TestListenerWrapper_JSONIsTheSameAsTheCaddyfile(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.StartJSON(t, fmt.Sprintf(`{"http": {"servers": {"lb": {
		"listen": ["127.0.0.1:%d"],
		"listener_wrappers": [{
			"wrapper": "proxy_protocol_mode",
			"mode": "on",
			"trusted_proxies": {"source": "static", "ranges": ["127.0.0.0/8"]},
			"ranges": [{"mode": "off", "ranges": ["::1"]}],
			"timeout": "4s",
			"max_header_size": 600,
			"version": "v2",
			"http3": "allow"
		}],
		"logs": {},
		"routes": [{"handle": [{"handler": "static_response", "body": "{http.request.remote}"}]}]
	}}}}`, port))
	assert.Empty(t, c.Logs.Warnings())
	assert.Equal(t, asClient, outcomeOf(t, c, caddytest.TCP4(port), padded(600)))
	assert.Equal(t, "too_large under on", outcomeOf(t, c, caddytest.TCP4(port), padded(601)))
	assert.Equal(t, "version under on", outcomeOf(t, c, caddytest.TCP4(port), headerV1))
	assert.Equal(t, "missing under on", outcomeOf(t, c, caddytest.TCP4(port), ""))
	assert.Equal(t, "lb", c.Logs.Refusals(nil)[0].Str("server_name"))
}

func TestListenerWrapper_ErrorsInJSON(t *testing.T) {
	port := caddytest.FreePort(t)
	config := func(wrapper string) string {
		return fmt.Sprintf(`{"http": {"grace_period": "1s", "servers": {"lb": {
			"listen": ["127.0.0.1:%d"],
			"listener_wrappers": [{"wrapper": "proxy_protocol_mode"%s}],
			"routes": [{"handle": [{"handler": "static_response", "body": "{http.request.remote}"}]}]
		}}}}`, port, wrapper)
	}
	c := caddytest.StartJSON(t, config(`, "mode": "on"`))

	const (
		decoding     = "decoding module config: caddy.listeners.proxy_protocol_mode: "
		provisioning = "provision caddy.listeners.proxy_protocol_mode: "
	)
	for _, test := range []struct{ name, json, want string }{
		{"an unknown mode", `"mode": "yes"`, decoding + "mode: unknown mode 'yes': use on, off or unspecified"},
		{"an empty mode", `"mode": ""`, decoding + "mode: unknown mode '': use on, off or unspecified"},
		{"an unknown field", `"trust": true`, decoding + `json: unknown field "trust"`},
		{
			"ranges without mode", `"ranges": [{"ranges": ["::1"]}]`,
			provisioning + "ranges[0].mode: missing: use on, off or unspecified",
		},
		{
			"ranges of an unknown mode", `"ranges": [{"mode": "maybe", "ranges": ["::1"]}]`,
			decoding + "mode: unknown mode 'maybe': use on, off or unspecified",
		},
		{
			"no ranges", `"ranges": [{"mode": "off", "ranges": ["::1"]}, {"mode": "on"}]`,
			provisioning + "ranges[1].ranges: needs at least one IP address or CIDR range",
		},
		{
			"a malformed range", `"ranges": [{"mode": "off", "ranges": ["::1", "10.0.0.0/33"]}]`,
			provisioning + "ranges[0].ranges[1]: '10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		},
		{
			"an empty range", `"ranges": [{"mode": "off", "ranges": [""]}]`,
			provisioning + "ranges[0].ranges[0]: '' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1",
		},
		{
			"a range with a zone", `"ranges": [{"mode": "off", "ranges": ["fe80::1%eth0"]}]`,
			provisioning + "ranges[0].ranges[0]: 'fe80::1%eth0' has a zone: use an IP address or CIDR range without one",
		},
		{
			"a range under two modes", `"ranges": [{"mode": "off", "ranges": ["10.0.0.0/8"]}, {"mode": "on", "ranges": ["::1", "10.9.9.9/8"]}]`,
			provisioning + "ranges[1].ranges[1]: 10.0.0.0/8 already has mode 'off' and cannot also have mode 'on': remove one",
		},
		{
			"trusted_proxies under off", `"mode": "off", "trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8"]}`,
			provisioning + "trusted_proxies: not allowed under mode 'off', which refuses every header: remove it, or set the mode to 'on'",
		},
		{
			"trusted_proxies with a malformed range", `"mode": "on", "trusted_proxies": {"source": "static", "ranges": ["10.0.0"]}`,
			provisioning + "loading trusted proxies modules: loading module 'static': provision http.ip_sources.static: invalid IP address: '10.0.0': ParseAddr(\"10.0.0\"): IPv4 address too short",
		},
		{
			"trusted_proxies with a zone", `"mode": "on", "trusted_proxies": {"source": "static", "ranges": ["fe80::1%eth0"]}`,
			provisioning + "trusted_proxies: 'fe80::1%eth0' has a zone: use an IP address or CIDR range without one",
		},
		{
			"trusted_proxies of a missing module", `"mode": "on", "trusted_proxies": {"source": "nowhere"}`,
			provisioning + "loading trusted proxies modules: loading module 'nowhere': unknown module: http.ip_sources.nowhere",
		},
		{
			"trusted_proxies without source", `"mode": "on", "trusted_proxies": {}`,
			provisioning + "loading trusted proxies modules: module name not specified with key 'source' in map[]",
		},
		{"a timeout of zero", `"timeout": 0`, provisioning + "timeout: 0s is not positive: use a value such as 5s"},
		{"a negative timeout", `"timeout": "-1s"`, provisioning + "timeout: -1s is not positive: use a value such as 5s"},
		{"a timeout that is none", `"timeout": "soon"`, decoding + `time: invalid duration "soon"`},
		{"a size of zero", `"max_header_size": 0`, provisioning + "max_header_size: 0 bytes is out of bounds: use 536 to 65551"},
		{"a size that is too small", `"max_header_size": 535`, provisioning + "max_header_size: 535 bytes is out of bounds: use 536 to 65551"},
		{"a size that is too large", `"max_header_size": 65552`, provisioning + "max_header_size: 65552 bytes is out of bounds: use 536 to 65551"},
		{"an unknown version", `"version": "2"`, provisioning + "version: unknown version '2': use v1 or v2, or leave it out to accept both"},
		{"http3 with another word", `"http3": "on"`, provisioning + "http3: unknown value 'on': use allow, or leave it out to disable HTTP/3 where a header is mandatory"},
		{"mismatched_destination with another word", `"mismatched_destination": "on"`, provisioning + "mismatched_destination: unknown value 'on': use allow, or leave it out to refuse version 1 headers whose destination does not match their address family"},
		{"mismatched_destination that is no text", `"mismatched_destination": true`, decoding + "json: cannot unmarshal bool into Go struct field ListenerWrapper.mismatched_destination of type string"},
		{
			"two faults", `"timeout": -1, "version": "v3"`,
			provisioning + "timeout: -1ns is not positive: use a value such as 5s\nversion: unknown version 'v3': use v1 or v2, or leave it out to accept both",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := c.LoadJSON(config(", " + test.json))
			assert.EqualError(t, err, "loading new config: loading http app module: provision http: loading listener wrapper modules: position 0: loading module 'proxy_protocol_mode': "+test.want)

			_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headerV2, "/")
			assert.Equal(t, headertest.Client4.String(), body, "the running config stays")
		})
	}
}

// Warnings

func TestListenerWrapper_WarnsOfItsConfig(t *testing.T) {
	const (
		ofUnspecified = "mode 'unspecified' is for tests only: any peer that may send a header can claim any client address; set 'proxy_protocol_mode on' if a load balancer sends headers, else 'proxy_protocol_mode off'"
		ofAnyone      = "mode 'on' without 'trusted_proxies' accepts headers from any peer that can reach the port; add the addresses of your load balancers to 'proxy_protocol_mode', for example: trusted_proxies static 10.0.0.0/8"
		ofNobody      = "'trusted_proxies' has no ranges: no peer may send a header"
		ofTimeout     = "'timeout' is shorter than the PROXY protocol specification advises; the advised time is long enough for a TCP retransmit"
	)
	for _, test := range []struct {
		wrapper string
		want    []string
	}{
		{"", []string{ofUnspecified}},
		{"unspecified", []string{ofUnspecified}},
		{"unspecified {\ntrusted_proxies static 10.0.0.0/8\n}", []string{ofUnspecified}},
		{"on", []string{ofAnyone}},
		{"on {\ntrusted_proxies static 10.0.0.0/8\n}", nil},
		{"on {\ntrusted_proxies static\n}", []string{ofNobody}},
		{"on {\ntrusted_proxies proxy_protocol_test\n}", nil},
		{"on {\noff 127.0.0.1\n}", []string{ofAnyone}},
		{"on {\ntrusted_proxies static 10.0.0.0/8\nunspecified 127.0.0.1\n}", []string{ofUnspecified}},
		{"off", nil},
		{"off {\non 127.0.0.1\n}", nil},
		{"off {\nunspecified 127.0.0.1\n}", []string{ofUnspecified}},
		{"off {\ntimeout 3s\n}", nil},
		{"off {\ntimeout 2999ms\n}", []string{ofTimeout}},
	} {
		t.Run(test.wrapper, func(t *testing.T) {
			c, _, _, _ := startWrapper(t, "proxy_protocol_mode "+test.wrapper)
			assert.Equal(t, test.want, c.Logs.Warnings())
		})
	}
}

func TestListenerWrapper_WarnsOfMarkedConnectionsAndTheirClaims(t *testing.T) {
	c, ip4, _, _ := startWrapper(t, "proxy_protocol_mode")
	for range 3 {
		assert.Equal(t, asMarked, outcomeOf(t, c, ip4, headerV2))
		assert.Equal(t, "peer", outcomeOf(t, c, ip4, headerLocal))
	}
	warning := caddytest.OfModule.With(caddytest.Fields{"msg": "a client address is unverified: it comes from a PROXY protocol header accepted under mode 'unspecified'; its source port is set to 0"})
	c.Logs.WaitFor(t, warning) // a goroutine writes it
	warned := c.Logs.Find(warning)
	require.Len(t, warned, 1)
	assert.Equal(t, "warn", warned[0].Str("level"))
	assert.Equal(t, ip4.Address, warned[0].Str("local"))
	assert.Equal(t, headertest.Client4.String(), warned[0].Str("claimed"))
}

func TestListenerWrapper_SaysAtStartWhatItChecks(t *testing.T) {
	for _, tt := range []struct {
		name, wrapper string
		want          map[string]any
	}{
		{"off", "proxy_protocol_mode off", map[string]any{"mode": "off"}},
		{"on for all", "proxy_protocol_mode on", map[string]any{"mode": "on", "trusted_proxies": "any"}},
		{
			"ranges", "proxy_protocol_mode on {\ntrusted_proxies static 10.0.0.0/8 ::1\noff 127.0.0.2\nunspecified 127.0.0.3\non 127.0.0.4\n}",
			map[string]any{"mode": "on", "trusted_proxies": []any{"10.0.0.0/8", "::1/128"}, "ranges_off": []any{"127.0.0.2"}, "ranges_unspecified": []any{"127.0.0.3"}, "ranges_on": []any{"127.0.0.4"}},
		},
		{
			"a source", "proxy_protocol_mode on {\ntrusted_proxies proxy_protocol_test {\nname here\n}\n}",
			map[string]any{"mode": "on", "trusted_proxies": "proxy_protocol_test"},
		},
		{
			"many ranges", "proxy_protocol_mode on {\ntrusted_proxies static" + strings.Repeat(" 10.0.0.0/8", 1) + manyRanges(30) + "\n}",
			map[string]any{"mode": "on", "trusted_proxies": append(anyRanges(19), "...")},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Wrappers(tt.wrapper), strings.Replace(caddytest.PlainSite(port), strings.Join(caddytest.Loopbacks(), " "), "127.0.0.1", 1))
			line := c.Logs.WaitFor(t, caddytest.OfModule.With(caddytest.Fields{"msg": "checking PROXY protocol headers"}))
			assert.Equal(t, "info", line.Str("level"))
			got := make(map[string]any)
			for key, value := range line {
				if key == "mode" || key == "trusted_proxies" || strings.HasPrefix(key, "ranges_") {
					got[key] = value
				}
			}
			assert.Equal(t, tt.want, got)
			assert.Equal(t, caddytest.TCP4(port).Address, line.Str("address"))
		})
	}
}

func manyRanges(n int) (text string) {
	for i := range n {
		text += fmt.Sprintf(" 198.51.100.%d", i)
	}
	return text
}

func anyRanges(n int) (ranges []any) {
	ranges = append(ranges, "10.0.0.0/8")
	for i := range n {
		ranges = append(ranges, fmt.Sprintf("198.51.100.%d/32", i))
	}
	return ranges
}
