package caddytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ServerCertificate is a certificate for all hosts of tests, and the roots that verify it.
type ServerCertificate struct {
	// CertPEM and KeyPEM are the certificate and its key in PEM form.
	CertPEM, KeyPEM []byte

	roots *x509.CertPool
}

// Certificate returns the server certificate of all tests.
var Certificate = sync.OnceValue(func() (c ServerCertificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Must(err)
	template := authorityTemplate("proxyprotocol test")
	template.DNSNames = []string{"localhost", "*.test"}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	Must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	Must(err)
	c.CertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.KeyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	c.roots = x509.NewCertPool()
	c.roots.AppendCertsFromPEM(c.CertPEM)
	return c
})

// authorityTemplate returns the template of a certificate that can sign others.
func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
}

// CertificateFiles writes the server certificate to files, and returns the arguments of the site
// directive `tls <cert> <key>`.
func CertificateFiles(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, Certificate().CertPEM, 0o600))
	require.NoError(t, os.WriteFile(key, Certificate().KeyPEM, 0o600))
	return strconv.Quote(cert) + " " + strconv.Quote(key)
}

// ClientTLS returns the TLS configuration of a client that trusts the server certificate.
func ClientTLS(protocols ...string) *tls.Config {
	return &tls.Config{ServerName: "localhost", RootCAs: Certificate().roots, NextProtos: protocols}
}

// ClientCertificate is the certificate of a client, in the forms that tests use.
type ClientCertificate struct {
	// TLS has the certificate and its key.
	TLS tls.Certificate
	// DER is the certificate in DER form.
	DER []byte
	// Base64 is DER in base64.
	Base64 string
}

// Authority is a certificate authority.
type Authority struct {
	// Certificate is the authority's own certificate.
	Certificate *x509.Certificate
	// Key signs certificates.
	Key *ecdsa.PrivateKey
}

// ClientCA returns the authority that signs the certificates of clients.
var ClientCA = sync.OnceValue(func() (ca Authority) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Must(err)
	template := authorityTemplate("proxyprotocol test clients")
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	Must(err)
	ca.Certificate, err = x509.ParseCertificate(der)
	Must(err)
	ca.Key = key
	return ca
})

// NewClientCertificate returns a client's certificate that has these IP addresses.
func NewClientCertificate(t testing.TB, ips ...string) ClientCertificate {
	t.Helper()
	ca := ClientCA()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "client.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"not-an-address.test"},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, key.Public(), ca.Key)
	require.NoError(t, err)
	return ClientCertificate{
		TLS:    tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		DER:    der,
		Base64: base64.StdEncoding.EncodeToString(der),
	}
}
