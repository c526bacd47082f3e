package tlv

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func certificate(t testing.TB) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

// asTLVs is the encoded form of TLVs.
func asTLVs(tlvs ...wire.TLV) wire.TLVs {
	var all wire.TLVs
	for _, tlv := range tlvs {
		all = append(all, byte(tlv.Type), byte(len(tlv.Value)>>8), byte(len(tlv.Value)))
		all = append(all, tlv.Value...)
	}
	return all
}

func TestEncodeEveryName(t *testing.T) {
	cert := certificate(t)
	given := map[string]string{
		"alpn": "h2", "authority": "example.com", "unique_id": "\x00\x01", "netns": "blue",
		"ssl.version": "TLSv1.3", "ssl.cn": "größer", "ssl.cipher": "TLS_AES_128_GCM_SHA256",
		"ssl.sig_alg": "RSA-SHA256", "ssl.key_alg": "RSA2048", "ssl.group": "x25519",
		"ssl.sig_scheme": "rsa_pss_rsae_sha256", "ssl.client_cert": cert, "ssl.verified": "true",
		"aws_vpce_id": "vpce-08d2bf15fac5001c9", "azure_private_endpoint_link_id": "4026531841",
		"gcp_psc_connection_id": "18446744073709551615", "0xf0": "00ff",
	}
	var values []Value
	for _, name := range append(Names(), "0xf0") {
		require.Contains(t, given, name)
		values = append(values, Value{name, given[name]})
	}
	tlvs, err := Encode(values)
	require.NoError(t, err)

	named := Name(asTLVs(tlvs...))
	for name, text := range given {
		assert.Equal(t, text, named.Values[name], name)
	}
	assert.Len(t, named.Telling, len(given))
	// All of ssl is one TLV.
	assert.Len(t, tlvs, len(given)-8)
}

func TestEncodeOneSSLName(t *testing.T) {
	for _, name := range Names() {
		if !strings.HasPrefix(name, "ssl.") {
			continue
		}
		text := "false"
		switch name {
		case "ssl.client_cert":
			text = certificate(t)
		case "ssl.version":
			text = "TLSv1.2"
		}
		tlvs, err := Encode([]Value{{name, text}})
		require.NoError(t, err, name)
		require.Len(t, tlvs, 1, name)
		described := Describe(tlvs[0])
		assert.Contains(t, described, Value{name, text})
		// Nothing vouches for a certificate that nobody said was verified.
		assert.Contains(t, described, Value{"ssl.verified", "false"})
	}
}

func TestEncodeErrors(t *testing.T) {
	for _, test := range []struct {
		values []Value
		err    string
	}{
		{[]Value{{"alpen", "h2"}}, "unknown TLV name 'alpen': use alpn, authority"},
		{[]Value{{"0x1", ""}}, "unknown TLV name '0x1'"},
		{[]Value{{"0xzz", ""}}, "unknown TLV name '0xzz'"},
		{[]Value{{"0xE0", "xyz"}}, "TLV '0xe0': the value must be in hexadecimal"},
		{[]Value{{"alpn", "h2"}, {"alpn", "h3"}}, "TLV 'alpn' is given twice"},
		{[]Value{{"ssl.verified", "yes"}}, "TLV 'ssl.verified': the value must be true or false"},
		{[]Value{{"ssl.cn", ""}}, "TLV 'ssl.cn': the value must not be empty"},
		{[]Value{{"ssl.client_cert", "%"}}, "TLV 'ssl.client_cert': the value must be a certificate: its DER form in base64"},
		{[]Value{{"azure_private_endpoint_link_id", "4294967296"}}, "TLV 'azure_private_endpoint_link_id': the value must be a decimal number of 32 bits"},
		{[]Value{{"gcp_psc_connection_id", "-1"}}, "TLV 'gcp_psc_connection_id': the value must be a decimal number of 64 bits"},
	} {
		_, err := Encode(test.values)
		assert.ErrorContains(t, err, test.err)
	}
	tlvs, err := Encode([]Value{{"0xF0", "01"}, {"0xf0", ""}})
	require.NoError(t, err, "types in hexadecimal may repeat")
	assert.Equal(t, []wire.TLV{{Type: 0xf0, Value: []byte{1}}, {Type: 0xf0, Value: []byte{}}}, tlvs)
}

func TestName(t *testing.T) {
	named := Name(asTLVs(
		wire.TLV{Type: wire.TypeNoop, Value: []byte("pad")},
		wire.TLV{Type: wire.TypeAuthority, Value: []byte("first")},
		wire.TLV{Type: wire.TypeAuthority, Value: []byte("second")},
		wire.TLV{Type: wire.TypeSSL, Value: []byte("bad")},
		wire.TLV{Type: 0xea, Value: []byte("\x01not an ID")},
		wire.TLV{Type: wire.TypeCRC32C, Value: []byte("1234")},
		wire.TLV{Type: 0xf1},
	))
	assert.Equal(t, "first", named.Values["authority"], "of repeated types the first counts")
	assert.Equal(t, hex.EncodeToString([]byte("first")), named.Values["0x02"])
	assert.Equal(t, []string{"authority", "0x20", "0xea", "0xf1"}, named.Telling)
}

func TestParseName(t *testing.T) {
	for _, name := range Names() {
		parsed, err := ParseName(name)
		require.NoError(t, err)
		assert.Equal(t, name, parsed)
	}
	parsed, err := ParseName("0xEA")
	require.NoError(t, err)
	assert.Equal(t, "0xea", parsed)

	taken := Names()
	slices.Reverse(taken)
	assert.NotEqual(t, taken, Names(), "what a caller does to the names changes nothing")
}
