package datagram

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gaissmai/bart"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

const token = "session token"

// requiringToken is an option: headers must have the token.
func requiringToken(c *Config) {
	options := auth.Options{TLVs: map[string][]string{"0xe1": {fmt.Sprintf("%x", token)}}}
	c.Require, _ = options.Compile(func(value string) (string, error) { return value, nil })
}

func TestPacketConn_RequiresTLVsOfHeaders(t *testing.T) {
	good := headertest.UDP(headertest.Client4, headertest.Server4, headertest.TextTLV(0xe1, token))
	listed := func(c *Config) { c.Trusted, _ = policy.NewSet([]string{"127.0.0.0/8", "::1"}) }
	byRange := func(c *Config) {
		c.Ranges = new(bart.Table[policy.Mode])
		c.Ranges.Insert(netip.MustParsePrefix("127.0.0.0/8"), policy.On)
	}
	const stranger = "require: the header names no client"
	for name, test := range map[string]struct {
		mode     policy.Mode
		option   func(*Config)
		datagram string
		want     auth.Method
		err      string
	}{
		"the token":                   {policy.On, listed, good, auth.TLV, ""},
		"the token, marked":           {policy.Unspecified, nil, good, auth.TLV, ""},
		"no token":                    {policy.On, listed, headertest.UDP(headertest.Client4, headertest.Server4), 0, "require tlv: the header has no 0xe1"},
		"no token, in a range":        {policy.Off, byRange, headertest.UDP(headertest.Client4, headertest.Server4), 0, "require tlv: the header has no 0xe1"},
		"no token, unspecified":       {policy.Unspecified, nil, headertest.UDP(headertest.Client4, headertest.Server4), 0, "require tlv: the header has no 0xe1"},
		"another token":               {policy.On, listed, headertest.UDP(headertest.Client4, headertest.Server4, headertest.TextTLV(0xe1, token+"x")), 0, "require tlv: the value of 0xe1 is not one of those that are required"},
		"LOCAL of a listed peer":      {policy.On, listed, headertest.Local(), auth.None, ""},
		"LOCAL of a peer's range":     {policy.Off, byRange, headertest.Local(), auth.None, ""},
		"LOCAL of a stranger":         {policy.Unspecified, nil, headertest.Local(), 0, stranger},
		"no header, where not needed": {policy.Unspecified, nil, "", auth.None, ""},
	} {
		t.Run(name, func(t *testing.T) {
			config, logs := testConfig(test.mode, requiringToken)
			if test.option != nil {
				test.option(config)
			}
			c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.1")
			if test.err == "" {
				payload, addr := pass(t, peer, c, "127.0.0.1", test.datagram+"x")
				assert.Equal(t, "x", payload)
				assert.Equal(t, test.want, addr.Info().Authenticated())
				return
			}
			_, err := peer.WriteTo([]byte(test.datagram+"dropped"), c.LocalAddr())
			require.NoError(t, err)
			payload, _ := pass(t, peer, c, "127.0.0.1", good+"x")
			assert.Equal(t, "x", payload)
			require.Equal(t, []string{"unauthenticated"}, logs.Reasons())
			assert.Contains(t, fmt.Sprint(logs.All()), test.err)
			assert.NotContains(t, fmt.Sprint(logs.All()), token)
		})
	}
}

// What is remembered of a malformed header has no TLVs, if some may be secret.
func TestPacketConn_RemembersNoSecret(t *testing.T) {
	for _, secret := range []bool{false, true} {
		config, _ := testConfig(policy.Unspecified)
		if secret {
			requiringToken(config)
		}
		c, peer := wrappedSocket(t, "udp", "127.0.0.1:0", config), listenUDP(t, "127.0.0.1")
		block := headertest.UDP(headertest.Client4, headertest.Server4, headertest.TextTLV(0xe1, token))[16:]
		_, err := peer.WriteTo([]byte(headertest.Raw(0x21, 0x12, block+"\xe1\xff\xff")+"x"), c.LocalAddr())
		require.NoError(t, err)
		payload, _ := pass(t, peer, c, "127.0.0.1", "x")
		require.Equal(t, "x", payload)
		refusals := config.Stats.LastRefusals()
		require.Len(t, refusals, 1)
		if secret {
			assert.NotContains(t, refusals[0].Hex(), fmt.Sprintf("%x", token))
		} else {
			assert.Contains(t, refusals[0].Hex(), fmt.Sprintf("%x", token))
		}
	}
}
