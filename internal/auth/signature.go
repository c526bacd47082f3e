package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Defaults and bounds of signatures.
const (
	// DefaultType is the type of the TLV that has the signature.
	DefaultType wire.Type = 0xe5
	// DefaultMaxAge is how far the time of a signature may be from this machine's, in either
	// direction.
	DefaultMaxAge = 30 * time.Second
	// MinMaxAge is the shortest maximum age: signatures have whole seconds.
	MinMaxAge = time.Second
)

// Signature verifies the signatures of headers. It does not change once it is built, and is safe
// for concurrent use.
type Signature struct {
	keys   []*Key
	typ    wire.Type
	maxAge time.Duration
}

// NewSignature returns what verifies signatures that are in TLVs of a type, were made with one of
// the keys, and are no older than maxAge. There must be at least one key, and maxAge must not be
// shorter than [MinMaxAge]. [ParseType] returns the type.
func NewSignature(keys []*Key, typ wire.Type, maxAge time.Duration) (*Signature, error) {
	switch {
	case len(keys) == 0:
		return nil, errors.New("keys: missing: write at least one")
	case maxAge < MinMaxAge:
		return nil, fmt.Errorf("max_age: %s is shorter than %s: use a value such as %s", maxAge, MinMaxAge, DefaultMaxAge)
	}
	return &Signature{keys, typ, maxAge}, nil
}

// definedTypes are the types that the specification defines.
var definedTypes = []wire.Type{
	wire.TypeALPN, wire.TypeAuthority, wire.TypeCRC32C, wire.TypeNoop, wire.TypeUniqueID, wire.TypeSSL, wire.TypeNetNS,
}

// Type returns the type of the TLV that has the signature.
func (s *Signature) Type() wire.Type { return s.typ }

// MaxAge returns how far the time of a signature may be from this machine's.
func (s *Signature) MaxAge() time.Duration { return s.maxAge }

// Reasons for which a signature is wrong.
var (
	errNoAddrs  = errors.New("the header names no client by IP address, and only such headers can be signed")
	errUnsigned = errors.New("the header has no signature")
	errTwice    = errors.New("the header has two signatures")
	errForm     = errors.New("the signature is not '<unix seconds> <hex>'")
	errSeconds  = fmt.Errorf("the time in the signature is not a decimal number of 1 to %d digits without leading zeros", maxDigits)
	errHex      = fmt.Errorf("the signature does not end in %d hexadecimal digits", hexSize)
	errKey      = errors.New("the signature does not match: it was made with another key, or for other addresses")
)

// Verify returns the time at which the signature of a header was made, if one of the keys made it
// for the header's addresses. It compares with all keys, and its time does not depend on where
// signatures differ. It does not check the age.
func (s *Signature) Verify(h *wire.Header, tlvs wire.TLVs) (made time.Time, err error) {
	if !h.HasAddrs() {
		return time.Time{}, errNoAddrs
	}
	value, err := s.valueOf(tlvs)
	if err != nil {
		return time.Time{}, err
	}
	signed, err := parseStamp(value)
	if err != nil {
		return time.Time{}, err
	}
	m := messages.Get().(*message)
	defer messages.Put(m)
	m.set(signed.seconds, h)
	equal := 0
	for _, key := range s.keys {
		sum := key.sum(m)
		equal |= subtle.ConstantTimeCompare(sum[:], signed.sum[:])
	}
	if equal == 0 {
		return time.Time{}, errKey
	}
	return time.Unix(signed.seconds, 0), nil
}

// valueOf returns the value of the only TLV that has a signature.
func (s *Signature) valueOf(tlvs wire.TLVs) (value []byte, err error) {
	err = errUnsigned
	for tlv := range tlvs.All() {
		switch {
		case tlv.Type != s.typ:
		case err == nil:
			return nil, errTwice
		default:
			value, err = tlv.Value, nil
		}
	}
	return value, err
}

// CheckAge returns an error if a signature that was made at this time is too old now, or too far
// in the future. It says how far the clocks are apart.
func (s *Signature) CheckAge(made, now time.Time) error {
	// Seconds are compared: their difference fits into an int64, but not into a Duration.
	behind, most := now.Unix()-made.Unix(), int64(s.maxAge/time.Second)
	switch {
	case behind > most:
		return fmt.Errorf("the signature is %d seconds old, but max_age is %s: a replay, or the clock of the load balancer or of this machine is wrong", behind, s.maxAge)
	case -behind > most:
		return fmt.Errorf("the signature is from %d seconds in the future, but max_age is %s: the clock of the load balancer or of this machine is wrong", -behind, s.maxAge)
	default:
		return nil
	}
}

// Sizes of a signature.
const (
	hexSize = 2 * sha256.Size
	// maxDigits bounds the time. It is enough for the next 30,000 years, and too few for
	// milliseconds.
	maxDigits = 12
)

// stamp is the content of a signature: `<unix seconds> <hex>`.
type stamp struct {
	seconds int64
	sum     [sha256.Size]byte
}

// parseStamp parses the value of a TLV, strictly: every stamp has one form, but for the case of
// hexadecimal digits. The errors do not quote the value.
func parseStamp(value []byte) (s stamp, err error) {
	digits, hexadecimal, found := bytes.Cut(value, []byte(" "))
	switch {
	case !found:
		return stamp{}, errForm
	case len(digits) == 0 || len(digits) > maxDigits || digits[0] == '0' && len(digits) > 1:
		return stamp{}, errSeconds
	case len(hexadecimal) != hexSize:
		return stamp{}, errHex
	}
	for _, digit := range digits {
		if digit < '0' || digit > '9' {
			return stamp{}, errSeconds
		}
		s.seconds = 10*s.seconds + int64(digit-'0')
	}
	if _, err := hex.Decode(s.sum[:], hexadecimal); err != nil {
		return stamp{}, errHex
	}
	return s, nil
}

// append appends the value of the TLV to b.
func (s *stamp) append(b []byte) []byte {
	b = append(strconv.AppendInt(b, s.seconds, 10), ' ')
	return hex.AppendEncode(b, s.sum[:])
}

// message is what a signature signs:
// `<unix seconds> <source ip> <source port> <destination ip> <destination port>`.
type message struct {
	text []byte
	room [128]byte // of text, and enough for the longest
}

// messages are reused, because a message that a hash reads would be allocated for each header.
var messages = sync.Pool{New: func() any { return new(message) }}

// set sets the message to that of a header with addresses.
func (m *message) set(seconds int64, h *wire.Header) {
	b := strconv.AppendInt(m.room[:0], seconds, 10)
	for _, addr := range [...]netip.AddrPort{h.Source(), h.Destination()} {
		b = addr.Addr().AppendTo(append(b, ' '))
		b = strconv.AppendUint(append(b, ' '), uint64(addr.Port()), 10)
	}
	m.text = b
}
