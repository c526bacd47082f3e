package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"sync"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// MinKeySize is the size of the shortest key in bytes.
const MinKeySize = 16

// Key is a secret key that makes signatures. Printing it does not show the secret. It is safe for
// concurrent use.
type Key struct {
	// hashes has *keyedHash values: making one takes longer than a signature.
	hashes sync.Pool
}

// keyedHash is an HMAC of a key, with room for its result.
type keyedHash struct {
	hash.Hash
	sum [sha256.Size]byte
}

// NewKey returns the key with these bytes, of which there must be at least [MinKeySize].
func NewKey(secret []byte) (*Key, error) {
	if len(secret) < MinKeySize {
		return nil, fmt.Errorf("has %d bytes, but needs at least %d: make one with: caddy proxy-protocol keygen", len(secret), MinKeySize)
	}
	secret = bytes.Clone(secret)
	return &Key{hashes: sync.Pool{New: func() any {
		return &keyedHash{Hash: hmac.New(sha256.New, secret)}
	}}}, nil
}

// ParseKey returns the key with this text in base64. The errors do not quote the text.
func ParseKey(text string) (*Key, error) {
	secret, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errNotBase64
	}
	return NewKey(secret)
}

var errNotBase64 = errors.New("is not in base64: make one with: caddy proxy-protocol keygen")

// String returns a text without the secret.
func (k *Key) String() string { return "[redacted]" }

// sum returns the HMAC-SHA256 of a message.
func (k *Key) sum(m *message) [sha256.Size]byte {
	h := k.hashes.Get().(*keyedHash)
	defer k.hashes.Put(h)
	h.Reset() // also makes the next Reset fast
	h.Write(m.text)
	h.Sum(h.sum[:0])
	return h.sum
}

// Sign returns the value of the TLV with the signature of a header, made now. The header must name
// a client by IP address and be of version 2.
func (k *Key) Sign(h *wire.Header, now time.Time) ([]byte, error) {
	if !h.HasAddrs() || h.Version() != 2 {
		return nil, errNotSignable
	}
	m := new(message)
	m.set(now.Unix(), h)
	s := stamp{now.Unix(), k.sum(m)}
	return s.append(nil), nil
}

var errNotSignable = errors.New("only version 2 headers that name a client by IP address can be signed")
