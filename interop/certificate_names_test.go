//go:build interop

package interop

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The types of text in certificates (ASN.1) that encoding/asn1 does not name or write.
const (
	tagUniversalString = 28
	tagBMPString       = 30
)

// commonNameOID is the object identifier of the common name.
var commonNameOID = asn1.ObjectIdentifier{2, 5, 4, 3}

// subject returns the DER form of a name with these common names. tag is their type of text, of
// which their bytes need not be valid.
func subject(t testing.TB, tag int, names ...string) []byte {
	t.Helper()
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type attributeSET []attribute
	rdns := []attributeSET{}
	for _, name := range names {
		rdns = append(rdns, attributeSET{{commonNameOID, asn1.RawValue{Tag: tag, Bytes: []byte(name)}}})
	}
	der, err := asn1.Marshal(rdns)
	require.NoError(t, err)
	return der
}

// TestCommonNamesOfAnyType asserts that a client cannot choose a common name with which
// Caddy no longer learns whether its certificate was verified. HAProxy sends the name's
// bytes as they are in the certificate.
func TestCommonNamesOfAnyType(t *testing.T) {
	for _, program := range haproxies {
		t.Run(program.name, func(t *testing.T) { testCommonNames(t, program) })
	}
}

func testCommonNames(t *testing.T, program haproxyProgram) {
	c := startCaddy(t, on)
	l := http1Ended.leg(t, ipv4, ipv4, c.servers[on])
	program.starter("mode tcp", "crt-ignore-err all ca-ignore-err all", "send-proxy-v2-ssl-cn")(t, c, true, []leg{l})
	for _, test := range []struct {
		name  string
		tag   int
		names []string
		// shown is the name in placeholders.
		shown string
	}{
		{"UTF8String", asn1.TagUTF8String, []string{"Müller"}, "Müller"},
		{"PrintableString", asn1.TagPrintableString, []string{"Mueller"}, "Mueller"},
		{"PrintableString with Latin-1", asn1.TagPrintableString, []string{"M\xfcller"}, `M\xfcller`},
		{"IA5String with Latin-1", asn1.TagIA5String, []string{"M\xfcller"}, `M\xfcller`},
		{"T61String with Latin-1", asn1.TagT61String, []string{"M\xfcller"}, `M\xfcller`},
		{"T61String with NUL and controls", asn1.TagT61String, []string{"admin\x00\r\n\x1b[2J"}, `admin\x00\x0d\x0a\x1b[2J`},
		{"BMPString", tagBMPString, []string{"\x00M\x00\xfc\x00l"}, `\x00M\x00\xfc\x00l`},
		{"UniversalString", tagUniversalString, []string{"\x00\x00\x00M"}, `\x00\x00\x00M`},
		{"a backslash", asn1.TagUTF8String, []string{`M\xfcller`}, `M\\xfcller`},
		{"parts of an SSL TLV", asn1.TagT61String, []string{"\x22\x00\x05admin\x20\x00\x05\x07\x00\x00\x00\x00"}, `"\x00\x05admin \x00\x05\x07\x00\x00\x00\x00`},
		{"empty UTF8String", asn1.TagUTF8String, []string{""}, ""},
		{"empty T61String", asn1.TagT61String, []string{""}, ""},
		{"no name", 0, nil, ""},
	} {
		for _, authority := range []struct {
			name string
			authority
			result, verified string
		}{
			// 18 is the verify result of OpenSSL for a self-signed certificate.
			{"verified", c.authority, "0", "true"},
			{"signed by itself", authority{}, "18", "false"},
		} {
			t.Run(test.name+", "+authority.name, func(t *testing.T) {
				template := &x509.Certificate{
					RawSubject:  subject(t, test.tag, test.names...),
					ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
				}
				if authority.cert == nil {
					authority.cert = template
				}
				client := newClient(t, l.protocol, l.front, l.listen, c.authority, sign(t, template, authority.authority))
				client.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				for _, resumed := range []bool{false, true} {
					response, err := client.Get(client.url("/certificate"))
					require.NoError(t, err)
					body, err := io.ReadAll(response.Body)
					require.NoError(t, err)
					require.NoError(t, response.Body.Close())
					assert.Equal(t, http.StatusOK, response.StatusCode)
					assert.Equal(t, resumed, response.TLS.DidResume)
					onConnection := "true"
					if resumed {
						onConnection = "false"
					}
					assert.Equal(t, []string{test.shown, authority.verified, authority.result, onConnection, "true", "TLSv1.3"}, strings.Split(string(body), "\n"))
					assert.Equal(t, onlyIf(authority.verified == "false", "yes"), response.Header.Get("Unverified"))
					client.CloseIdleConnections()
				}
			})
		}
	}
}
