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

func newCertificate(t testing.TB) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

// asTLVs returns the encoded form of TLVs.
func asTLVs(tlvs ...wire.TLV) wire.TLVs {
	var all wire.TLVs
	for _, tlv := range tlvs {
		all = append(all, byte(tlv.Type), byte(len(tlv.Value)>>8), byte(len(tlv.Value)))
		all = append(all, tlv.Value...)
	}
	return all
}

func TestParse_EncodeEveryName(t *testing.T) {
	cert := newCertificate(t)
	given := map[string]string{
		"alpn": "h2", "authority": "example.com", "unique_id": "\x00\x01", "netns": "blue",
		"ssl.version": "TLSv1.3", "ssl.cn": "größer", "ssl.cipher": "TLS_AES_128_GCM_SHA256",
		"ssl.sig_alg": "RSA-SHA256", "ssl.key_alg": "RSA2048", "ssl.group": "x25519",
		"ssl.sig_scheme": "rsa_pss_rsae_sha256", "ssl.client_cert": cert, "ssl.verified": "true",
		"ssl.verify_result": "0", "ssl.cert_conn": "false", "ssl.cert_sess": "true",
		"aws_vpce_id": "vpce-08d2bf15fac5001c9", "azure_private_endpoint_link_id": "4026531841",
		"gcp_psc_connection_id": "18446744073709551615", "alibaba_vpc_id": "vpc-bp1aevy8sofi8mh1qc5cm",
		"alibaba_endpoint_id": "ep-hp33b2e43fays7s8", "alibaba_endpoint_service_id": "epsrv-hp3vpx8yqxblby3i", "0xf0": "00ff",
	}
	var values []Value
	for _, name := range append(Names(), "0xf0") {
		require.Contains(t, given, name)
		values = append(values, Value{name, given[name]})
	}
	tlvs, err := Encode(values)
	require.NoError(t, err)

	named := Parse(asTLVs(tlvs...))
	for name, text := range given {
		assert.Equal(t, text, named.Values[name], name)
	}
	assert.Len(t, named.Shown, len(given)-3, "without what ssl.verified sums up")
	// All values of ssl share one TLV.
	assert.Len(t, tlvs, len(given)-11)
}

func TestParse_EncodeOneSSLName(t *testing.T) {
	for _, name := range Names() {
		if !strings.HasPrefix(name, "ssl.") {
			continue
		}
		text := "false"
		switch name {
		case "ssl.verify_result":
			text = "18"
		case "ssl.client_cert":
			text = newCertificate(t)
		case "ssl.version":
			text = "TLSv1.2"
		}
		tlvs, err := Encode([]Value{{name, text}})
		require.NoError(t, err, name)
		require.Len(t, tlvs, 1, name)
		described := Describe(tlvs[0])
		assert.Contains(t, described, Value{name, text})
		// A certificate counts as not verified unless a value says that it was.
		assert.Contains(t, described, Value{"ssl.verified", "false"})
	}
}

func TestParse_EncodeErrors(t *testing.T) {
	for _, test := range []struct {
		values []Value
		err    string
	}{
		{[]Value{{"alpen", "h2"}}, "unknown TLV name 'alpen': use alpn, authority"},
		{[]Value{{"0x1", ""}}, "unknown TLV name '0x1'"},
		{[]Value{{"0xzz", ""}}, "unknown TLV name '0xzz'"},
		{[]Value{{"0x", ""}}, "unknown TLV name '0x'"},
		{[]Value{{"0x0102", ""}}, "unknown TLV name '0x0102'"},
		{[]Value{{"ea", ""}}, "unknown TLV name 'ea'"},
		{[]Value{{"0xE0", "xyz"}}, "TLV '0xe0': the value must be in hexadecimal"},
		{[]Value{{"alpn", "h2"}, {"alpn", "h3"}}, "duplicate TLV 'alpn': remove one"},
		{[]Value{{"ssl.verified", "yes"}}, "TLV 'ssl.verified': the value must be true or false"},
		{[]Value{{"ssl.cert_conn", ""}}, "TLV 'ssl.cert_conn': the value must be true or false"},
		{[]Value{{"ssl.cert_sess", "True"}}, "TLV 'ssl.cert_sess': the value must be true or false"},
		{[]Value{{"ssl.verify_result", "4294967296"}}, "TLV 'ssl.verify_result': the value must be a decimal number of 32 bits"},
		{[]Value{{"ssl.verified", "true"}, {"ssl.verify_result", "18"}}, "TLV 'ssl.verified' contradicts ssl.verify_result, ssl.cert_conn or ssl.cert_sess: leave it out"},
		{[]Value{{"ssl.cert_conn", "false"}, {"ssl.verified", "true"}}, "TLV 'ssl.verified' contradicts"},
		{[]Value{{"ssl.verified", "false"}, {"ssl.cert_sess", "true"}, {"ssl.verify_result", "0"}}, "TLV 'ssl.verified' contradicts"},
		{[]Value{{"ssl.cn", strings.Repeat("x", 1<<16)}}, "TLV 'ssl.cn': the value must not be longer than 65535 bytes"},
		{[]Value{{"ssl.client_cert", ""}}, "TLV 'ssl.client_cert': the value must not be empty"},
		{[]Value{{"ssl.client_cert.subject", "CN=a"}}, "TLV 'ssl.client_cert.subject' is part of ssl.client_cert: use ssl.client_cert instead"},
		{[]Value{{"ssl.client_cert.san.ips.0", "::1"}}, "TLV 'ssl.client_cert.san.ips.0' is part of ssl.client_cert: use ssl.client_cert instead"},
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

func TestParse_Name(t *testing.T) {
	named := Parse(asTLVs(
		wire.TLV{Type: wire.TypeNoop, Value: []byte("pad")},
		wire.TLV{Type: wire.TypeAuthority, Value: []byte("first")},
		wire.TLV{Type: wire.TypeAuthority, Value: []byte("second")},
		wire.TLV{Type: 0xee, Value: []byte("\x02")},
		wire.TLV{Type: wire.TypeSSL, Value: []byte("bad")},
		wire.TLV{Type: 0xea, Value: []byte("\x01not an ID")},
		wire.TLV{Type: wire.TypeCRC32C, Value: []byte("1234")},
		wire.TLV{Type: 0xf1},
		wire.TLV{Type: 0xee, Value: []byte("\x01\x07\x00\x00\x00")},
		wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")},
	))
	assert.Equal(t, "first", named.Values["authority"], "of repeated types the first counts")
	assert.Equal(t, hex.EncodeToString([]byte("first")), named.Values["0x02"])
	assert.Equal(t, []string{"authority", "azure_private_endpoint_link_id", "ssl.verified", "0xea", "0xf1"}, named.Shown)
	assert.Equal(t, "7", named.Values["azure_private_endpoint_link_id"])
	assert.Equal(t, "02", named.Values["0xee"], "the first of the type, whatever its subtype")
	assert.Equal(t, "false", named.Values["ssl.verified"])
	assert.Empty(t, Parse(nil).Shown)
}

func TestParse_EncodeSSL(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []Value
		want   string
	}{
		{"verified", []Value{{"ssl.verified", "true"}}, "\x02\x00\x00\x00\x00"},
		{"not verified", []Value{{"ssl.verified", "false"}}, "\x00\x00\x00\x00\x01"},
		{"a version", []Value{{"ssl.version", "x"}}, "\x01\x00\x00\x00\x01\x21\x00\x01x"},
		{"a name", []Value{{"ssl.cn", "x"}}, "\x02\x00\x00\x00\x01\x22\x00\x01x"},
		{"a certificate", []Value{{"ssl.client_cert", "MAA="}}, "\x02\x00\x00\x00\x01\x28\x00\x020\x00"},
		{"a cipher", []Value{{"ssl.cipher", "x"}}, "\x00\x00\x00\x00\x01\x23\x00\x01x"},
		{"a resumed session", []Value{{"ssl.cn", "x"}, {"ssl.cert_sess", "true"}, {"ssl.cert_conn", "false"}, {"ssl.verified", "true"}, {"ssl.verify_result", "0"}}, "\x04\x00\x00\x00\x00\x22\x00\x01x"},
		{"a failure", []Value{{"ssl.verify_result", "18"}, {"ssl.cert_conn", "true"}, {"ssl.verified", "false"}}, "\x02\x00\x00\x00\x12"},
		{"no certificate, as HAProxy says it", []Value{{"ssl.verify_result", "0"}, {"ssl.verified", "false"}}, "\x00\x00\x00\x00\x00"},
		{"the longest name", []Value{{"ssl.cn", strings.Repeat("x", 1<<16-1)}}, "\x02\x00\x00\x00\x01\x22\xff\xff" + strings.Repeat("x", 1<<16-1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			tlvs, err := Encode(test.values)
			require.NoError(t, err)
			assert.Equal(t, []wire.TLV{{Type: wire.TypeSSL, Value: []byte(test.want)}}, tlvs)
		})
	}
}

func TestParse_NameCountsTheFirstOfEachSubtype(t *testing.T) {
	const good = "\x01vpce-1"
	for _, test := range []struct {
		name   string
		values []string
		want   string
	}{
		{"alone", []string{good}, "vpce-1"},
		{"behind another subtype", []string{"\x02vpce-2", good}, "vpce-1"},
		{"behind another subtype that is empty", []string{"\x02", good}, "vpce-1"},
		{"behind no subtype", []string{"", good}, "vpce-1"},
		{"behind subtype 0", []string{"\x00", good}, "vpce-1"},
		{"behind itself", []string{good, "\x01vpce-2"}, "vpce-1"},
		{"behind itself, empty", []string{"\x01", good}, ""},
		{"behind itself, broken", []string{"\x01?", good}, ""},
	} {
		var tlvs []wire.TLV
		for _, value := range test.values {
			tlvs = append(tlvs, wire.TLV{Type: 0xea, Value: []byte(value)})
		}
		n := Parse(asTLVs(tlvs...))
		assert.Equal(t, test.want, n.Text("aws_vpce_id"), test.name)
		assert.Equal(t, test.want != "", n.Has("aws_vpce_id", nil), test.name)
		assert.Equal(t, hex.EncodeToString([]byte(test.values[0])), n.Text("0xea"), test.name)
	}
}

func TestParse_VendorTLVsOfAnotherForm(t *testing.T) {
	for _, tlv := range []wire.TLV{
		{Type: 0xea, Value: []byte("\x01")}, {Type: 0xee, Value: []byte("\x01\x00\x00\x00")}, {Type: 0xee, Value: []byte("\x01\x00\x00\x00\x00\x00")},
		{Type: 0xe0, Value: []byte("\x00\x00\x00\x00\x00\x00\x00")}, {Type: 0xe0}, {Type: 0xe1}, {Type: 0xe1, Value: []byte("\x01")},
	} {
		assert.Empty(t, Describe(tlv), "%v", tlv)
	}
}

func TestParse_AlibabaIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"vpc-bp1": true, "A-Z": true, "az": true, "09": true, "-": true,
		"": false, "@": false, "[": false, "`": false, "{": false, "/": false, ":": false, "vpc_1": false,
		"vpc 1": false, "vpc-1\n": false, "\x00": false, "vpc-\xe1": false, "vpc-\xc1": false,
	} {
		values := Describe(wire.TLV{Type: 0xe1, Value: []byte("\x01" + id)})
		if ok {
			assert.Equal(t, []Value{{"alibaba_vpc_id", id}}, values)
		} else {
			assert.Empty(t, values, "%q", id)
		}
	}
	for _, subtype := range []string{"\x00", "\x04", "\xff"} {
		assert.Empty(t, Describe(wire.TLV{Type: 0xe1, Value: []byte(subtype + "vpc-1")}))
	}
}

func TestParse_ParseName(t *testing.T) {
	for _, name := range Names() {
		parsed, err := ParseName(name)
		require.NoError(t, err)
		assert.Equal(t, name, parsed)
	}
	for _, name := range append(CertificateNames(), "ssl.client_cert.san.ips.0", "ssl.client_cert.san.dns_names.17") {
		parsed, err := ParseName(name)
		require.NoError(t, err)
		assert.Equal(t, name, parsed)
	}
	for _, name := range []string{
		"", ".", ".0", "ssl", "ssl.", "ssl.client_cert.", "ssl.client_cert.0", "ssl.client_cert.subject.0", "ssl.client_cert.san.ips.", "ssl.client_cert.san.ips0", "ssl.client_cert.san.ips.00",
		"ssl.client_cert.san.ips.-0", "ssl.client_cert.san.ips.-1", "ssl.client_cert.san.ips.+1", "ssl.client_cert.san.ips.1.1", "ssl.client_cert.san.ips.99999999999999999999",
	} {
		_, err := ParseName(name)
		assert.ErrorContains(t, err, "unknown TLV name '"+name+"': use alpn, ", name)
	}
	parsed, err := ParseName("0xEA")
	require.NoError(t, err)
	assert.Equal(t, "0xea", parsed)

	taken := Names()
	slices.Reverse(taken)
	assert.NotEqual(t, taken, Names(), "what a caller does to the names changes nothing")
}

func TestNamed_HasRawValueInConstantTime(t *testing.T) {
	n := Parse(asTLVs(wire.TLV{Type: 0xe1, Value: []byte{0x0a, 0xff}}))
	for _, test := range []struct {
		values []string
		want   bool
	}{
		{nil, true}, {[]string{"0aff"}, true}, {[]string{"00", "0aff"}, true}, {[]string{"0aff", "00"}, true}, {[]string{"0aff", "0aff"}, true},
		{[]string{"0afe"}, false}, {[]string{"0aff00"}, false}, {[]string{"0a"}, false}, {[]string{""}, false},
	} {
		assert.Equal(t, test.want, n.Has("0xe1", test.values), test.values)
		assert.Zero(t, testing.AllocsPerRun(100, func() { n.Has("0xe1", test.values) }))
		assert.False(t, n.Has("0xe2", test.values))
	}
}
