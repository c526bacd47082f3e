package tlv

import (
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"strconv"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// ssl is the value of an SSL TLV, in which the load balancer describes the client's TLS
// connection (specification, section 2.2.6). Each part is read by itself: load balancers copy
// parts from the client's certificate, so the client chooses their bytes, and these bytes must
// not make another part unreadable.
type ssl []byte

// The bits of the first byte.
const (
	sslClient   byte = 1 << iota // the client connected with TLS
	sslCertConn                  // the client presented a certificate on this connection
	sslCertSess                  // the client presented a certificate in this TLS session
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

// sslTexts are the types and names of the parts that are text.
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

// bits returns the first byte. It is 0 if the value is empty: the client then counts as one
// without TLS and without a certificate.
func (s ssl) bits() byte {
	if len(s) == 0 {
		return 0
	}
	return s[0]
}

// verifyResult returns the result of verifying the client's certificate, which is 0 if the
// certificate is valid. ok is false if the value is too short to have a result. HAProxy sends 0
// for a client without a certificate, too.
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

// parts returns the TLVs behind the verify result. Reading them ends at the first that
// overruns the end.
func (s ssl) parts() wire.TLVs {
	return wire.TLVs(s[min(sslHeadSize, len(s)):])
}

// describe returns the named values of the TLV. ssl.verified is always among them: otherwise a
// client could escape a rule for certificates that were not verified.
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

// isSequence reports whether b is one DER SEQUENCE and nothing else, as a certificate is. The
// contents are not checked, because the load balancer may accept certificates that Go cannot
// parse.
func isSequence(b []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	return err == nil && len(rest) == 0 && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence && v.IsCompound
}
