package proxyprotocol_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

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
		{"IPv4", caddytest.NginxV2(src4, dst4), tcp4Facts + noTLVs},
		{"IPv6", caddytest.NginxV2(src6, dst6), tcp6Facts + noTLVs},
		{"TLS without a client certificate", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(1, 1)...), tcp4Facts + fmt.Sprintf(ofTLS, "", "false")},
		{"TLS with a client certificate", caddytest.NginxV2(src6, dst6, caddytest.NginxTLS(7, 0, "alice")...), tcp6Facts + fmt.Sprintf(ofTLS, "alice", "true")},
		{"a resumed session with a client certificate", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(5, 0, "alice")...), tcp4Facts + fmt.Sprintf(ofTLS, "alice", "true")},
		{"a client certificate that is not valid", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(7, 18, "alice")...), tcp4Facts + fmt.Sprintf(ofTLS, "alice", "false")},
		{"a client certificate that is revoked", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(7, 23, "alice")...), tcp4Facts + fmt.Sprintf(ofTLS, "alice", "false")},
		{"a common name in UTF-8", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(7, 0, "Müller")...), tcp4Facts + fmt.Sprintf(ofTLS, "Müller", "true")},
		{"an empty common name", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(7, 0, "")...), tcp4Facts + fmt.Sprintf(ofTLS, "", "true")},
		{"a common name that is not UTF-8", caddytest.NginxV2(src4, dst4, caddytest.NginxTLS(7, 18, "M\xfcller")...), tcp4Facts + fmt.Sprintf(ofTLS, `M\xfcller`, "false")},
		{"TLS without a server name and without ALPN", caddytest.NginxV2(src4, dst4, caddytest.NginxSSL(1, 1, caddytest.NginxTLV(0x21, "TLSv1.2"), caddytest.NginxTLV(0x23, "ECDHE-RSA-AES128-GCM-SHA256"), caddytest.NginxTLV(0x24, "RSA-SHA256"), caddytest.NginxTLV(0x25, "RSA2048"))),
			tcp4Facts + "|||TLSv1.2||ECDHE-RSA-AES128-GCM-SHA256|RSA-SHA256|RSA2048|false"},
		{"a server key without a name", caddytest.NginxV2(src4, dst4, caddytest.NginxSSL(1, 1, caddytest.NginxTLV(0x21, "TLSv1.3"), caddytest.NginxTLV(0x24, "ED25519"))),
			tcp4Facts + "|||TLSv1.3|||ED25519||false"},

		// Of two families the larger is taken, so that nothing is mismatched as in version 1.
		{"a chain, IPv4 between", caddytest.NginxV2(src6, "[::ffff:127.0.0.1]:443"), src6 + " 127.0.0.1:443 2 PROXY TCP6" + noTLVs},
		{"a chain, IPv6 between", caddytest.NginxV2("[::ffff:203.0.113.7]:51234", dst6), src4 + " [2001:db8::10]:443 2 PROXY TCP6" + noTLVs},
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
		"a chain over a Unix socket":          caddytest.NginxV2("", ""),
		"a chain over a Unix socket with TLS": caddytest.NginxV2("", "", caddytest.NginxTLS(7, 0, "alice")...),
	} {
		t.Run(name, func(t *testing.T) {
			conn := caddytest.Dial(t, caddytest.TCP4(port))
			assert.Equal(t, conn.LocalAddr().String()+" "+caddytest.TCP4(port).Address+" 2 LOCAL "+noTLVs, ask(t, conn, header))
		})
	}
}
