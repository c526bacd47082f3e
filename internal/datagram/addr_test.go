package proxyprotocol

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// requestFrom is a request of a connection that was accepted from an address.
func requestFrom(accepted *quicAddr, remote string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = remote
	return r.WithContext(context.WithValue(r.Context(), http3.RemoteAddrContextKey, accepted))
}

func newQUICAddr(t *testing.T, text string, marked bool) *quicAddr {
	rules, _ := packetRules(On)
	a := &quicAddr{text: text, config: rules}
	if marked {
		a.setHeader(wire.Decode([]byte(connV2), wire.MaxSize).Header, nil) // under mode Unspecified
		require.True(t, a.Marked())
	}
	return a
}

func TestRequestHasTheFactsOfTheBeginningAndThePresentClient(t *testing.T) {
	for _, test := range []struct {
		name, accepted string
		marked         bool
		now            string
		known          bool
	}{
		{"it stays", "203.0.113.7:1", false, "203.0.113.7:1", true},
		{"it stays marked", "203.0.113.7:0", true, "203.0.113.7:0", true},
		{"it stays at port 0, which a header said", "203.0.113.7:0", false, "203.0.113.7:0", true},
		{"another port", "203.0.113.7:1", false, "203.0.113.7:2", true},
		{"another address", "203.0.113.7:1", false, "[2001:db8::7]:1", true},
		{"another marked address", "203.0.113.7:0", true, "[2001:db8::7]:0", true},
		{"it gets marked", "203.0.113.7:1", false, "203.0.113.7:0", false},
		{"it gets marked elsewhere", "203.0.113.7:1", false, "198.51.100.9:0", false},
		{"it loses the mark", "203.0.113.7:0", true, "203.0.113.7:1", false},
		{"port 0, which a header said, and then another's", "203.0.113.7:0", false, "198.51.100.9:0", false},
		{"not an address", "203.0.113.7:1", false, "203.0.113.7", false},
		{"not an address, and marked", "203.0.113.7:0", true, "203.0.113.7", false},
		{"empty", "203.0.113.7:1", false, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			accepted := newQUICAddr(t, test.accepted, test.marked)
			c := requestQUICConn(requestFrom(accepted, strings.Clone(test.now)))
			if !test.known {
				assert.Nil(t, c)
				return
			}
			require.NotNil(t, c)
			assert.Same(t, &accepted.facts, c.known())
			assert.Equal(t, test.now, c.RemoteAddr().String())
			port, _ := placeholdersOf(c)("http.proxy_protocol.client_port")
			assert.Equal(t, portOf(c.RemoteAddr()), port)
			marked, _ := placeholdersOf(c)("http.proxy_protocol.port_zero")
			assert.Equal(t, test.marked, marked)
		})
	}
}

func TestConnectionIsToTheDestinationOfTheHeaderIfItHasOne(t *testing.T) {
	to := func(dst netip.AddrPort) wire.Header {
		h, err := wire.NewProxy(2, wire.Dgram, caddytest.Client4, dst)
		require.NoError(t, err)
		return h
	}
	for _, test := range []struct {
		name   string
		header wire.Header
		marked bool
		want   string
	}{
		{"a destination", to(caddytest.Server4), false, caddytest.Server4.String()},
		{"an unspecified one", to(netip.MustParseAddrPort("0.0.0.0:443")), false, "127.0.0.1:7"},
		{"a marked client", to(caddytest.Server4), true, "127.0.0.1:7"},
		{"no header", wire.Header{}, false, "127.0.0.1:7"},
	} {
		a := &quicAddr{facts: facts{header: test.header, marked: test.marked}, local: netip.MustParseAddrPort("127.0.0.1:7")}
		assert.Equal(t, test.want, a.LocalAddr().String(), test.name)
	}
}

// Nobody judged its datagrams.
func TestConnectionIsNotKnownWithoutRules(t *testing.T) {
	a := newQUICAddr(t, "203.0.113.7:1", false)
	r := requestFrom(a, a.text)
	assert.Same(t, a, acceptedFrom(r))
	assert.NotNil(t, requestQUICConn(r))
	a.config = nil
	assert.Nil(t, requestConn(r))
	r = httptest.NewRequest(http.MethodGet, "/", nil)
	assert.Nil(t, acceptedFrom(r))
	assert.Nil(t, requestConn(r))
}
