package proxyprotocol_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// sslDetails are what ssl.verified sums up. The access log does not have them.
var sslDetails = []string{"ssl.verify_result", "ssl.cert_conn", "ssl.cert_sess"}

// tlvValues are the placeholders of a header's TLVs that are not empty, but for what the
// access log does not have either: sslDetails and the fields of certificates.
func tlvValues(t testing.TB, c net.Conn) values {
	t.Helper()
	got := make(values)
	r := caddytest.RequestOn(c)
	for _, name := range documented {
		tlv, ok := strings.CutPrefix(name, "tlv.")
		if !ok || strings.HasPrefix(tlv, "0x") || strings.HasPrefix(tlv, "ssl.client_cert.") || slices.Contains(sslDetails, tlv) {
			continue
		}
		value, known := placeholderOf(t, r, "."+name)
		require.True(t, known, name)
		if value != "" {
			got[tlv] = value.(string)
		}
	}
	return got
}

// logged is what the access log has of a connection.
func logged(t testing.TB, c net.Conn) map[string]any {
	t.Helper()
	value, known := placeholderOf(t, caddytest.RequestOn(c), "")
	require.True(t, known)
	b, err := json.Marshal(value)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(b, &got))
	return got
}

func TestTLVs_SayWhatTheirTypesMean(t *testing.T) {
	certificate := caddytest.NewClientCertificate(t, "203.0.113.7")
	tests := []struct {
		name string
		tlvs []wire.TLV
		want values
		// logged is what the access log has, if that is not want.
		logged values
	}{
		{"none", nil, values{}, nil},
		{"every text", []wire.TLV{headertest.TextTLV(wire.TypeALPN, "h2"), headertest.TextTLV(wire.TypeAuthority, "a.test"), headertest.TextTLV(wire.TypeUniqueID, "id"), headertest.TextTLV(wire.TypeNetNS, "ns")},
			values{"alpn": "h2", "authority": "a.test", "unique_id": "id", "netns": "ns"}, nil},
		{"an empty text", []wire.TLV{headertest.TextTLV(wire.TypeAuthority, "")}, values{}, values{"authority": ""}},
		{"UTF-8", []wire.TLV{headertest.TextTLV(wire.TypeAuthority, "bücher.test")}, values{"authority": "bücher.test"}, nil},
		{"a unique ID of the longest", []wire.TLV{headertest.TextTLV(wire.TypeUniqueID, strings.Repeat("x", wire.MaxUniqueIDSize))}, values{"unique_id": strings.Repeat("x", wire.MaxUniqueIDSize)}, nil},
		{"of repeated types the first counts", []wire.TLV{headertest.TextTLV(wire.TypeAuthority, "first"), headertest.TextTLV(0xea, "\x01vpce-1"), headertest.TextTLV(wire.TypeAuthority, "second"), headertest.TextTLV(0xea, "\x01vpce-2")},
			values{"authority": "first", "aws_vpce_id": "vpce-1"}, nil},
		{"a repeated type whose first is broken", []wire.TLV{headertest.TextTLV(0xee, "\x01"), headertest.TextTLV(0xee, "\x01\x01\x00\x00\x00")}, values{}, values{"0xee": "01"}},
		{"padding", []wire.TLV{headertest.TextTLV(wire.TypeNoop, "\x00\x00")}, values{}, values{}},
		{"types nobody knows", []wire.TLV{headertest.TextTLV(0xf1, "\x00"), headertest.TextTLV(0x7f, ""), headertest.TextTLV(0xff, "\xff")}, values{}, values{"0xf1": "00", "0x7f": "", "0xff": "ff"}},

		{"AWS", []wire.TLV{headertest.TextTLV(0xea, "\x01vpce-08d2bf15fac5001c9")}, values{"aws_vpce_id": "vpce-08d2bf15fac5001c9"}, nil},
		{"AWS of another subtype", []wire.TLV{headertest.TextTLV(0xea, "\x02vpce-1")}, values{}, values{"0xea": "02767063652d31"}},
		{"AWS without a subtype", []wire.TLV{headertest.TextTLV(0xea, "")}, values{}, values{"0xea": ""}},
		{"AWS without an ID", []wire.TLV{headertest.TextTLV(0xea, "\x01")}, values{}, values{"0xea": "01"}},
		{"AWS with other text than an ID", []wire.TLV{headertest.TextTLV(0xea, "\x01vpce-1\n")}, values{}, values{"0xea": "01767063652d310a"}},

		{"AWS behind another subtype", []wire.TLV{headertest.TextTLV(0xea, "\x06later"), headertest.TextTLV(0xea, "\x01vpce-1")}, values{"aws_vpce_id": "vpce-1"}, nil},
		{"AWS behind one without a subtype", []wire.TLV{headertest.TextTLV(0xea, ""), headertest.TextTLV(0xea, "\x01vpce-1")}, values{"aws_vpce_id": "vpce-1"}, nil},
		{"AWS, of a repeated subtype the first counts, as broken as it is", []wire.TLV{headertest.TextTLV(0xea, "\x01not an ID"), headertest.TextTLV(0xea, "\x01vpce-1")}, values{}, values{"0xea": "016e6f7420616e204944"}},
		{"AWS, of a repeated subtype the first counts, as empty as it is", []wire.TLV{headertest.TextTLV(0xea, "\x01"), headertest.TextTLV(0xea, "\x02x"), headertest.TextTLV(0xea, "\x01vpce-1")}, values{}, values{"0xea": "01"}},
		{"Azure behind another subtype", []wire.TLV{headertest.TextTLV(0xee, "\x02"), headertest.TextTLV(0xee, "\x01\x01\x00\x00\x00"), headertest.TextTLV(0xee, "\x01\x02\x00\x00\x00")}, values{"azure_private_endpoint_link_id": "1"}, nil},
		{"Google has no subtypes", []wire.TLV{headertest.TextTLV(0xe0, "\x01"), headertest.TextTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01\x00")}, values{}, values{"0xe0": "01"}},

		{"Alibaba", []wire.TLV{headertest.TextTLV(0xe1, "\x01vpc-1"), headertest.TextTLV(0xe1, "\x02ep-1"), headertest.TextTLV(0xe1, "\x03epsrv-1")},
			values{"alibaba_vpc_id": "vpc-1", "alibaba_endpoint_id": "ep-1", "alibaba_endpoint_service_id": "epsrv-1"}, nil},
		{"Alibaba, of a repeated subtype the first counts", []wire.TLV{headertest.TextTLV(0xe1, "\x02ep-1"), headertest.TextTLV(0xe1, "\x04x"), headertest.TextTLV(0xe1, "\x02ep-2"), headertest.TextTLV(0xe1, "\x01vpc-1")},
			values{"alibaba_vpc_id": "vpc-1", "alibaba_endpoint_id": "ep-1"}, nil},
		{"Alibaba of another subtype", []wire.TLV{headertest.TextTLV(0xe1, "\x04x")}, values{}, values{"0xe1": "0478"}},
		{"Alibaba of subtype 0", []wire.TLV{headertest.TextTLV(0xe1, "\x00x")}, values{}, values{"0xe1": "0078"}},
		{"Alibaba without an ID", []wire.TLV{headertest.TextTLV(0xe1, "\x01")}, values{}, values{"0xe1": "01"}},
		{"Alibaba without a subtype", []wire.TLV{headertest.TextTLV(0xe1, "")}, values{}, values{"0xe1": ""}},
		{"Alibaba's type, used for something else", []wire.TLV{headertest.TextTLV(0xe1, "\x01a secret"), headertest.TextTLV(0xe1, "\x02\x00\xff")}, values{}, values{"0xe1": "016120736563726574"}},

		{"Azure, little-endian", []wire.TLV{headertest.TextTLV(0xee, "\x01\xff\xff\xff\xff")}, values{"azure_private_endpoint_link_id": "4294967295"}, nil},
		{"Azure, zero", []wire.TLV{headertest.TextTLV(0xee, "\x01\x00\x00\x00\x00")}, values{"azure_private_endpoint_link_id": "0"}, nil},
		{"Azure of another subtype", []wire.TLV{headertest.TextTLV(0xee, "\x02\x01\x00\x00\x00")}, values{}, values{"0xee": "0201000000"}},
		{"Azure, truncated", []wire.TLV{headertest.TextTLV(0xee, "\x01\x01\x00\x00")}, values{}, values{"0xee": "01010000"}},

		{"Google, big-endian", []wire.TLV{headertest.TextTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01\x00")}, values{"gcp_psc_connection_id": "256"}, nil},
		{"Google, the largest", []wire.TLV{headertest.TextTLV(0xe0, strings.Repeat("\xff", 8))}, values{"gcp_psc_connection_id": "18446744073709551615"}, nil},
		{"Google, truncated", []wire.TLV{headertest.TextTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01")}, values{}, values{"0xe0": "00000000000001"}},

		{"SSL with a certificate", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, "client.test"), wire.TLV{Type: 0x28, Value: certificate.DER})},
			values{"ssl.version": "TLSv1.3", "ssl.cn": "client.test", "ssl.client_cert": certificate.Base64, "ssl.verified": "true"}, nil},
		{"SSL with a certificate of the session", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertSess, 0, headertest.TextTLV(0x21, "TLSv1.2"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "true"}, nil},
		{"SSL with a certificate that failed", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 18, headertest.TextTLV(0x21, "TLSv1.2"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "false"}, nil},
		{"SSL without a certificate is not verified", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed, 0, headertest.TextTLV(0x21, "TLSv1.2"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "false"}, nil},
		{"SSL that was not used", []wire.TLV{headertest.SSLTLV(0, 0)}, values{"ssl.verified": "false"}, nil},
		{"SSL with all text", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed, 1, headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x23, "cipher"), headertest.TextTLV(0x24, "sig"), headertest.TextTLV(0x25, "key"), headertest.TextTLV(0x26, "group"), headertest.TextTLV(0x27, "scheme"))},
			values{"ssl.version": "TLSv1.3", "ssl.cipher": "cipher", "ssl.sig_alg": "sig", "ssl.key_alg": "key", "ssl.group": "group", "ssl.sig_scheme": "scheme", "ssl.verified": "false"}, nil},
		{"SSL with a repeated part", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed, 1, headertest.TextTLV(0x21, "first"), headertest.TextTLV(0x21, "second"))}, values{"ssl.version": "first", "ssl.verified": "false"}, nil},
		{"SSL with padding and parts nobody knows", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed, 1, headertest.TextTLV(0x04, "pad"), headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x2f, "x"))}, values{"ssl.version": "TLSv1.3", "ssl.verified": "false"}, nil},
		{"SSL with a certificate that does not parse", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x28, "no certificate"))}, values{"ssl.version": "TLSv1.3", "ssl.verified": "true"}, nil},
		{"SSL with half a certificate", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x21, "TLSv1.3"), wire.TLV{Type: 0x28, Value: certificate.DER[:100]})}, values{"ssl.version": "TLSv1.3", "ssl.verified": "true"}, nil},
		{"SSL with a certificate that only the load balancer can read", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x28, "\x30\x03\x02\x01\x00"))}, values{"ssl.client_cert": "MAMCAQA=", "ssl.verified": "true"}, nil},
		{"SSL with something behind a certificate", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, wire.TLV{Type: 0x28, Value: append(slices.Clone(certificate.DER), 0)})}, values{"ssl.verified": "true"}, nil},
		{"SSL with text that is not UTF-8", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 18, headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, "M\xfcller"))},
			values{"ssl.version": "TLSv1.3", "ssl.cn": `M\xfcller`, "ssl.verified": "false"}, nil},
		{"SSL with text of two bytes a character", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x22, "\x00M\x00\xfc"))}, values{"ssl.cn": `\x00M\x00\xfc`, "ssl.verified": "true"}, nil},
		{"SSL with no text in it", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 1, headertest.TextTLV(0x21, ""), headertest.TextTLV(0x22, ""), headertest.TextTLV(0x23, ""))},
			values{"ssl.verified": "false"}, values{"ssl.version": "", "ssl.cn": "", "ssl.cipher": "", "ssl.verified": "false"}},
		{"SSL without a version", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x22, "client.test"))}, values{"ssl.cn": "client.test", "ssl.verified": "true"}, nil},
		{"SSL with an empty part that is repeated", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed, 1, headertest.TextTLV(0x22, ""), headertest.TextTLV(0x22, "admin"))}, values{"ssl.verified": "false"}, values{"ssl.cn": "", "ssl.verified": "false"}},
		{"SSL that is repeated: the first counts", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 18, headertest.TextTLV(0x21, "TLSv1.2")), headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x22, "admin"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "false"}, nil},
		{"SSL that is repeated: the first counts, as broken as it is", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07\x00"), headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x22, "admin"))}, values{"ssl.verified": "false"}, nil},
		{"SSL, empty", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "")}, values{"ssl.verified": "false"}, nil},
		{"SSL, truncated before its parts", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x03\x00\x00\x00")}, values{"ssl.verified": "false"}, nil},
		{"SSL, truncated in a part", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x03\x00\x00\x00\x00\x23\x00\x01c\x21\x00\x07TLSv1.")}, values{"ssl.cipher": "c", "ssl.verified": "true"}, nil},
		{"SSL, truncated in the head of a part", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x01\x00\x00\x00\x00\x21\x00\x01v\x22\x00")}, values{"ssl.version": "v", "ssl.verified": "false"}, nil},
		{"a broken one between others", []wire.TLV{headertest.TextTLV(wire.TypeALPN, "h2"), headertest.TextTLV(wire.TypeSSL, "\x01"), headertest.TextTLV(wire.TypeAuthority, "a.test")}, values{"alpn": "h2", "ssl.verified": "false", "authority": "a.test"}, nil},
		{"bytes that are not UTF-8", []wire.TLV{headertest.TextTLV(wire.TypeALPN, "h\xff"), headertest.TextTLV(wire.TypeAuthority, "b\xfccher.test"), headertest.TextTLV(wire.TypeUniqueID, "\x00\xfe"), headertest.TextTLV(wire.TypeNetNS, "\xc3")},
			values{"alpn": `h\xff`, "authority": `b\xfccher.test`, "unique_id": `\x00\xfe`, "netns": `\xc3`}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(tt.tlvs...))
			assert.Equal(t, tt.want, tlvValues(t, c))

			inLog := tt.logged
			if inLog == nil {
				inLog = tt.want
			}
			if len(inLog) == 0 {
				assert.NotContains(t, logged(t, c), "tlv")
				return
			}
			want := make(map[string]any)
			for name, value := range inLog {
				want[name] = value
			}
			assert.Equal(t, want, logged(t, c)["tlv"])
		})
	}
}

func TestTLVs_OfAnyTypeAreThereInHexadecimal(t *testing.T) {
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.TextTLV(wire.TypeAuthority, "a.test"), headertest.TextTLV(0xea, "\x01vpce-1"), headertest.TextTLV(0xea, "\x01vpce-2"), headertest.TextTLV(0xf0, ""), headertest.TextTLV(wire.TypeNoop, "\x00"))))
	for name, want := range map[string]string{
		"0x02": "612e74657374", "0xea": "01767063652d31", "0xEA": "01767063652d31", "0xEa": "01767063652d31",
		"0xf0": "", "0x04": "00", "0x00": "", "0xff": "",
	} {
		value, known := placeholderOf(t, r, ".tlv."+name)
		assert.True(t, known, name)
		assert.Equal(t, want, value, name)
	}
}

func TestCertificates_AreTheirBytes(t *testing.T) {
	certificate := caddytest.NewClientCertificate(t)
	c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x21, "TLSv1.3"), wire.TLV{Type: 0x28, Value: certificate.DER})))
	value, _ := placeholderOf(t, caddytest.RequestOn(c), ".tlv.ssl.client_cert")
	der, err := base64.StdEncoding.DecodeString(value.(string))
	require.NoError(t, err)
	assert.Equal(t, certificate.DER, der)
}

func TestTLVs_OfSSLSayHowACertificateWasVerified(t *testing.T) {
	for _, tt := range []struct {
		name string
		tlv  wire.TLV
		want map[string]string
	}{
		{"verified", headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 0), values{"ssl.verified": "true", "ssl.verify_result": "0", "ssl.cert_conn": "true", "ssl.cert_sess": "true"}},
		{"resumed", headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertSess, 0), values{"ssl.verified": "true", "ssl.verify_result": "0", "ssl.cert_conn": "false", "ssl.cert_sess": "true"}},
		{"failed", headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 18), values{"ssl.verified": "false", "ssl.verify_result": "18", "ssl.cert_conn": "true", "ssl.cert_sess": "true"}},
		{"failed, one bit far away", headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 1<<31), values{"ssl.verified": "false", "ssl.verify_result": "2147483648", "ssl.cert_conn": "true", "ssl.cert_sess": "false"}},
		{"failed, as negative as it can be", headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 1<<32-1), values{"ssl.verified": "false", "ssl.verify_result": "4294967295", "ssl.cert_conn": "true", "ssl.cert_sess": "false"}},
		{"no certificate", headertest.SSLTLV(headertest.SSLUsed, 0), values{"ssl.verified": "false", "ssl.verify_result": "0", "ssl.cert_conn": "false", "ssl.cert_sess": "false"}},
		{"bits nobody knows", headertest.SSLTLV(0xf8, 0), values{"ssl.verified": "false", "ssl.verify_result": "0", "ssl.cert_conn": "false", "ssl.cert_sess": "false"}},
		{"truncated in the result", headertest.TextTLV(wire.TypeSSL, "\x07\x00\x00\x00"), values{"ssl.verified": "false", "ssl.cert_conn": "true", "ssl.cert_sess": "true"}},
		{"truncated behind the bits", headertest.TextTLV(wire.TypeSSL, "\x04"), values{"ssl.verified": "false", "ssl.cert_conn": "false", "ssl.cert_sess": "true"}},
		{"empty", headertest.TextTLV(wire.TypeSSL, ""), values{"ssl.verified": "false", "ssl.cert_conn": "false", "ssl.cert_sess": "false"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(tt.tlv))
			r := caddytest.RequestOn(c)
			for _, name := range append([]string{"ssl.verified"}, sslDetails...) {
				value, known := placeholderOf(t, r, ".tlv."+name)
				assert.True(t, known)
				assert.Equal(t, tt.want[name], value, name)
			}
			assert.Equal(t, map[string]any{"ssl.verified": tt.want["ssl.verified"]}, logged(t, c)["tlv"], "the rest is not in the log")
		})
	}
}

// TestTLVs_OfSSLEscapeNoRuleForUnverifiedOnes asserts that a client cannot choose a
// certificate that makes ssl.verified disappear.
func TestTLVs_OfSSLEscapeNoRuleForUnverifiedOnes(t *testing.T) {
	f := caddytest.StartFarm(t, []string{"on"}, "", `
	@unverified proxy_protocol {
		tlv ssl.verified false
	}
	@verified proxy_protocol {
		tlv ssl.verified true
	}
	respond @unverified 403
	respond @verified "verified"
	respond "no TLS"
`)
	failed := func(parts ...wire.TLV) wire.TLV {
		return headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 18, parts...)
	}
	for _, tt := range []struct {
		name string
		tlvs []wire.TLV
		want int
		body string
	}{
		{"the name as T61String", []wire.TLV{failed(headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, "M\xfcller"))}, 403, ""},
		{"the name as BMPString", []wire.TLV{failed(headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, "\x00M\x00\xfc"))}, 403, ""},
		{"an empty name", []wire.TLV{failed(headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, ""))}, 403, ""},
		{"an empty version", []wire.TLV{failed(headertest.TextTLV(0x21, ""))}, 403, ""},
		{"no version", []wire.TLV{failed()}, 403, ""},
		{"a version that is not ASCII", []wire.TLV{failed(headertest.TextTLV(0x21, "TLSv\xff"))}, 403, ""},
		{"a cipher that is not ASCII", []wire.TLV{failed(headertest.TextTLV(0x23, "\xff"))}, 403, ""},
		{"a part of a type nobody knows", []wire.TLV{failed(headertest.TextTLV(0x7f, "\xff"))}, 403, ""},
		{"a certificate that does not parse", []wire.TLV{failed(headertest.TextTLV(0x28, "\xff"))}, 403, ""},
		{"a part that overruns the end", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07\x00\x00\x00\x12\x22\xff\xff")}, 403, ""},
		{"one byte behind the parts", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07\x00\x00\x00\x12\x22")}, 403, ""},
		{"two bytes behind the parts", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07\x00\x00\x00\x12\x22\x00")}, 403, ""},
		{"an empty TLV", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "")}, 403, ""},
		{"bits only", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07")}, 403, ""},
		{"a verify result that is cut off", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07\x00\x00\x00")}, 403, ""},
		{"a repeated TLV that says something else", []wire.TLV{failed(), headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 0)}, 403, ""},
		{"a broken TLV before one that says something else", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07"), headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 0)}, 403, ""},
		{"no certificate", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed, 0)}, 403, ""},
		{"verified, whatever its name is", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 0, headertest.TextTLV(0x21, "\xff"), headertest.TextTLV(0x22, "M\xfcller"), headertest.TextTLV(0x28, "\xff"))}, 200, "verified"},
		{"verified, with a part that overruns the end", []wire.TLV{headertest.TextTLV(wire.TypeSSL, "\x07\x00\x00\x00\x00\x22\xff\xff")}, 200, "verified"},
		{"no SSL TLV", []wire.TLV{headertest.TextTLV(wire.TypeALPN, "\xff")}, 200, "no TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response, body := caddytest.Get(t, caddytest.HTTP1, f.At("on", caddytest.HTTP1), headertest.WithTLVs(tt.tlvs...), "/")
			assert.Equal(t, tt.want, response.StatusCode)
			assert.Equal(t, tt.body, body)
		})
	}
}

func TestTLVs_OfVendorsAreMatchedBySubtype(t *testing.T) {
	f := caddytest.StartFarm(t, []string{"on"}, "", `
	@aws proxy_protocol {
		tlv aws_vpce_id vpce-1
	}
	@alibaba proxy_protocol {
		tlv alibaba_vpc_id vpc-1
		tlv alibaba_endpoint_id ep-1 ep-2
	}
	respond @aws "aws"
	respond @alibaba "alibaba"
	respond 403
`)
	for _, tt := range []struct {
		name string
		tlvs []wire.TLV
		want string
	}{
		{"behind another subtype", []wire.TLV{headertest.TextTLV(0xea, "\x06later"), headertest.TextTLV(0xea, "\x01vpce-1")}, "aws"},
		{"behind a broken one of another subtype", []wire.TLV{headertest.TextTLV(0xea, "\x06"), headertest.TextTLV(0xea, ""), headertest.TextTLV(0xea, "\x01vpce-1")}, "aws"},
		{"behind a broken one of this subtype", []wire.TLV{headertest.TextTLV(0xea, "\x01?"), headertest.TextTLV(0xea, "\x01vpce-1")}, ""},
		{"behind one of this subtype", []wire.TLV{headertest.TextTLV(0xea, "\x01vpce-2"), headertest.TextTLV(0xea, "\x01vpce-1")}, ""},
		{"two subtypes", []wire.TLV{headertest.TextTLV(0xe1, "\x02ep-2"), headertest.TextTLV(0xe1, "\x01vpc-1")}, "alibaba"},
		{"one subtype of two", []wire.TLV{headertest.TextTLV(0xe1, "\x02ep-2")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, body := caddytest.Get(t, caddytest.HTTP1, f.At("on", caddytest.HTTP1), headertest.WithTLVs(tt.tlvs...), "/")
			assert.Equal(t, tt.want, body)
		})
	}
}

// certificateTLV is an SSL TLV with a certificate that was verified.
func certificateTLV(der []byte) wire.TLV {
	return headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn|headertest.SSLCertSess, 0, headertest.TextTLV(0x21, "TLSv1.3"), wire.TLV{Type: 0x28, Value: der})
}

// signed is a certificate in DER form.
func signed(t testing.TB, template *x509.Certificate) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, caddytest.ClientCA().Certificate, key.Public(), caddytest.ClientCA().Key)
	require.NoError(t, err)
	return der
}

// TestCertificates_HaveTheFieldsOfCaddysOwnPlaceholders compares them with those of the
// same certificate in the request's own TLS connection.
func TestCertificates_HaveTheFieldsOfCaddysOwnPlaceholders(t *testing.T) {
	der := signed(t, &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(3), 100),
		Subject:      pkix.Name{CommonName: "Müller, Jürgen", Organization: []string{"a+b", "c"}, Country: []string{"DE"}, ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "x"}}},
		DNSNames:     []string{"a.test", "b.test"}, EmailAddresses: []string{"a@a.test"},
		IPAddresses: []net.IP{net.ParseIP("203.0.113.7"), net.ParseIP("2001:db8::7")},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "a.test", Path: "/b c"}, {Scheme: "urn", Opaque: "d"}},
	})
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.WithTLVs(certificateTLV(der))))
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	repl := caddyhttp.NewTestReplacer(r)
	for _, name := range []string{
		"fingerprint", "subject", "issuer", "serial", "san.dns_names", "san.dns_names.0", "san.dns_names.1", "san.dns_names.2",
		"san.emails", "san.emails.0", "san.ips", "san.ips.0", "san.ips.1", "san.ips.2", "san.uris", "san.uris.0", "san.uris.1",
	} {
		own, ok := repl.GetString("http.request.tls.client." + name)
		require.True(t, ok, name)
		value, known := placeholderOf(t, r, ".tlv.ssl.client_cert."+name)
		require.True(t, known, name)
		assert.Equal(t, strings.ReplaceAll(own, `\`, `\\`), caddy.ToString(value), name)
	}
}

func TestCertificates_ThatCannotBeRead(t *testing.T) {
	tooMany := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: slices.Repeat([]string{"a"}, 1001)}
	for _, tt := range []struct {
		name   string
		tlvs   []wire.TLV
		shown  bool
		verify string
	}{
		{"no TLVs", nil, false, ""},
		{"no SSL TLV", []wire.TLV{headertest.TextTLV(wire.TypeALPN, "h2")}, false, ""},
		{"no certificate", []wire.TLV{headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0)}, false, "true"},
		{"something else", []wire.TLV{certificateTLV([]byte("no certificate"))}, false, "true"},
		{"half a certificate", []wire.TLV{certificateTLV(caddytest.NewClientCertificate(t).DER[:100])}, false, "true"},
		{"a SEQUENCE of something else", []wire.TLV{certificateTLV([]byte("\x30\x03\x02\x01\x00"))}, true, "true"},
		{"too many alternative names", []wire.TLV{certificateTLV(signed(t, tooMany))}, true, "true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.WithTLVs(tt.tlvs...)))
			for _, name := range documented {
				field, ok := strings.CutPrefix(name, "tlv.ssl.client_cert")
				if !ok {
					continue
				}
				value, known := placeholderOf(t, r, "."+name)
				assert.True(t, known, name)
				assert.Equal(t, tt.shown && (field == "" || field == ".fingerprint"), caddy.ToString(value) != "", "%s is %v", name, value)
			}
			value, _ := placeholderOf(t, r, ".tlv.ssl.verified")
			assert.Equal(t, tt.verify, value, "that does not depend on it")
		})
	}
}

func TestCertificates_FieldsAreFitToBeShown(t *testing.T) {
	hostile := "a\x1b]0;owned\x07\x7f\\"
	der := signed(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: attackText[:20]},
		DNSNames: []string{hostile, "b"}, EmailAddresses: []string{hostile},
	})
	r := caddytest.RequestOn(newTestConn(t, proxyprotocol.On, headertest.WithTLVs(certificateTLV(der))))
	for name, want := range map[string]any{
		"subject": `CN=evil\x0d\x0aX-Injected: ye`, "san.dns_names": proxyprotocol.TextList{`a\x1b]0;owned\x07\x7f\\`, "b"},
		"san.dns_names.0": `a\x1b]0;owned\x07\x7f\\`, "san.emails": proxyprotocol.TextList{`a\x1b]0;owned\x07\x7f\\`}, "san.uris": proxyprotocol.TextList{},
	} {
		value, _ := placeholderOf(t, r, ".tlv.ssl.client_cert."+name)
		assert.Equal(t, want, value, name)
	}
}

func TestCertificates_FieldsAreMatched(t *testing.T) {
	cert := caddytest.NewClientCertificate(t, "203.0.113.7", "203.0.113.8")
	f := caddytest.StartFarm(t, []string{"on"}, "", fmt.Sprintf(`
	@fingerprint proxy_protocol {
		tlv ssl.verified true
		tlv ssl.client_cert.fingerprint 00 %x
	}
	@name proxy_protocol {
		tlv ssl.client_cert.san.dns_names other.test not-an-address.test
	}
	@second proxy_protocol {
		tlv ssl.client_cert.san.ips.1 203.0.113.8
	}
	@other proxy_protocol {
		tlv ssl.client_cert.san.ips 203.0.113.9
	}
	@any proxy_protocol {
		tlv ssl.client_cert.san.ips
		tlv ssl.client_cert.subject CN=client.test
		tlv ssl.client_cert.serial 2
	}
	@none proxy_protocol {
		tlv ssl.client_cert.san.uris
	}
	@pinned pinned_ip {http.proxy_protocol.tlv.ssl.client_cert.san.ips}
	@cel expression `+"`"+`"not-an-address.test" in {http.proxy_protocol.tlv.ssl.client_cert.san.dns_names} && proxy_protocol('tlv:ssl.client_cert.issuer=CN=proxyprotocol test clients')`+"`"+`
	header @fingerprint +Matched fingerprint
	header @name +Matched name
	header @second +Matched second
	header @other +Matched other
	header @any +Matched any
	header @none +Matched none
	header @pinned +Matched pinned
	header @cel +Matched cel
	respond ok
`, sha256.Sum256(cert.DER)))
	for _, tt := range []struct {
		name string
		cert caddytest.ClientCertificate
		want []string
	}{
		{"this certificate", cert, []string{"fingerprint", "name", "second", "any", "pinned", "cel"}},
		{"another", caddytest.NewClientCertificate(t, "203.0.113.9"), []string{"name", "other", "any", "cel"}},
		{"one without addresses", caddytest.NewClientCertificate(t), []string{"name", "cel"}},
		{"none", caddytest.ClientCertificate{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, tr := range caddytest.Transports {
				response, _ := caddytest.Get(t, tr, f.At("on", tr), headertest.WithTLVs(certificateTLV(tt.cert.DER)), "/")
				assert.Equal(t, http.StatusOK, response.StatusCode, "a list is a list in CEL, even if it is empty")
				assert.ElementsMatch(t, tt.want, response.Header["Matched"], tr)
			}
		})
	}
}

func TestCertificates_ListsAreListsInTheLog(t *testing.T) {
	c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(certificateTLV(caddytest.NewClientCertificate(t, "203.0.113.7", "2001:db8::7").DER)))
	for name, want := range map[string]any{"ips": []any{"203.0.113.7", "2001:db8::7"}, "uris": []any{}} {
		value, _ := placeholderOf(t, caddytest.RequestOn(c), ".tlv.ssl.client_cert.san."+name)
		enc := zapcore.NewMapObjectEncoder()
		zap.Any("list", value).AddTo(enc) // as log_append does
		assert.Equal(t, want, enc.Fields["list"])
	}
}

func TestCertificates_AreParsedOnceAConnectionIfAsked(t *testing.T) {
	c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(certificateTLV(caddytest.NewClientCertificate(t).DER)))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			value, _ := placeholderOf(t, caddytest.RequestOn(c), ".tlv.ssl.client_cert.subject")
			assert.Equal(t, "CN=client.test", value)
		})
	}
	wg.Wait()
	proxyprotocol.ForgetTLVValues(c) // another reading finds nothing
	value, _ := placeholderOf(t, caddytest.RequestOn(c), ".tlv.ssl.client_cert.subject")
	assert.Equal(t, "CN=client.test", value)
}

func TestTLVs_AreDecodedOnceAConnection(t *testing.T) {
	c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.TextTLV(wire.TypeAuthority, "first"), headertest.SSLTLV(headertest.SSLUsed, 1, headertest.TextTLV(0x21, "TLSv1.3"))))
	authority := func() any {
		value, _ := placeholderOf(t, caddytest.RequestOn(c), ".tlv.authority")
		return value
	}
	require.Equal(t, "first", authority())
	proxyprotocol.ForgetTLVs(c) // whoever decodes again finds nothing
	assert.Equal(t, "first", authority())
	assert.Equal(t, map[string]any{"authority": "first", "ssl.version": "TLSv1.3", "ssl.verified": "false"}, logged(t, c)["tlv"])
}

func TestTLVs_AreNotDecodedForOtherPlaceholders(t *testing.T) {
	c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.TextTLV(wire.TypeAuthority, "first")))
	r := caddytest.RequestOn(c)
	for _, name := range documented {
		if !strings.HasPrefix(name, "tlv.") {
			placeholderOf(t, r, "."+name)
		}
	}
	m := &proxyprotocol.MatchProxyProtocol{Is: []string{"present"}, Version: []string{"v2"}, Peer: []string{"0.0.0.0/0"}}
	require.NoError(t, provision(m))
	match, err := m.MatchWithError(r)
	require.NoError(t, err)
	require.True(t, match)
	proxyprotocol.ForgetTLVs(c)
	value, _ := placeholderOf(t, r, ".tlv.authority")
	assert.Empty(t, value, "decoded before anyone asked")
}

func TestTLVs_TextIsShownWithoutWhatCannotBePrinted(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"plain", "example.com", "example.com"},
		{"other scripts", "bücher 例え.テスト", "bücher 例え.テスト"},
		{"quotes and backslashes", `"a\b'`, `"a\\b'`},
		{"a backslash is not an escape", `a\x0a` + "\n", `a\\x0a\x0a`},
		{"CR and LF", "a\r\nb", `a\x0d\x0ab`},
		{"NUL, tab and DEL", "\x00\t\x7f", `\x00\x09\x7f`},
		{"ANSI escape", "\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"C1 controls", "\u0085\u009b31m", `\xc2\x85\xc2\x9b31m`},
		{"separators of lines and paragraphs", "a\u2028b\u2029c", `a\xe2\x80\xa8b\xe2\x80\xa9c`},
		{"marks of direction", "a\u202eb\u2066c", `a\xe2\x80\xaeb\xe2\x81\xa6c`},
		{"zero width", "a\u200bb\ufeffc", `a\xe2\x80\x8bb\xef\xbb\xbfc`},
		{"no UTF-8", "a\xff\xc3(\xe2\x82", `a\xff\xc3(\xe2\x82`},
		{"surrogates", "\xed\xa0\x80", `\xed\xa0\x80`},
		{"replacement character", "a\ufffdb", "a\ufffdb"},
		{"at the end", "ab\n", `ab\x0a`},
		{"all of it", "\n\n", `\x0a\x0a`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.TextTLV(wire.TypeAuthority, tt.text)))
			assert.Equal(t, values{"authority": tt.want}, tlvValues(t, c))
			assert.Equal(t, map[string]any{"authority": tt.want}, logged(t, c)["tlv"])
		})
	}
}

func TestTLVs_OfAnyBytesAreFitToBeShown(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	samples := []wire.TLV{
		headertest.TextTLV(wire.TypeAuthority, attackText), headertest.TextTLV(wire.TypeALPN, "h2"), headertest.TextTLV(wire.TypeUniqueID, "id"), headertest.TextTLV(wire.TypeNetNS, "ns"),
		headertest.TextTLV(0xea, "\x01vpce-1"), headertest.TextTLV(0xee, "\x01\x01\x00\x00\x00"), headertest.TextTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01\x00"),
		headertest.SSLTLV(headertest.SSLUsed|headertest.SSLCertConn, 0, headertest.TextTLV(0x21, "TLSv1.3"), headertest.TextTLV(0x22, "a"), headertest.TextTLV(0x28, "no certificate")),
	}
	for range 2000 {
		var tlvs []wire.TLV
		for _, sample := range samples {
			value := slices.Clone(sample.Value)[:random.IntN(len(sample.Value)+1)]
			for i := range value {
				if random.IntN(4) == 0 {
					value[i] = byte(random.Uint32())
				}
			}
			tlvs = append(tlvs, wire.TLV{Type: sample.Type, Value: value})
		}
		c := newTestConn(t, proxyprotocol.On, headertest.WithTLVs(tlvs...))
		for name, value := range tlvValues(t, c) {
			for i, r := range value {
				require.True(t, unicode.IsPrint(r), "%s is %q", name, value)
				require.True(t, r != utf8.RuneError || strings.HasPrefix(value[i:], "\ufffd"), "%s is %q", name, value)
			}
		}
		require.Contains(t, logged(t, c), "tlv")
	}
}
