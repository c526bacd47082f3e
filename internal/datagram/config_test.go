package datagram

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Another config accepted the address. Whether this one would have done so is told by its facts.
func TestConfig_FitsAnAddrThatItWouldHaveAccepted(t *testing.T) {
	header, err := wire.NewProxy(2, wire.Dgram, headertest.Client4, headertest.Server4)
	require.NoError(t, err)
	trusting := func(ranges ...string) func(*Config) {
		return func(c *Config) { c.Trusted, _ = policy.NewSet(ranges) }
	}
	asks := func(c *Config, source policy.Source) {
		c.Source = source
		c.TrustedList = NewTrustedList(t.Context(), c.Source, zap.NewNop())
	}
	asking := func(answer string) func(*Config) {
		return func(c *Config) {
			asks(c, func(context.Context, net.Addr) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(answer)} })
		}
	}
	failing := func(c *Config) {
		asks(c, func(context.Context, net.Addr) []netip.Prefix { panic("of a test") })
	}
	requiring := func(c *Config) {
		r, err := auth.Options{TLVs: map[string][]string{"aws_vpce_id": nil}}.Compile(func(value string) (string, error) { return value, nil })
		require.NoError(t, err)
		c.Require = r
	}
	accepted, _ := testConfig(policy.On)
	failing(accepted)
	same := func(c *Config) { c.Source, c.TrustedList = accepted.Source, accepted.TrustedList }
	for _, test := range []struct {
		name   string
		header wire.Header
		mode   policy.Mode // under which it was accepted
		now    policy.Mode // of the config that serves it
		with   func(*Config)
		want   bool
	}{
		{"no header, off", wire.Header{}, policy.Unspecified, policy.Off, nil, true},
		{"no header, unspecified", wire.Header{}, policy.Off, policy.Unspecified, nil, true},
		{"no header, on", wire.Header{}, policy.Off, policy.On, nil, false},
		{"another mode", header, policy.Unspecified, policy.On, nil, false},
		{"off", header, policy.On, policy.Off, nil, false},
		{"a trusted peer", header, policy.On, policy.On, trusting("127.0.0.2/32"), true},
		{"any peer", header, policy.Unspecified, policy.Unspecified, nil, true},
		{"a peer that is not trusted", header, policy.On, policy.On, trusting("127.0.0.3/32"), false},
		{"a source that trusts it", header, policy.On, policy.On, asking("127.0.0.2/32"), true},
		{"a source that does not", header, policy.On, policy.On, asking("127.0.0.3/32"), false},
		{"a source that fails", header, policy.On, policy.On, failing, false},
		{"a TLV that it does not have", header, policy.On, policy.On, requiring, false},
		{"LOCAL, of any peer", wire.NewLocal(), policy.On, policy.On, requiring, false},
		{"LOCAL, of a trusted peer", wire.NewLocal(), policy.On, policy.On, func(c *Config) { requiring(c); trusting("127.0.0.2/32")(c) }, true},
		{"the same source, which fails now", header, policy.On, policy.On, same, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, _ := testConfig(test.now)
			if test.with != nil {
				test.with(config)
			}
			f := conninfo.Info{Peer: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 7}, Header: test.header, Mode: test.mode}
			assert.Equal(t, test.want, config.Fits(&Addr{info: f, config: accepted}))
		})
	}
}
