package tlv

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// certificateTexts and certificateLists are the names of the fields of ssl.client_cert. They
// end like Caddy's placeholders http.request.tls.client.*. An item of a list has the name of
// the list with .0, .1 and so on at the end.
var (
	certificateTexts = []string{
		"ssl.client_cert.fingerprint", "ssl.client_cert.subject", "ssl.client_cert.issuer", "ssl.client_cert.serial",
	}
	certificateLists = []string{
		"ssl.client_cert.san.dns_names", "ssl.client_cert.san.emails", "ssl.client_cert.san.ips", "ssl.client_cert.san.uris",
	}
)

// CertificateNames returns the names of the fields of ssl.client_cert. The names of items of
// lists are not among them.
func CertificateNames() []string { return slices.Concat(certificateTexts, certificateLists) }

// isCertificateName reports whether name is the name of a field of ssl.client_cert, or of an
// item of a list.
func isCertificateName(name string) bool {
	list, _ := cutIndex(name)
	return list != "" || slices.Contains(certificateTexts, name) || IsList(name)
}

// IsList reports whether name is the name of a list of a certificate.
func IsList(name string) bool { return slices.Contains(certificateLists, name) }

// cutIndex splits the name of an item of a list into the name of the list and the index. The
// list is empty if name is not the name of an item.
func cutIndex(name string) (list string, index int) {
	for _, list := range certificateLists {
		rest, ok := strings.CutPrefix(name, list)
		if !ok || !strings.HasPrefix(rest, ".") {
			continue
		}
		if index, _ = strconv.Atoi(rest[1:]); index >= 0 && strconv.Itoa(index) == rest[1:] {
			return list, index
		}
	}
	return "", 0
}

// The limits of certificates. One beyond them has no field but its fingerprint. The size of a
// certificate needs no limit here, because the size of the header has one.
const (
	// maxNameSize is the largest size of the subject and of the issuer in bytes. To write
	// such a name as text takes quadratic time.
	maxNameSize = 4 << 10
	// maxAltNames is the largest number of alternative names of all kinds together. Each
	// takes more memory than it has bytes in the certificate.
	maxAltNames = 1000
)

// certificate has the fields of ssl.client_cert by name: texts, and lists of texts.
type certificate struct {
	texts map[string]string
	lists map[string][]string
}

// text returns the text field, or the item of a list, with this name. ok is false if the
// certificate has none.
func (c *certificate) text(name string) (text string, ok bool) {
	if text, ok = c.texts[name]; ok {
		return text, true
	}
	list, index := cutIndex(name)
	if items := c.lists[list]; index < len(items) {
		return items[index], true
	}
	return "", false
}

// cert returns the fields of ssl.client_cert. The first call parses the certificate.
func (n *Named) cert() *certificate {
	n.parseOnce.Do(func() {
		n.certificate = new(certificate)
		if text, ok := n.value("ssl.client_cert"); ok {
			der, _ := base64.StdEncoding.DecodeString(text) // describe encoded it
			n.certificate = readCertificate(der)
		}
	})
	return n.certificate
}

// certIsSecret reports whether the certificate is part of a secret TLV.
func (n *Named) certIsSecret() bool {
	_, secret := n.secrets["ssl.client_cert"]
	return secret
}

// readCertificate returns the fields of a certificate in DER form. It verifies nothing. If the
// certificate cannot be parsed or is beyond the limits, the fingerprint is the only field.
func readCertificate(der []byte) *certificate {
	sum := sha256.Sum256(der)
	c := &certificate{texts: map[string]string{"ssl.client_cert.fingerprint": hex.EncodeToString(sum[:])}}
	cert, err := x509.ParseCertificate(der)
	if err != nil || max(len(cert.RawSubject), len(cert.RawIssuer)) > maxNameSize ||
		len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses)+len(cert.URIs) > maxAltNames {
		return c
	}
	c.texts["ssl.client_cert.subject"] = cert.Subject.String()
	c.texts["ssl.client_cert.issuer"] = cert.Issuer.String()
	c.texts["ssl.client_cert.serial"] = cert.SerialNumber.String()
	c.lists = map[string][]string{
		"ssl.client_cert.san.dns_names": cert.DNSNames,
		"ssl.client_cert.san.emails":    cert.EmailAddresses,
		"ssl.client_cert.san.ips":       textsOf(cert.IPAddresses),
		"ssl.client_cert.san.uris":      textsOf(cert.URIs),
	}
	return c
}

func textsOf[T interface{ String() string }](items []T) []string {
	var texts []string
	for _, item := range items {
		texts = append(texts, item.String())
	}
	return texts
}
