package tlv

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Encode returns TLVs with these values, in this order. All values of ssl share one TLV, which
// takes the place of the first of them. A duplicate name is an error, except for 0xNN, because
// types may repeat.
func Encode(values []Value) ([]wire.TLV, error) {
	var tlvs []wire.TLV
	var sslValues []Value
	sslAt, seen := -1, make(map[string]bool)
	for _, value := range values {
		name, err := ParseName(value.Name)
		if err != nil {
			return nil, err
		}
		if isCertificateName(name) {
			return nil, fmt.Errorf("TLV '%s' is part of ssl.client_cert: use ssl.client_cert instead", name)
		}
		hexadecimal := IsCode(name)
		if seen[name] && !hexadecimal {
			return nil, fmt.Errorf("duplicate TLV '%s': remove one", name)
		}
		seen[name] = true
		switch {
		case hexadecimal:
			var tlv wire.TLV
			tlv, err = encodeHex(name, value.Text)
			tlvs = append(tlvs, tlv)
		case strings.HasPrefix(name, "ssl."):
			if sslAt < 0 {
				sslAt = len(tlvs)
				tlvs = append(tlvs, wire.TLV{Type: wire.TypeSSL})
			}
			sslValues = append(sslValues, Value{name, value.Text})
		default:
			var tlv wire.TLV
			tlv, err = encodeNamed(name, value.Text)
			tlvs = append(tlvs, tlv)
		}
		if err != nil {
			return nil, fmt.Errorf("TLV '%s': %w", name, err)
		}
	}
	if sslAt >= 0 {
		var err error
		if tlvs[sslAt].Value, err = encodeSSL(sslValues); err != nil {
			return nil, err
		}
	}
	return tlvs, nil
}

var (
	errNotHex    = errors.New("the value must be in hexadecimal")
	errNotBase64 = errors.New("the value must be a certificate: its DER form in base64")
	errNotBool   = errors.New("the value must be true or false")
	errNoValue   = errors.New("the value must not be empty")
	errTooLong   = errors.New("the value must not be longer than 65535 bytes")
)

func encodeHex(name, text string) (wire.TLV, error) {
	typ, _ := hex.DecodeString(name[len("0x"):]) // ParseName has checked the digits
	value, err := hex.DecodeString(text)
	if err != nil {
		return wire.TLV{}, errNotHex
	}
	return wire.TLV{Type: wire.Type(typ[0]), Value: value}, nil
}

func encodeNamed(name, text string) (wire.TLV, error) {
	switch name {
	case "alpn":
		return wire.TLV{Type: wire.TypeALPN, Value: []byte(text)}, nil
	case "authority":
		return wire.TLV{Type: wire.TypeAuthority, Value: []byte(text)}, nil
	case "unique_id":
		return wire.TLV{Type: wire.TypeUniqueID, Value: []byte(text)}, nil
	case "netns":
		return wire.TLV{Type: wire.TypeNetNS, Value: []byte(text)}, nil
	case "aws_vpce_id":
		value := append([]byte{tlvparse.PP2_SUBTYPE_AWS_VPCE_ID}, text...)
		return wire.TLV{Type: tlvparse.PP2_TYPE_AWS, Value: value}, nil
	case "azure_private_endpoint_link_id":
		id, err := parseNumber(text, 32)
		value := []byte{tlvparse.PP2_SUBTYPE_AZURE_PRIVATEENDPOINT_LINKID}
		value = binary.LittleEndian.AppendUint32(value, uint32(id))
		return wire.TLV{Type: tlvparse.PP2_TYPE_AZURE, Value: value}, err
	case "gcp_psc_connection_id":
		id, err := parseNumber(text, 64)
		return wire.TLV{
			Type:  wire.Type(tlvparse.PP2_TYPE_GCP),
			Value: binary.BigEndian.AppendUint64(nil, id),
		}, err
	default: // one of alibabaNames
		subtype := byte(slices.Index(alibabaNames[:], name))
		return wire.TLV{Type: typeAlibaba, Value: append([]byte{subtype}, text...)}, nil
	}
}

func parseNumber(text string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		return 0, fmt.Errorf("the value must be a decimal number of %d bits", bits)
	}
	return n, nil
}

// notVerified is the verify result of a certificate that was not verified. Any number but 0
// means that.
const notVerified = 1

// encodeSSL returns the value of an SSL TLV with these values. Values that are not given follow
// from the others: the client used TLS if there is a version of TLS, it presented a certificate
// if there is a name, a certificate or ssl.verified true, and the certificate was verified only
// if ssl.verified is true.
func encodeSSL(values []Value) ([]byte, error) {
	var parts []byte
	var bits byte
	head := make(map[string]string)
	for _, value := range values {
		typ := sslPart(value.Name)
		if typ == 0 {
			head[value.Name] = value.Text
			continue
		}
		switch typ {
		case sslVersion:
			bits |= sslClient
		case sslCN, sslClientCert:
			bits |= sslCertConn
		}
		part, err := encodeSSLPart(typ, value.Text)
		if err != nil {
			return nil, fmt.Errorf("TLV '%s': %w", value.Name, err)
		}
		parts = append(parts, part...)
	}
	bits, result, err := encodeSSLHead(head, bits)
	if err != nil {
		return nil, err
	}
	s := append(binary.BigEndian.AppendUint32([]byte{bits}, result), parts...)
	if verified, ok := head["ssl.verified"]; ok && verified != strconv.FormatBool(ssl(s).verified()) {
		return nil, errors.New("TLV 'ssl.verified' contradicts ssl.verify_result, ssl.cert_conn or ssl.cert_sess: leave it out")
	}
	return s, nil
}

// sslPart returns the type of the part of an SSL TLV that has this name. It is 0 for names of
// values in the bits and the verify result.
func sslPart(name string) wire.Type {
	if name == "ssl.client_cert" {
		return sslClientCert
	}
	for _, part := range sslTexts {
		if part.name == name {
			return part.typ
		}
	}
	return 0
}

func encodeSSLPart(typ wire.Type, text string) ([]byte, error) {
	value := []byte(text)
	if typ == sslClientCert {
		var err error
		if value, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, errNotBase64
		}
	}
	switch {
	case len(value) == 0:
		return nil, errNoValue
	case len(value) > math.MaxUint16:
		return nil, errTooLong
	}
	return append(binary.BigEndian.AppendUint16([]byte{byte(typ)}, uint16(len(value))), value...), nil
}

// encodeSSLHead returns the bits and the verify result that an SSL TLV begins with. Bits that
// are not given keep their value in the argument bits.
func encodeSSLHead(given map[string]string, bits byte) (_ byte, result uint32, err error) {
	result = notVerified
	if given["ssl.verified"] == "true" {
		bits |= sslCertConn
		result = 0
	}
	for name, bit := range map[string]byte{"ssl.cert_conn": sslCertConn, "ssl.cert_sess": sslCertSess, "ssl.verified": 0} {
		switch text, ok := given[name]; {
		case !ok:
		case text == "true":
			bits |= bit
		case text == "false":
			bits &^= bit
		default:
			return 0, 0, fmt.Errorf("TLV '%s': %w", name, errNotBool)
		}
	}
	if text, ok := given["ssl.verify_result"]; ok {
		n, err := parseNumber(text, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("TLV 'ssl.verify_result': %w", err)
		}
		result = uint32(n)
	}
	return bits, result, nil
}
