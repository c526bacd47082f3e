//go:build interop

package interop

import (
	"crypto/tls"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestClientCertificates asserts what Caddy learns of certificates that clients present to
// load balancers, or do not.
func TestClientCertificates(t *testing.T) {
	c := startCaddy(t, on)
	known, foreign := c.client(t, clientName), newAuthority(t).client(t, clientName)
	s := c.servers[on]
	haproxy := haproxy("mode tcp", "crt-ignore-err all ca-ignore-err all", "send-proxy-v2-ssl-cn")
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
			// It tells the name all the same: whoever looks at that must look at this as well.
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
			// Its own TLV for the certificate has the type that Google uses for something else.
			name: "hitch proxy-client-cert", start: hitch(verifying + "proxy-client-cert = on\n"), certificates: []certificate{known},
			want: map[string]string{"ssl.version": "TLSv1.3", "ssl.verified": "true", "ssl.cipher": "TLS_AES_128_GCM_SHA256", "authority": "localhost", "alpn": "http/1.1", "0xe0": hex.EncodeToString([]byte(strings.ReplaceAll(known.pem, "CERTIFICATE", "TRUSTED CERTIFICATE")))},
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
