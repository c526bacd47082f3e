//go:build interop

package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority is a certificate authority, with its key and its certificate as PEM.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

// certificate is a certificate with its key, also as PEM.
type certificate struct {
	tls      tls.Certificate
	pem, key string
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "interop authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	c := sign(t, template, authority{cert: template})
	cert, err := x509.ParseCertificate(c.tls.Certificate[0])
	require.NoError(t, err)
	return authority{cert, c.tls.PrivateKey.(*ecdsa.PrivateKey), c.pem}
}

// server is a certificate for localhost.
func (a authority) server(t testing.TB) certificate {
	t.Helper()
	return sign(t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, a)
}

// client is a certificate of a client.
func (a authority) client(t testing.TB, name string) certificate {
	t.Helper()
	return sign(t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a)
}

// sign makes a certificate of a template. An authority without a key is to be signed by
// itself.
func sign(t testing.TB, template *x509.Certificate, by authority) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	if by.key == nil {
		by.key = key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(24 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return certificate{
		tls: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}
}
