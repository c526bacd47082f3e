package request

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/datagramtest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// Each request over HTTP/3 passes the guard or is answered with the error 421. The guard asks
// twice, and the source of trusted peers may answer something else the second time.
func TestMisdirected_PassesOnWhatFits(t *testing.T) {
	accepted := datagramtest.Accepted(t, datagramtest.Config(policy.Off), "203.0.113.7:1", "")
	for _, test := range []struct {
		name     string
		mode     policy.Mode
		major    int
		accepted *datagram.Addr
		remote   string
		want     error
	}{
		{"over TCP", policy.On, 2, nil, "", nil},
		{"past the wrapper", policy.On, 3, nil, "", errUnwrapped},
		{"past the wrapper, which lets others in", policy.Off, 3, nil, "", nil},
		{"unchecked", policy.On, 3, new(datagram.Addr), "", errUnwrapped},
		{"unchecked, where others get in", policy.Off, 3, new(datagram.Addr), "", nil},
		{"no header, where none is needed", policy.Off, 3, accepted, "203.0.113.7:1", nil},
		{"no header, where one is needed", policy.On, 3, accepted, "203.0.113.7:1", ErrOtherConfig},
		{"it migrates", policy.Off, 3, accepted, "203.0.113.7:2", nil},
		{"it gets marked", policy.Off, 3, accepted, "203.0.113.7:0", errMigrated},
	} {
		t.Run(test.name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			own := caddyhttp.Route{Group: "the server's own"}
			server := &caddyhttp.Server{Routes: caddyhttp.RouteList{own}}
			RefuseUnwrapped(server, datagramtest.Config(test.mode), zap.New(core))
			require.Len(t, server.Routes, 2)
			assert.Equal(t, own, server.Routes[1])
			route := server.Routes[0]

			r := datagramtest.Request(test.accepted, test.remote)
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

// During a reload a server that has no packet wrapper may get a connection that was accepted
// with a header.
func TestHTTP3_ServerWithoutWrapperServesNoConnWithHeader(t *testing.T) {
	accepted := func(header string) *datagram.Addr {
		return datagramtest.Accepted(t, datagramtest.Config(policy.On), "192.0.2.1:7", header)
	}
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	for _, test := range []struct {
		name     string
		streams  bool
		major    int
		accepted *datagram.Addr
		refused  bool
	}{
		{"a header", true, 3, accepted(header), true},
		{"a LOCAL header", true, 3, accepted(headertest.Local()), true},
		{"no header", true, 3, new(datagram.Addr), false},
		{"nothing known", true, 3, nil, false},
		{"a header, with a packet wrapper", false, 3, accepted(header), false},
		{"over TCP", true, 2, accepted(header), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := datagramtest.Request(test.accepted, "203.0.113.7:1")
			r.ProtoMajor = test.major
			server := new(caddyhttp.Server)
			Install(server, test.streams)
			matched, err := server.Routes[0].MatcherSets.AnyMatchWithError(r)
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
