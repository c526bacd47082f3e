package proxyprotocol_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// negationWarnings are the matchers of each warning of negated ones.
func negationWarnings(log caddytest.Logs) (warnings [][]string) {
	for _, entry := range log.Find(caddytest.OfModule.With(caddytest.Fields{"level": "warn"})) {
		if !strings.HasPrefix(entry.Str("msg"), "a negated matcher also matches requests that the matcher cannot check") {
			continue
		}
		var matchers []string
		for _, m := range entry.Get("matchers").([]any) {
			matchers = append(matchers, m.(string))
		}
		warnings = append(warnings, matchers)
	}
	return warnings
}

func TestMatchNot_IsWarnedOfAtLoad(t *testing.T) {
	const present = "not proxy_protocol present"
	tests := []struct {
		name, site string
		on         []string // that the warning names under on
		more       []string // and under unspecified as well
	}{
		{name: "nothing", site: "respond ok"},
		{name: "not negated", site: "@m {\nproxy_protocol present\npinned_ip 127.0.0.1\n}\nrespond @m ok"},
		{name: "present", site: "@m not proxy_protocol present\nrespond @m ok", on: []string{present}},
		{name: "block", site: "@m {\nnot {\nproxy_protocol present\n}\n}\nrespond @m ok", on: []string{present}},
		{name: "version", site: "@m not proxy_protocol {\nversion v1 v2\n}\nrespond @m ok", on: []string{"not proxy_protocol { version v1 v2 }"}},
		{name: "TLVs", site: "@m not proxy_protocol present {\ntlv authority a.test b.test\ntlv alpn\npeer 10.0.0.0/8\n}\nrespond @m ok", on: []string{"not proxy_protocol present { peer 10.0.0.0/8; tlv alpn; tlv authority a.test b.test }"}},
		{name: "pinned_ip", site: "@m not pinned_ip 203.0.113.7 {query.x}\nrespond @m ok", on: []string{"not pinned_ip 203.0.113.7 {http.request.uri.query.x}"}},
		// They know all that they need, except of HTTP/3.
		{name: "absent", site: "@m not proxy_protocol absent\nrespond @m ok"},
		{name: "port_zero", site: "@m not proxy_protocol port_zero\nrespond @m ok"},
		{name: "port_zero with claims", site: "@m not proxy_protocol present port_zero {\nversion v2\ntlv alpn\n}\nrespond @m ok"},
		{name: "local", site: "@m not proxy_protocol present local\nrespond @m ok"},
		{name: "peer", site: "@m not proxy_protocol {\npeer 10.0.0.0/8\n}\nrespond @m ok"},

		{name: "not twice", site: "@m {\nnot {\nnot proxy_protocol present\n}\n}\nrespond @m ok"},
		{name: "not three times", site: "@m {\nnot {\nnot {\nnot proxy_protocol present\n}\n}\n}\nrespond @m ok", on: []string{present}},
		{name: "two nots", site: "@m {\nnot proxy_protocol present\nnot pinned_ip 127.0.0.1\n}\nrespond @m ok", on: []string{"not pinned_ip 127.0.0.1", present}},
		{name: "with another matcher", site: "@m {\npath /x\nnot proxy_protocol present\n}\nrespond @m ok", on: []string{present}},
		{name: "with another matcher in the not", site: "@m {\nnot {\npath /x\nproxy_protocol present\n}\n}\nrespond @m ok", on: []string{present}},
		{name: "with present", site: "@m expression `proxy_protocol('present') && !proxy_protocol('version:v1')`\nrespond @m ok"},
		{name: "beside pinned_ip", site: "@m {\npinned_ip 203.0.113.0/24\nnot proxy_protocol present\n}\nrespond @m ok"},
		{name: "beside present, with a placeholder", site: "@m {\nproxy_protocol present\nnot pinned_ip {query.x}\n}\nrespond @m ok", on: []string{"not pinned_ip {http.request.uri.query.x}"}},
		{name: "beside an expression", site: "@m {\nexpression proxy_protocol('present')\nnot pinned_ip 203.0.113.7\n}\nrespond @m ok"},
		{name: "beside absent", site: "@m {\nproxy_protocol absent\nnot pinned_ip 203.0.113.7\n}\nrespond @m ok"},
		{name: "beside a peer", site: "@m {\nproxy_protocol {\npeer 10.0.0.0/8\n}\nnot pinned_ip 203.0.113.7\n}\nrespond @m ok", more: []string{"not pinned_ip 203.0.113.7"}},
		{name: "beside port_zero", site: "@m {\nproxy_protocol port_zero\nnot pinned_ip 203.0.113.7\n}\nrespond @m ok", more: []string{"not pinned_ip 203.0.113.7"}},

		{name: "used twice", site: "@m not proxy_protocol present\nheader @m X y\nrespond @m ok", on: []string{present}},
		{name: "in a site with a host", site: "@h host a.test\nhandle @h {\n@m not proxy_protocol present\nrespond @m ok\n}", on: []string{present}},
		{name: "of a handle", site: "@m not proxy_protocol present\nhandle @m {\nrespond ok\n}", on: []string{present}},
		{name: "deep", site: "handle /x {\nroute {\nhandle {\n@m not proxy_protocol present\nrespond @m ok\n}\n}\n}", on: []string{present}},
		{name: "in error routes", site: "handle_errors {\n@m not proxy_protocol present\nrespond @m ok\n}", on: []string{present}},
		{name: "in handle_response", site: "reverse_proxy 127.0.0.1:1 {\n@ok status 200\nhandle_response @ok {\n@m not proxy_protocol present\nrespond @m ok\n}\n}", on: []string{present}},

		// To refuse what a matcher does not match is what it is good for.
		{name: "refused with a status", site: "@m not pinned_ip 203.0.113.7\nrespond @m 403"},
		{name: "refused with a body", site: "@m not pinned_ip 203.0.113.7\nrespond @m no 400"},
		{name: "aborted", site: "@m not pinned_ip 203.0.113.7\nabort @m"},
		{name: "refused with an error", site: "@m not pinned_ip 203.0.113.7\nerror @m 404"},
		{name: "refused by the directive", site: "@m not proxy_protocol present\nproxy_protocol @m on"},
		{name: "not refused by the directive", site: "@m not proxy_protocol present\nproxy_protocol @m unspecified", on: []string{present}},
		{name: "refused in a handle", site: "@m not pinned_ip 203.0.113.7\nhandle @m {\nheader X y\nrespond 403\n}"},
		{name: "refused in a handle, in parts", site: "@m not pinned_ip 203.0.113.7\nhandle @m {\nrespond /x 404\nrespond 403\n}"},
		{name: "refused in a part", site: "@m not pinned_ip 203.0.113.7\nhandle @m {\nrespond /x 403\nrespond ok\n}", on: []string{"not pinned_ip 203.0.113.7"}},
		{name: "empty handle", site: "@m not pinned_ip 203.0.113.7\nhandle @m {\n}", on: []string{"not pinned_ip 203.0.113.7"}},
		{name: "redirected", site: "@m not pinned_ip 203.0.113.7\nredir @m /login", on: []string{"not pinned_ip 203.0.113.7"}},
		{name: "header only", site: "@m not pinned_ip 203.0.113.7\nheader @m X y", on: []string{"not pinned_ip 203.0.113.7"}},
		{name: "status 399", site: "@m not pinned_ip 203.0.113.7\nrespond @m 399", on: []string{"not pinned_ip 203.0.113.7"}},
		{name: "status of a placeholder", site: "@m not pinned_ip 203.0.113.7\nrespond @m {query.x}", on: []string{"not pinned_ip 203.0.113.7"}},
	}
	cel := []struct {
		expression string
		on, more   []string
	}{
		{expression: "proxy_protocol('present') && pinned_ip('127.0.0.1')"},
		{expression: "!proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "!proxy_protocol('version:v2', 'peer:10.0.0.0/8')", on: []string{"!proxy_protocol('version:v2', 'peer:10.0.0.0/8')"}},
		{expression: "!proxy_protocol('tlv:authority=' + {http.request.host})", on: []string{"!proxy_protocol('tlv:authority={http.request.host}')"}},
		{expression: "!proxy_protocol({query.x})", on: []string{"!proxy_protocol('{http.request.uri.query.x}')"}},
		// A client could send a value that cannot be used.
		{expression: "!proxy_protocol('port_zero', {query.x})", on: []string{"!proxy_protocol('port_zero', '{http.request.uri.query.x}')"}},
		{expression: "!proxy_protocol({query.x}, 'port_zero')", on: []string{"!proxy_protocol('{http.request.uri.query.x}', 'port_zero')"}},
		{expression: "!proxy_protocol('peer:' + {query.x})", on: []string{"!proxy_protocol('peer:{http.request.uri.query.x}')"}},
		{expression: "proxy_protocol('present') && !proxy_protocol('peer:' + {query.x})", on: []string{"!proxy_protocol('peer:{http.request.uri.query.x}')"}},
		{expression: "proxy_protocol('present') && !pinned_ip({query.x})", on: []string{"!pinned_ip('{http.request.uri.query.x}')"}},
		{expression: "proxy_protocol('present') && pinned_ip({query.x})"},
		{expression: "proxy_protocol('present') && !pinned_ip('203.0.113.7')"},
		{expression: "!proxy_protocol('absent')"},
		{expression: "!proxy_protocol('local')"},
		{expression: "!pinned_ip('203.0.113.7')", on: []string{"!pinned_ip('203.0.113.7')"}},
		{expression: "!pinned_ip({query.x} + '/24')", on: []string{"!pinned_ip('{http.request.uri.query.x}/24')"}},
		{expression: `!pinned_ip('\{query.x}')`, on: []string{"!pinned_ip('{http.request.uri.query.x}')"}},
		{expression: "!!proxy_protocol('present')"},
		{expression: "!(!proxy_protocol('present'))"},
		{expression: "!(proxy_protocol('present') || path('/x'))", on: []string{"!proxy_protocol('present')"}},
		{expression: "!(proxy_protocol('present') && path('/x'))", on: []string{"!proxy_protocol('present')"}},
		{expression: "!(proxy_protocol('absent') || proxy_protocol('present'))", on: []string{"!proxy_protocol('present')"}},
		{expression: "path('/x') && !proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "path('/x') || !proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "{http.request.method} == 'GET' && !proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "proxy_protocol('absent') && !proxy_protocol('present')"},
		{expression: "proxy_protocol('absent', 'peer:'+{http.a}) && !pinned_ip('1.2.3.4')"},
		{expression: "proxy_protocol({http.a}, 'absent') && !pinned_ip('1.2.3.4')"},
		{expression: "proxy_protocol('absent') || !proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "(proxy_protocol('present') && !pinned_ip('203.0.113.7')) || path('/x')"},
		{expression: "proxy_protocol('peer:10.0.0.0/8') && !proxy_protocol('present')", more: []string{"!proxy_protocol('present')"}},
		{expression: "proxy_protocol('present') && proxy_protocol('port_zero', {query.x}) && !pinned_ip('203.0.113.7')"},
		{expression: "proxy_protocol('present', {query.x}) && !pinned_ip('203.0.113.7')", more: []string{"!pinned_ip('203.0.113.7')"}},
		{expression: "proxy_protocol('tlv:authority=' + {query.x}) && !pinned_ip('203.0.113.7')", more: []string{"!pinned_ip('203.0.113.7')"}},
		{expression: "!(proxy_protocol('present') && proxy_protocol('version:v1'))", on: []string{"!proxy_protocol('present')", "!proxy_protocol('version:v1')"}},
		{expression: "!proxy_protocol('version:v1') && proxy_protocol('present')"},
		{expression: "!proxy_protocol('present') && path('/x')", on: []string{"!proxy_protocol('present')"}},
		{expression: "proxy_protocol('present') && (!proxy_protocol('version:v1') && path('/x'))"},
		{expression: "proxy_protocol('present') && (path('/x') && !proxy_protocol('version:v1'))"},
		{expression: "(path('/x') && proxy_protocol('present')) && !pinned_ip('203.0.113.7')"},
		{expression: "(proxy_protocol('present') && path('/x')) && !pinned_ip('203.0.113.7')"},
		{expression: "(proxy_protocol('present') || pinned_ip('127.0.0.1')) && !pinned_ip('203.0.113.7')"},
		{expression: "(path('/x') || proxy_protocol('present')) && !pinned_ip('203.0.113.7')", on: []string{"!pinned_ip('203.0.113.7')"}},
		{expression: "(proxy_protocol('present') || path('/x')) && !pinned_ip('203.0.113.7')", on: []string{"!pinned_ip('203.0.113.7')"}},
		{expression: "proxy_protocol('present') == path('/x')"},
		// A conditional is not looked into: it negates its condition for one result only.
		{expression: "!proxy_protocol('present') ? false : true"},
		{expression: "proxy_protocol('present') == true"},
		{expression: "proxy_protocol('present') == false", on: []string{"!proxy_protocol('present')"}},
		{expression: "false == proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "proxy_protocol('present') != true", on: []string{"!proxy_protocol('present')"}},
		{expression: "true != proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
		{expression: "proxy_protocol('present') != false"},
		{expression: "{http.request.host}.startsWith('a') && [1].exists(x, x == 1) && !proxy_protocol('present')", on: []string{"!proxy_protocol('present')"}},
	}
	for _, e := range cel {
		tests = append(tests, struct {
			name, site string
			on, more   []string
		}{e.expression, "@m expression " + quoted(e.expression) + "\nrespond @m ok", e.on, e.more},
			struct {
				name, site string
				on, more   []string
			}{"in a handle: " + e.expression, "handle {\n@m expression " + quoted(e.expression) + "\nrespond @m ok\n}", e.on, e.more})
	}
	c := caddytest.New(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, mode := range []string{"on", "on {\nunspecified 127.0.0.1\n}", "unspecified"} {
				want := tt.on
				if mode != "on" && len(tt.more) > 0 {
					want = tt.more
				}
				log := c.Logs.Tail()
				port := caddytest.FreePort(t)
				require.NoError(t, c.Load(caddytest.ServerOptions(port, "proxy_protocol_mode "+mode), fmt.Sprintf("http://:%d {\n%s\n}\n", port, tt.site)))
				warnings := negationWarnings(log)
				if len(want) == 0 {
					assert.Empty(t, warnings, mode)
					continue
				}
				require.Len(t, warnings, 1, "once for the server")
				assert.Equal(t, want, warnings[0], mode)
			}
		})
	}
}

// Of a request over HTTP/3 that did not come through the packet wrapper nothing is known, so
// that any negated matcher matches it.
func TestMatchNot_IsWarnedOfWhereHTTP3IsUnwrapped(t *testing.T) {
	const site = "@m not proxy_protocol port_zero\nrespond @m negated"
	warning := [][]string{{"not proxy_protocol port_zero"}}
	for _, tt := range []struct {
		name, options string
		want          [][]string
	}{
		{"on", caddytest.Packets("on", ""), nil},
		{"on, allowed", caddytest.Packets("on {\nhttp3 allow\n}", ""), warning},
		{"off", caddytest.Packets("off", ""), warning},
		{"unspecified", caddytest.Packets("unspecified", ""), warning},
		{"wrapped", caddytest.Packets("off", "off"), nil},
		{"another protocol", strings.Replace(caddytest.Packets("off", ""), "servers {", "servers {\nprotocols h1 h2", 1), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, tt.options, caddytest.HTTP3Site(t, port, site))
			assert.Equal(t, tt.want, negationWarnings(c.Logs))
			if tt.want != nil {
				_, body := caddytest.NewHTTP3Client(t, caddytest.TCP4(port).Address).Get("/")
				assert.Equal(t, "negated", body, "what the warning is about")
			}
		})
	}
}

// A marked connection, of which the warning speaks, matches.
func TestMatchNot_MatchesWhatItCannotJudge(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.ServerOptions(port, "proxy_protocol_mode unspecified"), fmt.Sprintf(`http://:%d {
		@present not proxy_protocol present
		header @present +Matched present
		@pinned not pinned_ip 203.0.113.7
		header @pinned +Matched pinned
		@cel expression !proxy_protocol('version:v2')
		header @cel +Matched cel
		@absent proxy_protocol absent
		header @absent +Matched absent
		respond ok
	}`, port))
	response, _ := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headertest.V2(headertest.Client4, headertest.Server4), "/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	assert.ElementsMatch(t, []string{"present", "pinned", "cel"}, response.Header["Matched"])
}

func TestMatchNot_InJSON(t *testing.T) {
	const matched = `"handle":[{"handler":"static_response"}]`
	for _, tt := range []struct {
		name, server string
		want         [][]string
	}{
		{"routes", `"routes":[{"match":[{"not":[{"proxy_protocol":{"is":["present"]}}]}],` + matched + `}]`, [][]string{{"not proxy_protocol present"}}},
		{"one of several sets", `"routes":[{"match":[{"path":["/x"]},{"not":[{"path":["/y"]},{"proxy_protocol":{"is":["present"]}}]}],` + matched + `}]`, [][]string{{"not proxy_protocol present"}}},
		{"named routes", `"named_routes":{"a":{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}],` + matched + `},"b":{"match":[{"not":[{"proxy_protocol":{"version":["v1"]}}]}],` + matched + `}}`,
			[][]string{{"not pinned_ip ::1", "not proxy_protocol { version v1 }"}}},
		{"error routes", `"errors":{"routes":[{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}],` + matched + `}]}`, [][]string{{"not pinned_ip ::1"}}},
		{"error routes of a subroute", `"routes":[{"handle":[{"handler":"subroute","routes":[],"errors":{"routes":[{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}],` + matched + `}]}}]}]`, [][]string{{"not pinned_ip ::1"}}},
		{"expression with a name", `"routes":[{"handle":[{"handler":"subroute","routes":[{"match":[{"expression":{"expr":"!pinned_ip('::1')","name":"m"}}],` + matched + `}]}]}]`, [][]string{{"!pinned_ip('::1')"}}},
		{"expression without a name", `"routes":[{"handle":[{"handler":"subroute","routes":[{"match":[{"expression":"!pinned_ip('::1')"}],` + matched + `}]}]}]`, [][]string{{"!pinned_ip('::1')"}}},
		{"no handlers", `"routes":[{"match":[{"not":[{"proxy_protocol":{"is":["present"]}}]}]}]`, [][]string{{"not proxy_protocol present"}}},
		{"text only", `"routes":[{"handle":[{"handler":"static_response","body":"{\"match\":[{\"not\":[{\"proxy_protocol\":{\"is\":[\"present\"]}}]}]}"}]}]`, nil},
		{"no matchers", `"routes":[{"match":[],"handle":[{"handler":"subroute","routes":[{"match":[{}],"handle":[{"handler":"proxy_protocol","mode":"unspecified"}]}]}]}]`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := caddytest.StartJSON(t, fmt.Sprintf(`{"http":{"servers":{"web":{"listen":[":%d"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode","mode":"on"}],%s}}}}`, caddytest.FreePort(t), tt.server))
			assert.Equal(t, tt.want, negationWarnings(c.Logs))
		})
	}
}
