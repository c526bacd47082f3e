package caddytest

// nginx 1.31.4 and later writes version 2 ('proxy_protocol v2' in stream). No package of it
// runs where the tests run, so these headers are built as its source builds them:
// ngx_proxy_protocol_v2_write in src/core/ngx_proxy_protocol.c, with the functions it calls
// (ngx_proxy_protocol_v2_write_header for the addresses, ngx_proxy_protocol_v2_eval_ssl and
// ngx_proxy_protocol_v2_ssl_sub for the TLVs, ngx_proxy_protocol_v2_write_ssl and
// ngx_proxy_protocol_v2_write_crc32c for the last two of them). They are no recordings.

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// NginxTLV is a TLV, or one inside of the SSL TLV.
func NginxTLV(typ byte, value string) string {
	return string(binary.BigEndian.AppendUint16([]byte{typ}, uint16(len(value)))) + value
}

// NginxSSL is the SSL TLV. verify is 1 (X509_V_ERR_UNSPECIFIED) if the client showed no
// certificate.
func NginxSSL(client byte, verify uint32, subs ...string) string {
	return NginxTLV(0x20, string(binary.BigEndian.AppendUint32([]byte{client}, verify))+strings.Join(subs, ""))
}

// NginxV2 is a header. The addresses are those of one family; without them it is LOCAL, as
// if one end of the client's connection is a Unix socket. The checksum is always there, and
// is the last.
func NginxV2(src, dst string, tlvs ...string) string {
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
	block += strings.Join(tlvs, "") + NginxTLV(0x03, "\x00\x00\x00\x00")
	b := append([]byte(wire.SignatureV2), verCmd, famProto)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(block))), block...)
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

var (
	nginxServerCert = []string{NginxTLV(0x24, "ecdsa-with-SHA256"), NginxTLV(0x25, "EC256")}
	nginxHTTP2      = []string{NginxTLV(0x02, "example.com"), NginxTLV(0x01, "h2")}
)

// NginxTLS are the TLVs for a client that shows a certificate with this common name, or none.
func NginxTLS(client byte, verify uint32, cn ...string) []string {
	subs := []string{NginxTLV(0x21, "TLSv1.3")}
	for _, name := range cn {
		subs = append(subs, NginxTLV(0x22, name))
	}
	subs = append(subs, NginxTLV(0x23, "TLS_AES_256_GCM_SHA384"))
	return append([]string{nginxHTTP2[0], nginxHTTP2[1]}, NginxSSL(client, verify, append(subs, nginxServerCert...)...))
}
