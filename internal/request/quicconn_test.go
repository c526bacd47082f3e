package request

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/datagramtest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

func TestRequest_HasTheBeginningsFactsAndThePresentClient(t *testing.T) {
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
			config := datagramtest.Config(policy.On)
			if test.marked {
				config = datagramtest.Config(policy.Unspecified)
			}
			header := headertest.UDP(netip.MustParseAddrPort(test.accepted), headertest.Server4)
			accepted := datagramtest.Accepted(t, config, "192.0.2.1:7", header)
			require.Equal(t, test.accepted, accepted.String())
			require.Equal(t, test.marked, accepted.Info().Marked())
			c := QUICConn(datagramtest.Request(accepted, strings.Clone(test.now)))
			if !test.known {
				assert.Nil(t, c)
				return
			}
			require.NotNil(t, c)
			assert.Same(t, accepted.Info(), c.Info())
			assert.Equal(t, test.now, c.RemoteAddr().String())
			port, _ := PlaceholdersOf(c)("http.proxy_protocol.client_port")
			_, want, err := net.SplitHostPort(test.now)
			require.NoError(t, err)
			assert.Equal(t, want, port)
			marked, _ := PlaceholdersOf(c)("http.proxy_protocol.port_zero")
			assert.Equal(t, test.marked, marked)
		})
	}
}

// Its datagrams were not checked.
func TestRequest_ConnectionIsNotKnownWithoutConfig(t *testing.T) {
	header := headertest.UDP(headertest.Client4, headertest.Server4)
	a := datagramtest.Accepted(t, datagramtest.Config(policy.On), "192.0.2.1:7", header)
	r := datagramtest.Request(a, a.String())
	assert.Same(t, a, AcceptedFrom(r))
	assert.NotNil(t, QUICConn(r))
	a = datagramtest.Accepted(t, nil, "192.0.2.1:7", header)
	r = datagramtest.Request(a, a.String())
	assert.Same(t, a, AcceptedFrom(r))
	assert.Nil(t, Conn(r))
	r = httptest.NewRequest(http.MethodGet, "/", nil)
	assert.Nil(t, AcceptedFrom(r))
	assert.Nil(t, Conn(r))
}
