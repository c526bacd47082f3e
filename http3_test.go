package proxyprotocol

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Each request over HTTP/3 passes the guard or is answered with the error 421. The guard asks
// twice, and the source of trusted peers may answer something else the second time.
func TestGuardOfHTTP3PassesOnWhatFits(t *testing.T) {
	accepted := func(mode Mode, marked bool) *quicAddr {
		rules, _ := packetRules(mode)
		return &quicAddr{facts: facts{mode: mode, marked: marked}, config: rules, text: "203.0.113.7:1"}
	}
	for _, test := range []struct {
		name     string
		rules    Mode
		major    int
		accepted *quicAddr
		remote   string
		want     error
	}{
		{"over TCP", On, 2, nil, "", nil},
		{"past the wrapper", On, 3, nil, "", errUnwrapped},
		{"past the wrapper, which lets others in", Off, 3, nil, "", nil},
		{"judged by nobody", On, 3, new(quicAddr), "", errUnwrapped},
		{"judged by nobody, where others get in", Off, 3, new(quicAddr), "", nil},
		{"no header, where none is needed", Off, 3, accepted(Off, false), "203.0.113.7:1", nil},
		{"no header, where one is needed", On, 3, accepted(Off, false), "203.0.113.7:1", errOtherRules},
		{"it migrates", Off, 3, accepted(Off, false), "203.0.113.7:2", nil},
		{"it gets marked", Off, 3, accepted(Off, false), "203.0.113.7:0", errMigrated},
	} {
		t.Run(test.name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			rules, _ := packetRules(test.rules)
			own := caddyhttp.Route{Group: "the server's own"}
			server := &caddyhttp.Server{Routes: caddyhttp.RouteList{own}}
			(&PacketConnWrapper{config: rules}).guard(server, zap.New(core))
			require.Len(t, server.Routes, 2)
			assert.Equal(t, own, server.Routes[1])
			route := server.Routes[0]

			r := requestFrom(test.accepted, test.remote)
			r.ProtoMajor = test.major
			matched, err := route.MatcherSets[0][0].(caddyhttp.RequestMatcherWithError).MatchWithError(r)
			require.NoError(t, err)
			assert.Equal(t, test.want != nil, matched)
			if test.major != 3 {
				return
			}
			errNext := errors.New("of the next handler")
			w := httptest.NewRecorder()
			err = route.Handlers[0].ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errNext }))
			if test.want == nil {
				assert.Equal(t, errNext, err)
				assert.Empty(t, w.Header())
				assert.Zero(t, logs.Len())
				return
			}
			var refused caddyhttp.HandlerError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, http.StatusMisdirectedRequest, refused.StatusCode)
			assert.Equal(t, test.want, refused.Err)
			assert.Equal(t, test.want == errUnwrapped, w.Header().Get("Alt-Svc") == "clear")
			assert.Equal(t, test.want == errUnwrapped, logs.Len() == 1)
		})
	}
}

// Other rules accepted a connection. Whether these would have done so is asked of its facts.
func TestConnectionFitsRulesThatWouldHaveAcceptedIt(t *testing.T) {
	header, err := wire.NewProxy(2, wire.Dgram, caddytest.Client4, caddytest.Server4)
	require.NoError(t, err)
	trusting := func(ranges ...string) func(*packetConfig) {
		return func(c *packetConfig) { c.trusted, _ = compileSet(ranges) }
	}
	asks := func(c *packetConfig, source func(*http.Request) []netip.Prefix) {
		c.source = connSource(source)
		c.list = newTrustedList(t.Context(), c.source, zap.NewNop())
	}
	asking := func(answer string) func(*packetConfig) {
		return func(c *packetConfig) {
			asks(c, func(*http.Request) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(answer)} })
		}
	}
	failing := func(c *packetConfig) { asks(c, func(*http.Request) []netip.Prefix { panic("of a test") }) }
	accepted, _ := packetRules(On)
	failing(accepted)
	same := func(c *packetConfig) { c.source, c.list = accepted.source, accepted.list }
	for _, test := range []struct {
		name   string
		header wire.Header
		mode   Mode // under which it was accepted
		rules  Mode
		with   func(*packetConfig)
		want   bool
	}{
		{"no header, off", wire.Header{}, Unspecified, Off, nil, true},
		{"no header, unspecified", wire.Header{}, Off, Unspecified, nil, true},
		{"no header, on", wire.Header{}, Off, On, nil, false},
		{"another mode", header, Unspecified, On, nil, false},
		{"off", header, On, Off, nil, false},
		{"a trusted peer", header, On, On, trusting("127.0.0.2/32"), true},
		{"any peer", header, Unspecified, Unspecified, nil, true},
		{"a peer that is not trusted", header, On, On, trusting("127.0.0.3/32"), false},
		{"a source that trusts it", header, On, On, asking("127.0.0.2/32"), true},
		{"a source that does not", header, On, On, asking("127.0.0.3/32"), false},
		{"a source that fails", header, On, On, failing, false},
		{"the same source, which fails now", header, On, On, same, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules, _ := packetRules(test.rules)
			if test.with != nil {
				test.with(rules)
			}
			f := facts{peer: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 7}, header: test.header, mode: test.mode}
			assert.Equal(t, test.want, rules.fits(&quicAddr{facts: f, config: accepted}))
		})
	}
}

// During a reload a server that has no packet wrapper may get a connection that was accepted
// with a header.
func TestServerWithoutPacketWrapperServesNoConnectionWithHeader(t *testing.T) {
	header, err := wire.NewProxy(2, wire.Dgram, caddytest.Client4, caddytest.Server4)
	require.NoError(t, err)
	for _, test := range []struct {
		name     string
		streams  bool
		major    int
		accepted *quicAddr
		refused  bool
	}{
		{"a header", true, 3, &quicAddr{facts: facts{header: header}}, true},
		{"a LOCAL header", true, 3, &quicAddr{facts: facts{header: wire.NewLocal()}}, true},
		{"no header", true, 3, new(quicAddr), false},
		{"nothing known", true, 3, nil, false},
		{"a header, with a packet wrapper", false, 3, &quicAddr{facts: facts{header: header}}, false},
		{"over TCP", true, 2, &quicAddr{facts: facts{header: header}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := requestFrom(test.accepted, "203.0.113.7:1")
			r.ProtoMajor = test.major
			matched, err := placeholders{streams: test.streams}.MatchWithError(r)
			assert.False(t, matched)
			if !test.refused {
				assert.NoError(t, err)
				return
			}
			var refused caddyhttp.HandlerError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, http.StatusMisdirectedRequest, refused.StatusCode)
		})
	}
}
