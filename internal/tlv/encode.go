package tlv

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Encode returns the TLVs that say all this, in this order. What belongs to one TLV, as
// all of ssl does, becomes one. To say something twice is an error, except in
// hexadecimal.
func Encode(values []Value) ([]wire.TLV, error) {
	var tlvs []wire.TLV
	var ssl tlvparse.PP2SSL
	sslAt, said := -1, make(map[string]bool)
	for _, value := range values {
		name, err := ParseName(value.Name)
		if err != nil {
			return nil, err
		}
		hexadecimal := strings.HasPrefix(name, "0x")
		if said[name] && !hexadecimal {
			return nil, fmt.Errorf("TLV '%s' is given twice", name)
		}
		said[name] = true
		switch {
		case hexadecimal:
			var tlv wire.TLV
			if tlv, err = encodeHex(name, value.Text); err == nil {
				tlvs = append(tlvs, tlv)
			}
		case strings.HasPrefix(name, "ssl."):
			if sslAt < 0 {
				sslAt = len(tlvs)
				tlvs = append(tlvs, wire.TLV{Type: wire.TypeSSL})
				ssl.Verify = notVerified
			}
			err = addSSL(&ssl, name, value.Text)
		default:
			var tlv wire.TLV
			if tlv, err = encodeNamed(name, value.Text); err == nil {
				tlvs = append(tlvs, tlv)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("TLV '%s': %w", name, err)
		}
	}
	if sslAt >= 0 {
		tlv, err := ssl.Marshal()
		if err != nil {
			return nil, fmt.Errorf("TLV of type %s: %w", Code(wire.TypeSSL), err)
		}
		tlvs[sslAt].Value = tlv.Value
	}
	return tlvs, nil
}

// notVerified is any value but zero, which says that there was a certificate and that it
// was valid.
const notVerified = 1

var (
	errNotHex    = errors.New("the value must be in hexadecimal")
	errNotBase64 = errors.New("the value must be a certificate: its DER form in base64")
	errNotBool   = errors.New("the value must be true or false")
	errNoValue   = errors.New("the value must not be empty")
)

func encodeHex(name, text string) (wire.TLV, error) {
	typ, err := hex.DecodeString(name[len("0x"):])
	if err != nil {
		return wire.TLV{}, err
	}
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
	default:
		return wire.TLV{}, errors.ErrUnsupported
	}
}

func parseNumber(text string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		return 0, fmt.Errorf("the value must be a decimal number of %d bits", bits)
	}
	return n, nil
}

// addSSL adds a part of what the load balancer says of the client's TLS (specification,
// section 2.2.6).
func addSSL(ssl *tlvparse.PP2SSL, name, text string) error {
	if name == "ssl.verified" {
		switch text {
		case "true":
			ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
			ssl.Verify = 0
		case "false":
		default:
			return errNotBool
		}
		return nil
	}
	if text == "" {
		return errNoValue
	}
	sub := proxyproto.TLV{Value: []byte(text)}
	switch name {
	case "ssl.version":
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_SSL
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_VERSION
	case "ssl.cn":
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_CN
	case "ssl.cipher":
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_CIPHER
	case "ssl.sig_alg":
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_SIG_ALG
	case "ssl.key_alg":
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_KEY_ALG
	case "ssl.group":
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_GROUP
	case "ssl.sig_scheme":
		sub.Type = proxyproto.PP2_SUBTYPE_SSL_SIG_SCHEME
	case "ssl.client_cert":
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return errNotBase64
		}
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
		sub.Type, sub.Value = proxyproto.PP2_SUBTYPE_SSL_CLIENT_CERT, der
	default:
		return errors.ErrUnsupported
	}
	ssl.TLV = append(ssl.TLV, sub)
	return nil
}
