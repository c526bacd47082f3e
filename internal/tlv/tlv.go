// Package tlv translates between the TLVs of PROXY protocol headers and named values. Users
// know the values by these names, in placeholders, matchers and commands.
package tlv

import (
	"crypto/subtle"
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

// names are the names of values that users can ask for. There are also the names of fields of a
// certificate, and 0xNN for the value of any type in hexadecimal.
var names = []string{
	"alpn", "authority", "unique_id", "netns",
	"ssl.version", "ssl.cn", "ssl.cipher", "ssl.sig_alg", "ssl.key_alg", "ssl.group",
	"ssl.sig_scheme", "ssl.client_cert", "ssl.verified", "ssl.verify_result", "ssl.cert_conn",
	"ssl.cert_sess",
	"aws_vpce_id", "azure_private_endpoint_link_id", "gcp_psc_connection_id",
	"alibaba_vpc_id", "alibaba_endpoint_id", "alibaba_endpoint_service_id",
}

// Names returns the names of the values of TLVs, without [CertificateNames] and 0xNN.
func Names() []string { return slices.Clone(names) }

// ParseName returns a name in the form that [Named] uses: 0xNN in lower case, others as they
// are. An unknown name is an error.
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

// IsCode reports whether a name is that of a type, 0xNN. The values of such TLVs count as secrets where
// they are required.
func IsCode(name string) bool { return strings.HasPrefix(name, "0x") }

// Code returns the name 0xNN of a type.
func Code(typ wire.Type) string { return fmt.Sprintf("0x%02x", byte(typ)) }

// Value is one named value of a TLV.
type Value struct {
	// Name is one of [Names], or 0xNN for [Encode].
	Name string
	// Text is not escaped: escape it before it is shown.
	Text string
}

// Named has the values of all TLVs of a header by name.
type Named struct {
	// Values has each value under its name, and the first value of each type in hexadecimal
	// under 0xNN. The fields of a certificate are not in the map: see Text and List. Values
	// are not escaped: escape them before they are shown. The values of secret types are
	// [Redacted].
	Values map[string]string
	// secrets has the values of secret types in place of Values. Only Has reads it.
	secrets map[string]string
	// Shown has the names that are worth showing, in the order of the TLVs. A type is shown as
	// 0xNN only if there is no other name for it, and a checksum or padding not at all.
	Shown []string

	// parseOnce guards certificate, which is parsed when one of its fields is asked for.
	parseOnce   sync.Once
	certificate *certificate
}

// Parse returns the values of TLVs by name. A TLV whose value does not have the form of its type
// has no value but 0xNN. Of TLVs of the same type only the first counts, even if its value is
// malformed. Of types with subtypes the first of each subtype counts.
func Parse(tlvs wire.TLVs) *Named { return ParseRedacting(tlvs, nil) }

// ParseRedacting is [Parse] for TLVs of which some types are secret: [Redacted] is shown in place
// of their values, under all names.
func ParseRedacting(tlvs wire.TLVs, secret *Types) *Named {
	n := &Named{Values: make(map[string]string)}
	type part struct {
		typ     wire.Type
		subtype byte
	}
	counted := make(map[part]bool)
	var types []wire.Type // in the order of their first TLVs
	shown := make(map[wire.Type][]string)
	for tlv := range tlvs.All() {
		p := part{tlv.Type, subtypeOf(tlv)}
		if counted[p] {
			continue
		}
		counted[p] = true
		if _, ok := shown[tlv.Type]; !ok {
			types = append(types, tlv.Type)
			n.set(Code(tlv.Type), hex.EncodeToString(tlv.Value), secret.Has(tlv.Type))
		}
		names := shown[tlv.Type]
		for _, value := range Describe(tlv) {
			n.set(value.Name, value.Text, secret.Has(tlv.Type))
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

// set sets the value under a name.
func (n *Named) set(name, text string, secret bool) {
	if secret {
		if n.secrets == nil {
			n.secrets = make(map[string]string)
		}
		n.secrets[name] = text
		text = Redacted
	}
	n.Values[name] = text
}

// value returns the value under a name, even if it is secret.
func (n *Named) value(name string) (text string, ok bool) {
	if text, ok = n.secrets[name]; ok {
		return text, true
	}
	text, ok = n.Values[name]
	return text, ok
}

// summed are the names that are not shown, because ssl.verified sums them up.
var summed = []string{"ssl.verify_result", "ssl.cert_conn", "ssl.cert_sess"}

// subtypeOf returns the first byte of a TLV's value if values of its type begin with a subtype,
// and otherwise 0.
func subtypeOf(tlv wire.TLV) byte {
	switch tlv.Type {
	case tlvparse.PP2_TYPE_AWS, tlvparse.PP2_TYPE_AZURE, typeAlibaba:
		if len(tlv.Value) > 0 {
			return tlv.Value[0]
		}
	}
	return 0
}

// Text returns the text under a name. The text is not escaped: escape it before it is shown. It
// is empty if there is no value under the name, or a list.
func (n *Named) Text(name string) string {
	if !isCertificateName(name) {
		return n.Values[name]
	}
	text, ok := n.cert().text(name)
	if ok && n.certIsSecret() {
		return Redacted
	}
	return text
}

// List returns the list under a name. The texts are not escaped: escape them before they are
// shown. The list is nil if name is not the name of a list, or if the certificate has no such
// list.
func (n *Named) List(name string) []string {
	list := n.list(name)
	if len(list) > 0 && n.certIsSecret() {
		return []string{Redacted}
	}
	return list
}

// list returns the list under a name, even if it is secret.
func (n *Named) list(name string) []string {
	if !IsList(name) {
		return nil
	}
	return n.cert().lists[name]
}

// Has reports whether there is a value under a name. If values are given, the value has to be
// one of them, or, of a list, at least one item. The value under 0xNN may be a secret: the time that
// its comparison takes does not depend on where values differ, nor on which one is equal.
func (n *Named) Has(name string, values []string) bool {
	if list := n.list(name); list != nil {
		return len(values) == 0 || slices.ContainsFunc(list, func(item string) bool { return slices.Contains(values, item) })
	}
	text, ok := n.value(name)
	if isCertificateName(name) {
		text, ok = n.cert().text(name)
	}
	if IsCode(name) && len(values) > 0 {
		return ok && containsSecret(values, text)
	}
	return ok && (len(values) == 0 || slices.Contains(values, text))
}

// containsSecret is slices.Contains in constant time.
func containsSecret(values []string, text string) bool {
	equal := 0
	for _, value := range values {
		equal |= subtle.ConstantTimeCompare([]byte(value), []byte(text))
	}
	return equal == 1
}

// Describe returns the named values of one TLV, without 0xNN. There are none if its type has no
// name, or if its value does not have the form of its type.
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

// typeAlibaba is the type of Alibaba Cloud's TLVs for PrivateLink. Other senders may use the same
// type for something else, as all types of vendors:
// https://www.alibabacloud.com/help/en/privatelink/obtain-real-client-information
const typeAlibaba = 0xe1

// alibabaNames are the names of the values of Alibaba Cloud's TLVs, by subtype.
var alibabaNames = [...]string{1: "alibaba_vpc_id", 2: "alibaba_endpoint_id", 3: "alibaba_endpoint_service_id"}

// describeAlibaba returns the named value of an Alibaba Cloud TLV: a byte with the subtype, and
// an ID.
func describeAlibaba(value []byte) []Value {
	if len(value) < 2 || int(value[0]) >= len(alibabaNames) || value[0] == 0 || !isID(value[1:]) {
		return nil
	}
	return []Value{{alibabaNames[value[0]], string(value[1:])}}
}

// isID reports whether b has only letters, digits and hyphens, as the IDs of clouds do.
func isID(b []byte) bool {
	for _, c := range b {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
