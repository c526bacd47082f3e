package tlv

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// signed returns the DER form of a self-signed certificate.
func signed(t testing.TB, template *x509.Certificate) []byte {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(1)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	require.NoError(t, err)
	return der
}

// withCertificate returns an SSL TLV with a certificate.
func withCertificate(der []byte) wire.TLVs {
	value := append([]byte("\x07\x00\x00\x00\x00"), asTLVs(wire.TLV{Type: 0x28, Value: der})...)
	return asTLVs(wire.TLV{Type: wire.TypeSSL, Value: value})
}

func TestCertificate_FieldsOfACertificate(t *testing.T) {
	der := signed(t, &x509.Certificate{
		SerialNumber: big.NewInt(4711),
		Subject:      pkix.Name{CommonName: "a"},
		DNSNames:     []string{"a.test", "b.test"},
		IPAddresses:  []net.IP{net.IPv4(203, 0, 113, 7)},
		URIs:         []*url.URL{{Scheme: "urn", Opaque: "x"}},
	})
	n := Parse(withCertificate(der))
	for name, want := range map[string]string{
		"ssl.client_cert.fingerprint":     fmt.Sprintf("%x", sha256.Sum256(der)),
		"ssl.client_cert.subject":         "CN=a",
		"ssl.client_cert.issuer":          "CN=a",
		"ssl.client_cert.serial":          "4711",
		"ssl.client_cert.san.dns_names.0": "a.test",
		"ssl.client_cert.san.dns_names.1": "b.test",
		"ssl.client_cert.san.ips.0":       "203.0.113.7",
		"ssl.client_cert.san.uris.0":      "urn:x",
	} {
		assert.Equal(t, want, n.Text(name), name)
		assert.Nil(t, n.List(name), name)
		assert.True(t, n.Has(name, nil), name)
		assert.True(t, n.Has(name, []string{"x", want}), name)
		assert.False(t, n.Has(name, []string{"x"}), name)
	}
	for name, want := range map[string][]string{
		"ssl.client_cert.san.dns_names": {"a.test", "b.test"},
		"ssl.client_cert.san.ips":       {"203.0.113.7"},
		"ssl.client_cert.san.uris":      {"urn:x"},
	} {
		assert.Equal(t, want, n.List(name), name)
		assert.Empty(t, n.Text(name), name)
		assert.True(t, n.Has(name, nil), name)
		for _, item := range want {
			assert.True(t, n.Has(name, []string{"x", item}), name)
		}
		assert.False(t, n.Has(name, []string{"x", ""}), name)
	}
	for _, name := range []string{
		"ssl.client_cert.san.emails", "ssl.client_cert.san.emails.0", "ssl.client_cert.san.dns_names.2",
		"ssl.client_cert.subject.0", "ssl.client_cert.nonsense", "nonsense", "",
	} {
		assert.Empty(t, n.Text(name), name)
		assert.Nil(t, n.List(name), name)
		assert.False(t, n.Has(name, nil), name)
		assert.False(t, n.Has(name, []string{""}), name)
	}
	assert.True(t, n.Has("ssl.verified", []string{"true"}))
	assert.False(t, n.Has("ssl.verified", []string{"false"}))
}

func TestCertificate_FieldsOfCertificatesWithinLimits(t *testing.T) {
	const rdnSize = 2 + 2 + 2 + 5 + 4 // SEQUENCE, SET, SEQUENCE, OID, and the head of text
	name := func(size int) pkix.Name {
		return pkix.Name{CommonName: strings.Repeat("x", size)}
	}
	sizeOf := func(n pkix.Name) int {
		der := signed(t, &x509.Certificate{Subject: n})
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return len(cert.RawSubject)
	}
	longest := maxNameSize - rdnSize
	for sizeOf(name(longest)) > maxNameSize {
		longest--
	}
	require.Equal(t, maxNameSize, sizeOf(name(longest)))
	quarter := func(more int) *x509.Certificate {
		c := &x509.Certificate{
			DNSNames:       slices.Repeat([]string{"a"}, maxAltNames/4),
			EmailAddresses: slices.Repeat([]string{"a@a"}, maxAltNames/4),
			IPAddresses:    slices.Repeat([]net.IP{net.IPv6loopback}, maxAltNames/4),
			URIs:           slices.Repeat([]*url.URL{{Scheme: "urn", Opaque: "x"}}, maxAltNames/4+more),
		}
		return c
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name(longest + 1)}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	issued, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, ca, public, private)
	require.NoError(t, err)

	for _, test := range []struct {
		name string
		der  []byte
		read bool
	}{
		{"the longest subject", signed(t, &x509.Certificate{Subject: name(longest)}), true},
		{"a longer subject", signed(t, &x509.Certificate{Subject: name(longest + 1)}), false},
		{"a longer issuer", issued, false},
		{"the most alternative names", signed(t, quarter(0)), true},
		{"one more", signed(t, quarter(1)), false},
		{"bytes that are not parsed", []byte("\x30\x00"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := Parse(withCertificate(test.der))
			assert.True(t, n.Has("ssl.client_cert", nil))
			assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(test.der)), n.Text("ssl.client_cert.fingerprint"))
			assert.Equal(t, test.read, n.Has("ssl.client_cert.serial", nil))
			assert.Equal(t, test.read, n.Has("ssl.client_cert.subject", nil))
			assert.Equal(t, test.read, n.Has("ssl.client_cert.issuer", nil))
			if !test.read {
				for _, list := range certificateLists {
					assert.Nil(t, n.List(list))
				}
			}
		})
	}
}

func TestCertificate_CertificatesAreParsedIfAFieldIsAskedFor(t *testing.T) {
	n := Parse(withCertificate(signed(t, new(x509.Certificate))))
	for _, name := range append(Names(), "0x20", "nonsense") {
		n.Text(name)
		n.List(name)
		n.Has(name, nil)
	}
	assert.Nil(t, n.certificate)
	n.Text("ssl.client_cert.serial")
	assert.NotNil(t, n.certificate)
}

func TestCertificate_WhatIsACertificate(t *testing.T) {
	der := signed(t, new(x509.Certificate))
	for _, test := range []struct {
		name string
		der  []byte
		want bool
	}{
		{"one", der, true},
		{"one that Go does not read", []byte("\x30\x03\x02\x01\x00"), true},
		{"one with a byte behind it", append(slices.Clone(der), 0), false},
		{"one without its last byte", der[:len(der)-1], false},
		{"nothing", nil, false},
		{"text", []byte("a certificate"), false},
		{"a SET", []byte("\x31\x03\x02\x01\x00"), false},
		{"a SEQUENCE of another class", []byte("\x70\x03\x02\x01\x00"), false},
		{"a SEQUENCE that is not constructed", []byte("\x10\x03\x02\x01\x00"), false},
	} {
		n := Parse(withCertificate(test.der))
		assert.Equal(t, test.want, n.Has("ssl.client_cert", nil), test.name)
		assert.Equal(t, test.want, n.Has("ssl.client_cert.fingerprint", nil), test.name)
		assert.Equal(t, "true", n.Text("ssl.verified"), test.name)
	}
}
