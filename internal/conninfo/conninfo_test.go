package conninfo

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Headers that name a client.
var (
	headerV1  = encoded(1)
	headerV2  = encoded(2)
	headerAWS = encoded(2, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")})
)

func encoded(version uint8, tlvs ...wire.TLV) string {
	source, destination := netip.MustParseAddrPort("203.0.113.7:56324"), netip.MustParseAddrPort("198.51.100.9:8443")
	h, err := wire.NewProxy(version, wire.Stream, source, destination)
	return headertest.TextWith(h, err, false, tlvs...)
}

// The mark is set with the header, or never.
func TestInfo_SetHeaderSetsTheMark(t *testing.T) {
	for _, header := range []struct {
		name, header string
		marks        bool
	}{
		{"v1", headerV1, true},
		{"v2", headerV2, true},
		{"v2 with TLVs", headerAWS, true},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", false},
		{"LOCAL", headertest.Raw(0x20, 0, ""), false},
		{"a Unix socket's", headertest.Raw(0x21, 0x31, strings.Repeat("\x00", 216)), false},
	} {
		for _, mode := range []policy.Mode{policy.On, policy.Off, policy.Unspecified} {
			t.Run(fmt.Sprint(header.name, "/", mode), func(t *testing.T) {
				received := []byte(header.header)
				r := wire.Decode(received, wire.MaxSize)
				require.Equal(t, wire.Complete, r.State)
				f := &Info{Mode: mode}
				require.False(t, f.Marked())
				f.SetHeader(r.Header, r.TLVs, auth.Proof{})
				assert.Equal(t, mode == policy.Unspecified && header.marks, f.Marked())
				assert.Equal(t, r.Header, f.Header)
				if len(r.TLVs) == 0 {
					assert.Nil(t, f.tlvs)
					return
				}
				clear(received) // the buffer is another connection's by now
				assert.Equal(t, "vpce-08d2bf15fac5001c9", f.TLVs().Text("aws_vpce_id"))
			})
		}
	}
}

func TestInfo_TLVsAreDecodedOnce(t *testing.T) {
	i := new(Info)
	r := wire.Decode([]byte(headerAWS), wire.MaxSize)
	i.SetHeader(r.Header, r.TLVs, auth.Proof{})
	require.Equal(t, "vpce-08d2bf15fac5001c9", i.TLVs().Text("aws_vpce_id"))
	clear(i.tlvs.raw)
	assert.Equal(t, "vpce-08d2bf15fac5001c9", i.TLVs().Text("aws_vpce_id"))
}

func TestInfo_DestinationIsThatOfTheHeaderOrNone(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		mode         policy.Mode
		want         string
	}{
		{"v1", headerV1, policy.On, "198.51.100.9:8443"},
		{"IPv6", "PROXY TCP6 2001:db8::7 2001:db8::9 1 2\r\n", policy.On, "[2001:db8::9]:2"},
		{"IPv4-mapped", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 1 2\r\n", policy.On, "198.51.100.9:2"},
		{"unspecified", "PROXY TCP4 203.0.113.7 0.0.0.0 1 2\r\n", policy.On, ""},
		{"unspecified IPv6", "PROXY TCP6 2001:db8::7 :: 1 2\r\n", policy.On, ""},
		{"unspecified IPv4-mapped", "PROXY TCP6 2001:db8::7 ::ffff:0.0.0.0 1 2\r\n", policy.On, ""},
		{"marked", headerV1, policy.Unspecified, ""},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", policy.On, ""},
		{"no header", "", policy.Off, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want netip.AddrPort
			if tt.want != "" {
				want = netip.MustParseAddrPort(tt.want)
			}
			assert.Equal(t, want, received(t, tt.mode, tt.header).Destination())
		})
	}
}

func TestInfo_KnowsWhetherThereWasAHeader(t *testing.T) {
	assert.True(t, received(t, policy.On, headerV1).HasHeader())
	assert.True(t, received(t, policy.On, headertest.Raw(0x20, 0, "")).HasHeader())
	assert.False(t, received(t, policy.Off, "").HasHeader())
}

func TestLookupCache_ReturnsWhatWasStored(t *testing.T) {
	var c LookupCache
	assert.Nil(t, c.Load())
	c.Store(func(key string) (any, bool) { return "value of " + key, true })
	lookup := c.Load()
	require.NotNil(t, lookup)
	value, ok := lookup("key")
	assert.True(t, ok)
	assert.Equal(t, "value of key", value)
}

// requireTLV returns a requirement of a TLV.
func requireTLV(t *testing.T, name string, values ...string) *auth.Requirement {
	r, err := auth.Options{TLVs: map[string][]string{name: values}}.Compile(func(value string) (string, error) { return value, nil })
	require.NoError(t, err)
	return r
}

// accepted returns what is known of a connection whose header met a requirement.
func accepted(t *testing.T, header string, r *auth.Requirement) *Info {
	decoded := wire.Decode([]byte(header), wire.MaxSize)
	require.Equal(t, wire.Complete, decoded.State)
	proof, err := r.Check(&decoded.Header, decoded.TLVs, true, time.Now())
	require.NoError(t, err)
	i := &Info{Mode: policy.On}
	i.SetHeader(decoded.Header, decoded.TLVs, proof)
	return i
}

func TestInfo_KeepsHowTheHeaderIsAuthenticated(t *testing.T) {
	endpoint, secret := requireTLV(t, "aws_vpce_id"), requireTLV(t, "0xea", "01767063652d3038643262663135666163353030316339")
	i := accepted(t, headerAWS, nil)
	assert.Equal(t, auth.None, i.Authenticated())
	assert.Equal(t, "vpce-08d2bf15fac5001c9", i.TLVs().Text("aws_vpce_id"))
	assert.NotContains(t, (&LogObject{i}).String(), "authenticated")

	i = accepted(t, headerAWS, endpoint)
	assert.Equal(t, auth.TLV, i.Authenticated())
	assert.Equal(t, "vpce-08d2bf15fac5001c9", i.TLVs().Text("aws_vpce_id"))
	assert.Contains(t, (&LogObject{i}).String(), `"authenticated":"tlv"`)

	i = accepted(t, headerAWS, secret)
	assert.Equal(t, tlv.Redacted, i.TLVs().Text("aws_vpce_id"))
	assert.Contains(t, (&LogObject{i}).String(), `"tlv":{"aws_vpce_id":"[redacted]"}`)
}

func TestInfo_MeetsALaterRequirement(t *testing.T) {
	endpoint, other := requireTLV(t, "aws_vpce_id", "vpce-08d2bf15fac5001c9"), requireTLV(t, "aws_vpce_id", "vpce-1")
	secret := requireTLV(t, "0xea")
	for name, test := range map[string]struct {
		header        string
		before, after *auth.Requirement
		listed        bool
		want          bool
	}{
		"nothing":                         {headerAWS, nil, nil, false, true},
		"no longer anything":              {headerAWS, secret, nil, false, true},
		"the same":                        {headerAWS, endpoint, endpoint, false, true},
		"it has the TLV":                  {headerAWS, nil, endpoint, false, true},
		"it has another":                  {headerAWS, nil, other, true, false},
		"it has none":                     {headerV2, nil, endpoint, true, false},
		"v1":                              {headerV1, nil, endpoint, true, false},
		"the same secret":                 {headerAWS, secret, secret, false, true},
		"what is secret now is shown":     {headerAWS, nil, secret, true, false},
		"what is secret now is shown too": {headerAWS, endpoint, secret, true, false},
		"LOCAL of a listed peer":          {headertest.Local(), nil, secret, true, true},
		"LOCAL of a stranger":             {headertest.Local(), nil, secret, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, accepted(t, test.header, test.before).Meets(test.after, test.listed))
		})
	}
}
