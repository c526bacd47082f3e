package match

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// connection is how a connection of a test began.
type connection struct {
	name string
	mode policy.Mode
	// header is the header, or the zero Header if there is none.
	header wire.Header
	tlvs   []wire.TLV
}

// info returns what is known of the connection.
func (c connection) info(t *testing.T) *conninfo.Info {
	i := &conninfo.Info{Mode: c.mode, Peer: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:4711"))}
	if c.header != (wire.Header{}) {
		r := wire.Decode([]byte(headertest.TextWith(c.header, nil, false, c.tlvs...)), wire.MaxSize)
		require.Equal(t, wire.Complete, r.State)
		i.SetHeader(r.Header, r.TLVs, auth.Proof{})
	}
	return i
}

// naming is a header that names a client.
func naming(version uint8) wire.Header {
	h, err := wire.NewProxy(version, wire.Stream, netip.MustParseAddrPort("203.0.113.7:56324"), netip.MustParseAddrPort("198.51.100.9:8443"))
	if err != nil {
		panic(err)
	}
	return h
}

var connections = []connection{
	{name: "direct under on", mode: policy.On}, // its header has not been read
	{name: "direct under off", mode: policy.Off},
	{name: "direct", mode: policy.Unspecified},
	{name: "v1", mode: policy.On, header: naming(1)},
	{name: "v2", mode: policy.On, header: naming(2)},
	{name: "TLVs", mode: policy.On, header: naming(2), tlvs: []wire.TLV{
		{Type: wire.TypeAuthority, Value: []byte("a.test")}, {Type: wire.TypeALPN, Value: []byte("h2")}, {Type: 0xf1, Value: []byte("\x00\xff")},
	}},
	{name: "LOCAL", mode: policy.On, header: wire.NewLocal()},
	{name: "UNKNOWN", mode: policy.On, header: wire.NewUnknown(1)},
	{name: "marked v1", mode: policy.Unspecified, header: naming(1)},
	{name: "marked TLVs", mode: policy.Unspecified, header: naming(2), tlvs: []wire.TLV{{Type: wire.TypeAuthority, Value: []byte("a.test")}}},
	{name: "unverified LOCAL", mode: policy.Unspecified, header: wire.NewLocal()},
	{name: "unverified UNKNOWN", mode: policy.Unspecified, header: wire.NewUnknown(1)},
}

func TestHeader_Matches(t *testing.T) {
	var all []string
	for _, c := range connections {
		all = append(all, c.name)
	}
	direct := []string{"direct under on", "direct under off", "direct"}
	vouched := []string{"v1", "v2", "TLVs", "LOCAL", "UNKNOWN"}
	for _, tt := range []struct {
		conditions Conditions
		want       []string
	}{
		{Conditions{Is: []string{"present"}}, vouched},
		{Conditions{Is: []string{"absent"}}, direct},
		{Conditions{Is: []string{"port_zero"}}, []string{"marked v1", "marked TLVs"}},
		{Conditions{Is: []string{"local"}}, []string{"LOCAL", "unverified LOCAL"}},
		{Conditions{Is: []string{"present", "local"}}, []string{"LOCAL", "unverified LOCAL"}},
		{Conditions{Is: []string{"present", "port_zero"}}, []string{"marked v1", "marked TLVs"}},

		{Conditions{Version: []string{"v1"}}, []string{"v1", "UNKNOWN"}},
		{Conditions{Version: []string{"v2"}}, []string{"v2", "TLVs", "LOCAL"}},
		{Conditions{Version: []string{"v1", "v2"}}, vouched},
		{Conditions{Is: []string{"port_zero"}, Version: []string{"v1"}}, []string{"marked v1"}},
		{Conditions{Is: []string{"local"}, Version: []string{"v1"}}, nil},

		{Conditions{Peer: []string{"127.0.0.1"}}, all},
		{Conditions{Peer: []string{"10.0.0.0/8", "::ffff:127.0.0.0/104"}}, all},
		{Conditions{Peer: []string{"203.0.113.7"}}, nil}, // the client is no peer
		{Conditions{Is: []string{"absent"}, Peer: []string{"127.0.0.1"}}, direct},
		{Conditions{Is: []string{"present"}, Peer: []string{"10.0.0.0/8"}}, nil},

		{Conditions{TLV: map[string][]string{"authority": nil}}, []string{"TLVs"}},
		{Conditions{TLV: map[string][]string{"authority": {"b.test", "a.test"}}}, []string{"TLVs"}},
		{Conditions{TLV: map[string][]string{"authority": {"b.test"}}}, nil},
		{Conditions{TLV: map[string][]string{"authority": {"a.test"}, "alpn": {"h2"}}}, []string{"TLVs"}},
		{Conditions{TLV: map[string][]string{"authority": {"a.test"}, "alpn": {"http/1.1"}}}, nil},
		{Conditions{TLV: map[string][]string{"netns": nil}}, nil},
		{Conditions{TLV: map[string][]string{"0xF1": {"00FF"}}}, []string{"TLVs"}},
		{Conditions{TLV: map[string][]string{"0xf1": {"00"}}}, nil},
		{Conditions{TLV: map[string][]string{"0xf1": {"00"}, "0xF1": {"00ff"}}}, []string{"TLVs"}},
		{Conditions{Is: []string{"port_zero"}, TLV: map[string][]string{"authority": {"a.test"}}}, []string{"marked TLVs"}},
	} {
		t.Run(tt.conditions.String(), func(t *testing.T) {
			h, err := tt.conditions.Compile()
			require.NoError(t, err)
			var got []string
			for _, c := range connections {
				if h.Matches(c.info(t)) {
					got = append(got, c.name)
				}
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

// A TLV with a name that is written in two ways has the values of both, in whatever order the names
// come.
func TestConditions_OneTLVByTwoNames(t *testing.T) {
	of := connections[slices.IndexFunc(connections, func(c connection) bool { return c.name == "TLVs" })].info(t)
	for range 100 {
		h, err := (&Conditions{TLV: map[string][]string{"0xf1": {"00"}, "0xF1": nil}}).Compile()
		require.NoError(t, err)
		require.False(t, h.Matches(of))
	}
}

func TestConditions_ThatCannotBeMetAreErrors(t *testing.T) {
	const absentAlone = "'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header"
	const localAlone = "'local' cannot be combined with 'port_zero' or 'tlv': a LOCAL header has no addresses and no TLVs"
	authority := map[string][]string{"authority": nil}
	for _, tt := range []struct {
		conditions Conditions
		want       string
	}{
		{Conditions{}, "the proxy_protocol matcher needs at least one of present, absent, port_zero, local, version, peer, tlv"},
		{Conditions{Is: []string{"presnt"}}, "unknown word 'presnt': use present, absent, port_zero, local"},
		{Conditions{Version: []string{"v1", "v3"}}, "version: unknown version 'v3': use v1 or v2"},
		{Conditions{Peer: []string{"10.0.0.0/33"}}, "peer: '10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1"},
		{Conditions{TLV: map[string][]string{"0xea": {"00", "vp"}}}, "tlv: value 2 of 0xea is not hexadecimal: use pairs of digits such as 0aff"},
		{Conditions{Is: []string{"absent", "present"}}, absentAlone},
		{Conditions{Is: []string{"absent", "port_zero"}}, absentAlone},
		{Conditions{Is: []string{"absent", "local"}}, absentAlone},
		{Conditions{Is: []string{"absent"}, Version: []string{"v1"}}, absentAlone},
		{Conditions{Is: []string{"absent"}, TLV: authority}, absentAlone},
		{Conditions{Is: []string{"local", "port_zero"}}, localAlone},
		{Conditions{Is: []string{"local"}, TLV: authority}, localAlone},
	} {
		_, err := tt.conditions.Compile()
		assert.EqualError(t, err, tt.want)
	}
	_, err := (&Conditions{TLV: map[string][]string{"sni": nil}}).Compile()
	assert.ErrorContains(t, err, "tlv: unknown TLV name 'sni'")
}

func TestConditions_String(t *testing.T) {
	for want, c := range map[string]Conditions{
		"proxy_protocol":                                              {},
		"proxy_protocol present local":                                {Is: []string{"present", "local"}},
		"proxy_protocol { version v1 }":                               {Version: []string{"v1"}},
		"proxy_protocol { version v1 v2; peer ::1 }":                  {Version: []string{"v1", "v2"}, Peer: []string{"::1"}},
		"proxy_protocol present { peer 10.0.0.0/8 ::1; tlv alpn h2 }": {Is: []string{"present"}, Peer: []string{"10.0.0.0/8", "::1"}, TLV: map[string][]string{"alpn": {"h2"}}},
		"proxy_protocol { tlv alpn; tlv authority a.test b.test }":    {TLV: map[string][]string{"authority": {"a.test", "b.test"}, "alpn": nil}},
		"proxy_protocol { tlv 0xe1 [redacted]; tlv 0xea }":            {TLV: map[string][]string{"0xe1": {"5ec2e7", "00"}, "0xea": nil}},
	} {
		assert.Equal(t, want, c.String())
	}
}

func TestConditions_AddArg(t *testing.T) {
	expand := func(ranges []string) []string { return append(ranges, "expanded") }
	var c Conditions
	for _, arg := range []string{
		"present", "version", "peer", "tlv", "other:x", "version:v1", "version:v2", "peer:10.0.0.1", "tlv:authority", "tlv:alpn=h2", "tlv:alpn=http/1.1", "tlv:unique_id==",
	} {
		c.AddArg(arg, expand)
	}
	assert.Equal(t, Conditions{
		Is:      []string{"present", "version", "peer", "tlv", "other:x"},
		Version: []string{"v1", "v2"},
		Peer:    []string{"10.0.0.1", "expanded"},
		TLV:     map[string][]string{"authority": nil, "alpn": {"h2", "http/1.1"}, "unique_id": {"="}},
	}, c)
}

// What stands in front of a placeholder cannot become right by the placeholder's value.
func TestCheckPrefix(t *testing.T) {
	for _, arg := range []Arg{
		{"present", "a", ""}, {"", "a", ""}, {"peer:", "a", ""}, {"version:v", "a", ""}, {"tlv:", "a", ""}, {"tlv:auth", "a", ""}, {"tlv:authority=", "a", ""}, {"peer:x=", "a", ""},
	} {
		assert.NoError(t, CheckPrefix(arg), arg)
	}
	assert.EqualError(t, CheckPrefix(Arg{"peers:", "a", ""}), "unknown word 'peers:{a}': use present, absent, port_zero, local")
	assert.ErrorContains(t, CheckPrefix(Arg{"tlv:sni=", "a", ""}), "tlv: unknown TLV name 'sni'")
	assert.ErrorContains(t, CheckPrefix(Arg{"tlv:=", "a", ""}), "tlv: unknown TLV name ''")
}
