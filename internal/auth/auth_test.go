package auth

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// condition returns a condition on a TLV.
func condition(t testing.TB, name string, values ...string) *tlv.Condition {
	c, err := tlv.NewCondition(name, values)
	require.NoError(t, err)
	return c
}

// decoded returns the header and TLVs of bytes.
func decoded(t testing.TB, header string) (*wire.Header, wire.TLVs) {
	r := wire.Decode([]byte(header), wire.MaxSize)
	require.Equal(t, wire.Complete, r.State)
	return &r.Header, r.TLVs
}

const (
	token = "73657373696f6e20746f6b656e"             // required
	block = "\x01\x02\x03\x04\x05\x06\x07\x08PROXY " // of an address of any kind
)

func TestRequirement_Check(t *testing.T) {
	rawToken, err := hex.DecodeString(token)
	require.NoError(t, err)
	vpce := headertest.TextTLV(0xea, "\x01vpce-08d2bf15fac5001c9")
	good := headertest.TextTLV(0xe1, string(rawToken))
	sig := func(value string) wire.TLV { return headertest.TextTLV(DefaultType, value) }
	of := func(tlvs ...wire.TLV) string {
		return headertest.TextWith(*header(t, 2, client, server), nil, false, tlvs...)
	}
	endpoint := New([]*tlv.Condition{condition(t, "aws_vpce_id", "vpce-0a1b2c3d4e5f60718", "vpce-08d2bf15fac5001c9")}, nil)
	both := New([]*tlv.Condition{condition(t, "aws_vpce_id"), condition(t, "0xe1", "00ff", token)}, nil)
	signature := New(nil, newSignature(t, keyText))
	all := New([]*tlv.Condition{condition(t, "0xe1", token)}, newSignature(t, otherText, keyText))

	const (
		noVPCE    = "require tlv: the header has no aws_vpce_id"
		noToken   = "require tlv: the header has no 0xe1"
		badToken  = "require tlv: the value of 0xe1 is not one of those that are required"
		noSig     = "require signature: the header has no signature"
		badSig    = "require signature: the signature does not match: it was made with another key, or for other addresses"
		noAddrs   = "require signature: the header names no client by IP address, and only such headers can be signed"
		oldSig    = "require signature: the signature is 31 seconds old, but max_age is 30s: a replay, or the clock of the load balancer or of this machine is wrong"
		v1        = "require: a version 1 header cannot carry what is required: let the load balancer send version 2"
		stranger  = "require: the header names no client, and so carries nothing that is required; only peers in 'trusted_proxies' or in a range with a mode may send such a header: add the load balancer there, for its health checks"
		otherVPCE = "require tlv: aws_vpce_id is 'vpce-1', which is not one of those that are required"
	)
	for name, test := range map[string]struct {
		require *Requirement
		header  string
		listed  bool
		now     time.Time
		want    Method
		err     string
	}{
		"nothing required":                             {nil, of(), false, madeAt, None, ""},
		"nothing required of v1":                       {nil, headertest.V1(headertest.Client4, headertest.Server4), false, madeAt, None, ""},
		"nothing required of LOCAL":                    {nil, headertest.Local(), false, madeAt, None, ""},
		"a TLV of several":                             {endpoint, of(vpce), false, madeAt, TLV, ""},
		"no TLV":                                       {endpoint, of(), true, madeAt, None, noVPCE},
		"another value":                                {endpoint, of(headertest.TextTLV(0xea, "\x01vpce-1")), true, madeAt, None, otherVPCE},
		"control characters in another value":          {New([]*tlv.Condition{condition(t, "authority", "a")}, nil), of(headertest.TextTLV(2, "\x1b[2J")), true, madeAt, None, `require tlv: authority is '\x1b[2J', which is not one of those that are required`},
		"a long other value":                           {New([]*tlv.Condition{condition(t, "authority", "a")}, nil), of(headertest.TextTLV(2, strings.Repeat("b", 129))), true, madeAt, None, "require tlv: authority is '" + strings.Repeat("b", 128) + "...', which is not one of those that are required"},
		"a value of 128 bytes":                         {New([]*tlv.Condition{condition(t, "authority", "a")}, nil), of(headertest.TextTLV(2, strings.Repeat("b", 128))), true, madeAt, None, "require tlv: authority is '" + strings.Repeat("b", 128) + "', which is not one of those that are required"},
		"two TLVs":                                     {both, of(good, vpce), false, madeAt, TLV, ""},
		"the first of two TLVs only":                   {both, of(vpce), true, madeAt, None, noToken},
		"the second of two TLVs only":                  {both, of(good), true, madeAt, None, noVPCE},
		"a token that differs in the last byte":        {both, of(vpce, headertest.TextTLV(0xe1, "session tokeN")), true, madeAt, None, badToken},
		"a token that differs in the first byte":       {both, of(vpce, headertest.TextTLV(0xe1, "Session token")), true, madeAt, None, badToken},
		"a token that is a byte longer":                {both, of(vpce, headertest.TextTLV(0xe1, "session tokenn")), true, madeAt, None, badToken},
		"a token with a zero byte behind":              {both, of(vpce, headertest.TextTLV(0xe1, "session token\x00")), true, madeAt, None, badToken},
		"a token that is a byte shorter":               {both, of(vpce, headertest.TextTLV(0xe1, "session toke")), true, madeAt, None, badToken},
		"an empty token":                               {both, of(vpce, headertest.TextTLV(0xe1, "")), true, madeAt, None, badToken},
		"the token second":                             {both, of(vpce, headertest.TextTLV(0xe1, "x"), good), true, madeAt, None, badToken},
		"the token in hexadecimal":                     {both, of(vpce, headertest.TextTLV(0xe1, token)), true, madeAt, None, badToken},
		"a signature":                                  {signature, of(sig(signed)), false, madeAt, Signed, ""},
		"a signature 30 seconds old":                   {signature, of(sig(signed)), false, madeAt.Add(30 * time.Second), Signed, ""},
		"a signature 31 seconds old":                   {signature, of(sig(signed)), true, madeAt.Add(31 * time.Second), None, oldSig},
		"a signature from the future":                  {signature, of(sig(signed)), true, madeAt.Add(-time.Hour), None, "require signature: the signature is from 3600 seconds in the future, but max_age is 30s: the clock of the load balancer or of this machine is wrong"},
		"no signature":                                 {signature, of(), true, madeAt, None, noSig},
		"a signature of another key, old":              {New(nil, newSignature(t, otherText)), of(sig(signed)), true, madeAt.Add(time.Hour), None, badSig},
		"a signature and the token":                    {all, of(sig(signed), good), false, madeAt, Signed, ""},
		"a signature without the token":                {all, of(sig(signed)), true, madeAt, None, noToken},
		"the token without a signature":                {all, of(good), true, madeAt, None, noSig},
		"v1 with a client":                             {endpoint, headertest.V1(headertest.Client4, headertest.Server4), true, madeAt, None, v1},
		"v1 with a client, signature":                  {signature, headertest.V1(headertest.Client6, headertest.Server6), true, madeAt, None, v1},
		"v1 UNKNOWN of a listed peer":                  {all, headertest.Unknown(1), true, madeAt, None, ""},
		"v1 UNKNOWN of a stranger":                     {all, headertest.Unknown(1), false, madeAt, None, stranger},
		"v2 UNKNOWN of a listed peer":                  {all, headertest.Unknown(2), true, madeAt, None, ""},
		"v2 UNKNOWN of a stranger":                     {all, headertest.Unknown(2), false, madeAt, None, stranger},
		"LOCAL of a listed peer":                       {all, headertest.Local(), true, madeAt, None, ""},
		"LOCAL of a stranger":                          {all, headertest.Local(), false, madeAt, None, stranger},
		"LOCAL with family, of a stranger":             {endpoint, headertest.Raw(0x20, 0x11, block+block), false, madeAt, None, stranger},
		"half-unspecified family of a listed peer":     {all, headertest.Raw(0x21, 0x01, block+block), true, madeAt, None, ""},
		"half-unspecified family of a stranger":        {all, headertest.Raw(0x21, 0x01, block+block), false, madeAt, None, stranger},
		"half-unspecified transport of a listed peer":  {all, headertest.Raw(0x21, 0x10, block+block), true, madeAt, None, ""},
		"half-unspecified transport of a stranger":     {all, headertest.Raw(0x21, 0x10, block+block), false, madeAt, None, stranger},
		"a Unix socket with the TLV":                   {endpoint, headertest.Unix(vpce), false, madeAt, TLV, ""},
		"a Unix socket without the TLV":                {endpoint, headertest.Unix(), true, madeAt, None, noVPCE},
		"a Unix socket, which no signature can be for": {signature, headertest.Unix(sig(signed)), true, madeAt, None, noAddrs},
	} {
		t.Run(name, func(t *testing.T) {
			h, tlvs := decoded(t, test.header)
			proof, err := test.require.Check(h, tlvs, test.listed, test.now)
			assert.Equal(t, test.want, proof.Method)
			if test.err != "" {
				assert.EqualError(t, err, test.err)
				assert.Zero(t, proof)
				for _, secret := range []string{token, "oken", "session", signed, vectors[0].sum, keyText} {
					assert.NotContains(t, err.Error(), secret)
				}
				return
			}
			assert.NoError(t, err)
			assert.Equal(t, test.want != None, proof.Secrets != nil)
		})
	}
}

func TestRequirement_SecretsAreRawTLVsAndTheSignature(t *testing.T) {
	r := New([]*tlv.Condition{condition(t, "0xe1"), condition(t, "aws_vpce_id"), condition(t, "0x20", "00")}, newSignature(t, keyText))
	h, tlvs := decoded(t, headertest.TextWith(*header(t, 2, client, server), nil, false,
		headertest.TextTLV(0xe1, "x"), headertest.TextTLV(0xea, "\x01vpce-1"), headertest.TextTLV(0x20, "\x00"), headertest.TextTLV(DefaultType, signed)))
	proof, err := r.Check(h, tlvs, false, madeAt)
	require.NoError(t, err)
	for typ := range 256 {
		want := typ == 0xe1 || typ == 0x20 || typ == int(DefaultType)
		assert.Equal(t, want, proof.Secrets.Has(wire.Type(typ)), "0x%02x", typ)
	}
}

// A name whose type is required by its number is as secret as the number.
func TestRequirement_ErrorsDoNotShowASecretUnderAnotherName(t *testing.T) {
	r := New([]*tlv.Condition{condition(t, "alibaba_vpc_id", "vpc-1"), condition(t, "0xe1")}, nil)
	h, tlvs := decoded(t, headertest.WithTLVs(headertest.TextTLV(0xe1, "\x01secret-2")))
	_, err := r.Check(h, tlvs, false, madeAt)
	assert.EqualError(t, err, "require tlv: the value of alibaba_vpc_id is not one of those that are required")
}

func TestRequirement_TellsWhatItRequires(t *testing.T) {
	endpoint, secret := condition(t, "aws_vpce_id", "vpce-1"), condition(t, "0xE1", token)
	for name, test := range map[string]struct {
		require            *Requirement
		names              []string
		signature, secrets bool
	}{
		"nothing":     {nil, nil, false, false},
		"a TLV":       {New([]*tlv.Condition{endpoint}, nil), []string{"tlv aws_vpce_id"}, false, false},
		"a token":     {New([]*tlv.Condition{endpoint, secret}, nil), []string{"tlv aws_vpce_id", "tlv 0xe1"}, false, true},
		"a signature": {New(nil, newSignature(t, keyText)), []string{"signature in tlv 0xe5, max_age 30s"}, true, true},
		"both":        {New([]*tlv.Condition{secret}, newSignature(t, keyText)), []string{"tlv 0xe1", "signature in tlv 0xe5, max_age 30s"}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.names, test.require.Names())
			assert.Equal(t, test.signature, test.require.HasSignature())
			assert.Equal(t, test.secrets, test.require.HasSecrets())
		})
	}
}

func TestMethod_String(t *testing.T) {
	assert.Equal(t, []string{"", "tlv", "signature"}, []string{None.String(), TLV.String(), Signed.String()})
}
