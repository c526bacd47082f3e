package conninfo

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// received returns what is known of a connection that began with this header.
func received(t *testing.T, mode policy.Mode, header string) *Info {
	i := &Info{Mode: mode, Peer: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:4711"))}
	if header != "" {
		r := wire.Decode([]byte(header), wire.MaxSize)
		require.Equal(t, wire.Complete, r.State)
		i.SetHeader(r.Header, r.TLVs, auth.Proof{})
	}
	return i
}

func TestLogObject_HasTheFieldsThatTheHeaderHad(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		mode         policy.Mode
		want         string
	}{
		{"no header", "", policy.Off, `{"mode":"off","peer":"192.0.2.1:4711","present":false}`},
		{"v1", headerV1, policy.On, `{"mode":"on","peer":"192.0.2.1:4711","present":true,"version":1,"transport":"TCP4","source":"203.0.113.7:56324","destination":"198.51.100.9:8443","port_zero":false}`},
		{"v2", headerV2, policy.Unspecified, `{"mode":"unspecified","peer":"192.0.2.1:4711","present":true,"version":2,"command":"PROXY","transport":"TCP4","source":"203.0.113.7:56324","destination":"198.51.100.9:8443","port_zero":true}`},
		{"LOCAL", headertest.Raw(0x20, 0, ""), policy.On, `{"mode":"on","peer":"192.0.2.1:4711","present":true,"version":2,"command":"LOCAL","port_zero":false}`},
		{
			"TLVs", encoded(2, wire.TLV{Type: wire.TypeAuthority, Value: []byte("a\n")}), policy.On,
			`{"mode":"on","peer":"192.0.2.1:4711","present":true,"version":2,"command":"PROXY","transport":"TCP4","source":"203.0.113.7:56324","destination":"198.51.100.9:8443","port_zero":false,"tlv":{"authority":"a\\x0a"}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.JSONEq(t, tt.want, (&LogObject{received(t, tt.mode, tt.header)}).String())
		})
	}
}

// brokenEncoder is an encoder that takes no objects.
type brokenEncoder struct{ zapcore.ObjectEncoder }

var errBroken = errors.New("broken")

func (brokenEncoder) AddObject(string, zapcore.ObjectMarshaler) error { return errBroken }

func TestLogObject_ReturnsErrorsOfTheEncoder(t *testing.T) {
	o := &LogObject{received(t, policy.On, headerAWS)}
	assert.Equal(t, errBroken, o.MarshalLogObject(brokenEncoder{zapcore.NewMapObjectEncoder()}))
}

func TestTransportName(t *testing.T) {
	four, six := strings.Repeat("\x01", 12), strings.Repeat("\x01", 36)
	for _, tt := range []struct{ header, command, want string }{
		{headerV1, "", "TCP4"},
		{"PROXY TCP6 2001:db8::7 2001:db8::9 1 2\r\n", "", "TCP6"},
		{"PROXY UNKNOWN\r\n", "", "UNKNOWN"},
		{headertest.Raw(0x21, 0x11, four), "PROXY", "TCP4"},
		{headertest.Raw(0x21, 0x12, four), "PROXY", "UDP4"},
		{headertest.Raw(0x21, 0x21, six), "PROXY", "TCP6"},
		{headertest.Raw(0x21, 0x22, six), "PROXY", "UDP6"},
		{headertest.Raw(0x21, 0x31, strings.Repeat("\x00", 216)), "PROXY", "UNIX_STREAM"},
		{headertest.Raw(0x21, 0x32, strings.Repeat("\x00", 216)), "PROXY", "UNIX_DGRAM"},
		{headertest.Raw(0x21, 0x00, ""), "PROXY", "UNKNOWN"},
		{headertest.Raw(0x21, 0x10, four), "PROXY", "UNKNOWN"},
		{headertest.Raw(0x21, 0x01, ""), "PROXY", "UNKNOWN"},
		{headertest.Raw(0x20, 0x00, ""), "LOCAL", ""},
		{headertest.Raw(0x20, 0x11, four), "LOCAL", ""},
		{"", "", ""},
	} {
		h := received(t, policy.On, tt.header).Header
		assert.Equal(t, tt.want, TransportName(h), "%q", tt.header)
		assert.Equal(t, tt.command, CommandName(h), "%q", tt.header)
	}
}
