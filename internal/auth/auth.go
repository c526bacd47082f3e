// Package auth decides whether a header proves who made it: by TLVs that it must have, and by a
// signature over the addresses that it names. The format of the signature is in
// docs/authenticated-headers.md.
package auth

import (
	"errors"
	"fmt"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Requirement is what a listener requires of headers beside what its mode does. It does not
// change once it is built, and is safe for concurrent use. The nil Requirement requires nothing.
type Requirement struct {
	tlvs      []*tlv.Condition
	signature *Signature // or nil
	secrets   tlv.Types
}

// New returns a requirement of TLVs, and of a signature unless it is nil. All of them must hold.
func New(tlvs []*tlv.Condition, signature *Signature) *Requirement {
	r := &Requirement{tlvs: tlvs, signature: signature}
	for _, condition := range tlvs {
		if condition.Secret() {
			r.secrets.Add(condition.Type())
		}
	}
	if signature != nil {
		r.secrets.Add(signature.typ)
	}
	return r
}

// Method is how a header has proved who made it.
type Method uint8

const (
	// None: nothing was required of the header, or it claims nothing.
	None Method = iota
	// TLV: the header has the required TLVs.
	TLV
	// Signed: the header has a valid signature, and the required TLVs if there are any.
	Signed
)

var methodNames = [...]string{None: "", TLV: "tlv", Signed: "signature"}

// String returns the method's name, which is empty for None.
func (m Method) String() string { return methodNames[m] }

// Proof is the result of a check that a header has passed.
type Proof struct {
	Method Method
	// Secrets are the types of TLVs whose values must not be shown, or nil if there are none.
	Secrets *tlv.Types
}

// Reasons for which a header is refused. Those of a signature are in signature.go.
var (
	errUnlisted = errors.New("require: the header names no client, and so carries nothing that is required; only peers in 'trusted_proxies' or in a range with a mode may send such a header: add the load balancer there, for its health checks")
	errV1       = errors.New("require: a version 1 header cannot carry what is required: let the load balancer send version 2")
)

// Claims reports whether a header claims anything about a client: addresses or TLVs. LOCAL,
// UNKNOWN and unspecified headers do not. LOCAL headers have no family.
func Claims(h *wire.Header) bool {
	return h.Family() != wire.FamilyUnspec && h.Transport() != wire.TransportUnspec
}

// Check returns the proof of a header that meets the requirement at this time. Otherwise it
// returns an error for the log, in which no value of a secret TLV is. A header that claims nothing
// needs no proof, but listed must say that its peer is one that the configuration names: any host
// can send such a header.
func (r *Requirement) Check(h *wire.Header, tlvs wire.TLVs, listed bool, now time.Time) (Proof, error) {
	switch {
	case r == nil || !Claims(h) && listed:
		return Proof{}, nil
	case !Claims(h):
		return Proof{}, errUnlisted
	case h.Version() == 1:
		return Proof{}, errV1
	}
	proof := Proof{Method: TLV, Secrets: &r.secrets}
	if r.signature != nil {
		made, err := r.signature.Verify(h, tlvs)
		if err == nil {
			err = r.signature.CheckAge(made, now)
		}
		if err != nil {
			return Proof{}, fmt.Errorf("require signature: %w", err)
		}
		proof.Method = Signed
	}
	for _, condition := range r.tlvs {
		if !condition.Holds(tlvs) {
			return Proof{}, r.unmet(condition, tlvs)
		}
	}
	return proof, nil
}

// unmet returns the error of a condition that does not hold.
func (r *Requirement) unmet(c *tlv.Condition, tlvs wire.TLVs) error {
	const most = 128 // bytes of a value
	found, ok := c.Found(tlvs)
	switch {
	case !ok:
		return fmt.Errorf("require tlv: the header has no %s", c.Name())
	case r.secrets.Has(c.Type()):
		return fmt.Errorf("require tlv: the value of %s is not one of those that are required", c.Name())
	case len(found) > most:
		found = found[:most] + "..."
	}
	return fmt.Errorf("require tlv: %s is '%s', which is not one of those that are required", c.Name(), escape.Text(found))
}

// AnyValue returns the names of the required TLVs of which any value will do.
func (r *Requirement) AnyValue() (names []string) {
	if r == nil {
		return nil
	}
	for _, condition := range r.tlvs {
		if condition.AnyValue() {
			names = append(names, condition.Name())
		}
	}
	return names
}

// HasSignature reports whether a signature is required.
func (r *Requirement) HasSignature() bool { return r != nil && r.signature != nil }

// HasSecrets reports whether the values of some TLVs must not be shown.
func (r *Requirement) HasSecrets() bool { return r != nil && r.secrets != tlv.Types{} }

// Names returns what is required, without values: the names of TLVs, and the signature.
func (r *Requirement) Names() (names []string) {
	if r == nil {
		return nil
	}
	for _, condition := range r.tlvs {
		name := "tlv " + condition.Name()
		if condition.AnyValue() {
			name += " (any value)"
		}
		names = append(names, name)
	}
	if s := r.signature; s != nil {
		names = append(names, fmt.Sprintf("signature in tlv %s, max_age %s", tlv.Code(s.typ), s.maxAge))
	}
	return names
}
