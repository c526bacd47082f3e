package proxyprotocol_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// Why the directive refuses.
const (
	reasonNoHeader = "the connection did not begin with a PROXY protocol header"
	reasonNotOn    = "the connection's PROXY protocol header was not accepted under mode 'on'"
	reasonHeader   = "the connection began with a PROXY protocol header"
	reasonNoFacts  = "cannot tell whether this connection began with a PROXY protocol header"
)

func TestHandler_LooksAtWhatTheListenerAccepted(t *testing.T) {
	const (
		offRange         = "on {\noff 127.0.0.0/8\n}"
		unspecifiedRange = "on {\nunspecified 127.0.0.0/8\n}"
		onRangeOfOff     = "off {\non 127.0.0.0/8\n}"
		onRange          = "unspecified {\non 127.0.0.0/8\n}"
	)
	header := headertest.V2(headertest.Client4, headertest.Server4)
	tests := []struct {
		name, mode, preamble string
		on, off              string // why it is refused under these, if it is
	}{
		{"no header under off", "off", "", reasonNoHeader, ""},
		{"no header under unspecified", "unspecified", "", reasonNoHeader, ""},
		{"no header from an off range", offRange, "", reasonNoHeader, ""},
		{"no header from an unspecified range", unspecifiedRange, "", reasonNoHeader, ""},
		{"header under on", "on", header, "", reasonHeader},
		{"header v1 under on", "on", headertest.V1(headertest.Client4, headertest.Server4), "", reasonHeader},
		{"header from an on range of off", onRangeOfOff, header, "", reasonHeader},
		{"header from an on range of unspecified", onRange, header, "", reasonHeader},
		{"LOCAL under on", "on", headertest.Local(), "", reasonHeader},
		{"UNKNOWN under on", "on", headertest.Unknown(1), "", reasonHeader},
		{"forged header under unspecified", "unspecified", header, reasonNotOn, reasonHeader},
		{"forged header v1 under unspecified", "unspecified", headertest.V1(headertest.Client4, headertest.Server4), reasonNotOn, reasonHeader},
		{"forged header from an unspecified range", unspecifiedRange, header, reasonNotOn, reasonHeader},
		{"LOCAL under unspecified", "unspecified", headertest.Local(), reasonNotOn, reasonHeader},
		{"UNKNOWN under unspecified", "unspecified", headertest.Unknown(2), reasonNotOn, reasonHeader},
	}
	var modes []string
	for _, tt := range tests {
		modes = append(modes, tt.mode)
	}
	f := caddytest.StartFarm(t, modes, "", `
	log
	log_append proxy_protocol {http.proxy_protocol}
	log_append lb {http.proxy_protocol.peer_ip}
	proxy_protocol /on* on
	proxy_protocol /off* off
	proxy_protocol /unspecified* unspecified
	respond "served {remote}"
	handle_errors {
		respond "{err.status_code} {err.message}"
	}`)
	for _, tt := range tests {
		for _, tr := range caddytest.Transports {
			t.Run(tt.name+"/"+string(tr), func(t *testing.T) {
				s := caddytest.NewSession(t, tr, f.At(tt.mode, tr), tt.preamble)
				defer s.Close()
				_, want := s.Get("/")
				require.Contains(t, want, "served ")
				for mode, reason := range map[string]string{"on": tt.on, "off": tt.off, "unspecified": ""} {
					path := "/" + mode + pathOf(tt.name) + string(tr)
					response, body := s.Get(path)
					status := http.StatusOK
					if reason != "" {
						status = http.StatusForbidden
						assert.Equal(t, "403 "+reason, body, mode)
					} else {
						assert.Equal(t, want, body, "%s changes nothing", mode)
					}
					assert.Equal(t, status, response.StatusCode, mode)

					entry := f.Logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": path}))
					assert.EqualValues(t, status, entry["status"], mode)
					assert.Equal(t, "127.0.0.1", entry["lb"], mode)
					assert.Equal(t, s.Peer.String(), entry.Get("proxy_protocol.peer"), mode)
					if reason != "" {
						assert.NotEmpty(t, f.Logs.Find(caddytest.Fields{"logger": "http.log.error", "msg": reason, "request.uri": path}), mode)
					}
				}
				assert.Equal(t, 1, s.Dials, "a 403 does not end the connection")
			})
		}
	}
}

func TestHandler_WorksWhereverHandlersDo(t *testing.T) {
	f := caddytest.StartFarm(t, []string{"on", "unspecified"}, "", `
	@admin {
		path /admin*
		method GET
	}
	proxy_protocol @admin on
	route /route {
		proxy_protocol on
		respond served
	}
	route /order {
		respond served
		proxy_protocol on
	}
	handle /handle {
		proxy_protocol on
		respond served
	}
	handle_path /deep/* {
		handle /er {
			route {
				proxy_protocol on
				respond served
			}
		}
		respond "not deep"
	}
	@not expression `+quoted("path('/expression') && !proxy_protocol('absent')")+`
	proxy_protocol @not on
	handle /error {
		error "on purpose" 418
	}
	handle_errors 418 {
		proxy_protocol on
		respond "served for {err.message}"
	}
	handle_errors 403 {
		respond refused
	}
	respond served`)
	tests := []struct {
		path           string
		served, forged string
		status         int // of a forged header
	}{
		{"/", "served", "served", 200},
		{"/admin/x", "served", "refused", 403},
		{"/route", "served", "refused", 403},
		{"/order", "served", "served", 200},
		{"/handle", "served", "refused", 403},
		{"/deep/er", "served", "refused", 403},
		{"/deep/down", "not deep", "not deep", 200},
		{"/expression", "served", "refused", 403},
		{"/error", "served for on purpose", "", 403},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			_, body := caddytest.Get(t, caddytest.HTTP1, f.At("on", caddytest.HTTP1), headertest.V1(headertest.Client4, headertest.Server4), tt.path)
			assert.Equal(t, tt.served, body)
			if tt.path == "/expression" {
				return // a marked connection does not match proxy_protocol('absent') either
			}
			response, body := caddytest.Get(t, caddytest.HTTP1, f.At("unspecified", caddytest.HTTP1), headertest.V1(headertest.Client4, headertest.Server4), tt.path)
			assert.Equal(t, tt.forged, body)
			assert.Equal(t, tt.status, response.StatusCode)
		})
	}
}

// Caddy answers an error of an error route with the status of the first error: a 404 or 500
// would hide that the directive refused.
func TestHandler_Answers403InErrorRoutes(t *testing.T) {
	const (
		teapot = "error /teapot \"on purpose\" 418\nerror /broken \"on purpose\" 500\nerror /missing \"on purpose\" 404\n"
		guard  = "proxy_protocol on\nrespond secret 200\n"
	)
	tests := []struct{ name, site, named string }{
		{"all errors", "handle_errors {\n" + guard + "}", ""},
		{"statuses", "handle_errors 418 404 500 {\n" + guard + "}", ""},
		{"ranges of statuses", "handle_errors 4xx 5xx {\n" + guard + "}", ""},
		{"nested handle", "handle_errors {\nhandle {\nhandle {\n" + guard + "}\n}\n}", ""},
		{"route", "handle_errors {\nroute {\n" + guard + "}\n}", ""},
		{"content in front in the Caddyfile", "handle_errors {\nrespond secret 200\nproxy_protocol on\n}", ""},
		{"content behind", "handle_errors {\nroute {\nproxy_protocol on\nheader Secret yes\n}\nrespond secret 200\n}", ""},
		{"matcher", "handle_errors {\n@forged not proxy_protocol present\nproxy_protocol @forged on\nrespond secret 200\n}", ""},
		{"named route", "handle_errors {\ninvoke guard\n}", "&(guard) {\nroute {\n" + guard + "}\n}\n"},
		{"refused before as well", "proxy_protocol on\nhandle_errors {\n" + guard + "}", ""},
		{"compressed", "handle_errors {\nencode gzip\n" + guard + "}", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			on, unspecified := caddytest.FreePort(t), caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.ServerOptions(on, "proxy_protocol_mode on")+caddytest.ServerOptions(unspecified, "proxy_protocol_mode unspecified", "protocols h1 h2c"),
				fmt.Sprintf("%shttp://:%d, http://:%d {\nlog\n%s%s\n}", tt.named, on, unspecified, teapot, tt.site))
			for _, path := range []string{"/teapot", "/broken", "/missing"} {
				_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(on), headertest.V2(headertest.Client4, headertest.Server4), path)
				assert.Equal(t, "secret", body, path)

				for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.H2C} {
					log := c.Logs.Tail()
					response, body := caddytest.Get(t, tr, caddytest.TCP4(unspecified), headertest.V2(headertest.Client4, headertest.Server4), path)
					assert.Equal(t, http.StatusForbidden, response.StatusCode, path)
					assert.Empty(t, body, path)
					assert.Empty(t, response.Header.Get("Secret"), path)
					assert.EqualValues(t, http.StatusForbidden, log.WaitFor(t, caddytest.OfAccess)["status"], path)
					assert.Empty(t, log.Find(caddytest.Fields{"msg": "error handling handler error"}), path)
					refusals := log.Find(caddytest.Fields{"level": "debug", "logger": "http.handlers.proxy_protocol", "msg": "refused a request in an error route"})
					if assert.Len(t, refusals, 1, path) {
						assert.Equal(t, reasonNotOn, refusals[0].Str("error"), path)
					}
				}
			}
		})
	}
}

// Routes within a handler may have error routes of their own, in JSON.
func TestHandler_Answers403InErrorRoutesOfASubroute(t *testing.T) {
	const (
		failing = `{"handle":[{"handler":"error","error":"on purpose","status_code":418}]}`
		guarded = `{"handle":[{"handler":"proxy_protocol","mode":"on"}]},{"handle":[{"handler":"static_response","body":"secret","status_code":200}]}`
	)
	for name, errors := range map[string]string{
		"no others":          ``,
		"others around them": `,"errors":{"routes":[{"handle":[{"handler":"static_response","body":"{http.error.status_code}"}]}]}`,
		"guarded as well":    `,"errors":{"routes":[` + guarded + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.StartJSON(t, fmt.Sprintf(`{"http":{"servers":{"web":{"listen":[":%d"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode"}],
				"routes":[{"handle":[{"handler":"subroute","routes":[%s],"errors":{"routes":[%s]}}]}]%s}}}}`, port, failing, guarded, errors))
			response, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headertest.V2(headertest.Client4, headertest.Server4), "/")
			assert.Equal(t, http.StatusForbidden, response.StatusCode)
			assert.NotContains(t, body, "secret")
		})
	}
}

// errTest is an error of another handler.
var errTest = errors.New("of a test")

func TestHandler_NeedsNoLogInAnErrorRoute(t *testing.T) {
	mode := proxyprotocol.On
	ctx := context.WithValue(t.Context(), caddyhttp.ErrorCtxKey, errTest)
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errTest })
	w := httptest.NewRecorder()
	assert.NoError(t, (&proxyprotocol.Handler{Mode: &mode}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), next))
	assert.Equal(t, http.StatusForbidden, w.Code)
	assert.Empty(t, w.Body.String())
}

func TestHandler_WorksInNamedRoutes(t *testing.T) {
	on, unspecified := caddytest.FreePort(t), caddytest.FreePort(t)
	caddytest.Start(t, caddytest.ServerOptions(on, "proxy_protocol_mode on")+caddytest.ServerOptions(unspecified, "proxy_protocol_mode unspecified"), fmt.Sprintf(`
	&(named) {
		route {
			proxy_protocol on
			respond served
		}
	}
	http://:%d, http://:%d {
		invoke named
	}`, on, unspecified))
	response, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(on), headertest.V1(headertest.Client4, headertest.Server4), "/")
	assert.Equal(t, "served", body)
	assert.Equal(t, http.StatusOK, response.StatusCode)
	response, _ = caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(unspecified), headertest.V1(headertest.Client4, headertest.Server4), "/")
	assert.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestHandler_IsOfOneSiteOfAServer(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.ServerOptions(port, "proxy_protocol_mode unspecified {\non 127.0.0.0/8\n}", "protocols h1 h2c"), fmt.Sprintf(`
	http://on.test:%[1]d {
		proxy_protocol on
		respond "on"
	}
	http://off.test:%[1]d {
		proxy_protocol off
		respond "off"
	}
	http://unspecified.test:%[1]d {
		proxy_protocol unspecified
		respond "unspecified"
	}
	http://any.test:%[1]d {
		respond "any"
	}`, port))
	for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.H2C} {
		s := caddytest.NewSession(t, tr, caddytest.TCP4(port), headertest.V1(headertest.Client4, headertest.Server4))
		for host, status := range map[string]int{"on.test": 200, "off.test": 403, "unspecified.test": 200, "any.test": 200} {
			response, _ := s.Get("/", "Host", host)
			assert.Equal(t, status, response.StatusCode, host)
		}
		assert.Equal(t, 1, s.Dials)
	}
}

func TestHandler_RefusesWhatNothingIsKnownOf(t *testing.T) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	for mode, served := range map[proxyprotocol.Mode]bool{proxyprotocol.On: false, proxyprotocol.Off: false, proxyprotocol.Unspecified: true} {
		t.Run(mode.String(), func(t *testing.T) {
			w := httptest.NewRecorder()
			err := (&proxyprotocol.Handler{Mode: &mode}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil), next)
			if served {
				require.NoError(t, err)
				assert.Equal(t, http.StatusNoContent, w.Code)
				return
			}
			var handlerErr caddyhttp.HandlerError
			require.ErrorAs(t, err, &handlerErr)
			assert.Equal(t, http.StatusForbidden, handlerErr.StatusCode)
			assert.EqualError(t, handlerErr.Err, reasonNoFacts)
		})
	}
}

// A request that comes to a server in another way than through its listener.
func TestHandler_KnowsNothingOfRequestsFromElsewhere(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.ServerOptions(port, "proxy_protocol_mode on"), fmt.Sprintf(`http://:%d {
		log
		log_append proxy_protocol {http.proxy_protocol}
		@any `+"expression `proxy_protocol('present') || proxy_protocol('absent') || proxy_protocol('port_zero') || pinned_ip('0.0.0.0/0')`"+`
		header @any Matched yes
		proxy_protocol /on on
		respond "[{http.proxy_protocol}{http.proxy_protocol.mode}{http.proxy_protocol.present}]"
	}`, port))
	server := caddytest.Server(t, port)
	for path, status := range map[string]int{"/": 200, "/on": 403} {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		assert.Equal(t, status, w.Code)
		assert.Empty(t, w.Header().Get("Matched"))
		if status == 200 {
			assert.Equal(t, "[]", w.Body.String())
		}
	}
}

func TestHandler_ErrorsInACaddyfile(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no mode", "proxy_protocol", "proxy_protocol needs a mode: use on, off or unspecified, at Caddyfile:2"},
		{"no mode behind a matcher", "proxy_protocol /admin*", "proxy_protocol needs a mode: use on, off or unspecified, at Caddyfile:2"},
		{"unknown mode", "proxy_protocol auto", "unknown mode 'auto': use on, off or unspecified, at Caddyfile:2"},
		{"mode of another case", "proxy_protocol ON", "unknown mode 'ON': use on, off or unspecified, at Caddyfile:2"},
		{"empty mode", `proxy_protocol ""`, "unknown mode '': use on, off or unspecified, at Caddyfile:2"},
		{"two modes", "proxy_protocol on off", "unexpected argument 'off': proxy_protocol takes one mode, at Caddyfile:2"},
		{"block", "proxy_protocol on {\ntrusted_proxies static 10.0.0.0/8\n}", "blocks are not supported: write the listener's options in the listener wrapper 'proxy_protocol_mode', at Caddyfile:3"},
		{"block without a mode", "proxy_protocol {\non\n}", "proxy_protocol needs a mode: use on, off or unspecified, at Caddyfile:2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := caddytest.Adapt("http:// {\n" + tt.text + "\nrespond ok\n}")
			assert.EqualError(t, err, "parsing caddyfile tokens for 'proxy_protocol': "+tt.want)
		})
	}
	t.Run("in a route", func(t *testing.T) {
		_, err := caddytest.Adapt("http:// {\nroute {\nproxy_protocol nonsense\n}\n}")
		assert.EqualError(t, err, "parsing caddyfile tokens for 'route': parsing caddyfile tokens for 'proxy_protocol': unknown mode 'nonsense': use on, off or unspecified, at Caddyfile:3, at Caddyfile:4")
	})
}

func TestHandler_ErrorsInJSON(t *testing.T) {
	const server = `{"http":{"servers":{"web":{"listen":[":%d"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"on"}],"routes":[{"handle":[{"handler":"proxy_protocol"%s}]}]}}}}`
	const at = "loading new config: loading http app module: provision http: server web: setting up route handlers: route 0: loading handler modules: position 0: loading module 'proxy_protocol': "
	c := caddytest.New(t)
	tests := []struct{ name, fields, want string }{
		{"no mode", "", "provision http.handlers.proxy_protocol: mode: proxy_protocol needs a mode: use on, off or unspecified"},
		{"null mode", `,"mode":null`, "provision http.handlers.proxy_protocol: mode: proxy_protocol needs a mode: use on, off or unspecified"},
		{"empty mode", `,"mode":""`, "decoding module config: http.handlers.proxy_protocol: mode: unknown mode '': use on, off or unspecified"},
		{"unknown mode", `,"mode":"On"`, "decoding module config: http.handlers.proxy_protocol: mode: unknown mode 'On': use on, off or unspecified"},
		{"unknown field", `,"mode":"on","trusted_proxies":{}`, `decoding module config: http.handlers.proxy_protocol: json: unknown field "trusted_proxies"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.EqualError(t, c.LoadJSON(fmt.Sprintf(server, caddytest.FreePort(t), tt.fields)), at+tt.want)
		})
	}
}

func TestHandler_NeedsTheListenerWrapper(t *testing.T) {
	const lines = ` has no listener wrapper 'proxy_protocol_mode', which proxy_protocol needs; add to the global options:

	servers {
		listener_wrappers {
			proxy_protocol_mode on
			tls
		}
	}`
	const exactly = "\n\nIf you wrote 'servers <address>', the address must be exactly one that the server listens on: :"
	c := caddytest.New(t)
	const handler = "loading module 'proxy_protocol': provision http.handlers.proxy_protocol: server "
	tests := []struct{ name, options, site, want string }{
		{"site", "", "proxy_protocol on\nrespond ok", handler + "srv0" + lines},
		{"unspecified too", "", "proxy_protocol unspecified", handler + "srv0" + lines},
		{"handle in route", "", "route {\nhandle {\nproxy_protocol off\n}\n}", handler + "srv0" + lines},
		{"error route", "", "handle_errors {\nproxy_protocol on\n}", handler + "srv0" + lines},
		{"Caddy's own wrapper", "servers {\nlistener_wrappers {\nproxy_protocol\ntls\n}\n}", "proxy_protocol on", handler + "srv0" + lines},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			err := c.Load(tt.options, fmt.Sprintf("http://:%d {\n%s\n}", port, tt.site))
			require.Error(t, err)
			assert.True(t, strings.HasSuffix(err.Error(), tt.want+exactly+strconv.Itoa(port)), err)
		})
	}
	t.Run("named route", func(t *testing.T) {
		port := caddytest.FreePort(t)
		err := c.Load("", fmt.Sprintf("&(named) {\nproxy_protocol on\n}\nhttp://:%d {\ninvoke named\n}", port))
		require.Error(t, err)
		assert.True(t, strings.HasSuffix(err.Error(), handler+"srv0"+lines+exactly+strconv.Itoa(port)), err)
	})
	t.Run("the other of two servers", func(t *testing.T) {
		wrapped, bare := caddytest.FreePort(t), caddytest.FreePort(t)
		err := c.Load(caddytest.ServerOptions(wrapped, "proxy_protocol_mode on", "name wrapped")+caddytest.ServerOptions(bare, "", "name bare"),
			fmt.Sprintf("http://:%d, http://:%d {\nproxy_protocol on\n}", wrapped, bare))
		require.Error(t, err)
		assert.True(t, strings.HasSuffix(err.Error(), handler+"bare"+lines+exactly+strconv.Itoa(bare)), err)
	})
	t.Run("the lines are what it takes", func(t *testing.T) {
		options := lines[strings.Index(lines, "\n\n"):]
		assert.NoError(t, c.Load(options, fmt.Sprintf("http://:%d {\nproxy_protocol on\n}", caddytest.FreePort(t))))
	})
	t.Run("outside of an HTTP server", func(t *testing.T) {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		mode := proxyprotocol.On
		assert.EqualError(t, (&proxyprotocol.Handler{Mode: &mode}).Provision(ctx), "proxy_protocol works in the routes of an HTTP server only")
	})
}

func TestHandler_PassesErrorsOn(t *testing.T) {
	mode := proxyprotocol.Unspecified
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errTest })
	err := (&proxyprotocol.Handler{Mode: &mode}).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), next)
	assert.Equal(t, errTest, err)
}
