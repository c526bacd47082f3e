package request

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/stream"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/datagramtest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// headerOf returns a v2 header that names a client.
func headerOf(transport wire.Transport, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, transport, netip.MustParseAddrPort("203.0.113.7:56324"), netip.MustParseAddrPort("198.51.100.9:8443"))
	return headertest.TextWith(h, err, false, tlvs...)
}

// oneConn is a listener with one connection in memory.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l oneConn) Accept() (net.Conn, error) { return l.conn, nil }

// overStream returns a request of a connection that the listener wrapper accepted under mode on.
func overStream(t *testing.T, header string) *http.Request {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	l := stream.Listener{Listener: oneConn{conn: server}, Config: &stream.Config{
		Policy: policy.Policy{Mode: policy.On}, Timeout: time.Hour, MaxHeaderSize: 4096,
		Recorder: record.Recorder{Log: record.NewLog(zap.NewNop(), false), Stats: record.NewStats()},
	}}
	c, err := l.Accept()
	require.NoError(t, err)
	go io.WriteString(client, header)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.LocalAddr()))
}

// overQUIC returns a request of a connection that the packet wrapper accepted under this mode, with a
// datagram that begins with a header unless that is empty.
func overQUIC(t *testing.T, mode policy.Mode, header string) *http.Request {
	accepted := datagramtest.Accepted(t, datagramtest.Config(mode), "192.0.2.1:7", header)
	return datagramtest.Request(accepted, accepted.String())
}

func TestConn_IsThatOfTheRequest(t *testing.T) {
	r := overStream(t, headerOf(wire.Stream))
	c := Conn(r)
	require.NotNil(t, c)
	assert.Equal(t, "203.0.113.7:56324", c.RemoteAddr().String())
	assert.Same(t, c.Info(), Info(r))
	assert.Nil(t, QUICConn(r))

	r = overQUIC(t, policy.On, headerOf(wire.Dgram))
	c = Conn(r)
	require.NotNil(t, c)
	assert.Equal(t, c, QUICConn(r))
	assert.Equal(t, "203.0.113.7:56324", c.RemoteAddr().String())
	assert.Same(t, c.Info(), Info(r))

	r = httptest.NewRequest(http.MethodGet, "/", nil)
	assert.Nil(t, Conn(r))
	assert.Nil(t, QUICConn(r))
	assert.Nil(t, Info(r))
}

func TestCheckHandshake_RefusesEarlyData(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	assert.NoError(t, CheckHandshake(r))
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	assert.NoError(t, CheckHandshake(r))
	r.TLS = new(tls.ConnectionState)
	var refused caddyhttp.HandlerError
	require.ErrorAs(t, CheckHandshake(r), &refused)
	assert.Equal(t, http.StatusTooEarly, refused.StatusCode)
}

// matcherNamed is a matcher of a server's own.
type matcherNamed struct{ name string }

func (matcherNamed) MatchWithError(*http.Request) (bool, error) { return true, nil }

func TestInstall_PutsThePlaceholdersBeforeAllElse(t *testing.T) {
	own := caddyhttp.MatcherSet{matcherNamed{"own"}}
	for _, tt := range []struct {
		name   string
		routes caddyhttp.RouteList
		want   []caddyhttp.MatcherSet // of the first route, behind the placeholders
	}{
		{"no routes", nil, nil},
		{"a route that matches everything", caddyhttp.RouteList{{Group: "first"}, {Group: "second"}}, []caddyhttp.MatcherSet{{}}},
		{"a route with a matcher", caddyhttp.RouteList{{MatcherSets: caddyhttp.MatcherSets{own}}}, []caddyhttp.MatcherSet{own}},
		{"a route whose matchers are not loaded yet", caddyhttp.RouteList{{MatcherSetsRaw: caddyhttp.RawMatcherSets{{}}}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := &caddyhttp.Server{Routes: tt.routes}
			assert.False(t, Installed(server))
			Install(server, true)
			assert.True(t, Installed(server))
			require.Len(t, server.Routes, max(1, len(tt.routes)))
			sets := server.Routes[0].MatcherSets
			assert.Equal(t, caddyhttp.MatcherSet{placeholders{streams: true}}, sets[0])
			assert.Equal(t, tt.want, append([]caddyhttp.MatcherSet(nil), sets[1:]...))
			for _, route := range tt.routes {
				assert.NotContains(t, route.MatcherSets, sets[0], "the routes of a configuration do not change")
			}
			Install(server, true)
			assert.Equal(t, sets, server.Routes[0].MatcherSets, "once")
			assert.Nil(t, server.Errors)
		})
	}
}

func TestInstall_InErrorRoutesIfThereAreAny(t *testing.T) {
	server := &caddyhttp.Server{Errors: new(caddyhttp.HTTPErrorConfig)}
	Install(server, true)
	assert.Empty(t, server.Errors.Routes, "these would change how errors are logged")
	server = &caddyhttp.Server{Errors: &caddyhttp.HTTPErrorConfig{Routes: caddyhttp.RouteList{{Group: "own"}}}}
	Install(server, true)
	require.Len(t, server.Errors.Routes, 1)
	assert.Equal(t, caddyhttp.MatcherSet{placeholders{}}, server.Errors.Routes[0].MatcherSets[0], "an error is not answered with another one")
}

// A connection over HTTP/3 with a header can only be another configuration's, if this one has no
// packet wrapper.
func TestInstall_RefusesAnotherConfigsConnection(t *testing.T) {
	header := headerOf(wire.Dgram)
	overTCP := overQUIC(t, policy.On, header)
	overTCP.ProtoMajor = 2
	for _, tt := range []struct {
		name    string
		streams bool
		request *http.Request
		refused bool
	}{
		{"a header", true, overQUIC(t, policy.On, header), true},
		{"a header, with a packet wrapper", false, overQUIC(t, policy.On, header), false},
		{"no header", true, overQUIC(t, policy.Off, ""), false},
		{"over TCP", true, overTCP, false},
		{"nothing known", true, httptest.NewRequest(http.MethodGet, "/", nil), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.refused && tt.name == "nothing known" {
				tt.request.ProtoMajor = 3
			}
			repl := caddy.NewReplacer()
			r := tt.request.WithContext(context.WithValue(tt.request.Context(), caddy.ReplacerCtxKey, repl))
			matched, err := placeholders{tt.streams}.MatchWithError(r)
			assert.False(t, matched)
			var refused caddyhttp.HandlerError
			if assert.Equal(t, tt.refused, err != nil) && tt.refused {
				require.ErrorAs(t, err, &refused)
				assert.Equal(t, http.StatusMisdirectedRequest, refused.StatusCode)
				assert.Equal(t, ErrOtherConfig, refused.Err)
				return
			}
			_, known := repl.Get(PlaceholderRoot + ".mode")
			assert.True(t, known)
		})
	}
	matched, err := placeholders{}.MatchWithError(httptest.NewRequest(http.MethodGet, "/", nil))
	assert.NoError(t, err, "a request that is not Caddy's has no placeholders")
	assert.False(t, matched)
}

func TestPlaceholders_OfAConnection(t *testing.T) {
	c := Conn(overStream(t, headerOf(wire.Stream, wire.TLV{Type: wire.TypeAuthority, Value: []byte("a\n")})))
	require.NotNil(t, c)
	for key, want := range map[string]any{
		".mode": "on", ".present": true, ".version": 2, ".command": "PROXY", ".transport": "TCP4", ".port_zero": false,
		".source": "203.0.113.7:56324", ".destination": "198.51.100.9:8443", ".client_ip": "203.0.113.7", ".client_port": "56324",
		".server_ip": "198.51.100.9", ".server_port": "8443", ".peer": "pipe", ".peer_ip": "", ".peer_port": "",
		".tlv.authority": `a\x0a`, ".tlv.0x02": "610a", ".tlv.alpn": "", ".tlv.ssl.client_cert.san.dns_names": TextList{},
	} {
		value, known := PlaceholdersOf(c)(PlaceholderRoot + key)
		assert.True(t, known, key)
		assert.Equal(t, want, value, key)
	}
	value, known := PlaceholdersOf(c)(PlaceholderRoot)
	assert.True(t, known)
	assert.Equal(t, &conninfo.LogObject{Info: c.Info()}, value)
	for _, key := range []string{"", ".mode", "http.request", PlaceholderRoot + ".nonsense", PlaceholderRoot + "x", PlaceholderRoot + ".tlv.nonsense", PlaceholderRoot + ".tlv"} {
		value, known := PlaceholdersOf(c)(key)
		assert.False(t, known, key)
		assert.Nil(t, value, key)
	}
}

func TestPlaceholders_TextsOfAListAreEscaped(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test", "b\n"}}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	require.NoError(t, err)
	tlvs, err := tlv.Encode([]tlv.Value{{Name: "ssl.client_cert", Text: base64.StdEncoding.EncodeToString(der)}})
	require.NoError(t, err)
	c := Conn(overStream(t, headerOf(wire.Stream, tlvs...)))
	value, _ := PlaceholdersOf(c)(PlaceholderRoot + ".tlv.ssl.client_cert.san.dns_names")
	assert.Equal(t, TextList{"a.test", `b\x0a`}, value)
}

func TestPlaceholders_OfNoConnectionAreEmpty(t *testing.T) {
	for _, name := range PlaceholderNames() {
		value, known := PlaceholdersOf(nil)(PlaceholderRoot + name)
		assert.True(t, known, name)
		assert.Equal(t, "", value, name)
	}
	for key, want := range map[string]any{".tlv.authority": "", ".tlv.ssl.client_cert.san.dns_names": TextList{}} {
		value, known := PlaceholdersOf(nil)(PlaceholderRoot + key)
		assert.True(t, known, key)
		assert.Equal(t, want, value, key)
	}
	for _, key := range []string{".nonsense", ".tlv.nonsense"} {
		_, known := PlaceholdersOf(nil)(PlaceholderRoot + key)
		assert.False(t, known, key)
	}
}

func TestPlaceholders_OfDirectConnectionHaveNoVersion(t *testing.T) {
	value, _ := PlaceholdersOf(Conn(overQUIC(t, policy.Off, "")))(PlaceholderRoot + ".version")
	assert.Equal(t, "", value)
}

// All requests of a connection share one lookup.
func TestPlaceholders_LookupIsKept(t *testing.T) {
	c := Conn(overQUIC(t, policy.On, headerOf(wire.Dgram)))
	require.Nil(t, c.Lookups().Load())
	PlaceholdersOf(c)
	require.NotNil(t, c.Lookups().Load())
	c.Lookups().Store(func(string) (any, bool) { return "kept", true })
	value, _ := PlaceholdersOf(c)(PlaceholderRoot)
	assert.Equal(t, "kept", value)
}

func TestTextList_IsTextAndAList(t *testing.T) {
	assert.Empty(t, TextList{}.String())
	assert.Equal(t, "[a b]", TextList{"a", "b"}.String())
	enc := zapcore.NewMapObjectEncoder()
	require.NoError(t, enc.AddArray("list", TextList{"a", "b"}))
	assert.Equal(t, []any{"a", "b"}, enc.Fields["list"])
}
