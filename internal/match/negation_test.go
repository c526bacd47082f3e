package match

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What cannot be read is left to Caddy, whose error says more.
func TestNegations_LeavesWhatCannotBeReadToCaddy(t *testing.T) {
	const negated = `{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}]}`
	for _, handler := range []string{
		``, `null`, `3`, `"pinned_ip"`, `[`, `{"pinned_ip"`, `{"pinned_ip":`, `{"match":"pinned_ip"}`, `{"match":["pinned_ip"]}`, `{"match":{"not":[{"pinned_ip":3}]}}`,
		`{"match":[{"not":"pinned_ip"}]}`, `{"match":[{"not":{"pinned_ip":{}}}]}`, `{"match":[{"not":[{"pinned_ip":3}]}]}`, `{"match":[{"not":[{"proxy_protocol":3}]}]}`,
		`{"match":[{"not":[{"proxy_protocol":{"is":["presnt"]}}]}]}`, `{"match":[{"expression":3,"pinned_ip":null}]}`, `{"match":[{"expression":{"expr":3,"name":"pinned_ip"}}]}`,
		`{"match":[{"expression":"!pinned_ip("}]}`, `{"match":[{"expression":"!pinned_ip(1)"}]}`, `{"match":[{"expression":"!proxy_protocol"}]}`, `{"match":[{"expression":"!x.pinned_ip('::1')"}]}`,
		`{"match":[{"expression":""}],"x":"pinned_ip"}`, `{"match":null,"x":"pinned_ip"}`, `{"match":[null],"x":"pinned_ip"}`, `[[[{"match":[{"not":null}],"x":"pinned_ip"}]]]`,
		`{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}],"handle":3}`, `{"match":[{"another":[{"pinned_ip":{"ranges":["::1"]}}]}]}`,
		`{"match":[{"expression":"` + strings.Repeat("!(", 1000) + "pinned_ip('::1')" + strings.Repeat(")", 1000) + `"}]}`,
	} {
		s := new(Negations)
		s.Config(json.RawMessage(handler))
		assert.Empty(t, s.Found(), handler)
	}

	s := new(Negations)
	s.Config(json.RawMessage(strings.Repeat(`{"x":[`, 500) + negated + strings.Repeat(`]}`, 500)))
	assert.Equal(t, []string{"not pinned_ip ::1"}, s.Found(), "deep")

	s = new(Negations)
	s.Route([]Set{{"not": json.RawMessage(`[{"pinned_ip":{"ranges":["::1"]}}]`)}}, []json.RawMessage{json.RawMessage(`3`)})
	assert.Equal(t, []string{"not pinned_ip ::1"}, s.Found(), "a handler that cannot be read does not refuse")
}

// negationsIn returns what is found in a configuration, under modes on and off, where mode
// unspecified is used as well, and where some requests over HTTP/3 have no known connection.
func negationsIn(config string) (on, unspecified, http3 []string) {
	find := func(s *Negations) []string {
		s.ExpandPeer = func(ranges []string) []string { return ranges }
		s.Config(json.RawMessage(config))
		return s.Found()
	}
	return find(new(Negations)), find(&Negations{Unspecified: true}), find(&Negations{HTTP3: true})
}

// routeWith is a route with these matchers of a set, and a handler that does not refuse.
func routeWith(matchers string) string {
	return `{"match":[{` + matchers + `}],"handle":[{"handler":"static_response"}]}`
}

func TestNegations_InMatcherSets(t *testing.T) {
	const (
		present    = `"proxy_protocol":{"is":["present"]}`
		notPresent = "not proxy_protocol present"
		notPinned  = `"not":[{"pinned_ip":{"ranges":["203.0.113.7"]}}]`
		pinned     = "not pinned_ip 203.0.113.7"
	)
	for _, tt := range []struct {
		name, matchers string
		want           []string // under on
		more           []string // or else under unspecified and for HTTP/3, if not the same
		http3          []string
	}{
		{"not negated", present + `,"pinned_ip":{"ranges":["::1"]}`, nil, nil, nil},
		{"negated", `"not":[{` + present + `}]`, []string{notPresent}, nil, nil},
		{"negated twice", `"not":[{"not":[{` + present + `}]}]`, nil, nil, nil},
		{"negated three times", `"not":[{"not":[{"not":[{` + present + `}]}]}]`, []string{notPresent}, nil, nil},
		{"in one of several sets", `"not":[{"path":["/x"]},{` + present + `}]`, []string{notPresent}, nil, nil},
		{"with another matcher", `"not":[{"path":["/x"],` + present + `}]`, []string{notPresent}, nil, nil},
		{"two, in order", `"not":[{` + present + `},{"pinned_ip":{"ranges":["::1","::2"]}}]`, []string{"not pinned_ip ::1 ::2", notPresent}, nil, nil},
		{"the same twice", `"not":[{` + present + `},{` + present + `}]`, []string{notPresent}, nil, nil},

		{"absent", `"not":[{"proxy_protocol":{"is":["absent"]}}]`, nil, nil, []string{"not proxy_protocol absent"}},
		{"port_zero", `"not":[{"proxy_protocol":{"is":["port_zero"]}}]`, nil, nil, []string{"not proxy_protocol port_zero"}},
		{"peer", `"not":[{"proxy_protocol":{"peer":["10.0.0.0/8"]}}]`, nil, nil, []string{"not proxy_protocol { peer 10.0.0.0/8 }"}},

		{"beside a path", `"path":["/x"],` + notPinned, []string{pinned}, nil, nil},
		{"beside present", present + "," + notPinned, nil, nil, nil},
		{"beside present, deeper", present + `,"not":[{"not":[{` + notPinned + `}]}]`, nil, nil, nil},
		{"beside an expression", `"expression":"proxy_protocol('present')",` + notPinned, nil, nil, nil},
		{"beside another expression", `"expression":"path('/x')",` + notPinned, []string{pinned}, nil, nil},
		{"beside absent", `"proxy_protocol":{"is":["absent"]},` + notPinned, nil, nil, nil},
		{"beside a peer", `"proxy_protocol":{"peer":["10.0.0.0/8"]},` + notPinned, nil, []string{pinned}, nil},
		{"beside port_zero", `"proxy_protocol":{"is":["port_zero"]},` + notPinned, nil, []string{pinned}, nil},
		{"beside a negated one", `"not":[{` + present + `,` + `"pinned_ip":{"ranges":["203.0.113.7"]}}]`, []string{pinned, notPresent}, nil, nil},
		{"beside present, with a placeholder", present + `,"not":[{"pinned_ip":{"ranges":["{x}"]}}]`, []string{"not pinned_ip {x}"}, nil, nil},
		{"a placeholder that is not negated", `"pinned_ip":{"ranges":["{x}"]}`, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on, unspecified, http3 := negationsIn(routeWith(tt.matchers))
			if tt.more == nil {
				tt.more = tt.want
			}
			if tt.http3 == nil {
				tt.http3 = tt.want
			}
			assert.ElementsMatch(t, tt.want, on)
			assert.Equal(t, tt.want, on, "in order")
			assert.Equal(t, tt.more, unspecified)
			assert.Equal(t, tt.http3, http3)
		})
	}
}

func TestNegations_InCEL(t *testing.T) {
	const present, version, pinned = "!proxy_protocol('present')", "!proxy_protocol('version:v1')", "!pinned_ip('203.0.113.7')"
	for _, tt := range []struct {
		expression string
		on, more   []string // more is that under unspecified, if it is not the same
	}{
		{"proxy_protocol('present') && pinned_ip('127.0.0.1')", nil, nil},
		{present, []string{present}, nil},
		{"!proxy_protocol('version:v2', 'peer:10.0.0.0/8')", []string{"!proxy_protocol('version:v2', 'peer:10.0.0.0/8')"}, nil},
		{"!proxy_protocol('absent')", nil, nil},
		{pinned, []string{pinned}, nil},
		{"!(!proxy_protocol('present'))", nil, nil},
		{"!(!(!pinned_ip('203.0.113.7')))", []string{pinned}, nil},

		// A client could send a value that cannot be used.
		{"!proxy_protocol({query.x})", []string{"!proxy_protocol('{query.x}')"}, nil},
		{"!proxy_protocol('port_zero', {query.x})", []string{"!proxy_protocol('port_zero', '{query.x}')"}, nil},
		{"!proxy_protocol('tlv:authority=' + {query.x})", []string{"!proxy_protocol('tlv:authority={query.x}')"}, nil},
		{"proxy_protocol('present') && !pinned_ip({query.x})", []string{"!pinned_ip('{query.x}')"}, nil},
		{"proxy_protocol('present') && pinned_ip({query.x})", nil, nil},
		{`!pinned_ip('\{query.x}')`, []string{"!pinned_ip('{query.x}')"}, nil},
		{"proxy_protocol('present', {query.x}) && " + pinned, nil, []string{pinned}},
		{"proxy_protocol('tlv:authority=' + {query.x}) && " + pinned, nil, []string{pinned}},

		{"!(proxy_protocol('present') || path('/x'))", []string{present}, nil},
		{"!(path('/x') || proxy_protocol('present'))", []string{present}, nil},
		{"!(proxy_protocol('present') && path('/x'))", []string{present}, nil},
		{"!(path('/x') && proxy_protocol('present'))", []string{present}, nil},
		{"!(proxy_protocol('absent') && proxy_protocol('present'))", []string{present}, nil},
		{"!(proxy_protocol('present') && proxy_protocol('version:v1'))", []string{present, version}, nil},
		{"path('/x') && " + present, []string{present}, nil},
		{present + " && path('/x')", []string{present}, nil},
		{"path('/x') || " + present, []string{present}, nil},
		{present + " || path('/x')", []string{present}, nil},
		{"proxy_protocol('absent') && " + present, nil, nil},
		{present + " && proxy_protocol('absent')", nil, nil},
		{"proxy_protocol('absent') || " + present, []string{present}, nil},
		{present + " || proxy_protocol('absent')", []string{present}, nil},
		{"(proxy_protocol('present') && " + pinned + ") || path('/x')", nil, nil},
		{"(" + pinned + " && proxy_protocol('present')) || path('/x')", nil, nil},
		{"proxy_protocol('peer:10.0.0.0/8') && " + present, nil, []string{present}},
		{"proxy_protocol('present') && (" + version + " && path('/x'))", nil, nil},
		{"proxy_protocol('present') && (path('/x') && " + version + ")", nil, nil},
		{"(" + version + " && path('/x')) && proxy_protocol('present')", nil, nil},
		{"proxy_protocol('present') && !(" + "!" + pinned + ")", nil, nil},
		{"(path('/x') && proxy_protocol('present')) && " + pinned, nil, nil},
		{"(proxy_protocol('present') && path('/x')) && " + pinned, nil, nil},
		{"(proxy_protocol('present') || pinned_ip('127.0.0.1')) && " + pinned, nil, nil},
		{"(path('/x') || proxy_protocol('present')) && " + pinned, []string{pinned}, nil},
		{"(proxy_protocol('present') || path('/x')) && " + pinned, []string{pinned}, nil},
		{"(path('/x') && path('/y')) && " + pinned, []string{pinned}, nil},
		{"!proxy_protocol('absent') && " + pinned, []string{pinned}, nil},
		// A matcher with wrong arguments does not load.
		{"proxy_protocol('presnt') && " + pinned, nil, []string{pinned}},
		{"!proxy_protocol('presnt')", nil, nil},

		// A conditional is not looked into: it negates its condition for one result only.
		{present + " ? false : true", nil, nil},
		{"proxy_protocol('present') == path('/x')", nil, nil},
		{"proxy_protocol('present') == true", nil, nil},
		{"proxy_protocol('present') == false", []string{present}, nil},
		{"false == proxy_protocol('present')", []string{present}, nil},
		{"proxy_protocol('present') != true", []string{present}, nil},
		{"true != proxy_protocol('present')", []string{present}, nil},
		{"proxy_protocol('present') != false", nil, nil},
		{"!(proxy_protocol('present') == false)", nil, nil},
		{"!(proxy_protocol('present') == true)", []string{present}, nil},
		{"proxy_protocol('present') && (pinned_ip('203.0.113.7') == false)", nil, nil},
		{"{host}.startsWith('a') && [1].exists(x, x == 1) && " + present, []string{present}, nil},
	} {
		t.Run(tt.expression, func(t *testing.T) {
			quoted, err := json.Marshal(tt.expression)
			require.NoError(t, err)
			on, unspecified, _ := negationsIn(routeWith(`"expression":` + string(quoted)))
			if tt.more == nil {
				tt.more = tt.on
			}
			assert.Equal(t, tt.on, on)
			assert.Equal(t, tt.more, unspecified)
			named, _, _ := negationsIn(routeWith(`"expression":{"expr":` + string(quoted) + `,"name":"m"}`))
			assert.Equal(t, tt.on, named, "with a name")
		})
	}
}

// To refuse what a matcher does not match is what the matcher is good for.
func TestNegations_OfRoutesThatRefuseAreRight(t *testing.T) {
	for handlers, refused := range map[string]bool{
		``:                      false,
		`{"handler":"headers"}`: false,
		`{"handler":"error"}`:   true,
		`{"handler":"headers"},{"handler":"error"}`:                                                             true,
		`{"handler":"static_response"}`:                                                                         false,
		`{"handler":"static_response","abort":true}`:                                                            true,
		`{"handler":"static_response","status_code":399}`:                                                       false,
		`{"handler":"static_response","status_code":403}`:                                                       true,
		`{"handler":"static_response","status_code":"403"}`:                                                     true,
		`{"handler":"static_response","status_code":"{x}"}`:                                                     false,
		`{"handler":"proxy_protocol","mode":"on"}`:                                                              true,
		`{"handler":"proxy_protocol","mode":"unspecified"}`:                                                     false,
		`{"handler":"subroute"}`:                                                                                false,
		`{"handler":"subroute","routes":[{}]}`:                                                                  false,
		`{"handler":"subroute","routes":[{"handle":[{"handler":"error"}]}]}`:                                    true,
		`{"handler":"subroute","routes":[{"handle":[{"handler":"error"}]},{"handle":[{"handler":"error"}]}]}`:   true,
		`{"handler":"subroute","routes":[{"handle":[{"handler":"error"}]},{"handle":[{"handler":"headers"}]}]}`: false,
		`{"handler":"subroute","routes":[{"handle":[{"handler":"headers"}]},{"handle":[{"handler":"error"}]}]}`: false,
		`{"handler":"error","status_code":403,"routes":3}`:                                                      false, // Caddy reports it
	} {
		on, _, _ := negationsIn(`{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}],"handle":[` + handlers + `]}`)
		if refused {
			assert.Empty(t, on, handlers)
		} else {
			assert.Equal(t, []string{"not pinned_ip ::1"}, on, handlers)
		}
	}
}

func TestNegations_AreFoundAnywhere(t *testing.T) {
	const pinned = `{"match":[{"not":[{"pinned_ip":{"ranges":["::1"]}}]}]}`
	const version = `{"match":[{"path":["/x"]},{"not":[{"path":["/y"]},{"proxy_protocol":{"version":["v1"]}}]}]}`
	for config, want := range map[string][]string{
		`{"routes":[` + pinned + `,` + version + `]}`:                                             {"not pinned_ip ::1", "not proxy_protocol { version v1 }"},
		`{"routes":[` + version + `]}`:                                                            {"not proxy_protocol { version v1 }"},
		`{"named_routes":{"a":` + pinned + `,"b":` + version + `}}`:                               {"not pinned_ip ::1", "not proxy_protocol { version v1 }"},
		`{"errors":{"routes":[` + pinned + `]}}`:                                                  {"not pinned_ip ::1"},
		`{"match":[{"path":["/x"]}],"handle":[{"handler":"subroute","routes":[` + pinned + `]}]}`: {"not pinned_ip ::1"},
		`{"match":3,"x":` + pinned + `}`:                                                          {"not pinned_ip ::1"},
		`{"body":"` + strings.ReplaceAll(pinned, `"`, `\"`) + `"}`:                                nil,
	} {
		on, _, _ := negationsIn(config)
		assert.Equal(t, want, on, config)
	}
}
