// Package tlv knows what the TLVs of PROXY protocol headers mean, by the names that users
// know them by.
package tlv

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// names are the names of what TLVs say that users can ask for, beside those of a
// certificate and 0xNN for the value of any type in hexadecimal.
var names = []string{
	"alpn", "authority", "unique_id", "netns",
	"ssl.version", "ssl.cn", "ssl.cipher", "ssl.sig_alg", "ssl.key_alg", "ssl.group",
	"ssl.sig_scheme", "ssl.client_cert", "ssl.verified", "ssl.verify_result", "ssl.cert_conn",
	"ssl.cert_sess",
	"aws_vpce_id", "azure_private_endpoint_link_id", "gcp_psc_connection_id",
	"alibaba_vpc_id", "alibaba_endpoint_id", "alibaba_endpoint_service_id",
}

// Names returns the names of what TLVs say, without those of [CertificateNames] and 0xNN.
func Names() []string { return slices.Clone(names) }

// ParseName returns the name in the form that Named uses.
func ParseName(name string) (string, error) {
	if slices.Contains(names, name) || isCertificateName(name) {
		return name, nil
	}
	if digits, ok := strings.CutPrefix(name, "0x"); ok && len(digits) == 2 {
		if _, err := hex.DecodeString(digits); err == nil {
			return strings.ToLower(name), nil
		}
	}
	known := strings.Join(slices.Concat(names, CertificateNames()), ", ")
	return "", fmt.Errorf("unknown TLV name '%s': use %s, or 0xNN for any type", name, known)
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
	// Values has the names that there are, and 0xNN for all types there are, but not the
	// names of a certificate's fields. Text is as it came: escape it before it is shown.
	Values map[string]string
	// Shown has the names worth showing, in the order of the TLVs: 0xNN only of types
	// that have no other name.
	Shown []string

	// parseOnce guards certificate, which is parsed when a name of it is asked for.
	parseOnce   sync.Once
	certificate *certificate
}

// Parse finds out what TLVs say. A TLV that does not have the form that its type should
// have says nothing. Of repeated types the first counts, of types with a subtype the first
// of each subtype, even if it says nothing.
func Parse(tlvs wire.TLVs) *Named {
	n := &Named{Values: make(map[string]string)}
	type part struct {
		typ     wire.Type
		subtype byte
	}
	counted := make(map[part]bool)
	var types []wire.Type // in the order of the first of each
	shown := make(map[wire.Type][]string)
	for tlv := range tlvs.All() {
		p := part{tlv.Type, subtypeOf(tlv)}
		if counted[p] {
			continue
		}
		counted[p] = true
		if _, ok := shown[tlv.Type]; !ok {
			types = append(types, tlv.Type)
			n.Values[Code(tlv.Type)] = hex.EncodeToString(tlv.Value)
		}
		names := shown[tlv.Type]
		for _, value := range Describe(tlv) {
			n.Values[value.Name] = value.Text
			if !slices.Contains(summed, value.Name) {
				names = append(names, value.Name)
			}
		}
		shown[tlv.Type] = names
	}
	for _, typ := range types {
		names := shown[typ]
		if len(names) == 0 && typ != wire.TypeCRC32C && typ != wire.TypeNoop {
			names = []string{Code(typ)}
		}
		n.Shown = append(n.Shown, names...)
	}
	return n
}

// summed are names that are not worth showing beside ssl.verified, which sums them up.
var summed = []string{"ssl.verify_result", "ssl.cert_conn", "ssl.cert_sess"}

// subtypeOf returns the first byte of a TLV of a type whose values begin with a subtype,
// else 0.
func subtypeOf(tlv wire.TLV) byte {
	switch tlv.Type {
	case tlvparse.PP2_TYPE_AWS, tlvparse.PP2_TYPE_AZURE, typeAlibaba:
		if len(tlv.Value) > 0 {
			return tlv.Value[0]
		}
	}
	return 0
}

// Text returns what the TLVs say under a name, as it came: escape it before it is shown.
// It is empty if they say nothing, or a list.
func (n *Named) Text(name string) string {
	if !isCertificateName(name) {
		return n.Values[name]
	}
	text, _ := n.cert().text(name)
	return text
}

// List returns what the TLVs say under the name of a list, as it came: escape it before it
// is shown. It is nil if they say nothing.
func (n *Named) List(name string) []string {
	if !IsList(name) {
		return nil
	}
	return n.cert().lists[name]
}

// Has reports whether the TLVs say something under a name, and if values are given,
// whether it is one of these. Of a list, one item has to be.
func (n *Named) Has(name string, values []string) bool {
	if list := n.List(name); list != nil {
		return len(values) == 0 || slices.ContainsFunc(list, func(item string) bool { return slices.Contains(values, item) })
	}
	text, ok := n.Values[name]
	if isCertificateName(name) {
		text, ok = n.cert().text(name)
	}
	return ok && (len(values) == 0 || slices.Contains(values, text))
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
		return ssl(tlv.Value).describe()
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
	case typeAlibaba:
		return describeAlibaba(tlv.Value)
	}
	return nil
}

// typeAlibaba is the type of Alibaba Cloud's TLVs for PrivateLink. Like all vendors' types
// it may be used for something else by other senders:
// https://www.alibabacloud.com/help/en/privatelink/obtain-real-client-information
const typeAlibaba = 0xe1

// alibabaNames are the names of the subtypes of Alibaba Cloud's TLVs.
var alibabaNames = [...]string{1: "alibaba_vpc_id", 2: "alibaba_endpoint_id", 3: "alibaba_endpoint_service_id"}

// describeAlibaba returns what an Alibaba Cloud TLV says: its subtype, and an ID.
func describeAlibaba(value []byte) []Value {
	if len(value) < 2 || int(value[0]) >= len(alibabaNames) || value[0] == 0 || !isID(value[1:]) {
		return nil
	}
	return []Value{{alibabaNames[value[0]], string(value[1:])}}
}

// isID reports whether b has only letters, digits and hyphens, as IDs in clouds have.
func isID(b []byte) bool {
	for _, c := range b {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
