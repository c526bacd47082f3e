package auth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// expand replaces the placeholders of tests.
func expand(value string) (string, error) {
	switch value {
	case "{token}":
		return token, nil
	case "{key}":
		return keyText, nil
	case "{short}":
		return "c2VjcmV0", nil
	case "{empty}":
		return "", errors.New("evaluated placeholder {empty} is empty")
	default:
		return value, nil
	}
}

func TestOptions_Compile(t *testing.T) {
	r, err := Options{
		TLVs:      map[string][]string{"aws_vpce_id": {"vpce-1", "vpce-2"}, "0xE1": {"{token}", "00"}, "authority": nil},
		Signature: &SignatureOptions{Keys: []string{otherText, "{key}"}, TLV: "0xEF", MaxAge: time.Minute},
	}.Compile(expand)
	require.NoError(t, err)
	assert.Equal(t, []string{"tlv 0xe1", "tlv authority (any value)", "tlv aws_vpce_id", "signature in tlv 0xef, max_age 1m0s"}, r.Names())
	h, tlvs := decoded(t, headertest.TextWith(*header(t, 2, client, server), nil, false,
		headertest.TextTLV(0xea, "\x01vpce-2"), headertest.TextTLV(0xe1, "session token"), headertest.TextTLV(2, "a"), headertest.TextTLV(0xef, signed)))
	proof, err := r.Check(h, tlvs, false, madeAt.Add(time.Minute))
	require.NoError(t, err)
	assert.Equal(t, Signed, proof.Method)
	_, err = r.Check(h, tlvs, false, madeAt.Add(time.Minute+time.Second))
	assert.ErrorContains(t, err, "max_age is 1m0s")

	r, err = Options{Signature: &SignatureOptions{Keys: []string{keyText}, MaxAge: DefaultMaxAge}}.Compile(expand)
	require.NoError(t, err)
	assert.Equal(t, []string{"signature in tlv 0xe5, max_age 30s"}, r.Names())
	r, err = Options{TLVs: map[string][]string{"0xe1": {}}}.Compile(expand)
	require.NoError(t, err)
	assert.Equal(t, []string{"tlv 0xe1 (any value)"}, r.Names())
}

func TestOptions_Errors(t *testing.T) {
	const keygen = ": make one with: caddy proxy-protocol keygen"
	tlvs := func(name string, values ...string) Options {
		return Options{TLVs: map[string][]string{name: values}}
	}
	keys := func(keys ...string) Options {
		return Options{Signature: &SignatureOptions{Keys: keys, MaxAge: DefaultMaxAge}}
	}
	for name, test := range map[string]struct {
		options Options
		err     string
	}{
		"nothing":                {Options{}, "nothing is required: write 'tlv' with a name, or 'signature' with a key"},
		"an empty list":          {Options{TLVs: map[string][]string{}}, "nothing is required"},
		"an unknown name":        {tlvs("vpce"), "tlvs: unknown TLV name 'vpce': use alpn, "},
		"no hexadecimal":         {tlvs("0xe1", "00", "5ecret"), "tlvs: 0xe1: value 2 is not hexadecimal: use pairs of digits such as 0aff"},
		"an empty placeholder":   {tlvs("0xe1", "00", "{empty}"), "tlvs: 0xe1: value 2: evaluated placeholder {empty} is empty: set it before Caddy loads the configuration"},
		"an empty value":         {tlvs("0xe1", ""), "tlvs: 0xe1: value 1 is empty"},
		"a name in two forms":    {Options{TLVs: map[string][]string{"0xea": nil, "0xEA": nil}}, "tlvs: 0xea: duplicate: write all values in one list"},
		"no keys":                {keys(), "signature.keys: missing: write at least one"},
		"a short key":            {keys(keyText, "{short}"), "signature.keys: key 2 has 6 bytes, but needs at least 16" + keygen},
		"no base64":              {keys("5ecret!"), "signature.keys: key 1 is not in base64" + keygen},
		"an empty key":           {keys(""), "signature.keys: key 1 has 0 bytes, but needs at least 16" + keygen},
		"an unknown placeholder": {keys("{5ecret}"), "signature.keys: key 1 is not in base64" + keygen},
		"an empty file":          {keys("{empty}"), "signature.keys: key 1: evaluated placeholder {empty} is empty: set it before Caddy loads the configuration"},
		"a short time":           {Options{Signature: &SignatureOptions{Keys: []string{keyText}}}, "signature.max_age: 0s is shorter than 1s: use a value such as 30s"},
		"a name of a TLV":        {Options{Signature: &SignatureOptions{Keys: []string{keyText}, TLV: "authority", MaxAge: DefaultMaxAge}}, "signature.tlv: 'authority' is not the number of a type: use one such as 0xe5"},
		"a type of another kind": {Options{Signature: &SignatureOptions{Keys: []string{keyText}, TLV: "0X20", MaxAge: DefaultMaxAge}}, "signature.tlv: '0X20' is not the number of a type: use one such as 0xe5"},
		"a defined type":         {Options{Signature: &SignatureOptions{Keys: []string{keyText}, TLV: "0x20", MaxAge: DefaultMaxAge}}, "signature.tlv: 0x20 is a type that the PROXY protocol specification defines: use one of 0xe0 to 0xef"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := test.options.Compile(expand)
			require.ErrorContains(t, err, test.err)
			assert.Nil(t, r)
			for _, secret := range []string{"5ecret", "c2VjcmV0", keyText} {
				assert.NotContains(t, err.Error(), secret)
			}
		})
	}
}

func TestParseType(t *testing.T) {
	for name, want := range map[string]wire.Type{"": 0xe5, "0xe5": 0xe5, "0xE0": 0xe0, "0x00": 0, "0xff": 0xff, "0xea": 0xea} {
		typ, err := ParseType(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, typ, name)
	}
	for _, name := range []string{"e5", "0xe", "0xe55", "229", "aws_vpce_id", "0xzz", " 0xe5", "0x01", "0x02", "0x03", "0x04", "0x05", "0x20", "0x30", strings.Repeat("a", 9)} {
		typ, err := ParseType(name)
		assert.ErrorContains(t, err, name)
		assert.Zero(t, typ)
	}
}

func TestOptions_Exceeds(t *testing.T) {
	tlvs := func(name string, values ...string) Options {
		return Options{TLVs: map[string][]string{name: values}}
	}
	for name, test := range map[string]struct {
		tcp, udp Options
		want     string
	}{
		"nothing":        {Options{}, Options{}, ""},
		"UDP only":       {Options{}, tlvs("0xe1"), ""},
		"the same":       {tlvs("0xe1", "00", "01"), tlvs("0xe1", "00", "01"), ""},
		"more over UDP":  {tlvs("0xe1"), Options{TLVs: map[string][]string{"0xe1": nil, "0xe2": nil}}, ""},
		"TCP only":       {tlvs("0xe1"), Options{}, "the same TLV 0xe1"},
		"another TLV":    {tlvs("0xe1"), tlvs("0xe2"), "the same TLV 0xe1"},
		"another value":  {tlvs("0xe1", "00"), tlvs("0xe1", "01"), "the same TLV 0xe1"},
		"no values":      {tlvs("0xe1", "00"), tlvs("0xe1"), "the same TLV 0xe1"},
		"a signature":    {Options{Signature: new(SignatureOptions)}, tlvs("0xe1"), "a signature"},
		"two signatures": {Options{Signature: new(SignatureOptions)}, Options{Signature: new(SignatureOptions)}, "a signature"},
	} {
		assert.Equal(t, test.want, test.tcp.Exceeds(test.udp), name)
	}
}

func TestCheckTLV(t *testing.T) {
	for _, values := range [][]string{nil, {"00", "5EC7"}, {"{env.TOKEN}", "00", "5e{env.TOKEN}"}} {
		name, err := CheckTLV("0xE1", values)
		require.NoError(t, err)
		assert.Equal(t, "0xe1", name)
	}
	_, err := CheckTLV("0xE1", []string{"{env.TOKEN}", "5ecret"})
	assert.EqualError(t, err, "value 2 of 0xe1 is not hexadecimal: use pairs of digits such as 0aff")
	_, err = CheckTLV("vpce", nil)
	assert.ErrorContains(t, err, "unknown TLV name 'vpce'")
}

func TestCheckKeys(t *testing.T) {
	assert.NoError(t, CheckKeys(nil))
	assert.NoError(t, CheckKeys([]string{keyText, "{env.KEY}", "{file./run/secrets/lb.key}"}))
	assert.EqualError(t, CheckKeys([]string{keyText, "5ecret"}), "key 2 is not in base64: make one with: caddy proxy-protocol keygen")
	assert.EqualError(t, CheckKeys([]string{"c2VjcmV0"}), "key 1 has 6 bytes, but needs at least 16: make one with: caddy proxy-protocol keygen")
}
