package datagram

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func newAddr(t *testing.T, text string, marked bool) *Addr {
	config, _ := testConfig(policy.On)
	a := &Addr{text: text, config: config}
	if marked {
		a.info.SetHeader(wire.Decode([]byte(headertest.V2(headertest.Client4, headertest.Server4)), wire.MaxSize).Header, nil, auth.Proof{}) // under mode Unspecified
		require.True(t, a.info.Marked())
	}
	return a
}

func TestAddr_IsToTheDestinationOfTheHeaderIfItHasOne(t *testing.T) {
	to := func(dst netip.AddrPort) wire.Header {
		h, err := wire.NewProxy(2, wire.Dgram, headertest.Client4, dst)
		require.NoError(t, err)
		return h
	}
	for _, test := range []struct {
		name   string
		header wire.Header
		marked bool
		want   string
	}{
		{"a destination", to(headertest.Server4), false, headertest.Server4.String()},
		{"an unspecified one", to(netip.MustParseAddrPort("0.0.0.0:443")), false, "127.0.0.1:7"},
		{"a marked client", to(headertest.Server4), true, "127.0.0.1:7"},
		{"no header", wire.Header{}, false, "127.0.0.1:7"},
	} {
		a := &Addr{info: conninfo.Info{Mode: policy.On}, local: netip.MustParseAddrPort("127.0.0.1:7")}
		if test.marked {
			a.info.Mode = policy.Unspecified
		}
		a.info.SetHeader(test.header, nil, auth.Proof{})
		require.Equal(t, test.marked, a.info.Marked())
		assert.Equal(t, test.want, a.LocalAddr().String(), test.name)
	}
}

func TestAddr_ConnOfHasItsInfoAndThePresentClient(t *testing.T) {
	for _, test := range []struct {
		name, accepted string
		marked         bool
		now            string
		known          bool
	}{
		{"it stays", "203.0.113.7:1", false, "203.0.113.7:1", true},
		{"it stays marked", "203.0.113.7:0", true, "203.0.113.7:0", true},
		{"another address", "203.0.113.7:1", false, "[2001:db8::7]:1", true},
		{"another marked address", "203.0.113.7:0", true, "[2001:db8::7]:0", true},
		{"it gets marked", "203.0.113.7:1", false, "203.0.113.7:0", false},
		{"it loses the mark", "203.0.113.7:0", true, "203.0.113.7:1", false},
		{"not an address", "203.0.113.7:1", false, "203.0.113.7", false},
		{"not an address, and marked", "203.0.113.7:0", true, "203.0.113.7", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAddr(t, test.accepted, test.marked)
			c := a.ConnOf(strings.Clone(test.now))
			if !test.known {
				assert.Nil(t, c)
				return
			}
			require.NotNil(t, c)
			assert.Same(t, &a.info, c.Info())
			assert.Equal(t, test.now, c.RemoteAddr().String())
			assert.Equal(t, test.now != test.accepted, c.Lookups() != a.Lookups(), "placeholders name the client")
		})
	}
	assert.Nil(t, new(Addr).ConnOf(""), "its datagrams were not checked")
}
