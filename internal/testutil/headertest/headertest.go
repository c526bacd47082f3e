// Package headertest makes the headers of tests.
package headertest

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The addresses in headers: those of a client, and of the server that the client connected to.
var (
	Client4 = netip.MustParseAddrPort("203.0.113.7:51234")
	Server4 = netip.MustParseAddrPort("192.0.2.1:443")
	Client6 = netip.MustParseAddrPort("[2001:db8::7]:51234")
	Server6 = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

// Text returns the bytes of a header as a string. It panics if err is not nil, so that tables of
// tests can call it with the results of a constructor.
func Text(h wire.Header, err error) string { return TextWith(h, err, false) }

// TextWith returns the bytes of a header with TLVs, and with a CRC32C if checksum is set. It
// panics if err is not nil.
func TextWith(h wire.Header, err error, checksum bool, tlvs ...wire.TLV) string {
	if err != nil {
		panic(err)
	}
	b, err := wire.Append(nil, h, tlvs, checksum)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// V1 returns the v1 header of a TCP connection.
func V1(src, dst netip.AddrPort) string { return Text(wire.NewProxy(1, wire.Stream, src, dst)) }

// V2 returns the v2 header of a TCP connection.
func V2(src, dst netip.AddrPort) string { return Text(wire.NewProxy(2, wire.Stream, src, dst)) }

// Local returns a LOCAL header.
func Local() string { return Text(wire.NewLocal(), nil) }

// Unknown returns the header of a connection without known addresses.
func Unknown(version uint8) string { return Text(wire.NewUnknown(version), nil) }

// WithTLVs returns the v2 header of a TCP connection from Client4 to Server4, with TLVs.
func WithTLVs(tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Stream, Client4, Server4)
	return TextWith(h, err, false, tlvs...)
}

// TextTLV returns a TLV with text in it.
func TextTLV(typ wire.Type, value string) wire.TLV { return wire.TLV{Type: typ, Value: []byte(value)} }

// SSLTLV returns an SSL TLV (pp2_ssl, section 2.2.6 of the specification).
func SSLTLV(client byte, verify uint32, sub ...wire.TLV) wire.TLV {
	value := binary.BigEndian.AppendUint32([]byte{client}, verify)
	for _, s := range sub {
		value = append(value, byte(s.Type))
		value = binary.BigEndian.AppendUint16(value, uint16(len(s.Value)))
		value = append(value, s.Value...)
	}
	return wire.TLV{Type: wire.TypeSSL, Value: value}
}

// The bits of a pp2_ssl's client field.
const (
	SSLUsed     = 0x01
	SSLCertConn = 0x02
	SSLCertSess = 0x04
)

// The headers that nginx 1.22.1 writes behind another load balancer. The source is the client of the
// received header, and the destination is nginx's own address, of another family: see
// ngx_proxy_protocol_write in nginx's src/core/ngx_proxy_protocol.c.
const (
	NginxOverIPv4 = "PROXY TCP6 2001:db8::7 127.0.0.1 51234 21120\r\n"
	NginxOverIPv6 = "PROXY TCP4 203.0.113.7 ::1 51234 21120\r\n"
	NginxOverUnix = "PROXY TCP6 2001:db8::7 unix:/run/nginx/chain.sock 51234 0\r\n"
)

// Raw returns a v2 header with any command, family and content.
func Raw(command, family byte, block string) string {
	return wire.SignatureV2 + string([]byte{command, family, byte(len(block) >> 8), byte(len(block))}) + block
}

// UDP returns the v2 header of a datagram, with TLVs and a CRC32C.
func UDP(src, dst netip.AddrPort, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Dgram, src, dst)
	return TextWith(h, err, true, tlvs...)
}

// Unix returns the v2 header of a connection between Unix sockets, with TLVs.
func Unix(tlvs ...wire.TLV) string {
	h := WithTLVs(tlvs...)
	const fixed, addrs = 16, 12 // the sizes of what comes before the TLVs of WithTLVs
	return Raw(0x21, 0x31, strings.Repeat("/run/client.sock\x00\x00", 12)+h[fixed+addrs:])
}
