package tlv

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestCondition_Holds(t *testing.T) {
	der := signed(t, &x509.Certificate{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.test", "b.test"}})
	aws := func(value string) wire.TLV { return wire.TLV{Type: 0xea, Value: []byte(value)} }
	raw := func(value string) wire.TLV { return wire.TLV{Type: 0xe5, Value: []byte(value)} }
	for name, test := range map[string]struct {
		name   string
		values []string
		tlvs   wire.TLVs
		want   bool
	}{
		"equal":                                {"aws_vpce_id", []string{"vpce-1"}, asTLVs(aws("\x01vpce-1")), true},
		"equal to the last":                    {"aws_vpce_id", []string{"vpce-2", "vpce-1"}, asTLVs(aws("\x01vpce-1")), true},
		"equal to the first":                   {"aws_vpce_id", []string{"vpce-1", "vpce-2"}, asTLVs(aws("\x01vpce-1")), true},
		"longer":                               {"aws_vpce_id", []string{"vpce-1"}, asTLVs(aws("\x01vpce-12")), false},
		"shorter":                              {"aws_vpce_id", []string{"vpce-1"}, asTLVs(aws("\x01vpce-")), false},
		"of another subtype":                   {"aws_vpce_id", []string{"vpce-1"}, asTLVs(aws("\x02vpce-1")), false},
		"behind another subtype":               {"aws_vpce_id", []string{"vpce-1"}, asTLVs(aws("\x02x"), aws(""), aws("\x01vpce-1")), true},
		"behind the same subtype":              {"aws_vpce_id", []string{"vpce-1"}, asTLVs(aws("\x01vpce-2"), aws("\x01vpce-1")), false},
		"behind a malformed one":               {"aws_vpce_id", nil, asTLVs(aws("\x01 "), aws("\x01vpce-1")), false},
		"any":                                  {"aws_vpce_id", nil, asTLVs(aws("\x01vpce-1")), true},
		"any, malformed":                       {"aws_vpce_id", nil, asTLVs(aws("\x01")), false},
		"any, absent":                          {"aws_vpce_id", nil, asTLVs(raw("x")), false},
		"no TLVs":                              {"aws_vpce_id", nil, nil, false},
		"Azure":                                {"azure_private_endpoint_link_id", []string{"67108864"}, asTLVs(wire.TLV{Type: 0xee, Value: []byte("\x01\x00\x00\x00\x04")}), true},
		"Azure, another":                       {"azure_private_endpoint_link_id", []string{"67108864"}, asTLVs(wire.TLV{Type: 0xee, Value: []byte("\x01\x01\x00\x00\x04")}), false},
		"GCP":                                  {"gcp_psc_connection_id", []string{"1", "18446744073709551615"}, asTLVs(wire.TLV{Type: 0xe0, Value: []byte("\xff\xff\xff\xff\xff\xff\xff\xff")}), true},
		"Alibaba, second subtype":              {"alibaba_endpoint_id", []string{"ep-1"}, asTLVs(wire.TLV{Type: 0xe1, Value: []byte("\x01vpc-1")}, wire.TLV{Type: 0xe1, Value: []byte("\x02ep-1")}), true},
		"text":                                 {"authority", []string{"a.test"}, asTLVs(wire.TLV{Type: 2, Value: []byte("a.test")}), true},
		"raw":                                  {"0xe5", []string{"00FF"}, asTLVs(raw("\x00\xff")), true},
		"raw, name in upper case":              {"0xE5", []string{"00ff"}, asTLVs(raw("\x00\xff")), true},
		"raw, another last byte":               {"0xe5", []string{"00ff"}, asTLVs(raw("\x00\xfe")), false},
		"raw, second":                          {"0xe5", []string{"00ff"}, asTLVs(raw("\x00"), raw("\x00\xff")), false},
		"raw, any":                             {"0xe5", nil, asTLVs(raw("")), true},
		"raw, absent":                          {"0xe5", nil, asTLVs(aws("\x01vpce-1")), false},
		"raw of a type with subtypes":          {"0xea", []string{"0278"}, asTLVs(aws("\x02x"), aws("\x01vpce-1")), true},
		"raw of a type with subtypes, second":  {"0xea", []string{"0278"}, asTLVs(aws("\x01vpce-1"), aws("\x02x")), false},
		"raw SSL":                              {"0x20", []string{"0100000000"}, asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x01\x00\x00\x00\x00")}), true},
		"raw SSL, another":                     {"0x20", []string{"0100000000"}, asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x03\x00\x00\x00\x00")}), false},
		"a part of SSL":                        {"ssl.verified", []string{"true"}, asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x03\x00\x00\x00\x00")}), true},
		"a part of SSL, another":               {"ssl.verified", []string{"true"}, asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x03\x00\x00\x00\x01")}), false},
		"a part of SSL, no SSL":                {"ssl.verified", []string{"false"}, nil, false},
		"a part of the second SSL":             {"ssl.verified", []string{"true"}, asTLVs(wire.TLV{Type: 0x20}, wire.TLV{Type: 0x20, Value: []byte("\x03\x00\x00\x00\x00")}), false},
		"a name in the certificate":            {"ssl.client_cert.san.dns_names", []string{"b.test"}, withCertificate(der), true},
		"another name than in the certificate": {"ssl.client_cert.san.dns_names", []string{"c.test"}, withCertificate(der), false},
		"an item of the certificate":           {"ssl.client_cert.san.dns_names.1", []string{"b.test"}, withCertificate(der), true},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := NewCondition(test.name, test.values)
			require.NoError(t, err)
			assert.Equal(t, test.want, c.Holds(test.tlvs))
			name, err := ParseName(test.name)
			require.NoError(t, err)
			var values []string
			for _, value := range test.values {
				if c.Secret() {
					value = strings.ToLower(value)
				}
				values = append(values, value)
			}
			assert.Equal(t, test.want, Parse(test.tlvs).Has(name, values), "a matcher says the same")
		})
	}
}

func TestCondition_Found(t *testing.T) {
	der := signed(t, &x509.Certificate{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.test", "b.test"}})
	tlvs := append(asTLVs(wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")}, wire.TLV{Type: 0xe5, Value: []byte("secret")}, wire.TLV{Type: 0xee}), withCertificate(der)...)
	for name, want := range map[string]string{
		"aws_vpce_id": "vpce-1", "0xea": Redacted, "0xe5": Redacted, "ssl.client_cert.san.dns_names": "a.test b.test", "ssl.client_cert.san.dns_names.1": "b.test",
	} {
		c, err := NewCondition(name, nil)
		require.NoError(t, err)
		text, ok := c.Found(tlvs)
		assert.True(t, ok, name)
		assert.Equal(t, want, text, name)
	}
	for _, name := range []string{"authority", "0xe6", "azure_private_endpoint_link_id", "ssl.cn", "ssl.client_cert.san.uris", "gcp_psc_connection_id"} {
		c, err := NewCondition(name, nil)
		require.NoError(t, err)
		text, ok := c.Found(tlvs)
		assert.False(t, ok, name)
		assert.Empty(t, text, name)
	}
}

func TestNewCondition_TellsItsNameAndType(t *testing.T) {
	for name, want := range map[string]wire.Type{
		"alpn": 1, "authority": 2, "unique_id": 5, "netns": 0x30, "ssl.cn": 0x20, "ssl.client_cert.subject": 0x20, "aws_vpce_id": 0xea,
		"azure_private_endpoint_link_id": 0xee, "gcp_psc_connection_id": 0xe0, "alibaba_vpc_id": 0xe1, "0xfe": 0xfe, "0x20": 0x20,
	} {
		c, err := NewCondition(name, nil)
		require.NoError(t, err, name)
		assert.Equal(t, name, c.Name())
		assert.Equal(t, want, c.Type(), name)
		assert.Equal(t, strings.HasPrefix(name, "0x"), c.Secret(), name)
	}
}

func TestNewCondition_RefusesValuesThatNoHeaderHas(t *testing.T) {
	const hexadecimal = "is not hexadecimal: use pairs of digits such as 0aff"
	const form = "is not in the form of this TLV, so that no header can have it"
	for name, test := range map[string]struct {
		name   string
		values []string
		err    string
	}{
		"an unknown name":         {"aws", nil, "unknown TLV name 'aws'"},
		"half a byte":             {"0xe1", []string{"00", "5ec7e7b"}, "0xe1: value 2 " + hexadecimal},
		"text":                    {"0xE1", []string{"secret"}, "0xe1: value 1 " + hexadecimal},
		"a placeholder":           {"0xe1", []string{"{env.SECRET}"}, "0xe1: value 1 " + hexadecimal},
		"empty":                   {"0xe1", []string{""}, "0xe1: value 1 is empty"},
		"empty text":              {"authority", []string{""}, "authority: value 1 is empty"},
		"empty part of SSL":       {"ssl.cn", []string{"a", ""}, "ssl.cn: value 2 is empty"},
		"another form of an ID":   {"aws_vpce_id", []string{"vpce 1"}, "aws_vpce_id: value 1 " + form},
		"a name for a number":     {"azure_private_endpoint_link_id", []string{"secret"}, "azure_private_endpoint_link_id: value 1 " + form},
		"a leading zero":          {"azure_private_endpoint_link_id", []string{"007"}, "azure_private_endpoint_link_id: value 1 " + form},
		"33 bits":                 {"azure_private_endpoint_link_id", []string{"4294967296"}, "azure_private_endpoint_link_id: value 1 " + form},
		"another form, Alibaba's": {"alibaba_vpc_id", []string{"vpc_1"}, "alibaba_vpc_id: value 1 " + form},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := NewCondition(test.name, test.values)
			require.ErrorContains(t, err, test.err)
			assert.Nil(t, c)
			assert.NotContains(t, err.Error(), "secret")
			assert.NotContains(t, err.Error(), "5ec7")
		})
	}
}

func TestCondition_AllocatesNothing(t *testing.T) {
	tlvs := asTLVs(wire.TLV{Type: 0xea, Value: []byte("\x02x")}, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")}, wire.TLV{Type: 0xe5, Value: []byte("secret")})
	vpce, err := NewCondition("aws_vpce_id", []string{"vpce-2", "vpce-1"})
	require.NoError(t, err)
	secret, err := NewCondition("0xe5", []string{"5ec7", hex.EncodeToString([]byte("secret"))})
	require.NoError(t, err)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if !vpce.Holds(tlvs) || !secret.Holds(tlvs) {
			panic("they do not hold")
		}
	}))
}

func TestParseRedacting_ShowsNoSecret(t *testing.T) {
	der := signed(t, &x509.Certificate{Subject: pkix.Name{CommonName: "secretive"}, DNSNames: []string{"secret.test"}})
	tlvs := append(asTLVs(
		wire.TLV{Type: 0xe1, Value: []byte("\x01secret")},
		wire.TLV{Type: 0xe1, Value: []byte("\x02secret")},
		wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")},
		wire.TLV{Type: 2, Value: []byte("a.test")},
	), withCertificate(der)...)
	secret := new(Types)
	secret.Add(0xe1)
	secret.Add(wire.TypeSSL)
	open, n := Parse(tlvs), ParseRedacting(tlvs, secret)

	assert.Equal(t, open.Shown, n.Shown)
	assert.ElementsMatch(t, keysOf(open.Values), keysOf(n.Values))
	for name, text := range n.Values {
		switch name {
		case "0xea", "aws_vpce_id", "0x02", "authority":
			assert.Equal(t, open.Values[name], text, name)
		default:
			assert.Equal(t, Redacted, text, name)
		}
		assert.Equal(t, n.Values[name], n.Text(name))
	}
	for _, name := range []string{"ssl.client_cert.subject", "ssl.client_cert.fingerprint", "ssl.client_cert.san.dns_names.0"} {
		assert.NotEmpty(t, open.Text(name))
		assert.Equal(t, Redacted, n.Text(name))
	}
	assert.Empty(t, n.Text("ssl.client_cert.san.dns_names.1"))
	assert.Equal(t, []string{Redacted}, n.List("ssl.client_cert.san.dns_names"))
	assert.Empty(t, n.List("ssl.client_cert.san.uris"))

	// Matchers compare with the value.
	for name, value := range map[string]string{
		"0xe1": hex.EncodeToString([]byte("\x01secret")), "alibaba_vpc_id": "secret", "alibaba_endpoint_id": "secret", "aws_vpce_id": "vpce-1",
		"ssl.client_cert.subject": "CN=secretive", "ssl.client_cert.san.dns_names": "secret.test", "ssl.client_cert.san.dns_names.0": "secret.test",
	} {
		assert.True(t, n.Has(name, nil), name)
		assert.True(t, n.Has(name, []string{"x", value}), name)
		assert.False(t, n.Has(name, []string{Redacted}), name)
		assert.False(t, n.Has(name, []string{value + "x"}), name)
	}
	assert.False(t, n.Has("alibaba_endpoint_service_id", nil))
}

func keysOf(m map[string]string) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

func TestTypes_NilIsEmpty(t *testing.T) {
	var none *Types
	assert.False(t, none.Has(0xe5))
	assert.False(t, new(Types).Has(0xe5))
}

func TestTypes_Contains(t *testing.T) {
	one, two := new(Types), new(Types)
	one.Add(0xe5)
	two.Add(0xe5)
	two.Add(0xff)
	for _, test := range []struct {
		types, other *Types
		want         bool
	}{
		{nil, nil, true}, {nil, new(Types), true}, {one, nil, true}, {one, one, true}, {two, one, true},
		{nil, one, false}, {one, two, false}, {new(Types), one, false},
	} {
		assert.Equal(t, test.want, test.types.Contains(test.other))
	}
}

// FuzzCondition compares conditions on any TLVs with what a matcher makes of them.
func FuzzCondition(f *testing.F) {
	f.Add([]byte(asTLVs(wire.TLV{Type: 0xea, Value: []byte("\x02x")}, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")})), uint8(16), "vpce-1")
	f.Add([]byte(asTLVs(wire.TLV{Type: 0xee, Value: []byte("\x01\x00\x00\x00\x04")})), uint8(17), "67108864")
	f.Add([]byte(asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x07\x00\x00\x00\x00\x22\x00\x01a")})), uint8(5), "a")
	f.Add([]byte(asTLVs(wire.TLV{Type: 0xe5, Value: []byte("\xff")})), uint8(22), "ff")
	f.Add([]byte{0xe5, 0, 9}, uint8(22), "")
	all := append(Names(), "0xe5", "0xea", "0x20")
	f.Fuzz(func(t *testing.T, raw []byte, which uint8, value string) {
		name := all[int(which)%len(all)]
		parsed := Parse(raw)
		anyValue, err := NewCondition(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := anyValue.Holds(raw), parsed.Has(name, nil); got != want {
			t.Fatalf("any %s of %x: %v, but the matcher says %v", name, raw, got, want)
		}
		for _, value := range []string{value, parsed.Text(name)} {
			c, err := NewCondition(name, []string{value})
			if anyValue.Secret() {
				value = strings.ToLower(value)
			}
			want := parsed.Has(name, []string{value})
			if err != nil {
				if want && value != "" {
					t.Fatalf("%s: %v, but a header has %q", name, err, value)
				}
				continue
			}
			if got := c.Holds(raw); got != want {
				t.Fatalf("%s %q of %x: %v, but the matcher says %v", name, value, raw, got, want)
			}
		}
	})
}
