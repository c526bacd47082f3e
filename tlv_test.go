package proxyprotocol

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// tlvValues are the placeholders of a header's TLVs that are not empty.
func tlvValues(t testing.TB, c *conn) values {
	t.Helper()
	got := make(values)
	r := requestOn(c)
	for _, name := range documented {
		tlv, ok := strings.CutPrefix(name, "tlv.")
		if !ok || strings.HasPrefix(tlv, "0x") {
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
func logged(t testing.TB, c *conn) map[string]any {
	t.Helper()
	value, known := placeholderOf(t, requestOn(c), "")
	require.True(t, known)
	b, err := json.Marshal(value)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(b, &got))
	return got
}

func TestTLVsSayWhatTheirTypesMean(t *testing.T) {
	certificate := clientCert(t, "203.0.113.7")
	tests := []struct {
		name string
		tlvs []wire.TLV
		want values
		// logged is what the access log has, if that is not want.
		logged values
	}{
		{"none", nil, values{}, nil},
		{"every text", []wire.TLV{textTLV(wire.TypeALPN, "h2"), textTLV(wire.TypeAuthority, "a.test"), textTLV(wire.TypeUniqueID, "id"), textTLV(wire.TypeNetNS, "ns")},
			values{"alpn": "h2", "authority": "a.test", "unique_id": "id", "netns": "ns"}, nil},
		{"an empty text", []wire.TLV{textTLV(wire.TypeAuthority, "")}, values{}, values{"authority": ""}},
		{"UTF-8", []wire.TLV{textTLV(wire.TypeAuthority, "bücher.test")}, values{"authority": "bücher.test"}, nil},
		{"a unique ID of the longest", []wire.TLV{textTLV(wire.TypeUniqueID, strings.Repeat("x", wire.MaxUniqueIDSize))}, values{"unique_id": strings.Repeat("x", wire.MaxUniqueIDSize)}, nil},
		{"of repeated types the first counts", []wire.TLV{textTLV(wire.TypeAuthority, "first"), textTLV(0xea, "\x01vpce-1"), textTLV(wire.TypeAuthority, "second"), textTLV(0xea, "\x01vpce-2")},
			values{"authority": "first", "aws_vpce_id": "vpce-1"}, nil},
		{"a repeated type whose first is broken", []wire.TLV{textTLV(0xee, "\x01"), textTLV(0xee, "\x01\x01\x00\x00\x00")}, values{}, values{"0xee": "01"}},
		{"padding", []wire.TLV{textTLV(wire.TypeNoop, "\x00\x00")}, values{}, values{}},
		{"types nobody knows", []wire.TLV{textTLV(0xf1, "\x00"), textTLV(0x7f, ""), textTLV(0xff, "\xff")}, values{}, values{"0xf1": "00", "0x7f": "", "0xff": "ff"}},

		{"AWS", []wire.TLV{textTLV(0xea, "\x01vpce-08d2bf15fac5001c9")}, values{"aws_vpce_id": "vpce-08d2bf15fac5001c9"}, nil},
		{"AWS of another subtype", []wire.TLV{textTLV(0xea, "\x02vpce-1")}, values{}, values{"0xea": "02767063652d31"}},
		{"AWS without a subtype", []wire.TLV{textTLV(0xea, "")}, values{}, values{"0xea": ""}},
		{"AWS without an ID", []wire.TLV{textTLV(0xea, "\x01")}, values{}, values{"0xea": "01"}},
		{"AWS with other text than an ID", []wire.TLV{textTLV(0xea, "\x01vpce-1\n")}, values{}, values{"0xea": "01767063652d310a"}},

		{"Azure, little-endian", []wire.TLV{textTLV(0xee, "\x01\xff\xff\xff\xff")}, values{"azure_private_endpoint_link_id": "4294967295"}, nil},
		{"Azure, zero", []wire.TLV{textTLV(0xee, "\x01\x00\x00\x00\x00")}, values{"azure_private_endpoint_link_id": "0"}, nil},
		{"Azure of another subtype", []wire.TLV{textTLV(0xee, "\x02\x01\x00\x00\x00")}, values{}, values{"0xee": "0201000000"}},
		{"Azure, truncated", []wire.TLV{textTLV(0xee, "\x01\x01\x00\x00")}, values{}, values{"0xee": "01010000"}},

		{"Google, big-endian", []wire.TLV{textTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01\x00")}, values{"gcp_psc_connection_id": "256"}, nil},
		{"Google, the largest", []wire.TLV{textTLV(0xe0, strings.Repeat("\xff", 8))}, values{"gcp_psc_connection_id": "18446744073709551615"}, nil},
		{"Google, truncated", []wire.TLV{textTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01")}, values{}, values{"0xe0": "00000000000001"}},

		{"SSL with a certificate", []wire.TLV{sslTLV(sslUsed|sslCertConn, 0, textTLV(0x21, "TLSv1.3"), textTLV(0x22, "client.test"), wire.TLV{Type: 0x28, Value: certificate.der})},
			values{"ssl.version": "TLSv1.3", "ssl.cn": "client.test", "ssl.client_cert": certificate.base64, "ssl.verified": "true"}, nil},
		{"SSL with a certificate of the session", []wire.TLV{sslTLV(sslUsed|sslCertSess, 0, textTLV(0x21, "TLSv1.2"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "true"}, nil},
		{"SSL with a certificate that failed", []wire.TLV{sslTLV(sslUsed|sslCertConn|sslCertSess, 18, textTLV(0x21, "TLSv1.2"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "false"}, nil},
		{"SSL without a certificate is not verified", []wire.TLV{sslTLV(sslUsed, 0, textTLV(0x21, "TLSv1.2"))}, values{"ssl.version": "TLSv1.2", "ssl.verified": "false"}, nil},
		{"SSL that was not used", []wire.TLV{sslTLV(0, 0)}, values{"ssl.verified": "false"}, nil},
		{"SSL with all text", []wire.TLV{sslTLV(sslUsed, 1, textTLV(0x21, "TLSv1.3"), textTLV(0x23, "cipher"), textTLV(0x24, "sig"), textTLV(0x25, "key"), textTLV(0x26, "group"), textTLV(0x27, "scheme"))},
			values{"ssl.version": "TLSv1.3", "ssl.cipher": "cipher", "ssl.sig_alg": "sig", "ssl.key_alg": "key", "ssl.group": "group", "ssl.sig_scheme": "scheme", "ssl.verified": "false"}, nil},
		{"SSL with a repeated part", []wire.TLV{sslTLV(sslUsed, 1, textTLV(0x21, "first"), textTLV(0x21, "second"))}, values{"ssl.version": "first", "ssl.verified": "false"}, nil},
		{"SSL with padding and parts nobody knows", []wire.TLV{sslTLV(sslUsed, 1, textTLV(0x04, "pad"), textTLV(0x21, "TLSv1.3"), textTLV(0x2f, "x"))}, values{"ssl.version": "TLSv1.3", "ssl.verified": "false"}, nil},
		{"SSL with a certificate that does not parse", []wire.TLV{sslTLV(sslUsed|sslCertConn, 0, textTLV(0x21, "TLSv1.3"), textTLV(0x28, "no certificate"))}, values{"ssl.version": "TLSv1.3", "ssl.verified": "true"}, nil},
		{"SSL with half a certificate", []wire.TLV{sslTLV(sslUsed|sslCertConn, 0, textTLV(0x21, "TLSv1.3"), wire.TLV{Type: 0x28, Value: certificate.der[:100]})}, values{"ssl.version": "TLSv1.3", "ssl.verified": "true"}, nil},
		{"SSL, empty", []wire.TLV{textTLV(wire.TypeSSL, "")}, values{}, values{"0x20": ""}},
		{"SSL, truncated before its parts", []wire.TLV{textTLV(wire.TypeSSL, "\x03\x00\x00\x00")}, values{}, values{"0x20": "03000000"}},
		{"SSL, truncated in a part", []wire.TLV{textTLV(wire.TypeSSL, "\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.")}, values{}, values{"0x20": "0100000000210007544c5376312e"}},
		{"SSL, truncated in the head of a part", []wire.TLV{textTLV(wire.TypeSSL, "\x00\x00\x00\x00\x00\x21\x00")}, values{}, values{"0x20": "00000000002100"}},
		{"a broken one between others", []wire.TLV{textTLV(wire.TypeALPN, "h2"), textTLV(wire.TypeSSL, "\x01"), textTLV(wire.TypeAuthority, "a.test")}, values{"alpn": "h2", "authority": "a.test"}, values{"alpn": "h2", "0x20": "01", "authority": "a.test"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestConn(On, v2With(tt.tlvs...))
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

func TestTLVsOfAnyTypeAreThereInHexadecimal(t *testing.T) {
	r := requestOn(newTestConn(On, v2With(textTLV(wire.TypeAuthority, "a.test"), textTLV(0xea, "\x01vpce-1"), textTLV(0xea, "\x01vpce-2"), textTLV(0xf0, ""), textTLV(wire.TypeNoop, "\x00"))))
	for name, want := range map[string]string{
		"0x02": "612e74657374", "0xea": "01767063652d31", "0xEA": "01767063652d31", "0xEa": "01767063652d31",
		"0xf0": "", "0x04": "00", "0x00": "", "0xff": "",
	} {
		value, known := placeholderOf(t, r, ".tlv."+name)
		assert.True(t, known, name)
		assert.Equal(t, want, value, name)
	}
}

func TestTLVsOfACertificateAreItsBytes(t *testing.T) {
	certificate := clientCert(t)
	c := newTestConn(On, v2With(sslTLV(sslUsed|sslCertConn, 0, textTLV(0x21, "TLSv1.3"), wire.TLV{Type: 0x28, Value: certificate.der})))
	value, _ := placeholderOf(t, requestOn(c), ".tlv.ssl.client_cert")
	der, err := base64.StdEncoding.DecodeString(value.(string))
	require.NoError(t, err)
	assert.Equal(t, certificate.der, der)
}

func TestTLVsAreDecodedOnceAConnection(t *testing.T) {
	c := newTestConn(On, v2With(textTLV(wire.TypeAuthority, "first"), sslTLV(sslUsed, 1, textTLV(0x21, "TLSv1.3"))))
	authority := func() any {
		value, _ := placeholderOf(t, requestOn(c), ".tlv.authority")
		return value
	}
	require.Equal(t, "first", authority())
	clear(c.tlvs.raw) // whoever decodes again finds nothing
	assert.Equal(t, "first", authority())
	assert.Equal(t, map[string]any{"authority": "first", "ssl.version": "TLSv1.3", "ssl.verified": "false"}, logged(t, c)["tlv"])
}

func TestTLVsAreNotDecodedForOtherPlaceholders(t *testing.T) {
	c := newTestConn(On, v2With(textTLV(wire.TypeAuthority, "first")))
	r := requestOn(c)
	for _, name := range documented {
		if !strings.HasPrefix(name, "tlv.") {
			placeholderOf(t, r, "."+name)
		}
	}
	m := &MatchProxyProtocol{Is: []string{isPresent}, Version: []string{"v2"}, Peer: []string{"0.0.0.0/0"}}
	require.NoError(t, m.compile())
	match, err := m.MatchWithError(r)
	require.NoError(t, err)
	require.True(t, match)
	clear(c.tlvs.raw)
	value, _ := placeholderOf(t, r, ".tlv.authority")
	assert.Empty(t, value, "decoded before anyone asked")
}

func TestTextIsShownWithoutWhatCannotBePrinted(t *testing.T) {
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
			c := newTestConn(On, v2With(textTLV(wire.TypeAuthority, tt.text)))
			assert.Equal(t, values{"authority": tt.want}, tlvValues(t, c))
			assert.Equal(t, map[string]any{"authority": tt.want}, logged(t, c)["tlv"])
		})
	}
}

func TestTLVsOfAnyBytesAreFitToBeShown(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	samples := []wire.TLV{
		textTLV(wire.TypeAuthority, attackText), textTLV(wire.TypeALPN, "h2"), textTLV(wire.TypeUniqueID, "id"), textTLV(wire.TypeNetNS, "ns"),
		textTLV(0xea, "\x01vpce-1"), textTLV(0xee, "\x01\x01\x00\x00\x00"), textTLV(0xe0, "\x00\x00\x00\x00\x00\x00\x01\x00"),
		sslTLV(sslUsed|sslCertConn, 0, textTLV(0x21, "TLSv1.3"), textTLV(0x22, "a"), textTLV(0x28, "no certificate")),
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
		c := newTestConn(On, v2With(tlvs...))
		for name, value := range tlvValues(t, c) {
			for i, r := range value {
				require.True(t, unicode.IsPrint(r), "%s is %q", name, value)
				require.True(t, r != utf8.RuneError || strings.HasPrefix(value[i:], "\ufffd"), "%s is %q", name, value)
			}
		}
		require.Contains(t, logged(t, c), "tlv")
	}
}
