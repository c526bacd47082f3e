package tlv

import (
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"strconv"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// ssl is the value of an SSL TLV: what the load balancer says of the client's TLS
// connection (specification, section 2.2.6). Every part of it stands for itself. Load
// balancers copy parts from the client's certificate, so the client chooses their bytes:
// they must not make another part unreadable.
type ssl []byte

// The bits of the first byte.
const (
	sslClient   byte = 1 << iota // the client connected with TLS
	sslCertConn                  // it presented a certificate on this connection
	sslCertSess                  // it presented one on a connection of this TLS session
)

// The types of the parts.
const (
	sslVersion wire.Type = 0x21 + iota
	sslCN
	sslCipher
	sslSigAlg
	sslKeyAlg
	sslGroup
	sslSigScheme
	sslClientCert
)

// sslTexts are the parts that are text.
var sslTexts = []struct {
	typ  wire.Type
	name string
}{
	{sslVersion, "ssl.version"},
	{sslCN, "ssl.cn"},
	{sslCipher, "ssl.cipher"},
	{sslSigAlg, "ssl.sig_alg"},
	{sslKeyAlg, "ssl.key_alg"},
	{sslGroup, "ssl.group"},
	{sslSigScheme, "ssl.sig_scheme"},
}

// sslHeadSize is the size of the bits and the verify result, which come before the parts.
const sslHeadSize = 5

// bits returns those of the client. What is cut off was not presented.
func (s ssl) bits() byte {
	if len(s) == 0 {
		return 0
	}
	return s[0]
}

// verifyResult returns the result of verifying the client's certificate, and whether it is
// there. It is 0 if the certificate is valid. HAProxy sends 0 without a certificate as well.
func (s ssl) verifyResult() (result uint32, ok bool) {
	if len(s) < sslHeadSize {
		return 0, false
	}
	return binary.BigEndian.Uint32(s[1:]), true
}

// verified reports whether the client presented a certificate that was found valid.
func (s ssl) verified() bool {
	result, ok := s.verifyResult()
	return ok && result == 0 && s.bits()&(sslCertConn|sslCertSess) != 0
}

// parts returns the TLVs inside, up to the first that overruns the end.
func (s ssl) parts() wire.TLVs {
	return wire.TLVs(s[min(sslHeadSize, len(s)):])
}

// describe returns what the TLV says. It always says whether the client's certificate was
// verified, so that nobody can avoid a rule for those that were not.
func (s ssl) describe() []Value {
	var values []Value
	for _, part := range sslTexts {
		if text, ok := s.parts().First(part.typ); ok {
			values = append(values, Value{part.name, string(text)})
		}
	}
	values = append(values, Value{"ssl.verified", strconv.FormatBool(s.verified())})
	if result, ok := s.verifyResult(); ok {
		values = append(values, Value{"ssl.verify_result", strconv.FormatUint(uint64(result), 10)})
	}
	values = append(values,
		Value{"ssl.cert_conn", strconv.FormatBool(s.bits()&sslCertConn != 0)},
		Value{"ssl.cert_sess", strconv.FormatBool(s.bits()&sslCertSess != 0)})
	if der, _ := s.parts().First(sslClientCert); isSequence(der) {
		values = append(values, Value{"ssl.client_cert", base64.StdEncoding.EncodeToString(der)})
	}
	return values
}

// isSequence reports whether b is one DER SEQUENCE to its end, as a certificate is. It asks
// no more than that, because the load balancer may read certificates that Go does not.
func isSequence(b []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	return err == nil && len(rest) == 0 && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence && v.IsCompound
}
