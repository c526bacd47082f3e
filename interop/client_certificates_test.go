//go:build interop

package interop

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestClientCertificates asserts the TLVs about the certificates of clients, and of clients without a
// certificate.
func TestClientCertificates(t *testing.T) {
	for _, program := range haproxies {
		t.Run("with "+program.name, func(t *testing.T) { testClientCertificates(t, program) })
	}
}

func testClientCertificates(t *testing.T, program haproxyProgram) {
	c := startCaddy(t, on)
	known, foreign := c.client(t, clientName), newAuthority(t).client(t, clientName)
	s := c.servers[on]
	haproxy := program.starter("mode tcp", "crt-ignore-err all ca-ignore-err all", "send-proxy-v2-ssl-cn")
	const verifying = "write-proxy-v2 = on\nclient-verify = optional\nclient-verify-ca = \"FILES/ca.pem\"\n"
	for _, test := range []struct {
		name         string
		start        starter
		certificates []certificate
		want         map[string]string
	}{
		{
			name: "HAProxy, none", start: haproxy,
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "false", "alpn": "http/1.1"},
		},
		{
			name: "HAProxy, verified", start: haproxy, certificates: []certificate{known},
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "true", "ssl.cn": clientName, "alpn": "http/1.1"},
		},
		{
			// HAProxy sends the name of a certificate that it did not verify: a rule about ssl.cn
			// needs ssl.verified, too.
			name: "HAProxy, of an unknown authority", start: haproxy, certificates: []certificate{foreign},
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "false", "ssl.cn": clientName, "alpn": "http/1.1"},
		},
		{
			name: "hitch, none", start: hitch(verifying),
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "false", "ssl.cipher": "TLS_AES_128_GCM_SHA256", "authority": "localhost", "alpn": "http/1.1"},
		},
		{
			name: "hitch, verified", start: hitch(verifying), certificates: []certificate{known},
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "true", "ssl.cipher": "TLS_AES_128_GCM_SHA256", "authority": "localhost", "alpn": "http/1.1"},
		},
		{
			// hitch sends the certificate in a TLV of a type that Google uses for something else.
			name: "hitch proxy-client-cert", start: hitch(verifying + "proxy-client-cert = on\n"), certificates: []certificate{known},
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "true", "ssl.cipher": "TLS_AES_128_GCM_SHA256", "authority": "localhost", "alpn": "http/1.1", "0xe0": hex.EncodeToString([]byte(trusted(known)))},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := http1Ended.leg(t, ipv4, ipv4, s)
			test.start(t, c, true, []leg{l})
			sessions := tls.NewLRUClientSessionCache(1)
			for _, resumed := range []bool{false, true} {
				client := newClient(t, l.protocol, l.front, l.listen, c.authority, test.certificates...)
				client.tls.ClientSessionCache = sessions
				got, logged, state := client.ask(t, c.logs)
				assert.Equal(t, resumed, state.DidResume)
				assert.Equal(t, test.want, got.proxyProtocol.TLV)
				assert.Equal(t, test.want, logged.ProxyProtocol.TLV)
				client.CloseIdleConnections()
			}
		})
	}
}

// TestLargeClientCertificate asserts that a header with a large certificate is refused, unless
// max_header_size allows it.
func TestLargeClientCertificate(t *testing.T) {
	const larger = "proxy_protocol_mode on {\nmax_header_size 16KiB\n}"
	c := startCaddy(t, on, larger)
	certificate := sign(t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: clientName, OrganizationalUnit: slices.Repeat([]string{"a unit with a long name"}, 100)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, c.authority)
	require.Greater(t, len(certificate.pem), 4<<10)
	legs := []leg{http1Ended.leg(t, ipv4, ipv4, c.servers[on]), http1Ended.leg(t, ipv4, ipv4, c.servers[larger])}
	hitch("write-proxy-v2 = on\nclient-verify = required\nclient-verify-ca = \"FILES/ca.pem\"\nproxy-client-cert = on")(t, c, true, legs)

	logs := c.logs.now(t)
	requireRefused(t, sender{}, legs[0], newClient(t, http1Ended, ipv4, legs[0].listen, c.authority, certificate))
	assert.Equal(t, "too_large", logs.waitFor(t, entry.isRefusal).Reason)

	got, _, _ := newClient(t, http1Ended, ipv4, legs[1].listen, c.authority, certificate).ask(t, c.logs)
	assert.Equal(t, hex.EncodeToString([]byte(trusted(certificate))), got.proxyProtocol.TLV["0xe0"])
}

// trusted returns the PEM text of a certificate as hitch sends it.
func trusted(c certificate) string {
	return strings.ReplaceAll(c.pem, "CERTIFICATE", "TRUSTED CERTIFICATE")
}
