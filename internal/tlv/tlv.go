// Package tlv knows what the TLVs of PROXY protocol headers mean, by the names that users
// know them by.
package tlv

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// names are the names of what TLVs say that users can ask for, beside 0xNN for the value
// of any type in hexadecimal.
var names = []string{
	"alpn", "authority", "unique_id", "netns",
	"ssl.version", "ssl.cn", "ssl.cipher", "ssl.sig_alg", "ssl.key_alg", "ssl.group",
	"ssl.sig_scheme", "ssl.client_cert", "ssl.verified",
	"aws_vpce_id", "azure_private_endpoint_link_id", "gcp_psc_connection_id",
}

// Names returns the names of what TLVs say, without 0xNN.
func Names() []string { return slices.Clone(names) }

// ParseName returns the name in the form that Named uses.
func ParseName(name string) (string, error) {
	if slices.Contains(names, name) {
		return name, nil
	}
	if digits, ok := strings.CutPrefix(name, "0x"); ok && len(digits) == 2 {
		if _, err := hex.DecodeString(digits); err == nil {
			return strings.ToLower(name), nil
		}
	}
	return "", fmt.Errorf("unknown TLV name '%s': use %s, or 0xNN for any type", name, strings.Join(names, ", "))
}

// Code returns the name 0xNN of a type.
func Code(typ wire.Type) string { return fmt.Sprintf("0x%02x", byte(typ)) }

// Value is what a TLV says under a name.
type Value struct {
	Name string
	// Text is as it came: escape it before it is shown.
	Text string
}

// Named is what all TLVs of a header say, by name.
type Named struct {
	// Values has the names that there are, and 0xNN for all types there are. Text is as
	// it came: escape it before it is shown.
	Values map[string]string
	// Telling has the names worth showing, in the order of the TLVs: 0xNN only of types
	// that have no other name.
	Telling []string
}

// Name finds out what TLVs say. What has not the form that its type should have is not
// there. Of repeated types the first counts.
func Name(tlvs wire.TLVs) Named {
	n := Named{Values: make(map[string]string)}
	for tlv := range tlvs.All() {
		code := Code(tlv.Type)
		if _, ok := n.Values[code]; ok {
			continue
		}
		n.Values[code] = hex.EncodeToString(tlv.Value)
		values := Describe(tlv)
		for _, value := range values {
			n.Values[value.Name] = value.Text
			n.Telling = append(n.Telling, value.Name)
		}
		if len(values) == 0 && tlv.Type != wire.TypeCRC32C && tlv.Type != wire.TypeNoop {
			n.Telling = append(n.Telling, code)
		}
	}
	return n
}

// Describe returns what one TLV says beside its bytes: nothing if its type has no name or
// its value not the form that the type should have.
func Describe(tlv wire.TLV) []Value {
	parsed := proxyproto.TLV{Type: proxyproto.PP2Type(tlv.Type), Value: tlv.Value}
	switch parsed.Type {
	case proxyproto.PP2_TYPE_ALPN:
		return []Value{{"alpn", string(tlv.Value)}}
	case proxyproto.PP2_TYPE_AUTHORITY:
		return []Value{{"authority", string(tlv.Value)}}
	case proxyproto.PP2_TYPE_UNIQUE_ID:
		return []Value{{"unique_id", string(tlv.Value)}}
	case proxyproto.PP2_TYPE_NETNS:
		return []Value{{"netns", string(tlv.Value)}}
	case proxyproto.PP2_TYPE_SSL:
		if ssl, err := tlvparse.SSL(parsed); err == nil {
			return describeSSL(ssl)
		}
	case tlvparse.PP2_TYPE_AWS:
		if id := tlvparse.FindAWSVPCEndpointID([]proxyproto.TLV{parsed}); id != "" {
			return []Value{{"aws_vpce_id", id}}
		}
	case tlvparse.PP2_TYPE_AZURE:
		if id, ok := tlvparse.FindAzurePrivateEndpointLinkID([]proxyproto.TLV{parsed}); ok {
			return []Value{{"azure_private_endpoint_link_id", strconv.FormatUint(uint64(id), 10)}}
		}
	case tlvparse.PP2_TYPE_GCP:
		if id, ok := tlvparse.ExtractPSCConnectionID([]proxyproto.TLV{parsed}); ok {
			return []Value{{"gcp_psc_connection_id", strconv.FormatUint(id, 10)}}
		}
	}
	return nil
}

// describeSSL returns what the load balancer says of the client's TLS (specification,
// section 2.2.6).
func describeSSL(ssl tlvparse.PP2SSL) []Value {
	var values []Value
	for _, text := range []struct {
		name string
		get  func() (string, bool)
	}{
		{"ssl.version", ssl.SSLVersion},
		{"ssl.cn", ssl.ClientCN},
		{"ssl.cipher", ssl.SSLCipher},
		{"ssl.sig_alg", ssl.SSLSigAlg},
		{"ssl.key_alg", ssl.SSLKeyAlg},
		{"ssl.group", ssl.SSLGroup},
		{"ssl.sig_scheme", ssl.SSLSigScheme},
	} {
		if value, ok := text.get(); ok {
			values = append(values, Value{text.name, value})
		}
	}
	// HAProxy sends a verify field of zero without a certificate as well.
	presented := ssl.ClientCertConn() || ssl.ClientCertSess()
	values = append(values, Value{"ssl.verified", strconv.FormatBool(presented && ssl.Verified())})
	if der, ok := ssl.ClientCert(); ok {
		if _, err := x509.ParseCertificate(der); err == nil {
			values = append(values, Value{"ssl.client_cert", base64.StdEncoding.EncodeToString(der)})
		}
	}
	return values
}
