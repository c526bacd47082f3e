package proxyprotocol

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// tlvNames are the names of what TLVs say that users can ask for, beside 0xNN for the
// value of any type in hexadecimal.
var tlvNames = []string{
	"alpn", "authority", "unique_id", "netns",
	"ssl.version", "ssl.cn", "ssl.cipher", "ssl.sig_alg", "ssl.key_alg", "ssl.group",
	"ssl.sig_scheme", "ssl.client_cert", "ssl.verified",
	"aws_vpce_id", "azure_private_endpoint_link_id", "gcp_psc_connection_id",
}

// parseTLVName returns the name in the form that nameTLVs uses.
func parseTLVName(name string) (string, error) {
	if slices.Contains(tlvNames, name) {
		return name, nil
	}
	if digits, ok := strings.CutPrefix(name, "0x"); ok && len(digits) == 2 {
		if _, err := hex.DecodeString(digits); err == nil {
			return strings.ToLower(name), nil
		}
	}
	return "", fmt.Errorf("unknown TLV name '%s': use %s, or 0xNN for any type", name, strings.Join(tlvNames, ", "))
}

// namedTLVs is what TLVs say, by name.
type namedTLVs struct {
	// values has the names that there are, and 0xNN for all types there are. Text is as
	// it came: escape it before it is shown.
	values map[string]string
	// telling has the names worth showing, in the order of the TLVs: 0xNN only of types
	// that have no other name.
	telling []string
}

func (n *namedTLVs) add(name, value string) {
	n.values[name] = value
	n.telling = append(n.telling, name)
}

// nameTLVs finds out what TLVs say. What has not the form that its type should have is not
// there. Of repeated types the first counts.
func nameTLVs(tlvs wire.TLVs) namedTLVs {
	n := namedTLVs{values: make(map[string]string)}
	for tlv := range tlvs.All() {
		code := fmt.Sprintf("0x%02x", byte(tlv.Type))
		if _, ok := n.values[code]; ok {
			continue
		}
		n.values[code] = hex.EncodeToString(tlv.Value)
		before := len(n.telling)
		n.addNames(tlv)
		if before == len(n.telling) && tlv.Type != wire.TypeCRC32C && tlv.Type != wire.TypeNoop {
			n.telling = append(n.telling, code)
		}
	}
	return n
}

// addNames adds what one TLV says beside its bytes.
func (n *namedTLVs) addNames(tlv wire.TLV) {
	parsed := proxyproto.TLV{Type: proxyproto.PP2Type(tlv.Type), Value: tlv.Value}
	switch parsed.Type {
	case proxyproto.PP2_TYPE_ALPN:
		n.add("alpn", string(tlv.Value))
	case proxyproto.PP2_TYPE_AUTHORITY:
		n.add("authority", string(tlv.Value))
	case proxyproto.PP2_TYPE_UNIQUE_ID:
		n.add("unique_id", string(tlv.Value))
	case proxyproto.PP2_TYPE_NETNS:
		n.add("netns", string(tlv.Value))
	case proxyproto.PP2_TYPE_SSL:
		if ssl, err := tlvparse.SSL(parsed); err == nil {
			n.addSSL(ssl)
		}
	case tlvparse.PP2_TYPE_AWS:
		if id := tlvparse.FindAWSVPCEndpointID([]proxyproto.TLV{parsed}); id != "" {
			n.add("aws_vpce_id", id)
		}
	case tlvparse.PP2_TYPE_AZURE:
		if id, ok := tlvparse.FindAzurePrivateEndpointLinkID([]proxyproto.TLV{parsed}); ok {
			n.add("azure_private_endpoint_link_id", strconv.FormatUint(uint64(id), 10))
		}
	case tlvparse.PP2_TYPE_GCP:
		if id, ok := tlvparse.ExtractPSCConnectionID([]proxyproto.TLV{parsed}); ok {
			n.add("gcp_psc_connection_id", strconv.FormatUint(id, 10))
		}
	}
}

// addSSL adds what the load balancer says of the client's TLS (specification, section
// 2.2.6).
func (n *namedTLVs) addSSL(ssl tlvparse.PP2SSL) {
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
			n.add(text.name, value)
		}
	}
	// HAProxy sends a verify field of zero without a certificate as well.
	presented := ssl.ClientCertConn() || ssl.ClientCertSess()
	n.add("ssl.verified", strconv.FormatBool(presented && ssl.Verified()))
	if der, ok := ssl.ClientCert(); ok {
		if _, err := x509.ParseCertificate(der); err == nil {
			n.add("ssl.client_cert", base64.StdEncoding.EncodeToString(der))
		}
	}
}

// escape returns text from a header fit to be shown: what cannot be printed stands as
// \xNN, so that it breaks no log line and steers no terminal.
func escape(s string) string {
	var b strings.Builder
	done := 0
	for at := 0; at < len(s); {
		r, size := utf8.DecodeRuneInString(s[at:])
		if !unicode.IsPrint(r) || r == utf8.RuneError && size == 1 {
			b.WriteString(s[done:at])
			for _, c := range []byte(s[at : at+size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
			done = at + size
		}
		at += size
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}
