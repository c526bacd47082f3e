package proxyprotocol_test

// nginx 1.31.4 and later writes version 2 ('proxy_protocol v2' in stream). No package of it
// runs where the tests run, so these headers are built as its source builds them:
// ngx_proxy_protocol_v2_write in src/core/ngx_proxy_protocol.c, with the functions it calls
// (ngx_proxy_protocol_v2_write_header for the addresses, ngx_proxy_protocol_v2_eval_ssl and
// ngx_proxy_protocol_v2_ssl_sub for the TLVs, ngx_proxy_protocol_v2_write_ssl and
// ngx_proxy_protocol_v2_write_crc32c for the last two of them). They are no recordings.

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// nginxTLV is a TLV, or one inside of the SSL TLV.
func nginxTLV(typ byte, value string) string {
	return string(binary.BigEndian.AppendUint16([]byte{typ}, uint16(len(value)))) + value
}

// nginxSSL is the SSL TLV. verify is 1 (X509_V_ERR_UNSPECIFIED) if the client showed no
// certificate.
func nginxSSL(client byte, verify uint32, subs ...string) string {
	return nginxTLV(0x20, string(binary.BigEndian.AppendUint32([]byte{client}, verify))+strings.Join(subs, ""))
}

// nginxV2 is a header. The addresses are those of one family; without them it is LOCAL, as
// if one end of the client's connection is a Unix socket. The checksum is always there, and
// is the last.
func nginxV2(src, dst string, tlvs ...string) string {
	verCmd, famProto, block := byte(0x20), byte(0), ""
	if src != "" {
		from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
		verCmd, famProto = 0x21, 0x11
		if from.Addr().Is6() {
			famProto = 0x21
		}
		block = string(from.Addr().AsSlice()) + string(to.Addr().AsSlice()) +
			string(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port()))
	}
	block += strings.Join(tlvs, "") + nginxTLV(0x03, "\x00\x00\x00\x00")
	b := append([]byte(signatureV2), verCmd, famProto)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(block))), block...)
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

var (
	nginxServerCert = []string{nginxTLV(0x24, "ecdsa-with-SHA256"), nginxTLV(0x25, "EC256")}
	nginxHTTP2      = []string{nginxTLV(0x02, "example.com"), nginxTLV(0x01, "h2")}
)

// nginxTLS are the TLVs for a client that shows a certificate with this common name, or none.
func nginxTLS(client byte, verify uint32, cn ...string) []string {
	subs := []string{nginxTLV(0x21, "TLSv1.3")}
	for _, name := range cn {
		subs = append(subs, nginxTLV(0x22, name))
	}
	subs = append(subs, nginxTLV(0x23, "TLS_AES_256_GCM_SHA384"))
	return append([]string{nginxHTTP2[0], nginxHTTP2[1]}, nginxSSL(client, verify, append(subs, nginxServerCert...)...))
}

func TestMismatchedDestination_HeadersOfNginx1314AreAccepted(t *testing.T) {
	port := caddytest.FreePort(t)
	names := []string{"authority", "alpn", "ssl.version", "ssl.cn", "ssl.cipher", "ssl.sig_alg", "ssl.key_alg", "ssl.verified"}
	body := "{remote} {http.request.local} {http.proxy_protocol.version} {http.proxy_protocol.command} {http.proxy_protocol.transport}"
	for _, name := range names {
		body += "|{http.proxy_protocol.tlv." + name + "}"
	}
	c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on"),
		fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nlog\nrespond %q\n}\n", port, body))

	const (
		src4, dst4 = "203.0.113.7:51234", "198.51.100.10:443"
		src6, dst6 = "[2001:db8::7]:51234", "[2001:db8::10]:443"
		ofTLS      = "|example.com|h2|TLSv1.3|%s|TLS_AES_256_GCM_SHA384|ecdsa-with-SHA256|EC256|%s"
		noTLVs     = "||||||||"
		tcp4Facts  = src4 + " " + dst4 + " 2 PROXY TCP4"
		tcp6Facts  = src6 + " " + dst6 + " 2 PROXY TCP6"
	)
	for _, test := range []struct {
		name, header, want string
	}{
		{"IPv4", nginxV2(src4, dst4), tcp4Facts + noTLVs},
		{"IPv6", nginxV2(src6, dst6), tcp6Facts + noTLVs},
		{"TLS without a client certificate", nginxV2(src4, dst4, nginxTLS(1, 1)...), tcp4Facts + fmt.Sprintf(ofTLS, "", "false")},
		{"TLS with a client certificate", nginxV2(src6, dst6, nginxTLS(7, 0, "alice")...), tcp6Facts + fmt.Sprintf(ofTLS, "alice", "true")},
		{"a resumed session with a client certificate", nginxV2(src4, dst4, nginxTLS(5, 0, "alice")...), tcp4Facts + fmt.Sprintf(ofTLS, "alice", "true")},
		{"a client certificate that is not valid", nginxV2(src4, dst4, nginxTLS(7, 18, "alice")...), tcp4Facts + fmt.Sprintf(ofTLS, "alice", "false")},
		{"a client certificate that is revoked", nginxV2(src4, dst4, nginxTLS(7, 23, "alice")...), tcp4Facts + fmt.Sprintf(ofTLS, "alice", "false")},
		{"a common name in UTF-8", nginxV2(src4, dst4, nginxTLS(7, 0, "Müller")...), tcp4Facts + fmt.Sprintf(ofTLS, "Müller", "true")},
		{"an empty common name", nginxV2(src4, dst4, nginxTLS(7, 0, "")...), tcp4Facts + fmt.Sprintf(ofTLS, "", "true")},
		{"a common name that is not UTF-8", nginxV2(src4, dst4, nginxTLS(7, 18, "M\xfcller")...), tcp4Facts + fmt.Sprintf(ofTLS, `M\xfcller`, "false")},
		{"TLS without a server name and without ALPN", nginxV2(src4, dst4, nginxSSL(1, 1, nginxTLV(0x21, "TLSv1.2"), nginxTLV(0x23, "ECDHE-RSA-AES128-GCM-SHA256"), nginxTLV(0x24, "RSA-SHA256"), nginxTLV(0x25, "RSA2048"))),
			tcp4Facts + "|||TLSv1.2||ECDHE-RSA-AES128-GCM-SHA256|RSA-SHA256|RSA2048|false"},
		{"a server key without a name", nginxV2(src4, dst4, nginxSSL(1, 1, nginxTLV(0x21, "TLSv1.3"), nginxTLV(0x24, "ED25519"))),
			tcp4Facts + "|||TLSv1.3|||ED25519||false"},

		// Of two families the larger is taken, so that nothing is mismatched as in version 1.
		{"a chain, IPv4 between", nginxV2(src6, "[::ffff:127.0.0.1]:443"), src6 + " 127.0.0.1:443 2 PROXY TCP6" + noTLVs},
		{"a chain, IPv6 between", nginxV2("[::ffff:203.0.113.7]:51234", dst6), src4 + " [2001:db8::10]:443 2 PROXY TCP6" + noTLVs},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, pieces := range [][]string{{test.header}, strings.Split(test.header, "")} {
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				caddytest.Send(t, conn, pieces...)
				assert.Equal(t, test.want, ask(t, conn, ""))
			}
			wrong := []byte(test.header)
			wrong[len(wrong)-1] ^= 1
			logs := c.Logs.Tail()
			conn := caddytest.Dial(t, caddytest.TCP4(port))
			_, _ = io.WriteString(conn, string(wrong)+caddytest.Request("/"))
			caddytest.RequireRefused(t, conn)
			assert.Equal(t, "checksum", logs.WaitForRefusal(t, nil).Str("reason"))
		})
	}

	// A chain over a Unix socket loses the client.
	for name, header := range map[string]string{
		"a chain over a Unix socket":          nginxV2("", ""),
		"a chain over a Unix socket with TLS": nginxV2("", "", nginxTLS(7, 0, "alice")...),
	} {
		t.Run(name, func(t *testing.T) {
			conn := caddytest.Dial(t, caddytest.TCP4(port))
			assert.Equal(t, conn.LocalAddr().String()+" "+caddytest.TCP4(port).Address+" 2 LOCAL "+noTLVs, ask(t, conn, header))
		})
	}
}
