package stream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/listenertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The keys of tests, in base64.
const (
	keyText      = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	otherKeyText = "bm90IGEgc2VjcmV0IGtleQ=="
	token        = "session token"
)

// requirement returns what a listener with these options requires.
func requirement(t testing.TB, options auth.Options) *auth.Requirement {
	r, err := options.Compile(func(value string) (string, error) { return value, nil })
	require.NoError(t, err)
	return r
}

// signedBy returns the TLV with a signature of a header from src to dst.
func signedBy(t testing.TB, key, src, dst string, at time.Time) wire.TLV {
	parsed, err := auth.ParseKey(key)
	require.NoError(t, err)
	h := wire.Decode([]byte(headerText(2, wire.Stream, src, dst)), wire.MaxSize).Header
	value, err := parsed.Sign(&h, at)
	require.NoError(t, err)
	return wire.TLV{Type: auth.DefaultType, Value: value}
}

var (
	requireToken     = auth.Options{TLVs: map[string][]string{"0xe1": {fmt.Sprintf("%x", token)}}}
	requireSignature = auth.Options{Signature: &auth.SignatureOptions{Keys: []string{otherKeyText, keyText}, MaxAge: auth.DefaultMaxAge}}
)

func TestConn_RequiresOfHeadersWhatIsConfigured(t *testing.T) {
	now := time.Now()
	naming := func(tlvs ...wire.TLV) string {
		return headerText(2, wire.Stream, clientAddr, serverAddr, tlvs...)
	}
	good := headertest.TextTLV(0xe1, token)
	signed := signedBy(t, keyText, clientAddr, serverAddr, now)
	client := outcome{remote: clientAddr, local: serverAddr, handedOn: getRequest}
	marked := outcome{remote: "203.0.113.7:0", local: socketAddr.String(), handedOn: getRequest}
	no := refused("unauthenticated")
	listed := func(config *Config) { config.Trusted = rangeSet(t, "192.0.2.1") }
	byRange := func(config *Config) { config.Ranges = modeTable(t, map[string]policy.Mode{"192.0.2.0/24": policy.On}) }
	for name, test := range map[string]struct {
		require auth.Options
		mode    policy.Mode
		options []func(*Config)
		in      string
		want    outcome
	}{
		"token":                                {requireToken, policy.On, nil, naming(good), client},
		"token, marked":                        {requireToken, policy.Unspecified, nil, naming(good), marked},
		"no token":                             {requireToken, policy.On, []func(*Config){listed}, naming(), no},
		"no token, in a range":                 {requireToken, policy.On, []func(*Config){byRange}, naming(), no},
		"no token under unspecified":           {requireToken, policy.Unspecified, nil, naming(), no},
		"another token":                        {requireToken, policy.On, nil, naming(headertest.TextTLV(0xe1, token+"x")), no},
		"v1":                                   {requireToken, policy.On, []func(*Config){listed}, headerV1, no},
		"v1 under unspecified":                 {requireToken, policy.Unspecified, nil, headerV1, no},
		"signature":                            {requireSignature, policy.On, nil, naming(signed), client},
		"signature, marked":                    {requireSignature, policy.Unspecified, nil, naming(signed), marked},
		"signature, in a range":                {requireSignature, policy.Off, []func(*Config){byRange}, naming(signed), client},
		"no signature":                         {requireSignature, policy.On, []func(*Config){listed}, naming(), no},
		"no signature, in a range":             {requireSignature, policy.Off, []func(*Config){byRange}, naming(), no},
		"no signature under unspecified":       {requireSignature, policy.Unspecified, nil, naming(), no},
		"signature for another client":         {requireSignature, policy.On, nil, naming(signedBy(t, keyText, "203.0.113.8:56324", serverAddr, now)), no},
		"signature of another key":             {requireSignature, policy.On, nil, naming(signedBy(t, "c29tZSBvdGhlciBzZWNyZXQga2V5", clientAddr, serverAddr, now)), no},
		"old signature":                        {requireSignature, policy.On, nil, naming(signedBy(t, keyText, clientAddr, serverAddr, now.Add(-time.Hour))), no},
		"signature from the future":            {requireSignature, policy.On, nil, naming(signedBy(t, keyText, clientAddr, serverAddr, now.Add(time.Hour))), no},
		"two signatures":                       {requireSignature, policy.On, nil, naming(signed, signed), no},
		"LOCAL of a stranger":                  {requireSignature, policy.On, nil, headertest.Local() + getRequest, no},
		"LOCAL of a stranger, unspecified":     {requireToken, policy.Unspecified, nil, headertest.Local(), no},
		"LOCAL of a listed peer":               {requireSignature, policy.On, []func(*Config){listed}, headertest.Local(), served(getRequest)},
		"LOCAL of a peer in a range":           {requireSignature, policy.Off, []func(*Config){byRange}, headertest.Local(), served(getRequest)},
		"UNKNOWN of a stranger":                {requireSignature, policy.On, nil, headertest.Unknown(1), no},
		"UNKNOWN of a listed peer":             {requireSignature, policy.On, []func(*Config){listed}, headertest.Unknown(1), served(getRequest)},
		"unspecified of a stranger":            {requireSignature, policy.On, nil, headertest.Unknown(2), no},
		"half-unspecified of a stranger":       {requireToken, policy.On, nil, headertest.Raw(0x21, 0x10, naming(good)[16:]), no},
		"half-unspecified of a listed peer":    {requireToken, policy.On, []func(*Config){listed}, headertest.Raw(0x21, 0x01, "x"), served(getRequest)},
		"no header where none is needed":       {requireSignature, policy.Unspecified, nil, "", served(getRequest)},
		"no header where one is needed":        {requireSignature, policy.On, nil, "", refused("missing")},
		"a second header":                      {requireSignature, policy.On, nil, naming(signed) + naming(signed), refused("duplicate")},
		"a second header, the first one wrong": {requireSignature, policy.On, nil, naming() + naming(signed), no},
		"a checksum that is wrong, and signed": {requireSignature, policy.On, nil, headertest.Raw(0x21, 0x11, naming(signed)[16:]+"\x03\x00\x04\x00\x00\x00\x00"), refused("checksum")},
	} {
		t.Run(name, func(t *testing.T) {
			options := append(test.options, func(config *Config) { config.Require = requirement(t, test.require) })
			for _, addrFirst := range []bool{true, false} {
				for _, pieces := range [][]string{{test.in + getRequest}, {test.in, getRequest}, strings.SplitAfter(test.in+getRequest, "\r\n")} {
					config, logs := testConfig(test.mode, options...)
					socket := says(pieces...)
					mode, trust := config.For(peerAddr, socketAddr)
					c := newConn(socket, config, mode, trust, monotime.Now())
					want := test.want
					if strings.Contains(test.in, getRequest) && want.reason == "" {
						want.handedOn = getRequest + getRequest
					}
					assert.Equal(t, want, outcomeOf(t, c, logs, 100, addrFirst))
					if want.reason != "" {
						assert.Empty(t, socket.written)
						assert.True(t, socket.closed)
					}
				}
			}
		})
	}
}

// The file permissions of a Unix socket say who may connect, so that its health checks pass. Any
// peer of an abstract socket may connect.
func TestConn_UnixPeerIsListedByItsSocketFile(t *testing.T) {
	config, _ := testConfig(policy.On, func(config *Config) { config.Require = requirement(t, requireSignature) })
	client, c := dial(t, "unix", config)
	send(client, headertest.Local()+getRequest)
	assert.Equal(t, result{getRequest, nil}, readOnce(c, 100))

	client, c = dial(t, "unix", config)
	send(client, headertest.Unix())
	assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
}

func TestConn_SaysHowTheHeaderIsAuthenticated(t *testing.T) {
	signed := signedBy(t, keyText, clientAddr, serverAddr, time.Now())
	for name, test := range map[string]struct {
		require *auth.Requirement
		header  string
		want    auth.Method
		shown   string
	}{
		"nothing required": {nil, headerText(2, wire.Stream, clientAddr, serverAddr, signed), auth.None, fmt.Sprintf("%x", signed.Value)},
		"a TLV":            {requirement(t, auth.Options{TLVs: map[string][]string{"0xe5": nil}}), headerText(2, wire.Stream, clientAddr, serverAddr, signed), auth.TLV, "[redacted]"},
		"a signature":      {requirement(t, requireSignature), headerText(2, wire.Stream, clientAddr, serverAddr, signed), auth.Signed, "[redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			config, _ := testConfig(policy.On)
			config.Require = test.require
			c := wrapTrusted(says(test.header), config)
			assert.Equal(t, clientAddr, c.RemoteAddr().String())
			assert.Equal(t, test.want, c.Info().Authenticated())
			assert.Equal(t, test.shown, c.Info().TLVs().Text("0xe5"))
		})
	}
}

// The log says what is wrong, and nothing that is secret.
func TestConn_RefusalShowsNoSecret(t *testing.T) {
	now := time.Now()
	old := signedBy(t, keyText, clientAddr, serverAddr, now.Add(-3600*time.Second))
	signed := signedBy(t, keyText, clientAddr, serverAddr, now)
	both := auth.Options{TLVs: requireToken.TLVs, Signature: requireSignature.Signature}
	for name, test := range map[string]struct {
		header string
		reason string
		err    string
	}{
		"old":       {headerText(2, wire.Stream, clientAddr, serverAddr, old, headertest.TextTLV(0xe1, token)), "unauthenticated", "the signature is 360"},
		"token":     {headerText(2, wire.Stream, clientAddr, serverAddr, signed, headertest.TextTLV(0xe1, "x"+token)), "unauthenticated", "the value of 0xe1 is not one of those that are required"},
		"malformed": {headerText(2, wire.Stream, clientAddr, serverAddr, signed, headertest.TextTLV(0xe1, token), headertest.TextTLV(3, "\x00\x00\x00\x00\x00")), "malformed", "CRC32C"},
		"cut off":   {headertest.Raw(0x21, 0x11, headerText(2, wire.Stream, clientAddr, serverAddr, signed, headertest.TextTLV(0xe1, token))[16:]+"\xe1\xff\xff"), "malformed", "TLV"},
		"checksum":  {headertest.Raw(0x21, 0x11, headerText(2, wire.Stream, clientAddr, serverAddr, signed, headertest.TextTLV(0xe1, token))[16:]+"\x03\x00\x04\x00\x00\x00\x00"), "checksum", ""},
	} {
		t.Run(name, func(t *testing.T) {
			config, logs := testConfig(policy.On)
			config.Require, config.Stats = requirement(t, both), record.NewStats()
			c := wrapTrusted(says(test.header+getRequest), config)
			assert.ErrorIs(t, readOnce(c, 100).err, record.ErrRefused)
			assert.Equal(t, []string{test.reason}, logs.Reasons())
			shown := fmt.Sprint(logs.All())
			assert.Contains(t, shown, test.err)
			refusals := config.Stats.LastRefusals()
			require.Len(t, refusals, 1)
			shown += fmt.Sprintf("%+v %s", refusals, refusals[0].Hex())
			for _, secret := range []string{token, token[1:5], string(signed.Value[11:20]), string(old.Value[11:20]), keyText} {
				assert.NotContains(t, shown, secret)
				assert.NotContains(t, shown, fmt.Sprintf("%x", secret))
			}
		})
	}
}

// BenchmarkAuthenticate is BenchmarkConn for headers that have what may be required. "nothing"
// requires nothing of the same header.
func BenchmarkAuthenticate(b *testing.B) {
	vpce := headertest.TextTLV(0xea, "\x01vpce-08d2bf15fac5001c9")
	signed := signedBy(b, keyText, clientAddr, serverAddr, time.Now())
	const src6, dst6 = "[2001:db8:1::203:7]:56324", "[2001:db8:2::113:9]:8443"
	signed6 := signedBy(b, keyText, src6, dst6, time.Now())
	day := &auth.SignatureOptions{Keys: []string{keyText}, MaxAge: 24 * time.Hour}
	rotation := &auth.SignatureOptions{Keys: []string{otherKeyText, keyText}, MaxAge: 24 * time.Hour}
	headers := map[string]string{
		"aws":         headerText(2, wire.Stream, clientAddr, serverAddr, vpce),
		"token":       headerText(2, wire.Stream, clientAddr, serverAddr, headertest.TextTLV(0xe1, token)),
		"signed/ipv4": headerText(2, wire.Stream, clientAddr, serverAddr, signed),
		"signed/ipv6": headerText(2, wire.Stream, src6, dst6, signed6),
	}
	for _, bench := range []struct {
		header, name string
		options      *auth.Options
	}{
		{"aws", "nothing", nil},
		{"aws", "tlv", &auth.Options{TLVs: map[string][]string{"aws_vpce_id": {"vpce-1", "vpce-08d2bf15fac5001c9"}}}},
		{"token", "nothing", nil},
		{"token", "tlv", &requireToken},
		{"signed/ipv4", "nothing", nil},
		{"signed/ipv4", "1 key", &auth.Options{Signature: day}},
		{"signed/ipv4", "2 keys", &auth.Options{Signature: rotation}},
		{"signed/ipv6", "nothing", nil},
		{"signed/ipv6", "1 key", &auth.Options{Signature: day}},
	} {
		b.Run(bench.header+"/"+bench.name, func(b *testing.B) {
			config := quietConfig(policy.On)
			config.Log = listenertest.QuietLog(false)
			if bench.options != nil {
				config.Require = requirement(b, *bench.options)
			}
			below := &memoryConn{says: headers[bench.header] + getRequest}
			p := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				below.at = 0
				c := newConn(below, config, policy.On, policy.Trusted, monotime.Now())
				if c.RemoteAddr() == peerAddr {
					b.Fatal("the header is ignored")
				}
				if n, err := c.Read(p); n != len(getRequest) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
