package tlv

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"net"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// firsts is a simple model of which TLVs count: the values of the first of each type, and
// of each type with each first byte.
func firsts(raw []byte) (types, subtypes map[string]string) {
	types, subtypes = make(map[string]string), make(map[string]string)
	for len(raw) >= 3 {
		size := int(raw[1])<<8 | int(raw[2])
		if size > len(raw)-3 {
			break
		}
		value := string(raw[3 : 3+size])
		typ := hex.EncodeToString(raw[:1])
		if _, ok := types[typ]; !ok {
			types[typ] = value
		}
		if size > 0 {
			subtype := typ + hex.EncodeToString(raw[3:4])
			if _, ok := subtypes[subtype]; !ok {
				subtypes[subtype] = value[1:]
			}
		}
		raw = raw[3+size:]
	}
	return types, subtypes
}

var fuzzID = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// FuzzParse compares the values of any bytes with a model.
func FuzzParse(f *testing.F) {
	der := signed(f, &x509.Certificate{
		Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.test"}, IPAddresses: []net.IP{net.IPv6loopback}, EmailAddresses: []string{"a\x1b@a"},
	})
	for _, tlvs := range []wire.TLVs{
		nil,
		withCertificate(der),
		withCertificate(der[:40]),
		asTLVs(wire.TLV{Type: 1, Value: []byte("h2")}, wire.TLV{Type: 2, Value: []byte("\x1b\xff\\")}, wire.TLV{Type: 2, Value: []byte("x")}, wire.TLV{Type: 5}, wire.TLV{Type: 0x30}),
		asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x07\x00\x00\x00\x12\x21\x00\x07TLSv1.3\x22\x00\x06M\xfcller")}, wire.TLV{Type: 0x20, Value: []byte("\x07\x00\x00\x00\x00")}),
		asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x07\x00\x00\x00\x00\x22\x00")}),
		asTLVs(wire.TLV{Type: 0x20, Value: []byte("\x07\x00\x00\x00")}),
		asTLVs(wire.TLV{Type: 0x20}),
		asTLVs(wire.TLV{Type: 0xea, Value: []byte("\x06later")}, wire.TLV{Type: 0xea, Value: []byte("\x01vpce-1")}, wire.TLV{Type: 0xea}),
		asTLVs(wire.TLV{Type: 0xee, Value: []byte("\x01\x01\x00\x00\x80")}, wire.TLV{Type: 0xe0, Value: []byte("\x00\x00\x00\x00\x00\x00\x00\x01")}),
		asTLVs(wire.TLV{Type: 0xe1, Value: []byte("\x03epsrv-1")}, wire.TLV{Type: 0xe1, Value: []byte("\x01vpc-1")}, wire.TLV{Type: 0xe1, Value: []byte("\x02ep-1")}),
	} {
		f.Add([]byte(tlvs))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > wire.MaxSize {
			return
		}
		types, subtypes := firsts(raw)
		n := Parse(raw)

		// Every type has a value in hexadecimal, and its first TLV counts.
		for typ, value := range types {
			require.Equal(t, hex.EncodeToString([]byte(value)), n.Values["0x"+typ])
		}
		for name, typ := range map[string]string{"alpn": "01", "authority": "02", "unique_id": "05", "netns": "30"} {
			value, ok := types[typ]
			require.Equal(t, ok, n.Has(name, nil), name)
			require.Equal(t, value, n.Text(name), name)
		}

		// An SSL TLV always says whether a certificate was verified.
		ssl, ok := types["20"]
		require.Equal(t, ok, n.Has("ssl.verified", nil))
		verified := len(ssl) >= 5 && ssl[0]&6 != 0 && ssl[1:5] == "\x00\x00\x00\x00"
		require.Equal(t, ok && verified, n.Has("ssl.verified", []string{"true"}))
		require.Equal(t, ok && !verified, n.Has("ssl.verified", []string{"false"}))
		require.Equal(t, len(ssl) >= 5, n.Has("ssl.verify_result", nil))
		require.Equal(t, ok, n.Has("ssl.cert_conn", nil))
		require.Equal(t, ok && len(ssl) > 0 && ssl[0]&2 != 0, n.Has("ssl.cert_conn", []string{"true"}))
		require.Equal(t, ok && len(ssl) > 0 && ssl[0]&4 != 0, n.Has("ssl.cert_sess", []string{"true"}))
		parts, _ := firsts([]byte(ssl[min(5, len(ssl)):]))
		for i, name := range strings.Fields("version cn cipher sig_alg key_alg group sig_scheme") {
			value, ok := parts[hex.EncodeToString([]byte{0x21 + byte(i)})]
			require.Equal(t, ok, n.Has("ssl."+name, nil), name)
			require.Equal(t, value, n.Text("ssl."+name), name)
		}
		cert, certOK := parts["28"]
		require.False(t, n.Has("ssl.client_cert", nil) && !certOK)
		require.Equal(t, n.Has("ssl.client_cert", nil), n.Has("ssl.client_cert.fingerprint", nil))
		if _, err := x509.ParseCertificate([]byte(cert)); certOK && err == nil {
			require.True(t, n.Has("ssl.client_cert", nil))
		} else {
			require.False(t, n.Has("ssl.client_cert.serial", nil))
		}

		// Of types of vendors the first TLV of each subtype counts.
		for subtype, name := range map[string]string{
			"ea01": "aws_vpce_id", "e101": "alibaba_vpc_id", "e102": "alibaba_endpoint_id", "e103": "alibaba_endpoint_service_id",
		} {
			id := subtypes[subtype]
			require.Equal(t, fuzzID.MatchString(id), n.Has(name, nil), name)
			if n.Has(name, nil) {
				require.Equal(t, id, n.Text(name), name)
			}
		}
		require.Equal(t, len(subtypes["ee01"]) == 4, n.Has("azure_private_endpoint_link_id", nil))
		require.Equal(t, len(types["e0"]) == 8, n.Has("gcp_psc_connection_id", nil))

		// Every name can be asked for, and the number of shown names is bounded.
		size := 0
		for name, text := range n.Values {
			parsed, err := ParseName(name)
			require.NoError(t, err)
			require.Equal(t, name, parsed)
			size += len(text)
		}
		require.LessOrEqual(t, size, 5*len(raw)+64)
		require.LessOrEqual(t, len(n.Shown), 256+len(names))
		for _, name := range n.Shown {
			require.Contains(t, n.Values, name)
		}
		shown := func(text string) {
			at := strings.IndexFunc(escape.Text(text), func(r rune) bool { return !unicode.IsPrint(r) })
			require.Negative(t, at, "%q", text)
		}
		for _, text := range n.Values {
			shown(text)
		}
		items := 0
		for _, name := range CertificateNames() {
			text, list := n.Text(name), n.List(name)
			shown(text)
			require.LessOrEqual(t, len(text), 8*len(cert)+64, name)
			items += len(list)
			for i, item := range list {
				shown(item)
				require.True(t, n.Has(name, []string{item}))
				if i == 0 {
					require.Equal(t, item, n.Text(name+".0"))
				}
			}
		}
		require.LessOrEqual(t, items, maxAltNames)
	})
}
