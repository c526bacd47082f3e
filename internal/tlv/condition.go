package tlv

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Condition is a condition on the value that TLVs have under a name: there has to be one, or it
// has to be one of some values. It holds if [Named.Has] does.
type Condition struct {
	name string
	// typ and subtype are those of the TLV that has the value. The subtype is 0 if TLVs of this
	// type have none.
	typ     wire.Type
	subtype byte
	// raw says that the name is that of the type, 0xNN, so that the value may be a secret.
	raw bool
	// texts are the values, or empty if any value will do.
	texts []string
	// encoded are the values as a TLV has them, so that TLVs need not be decoded. It is nil for
	// the parts of an SSL TLV.
	encoded [][]byte
}

// Errors of [NewCondition]. They do not quote the value, which may be a secret.
var (
	errEmptyValue = errors.New("is empty")
	errNeverSent  = errors.New("is not in the form of this TLV, so that no header can have it")
)

// NewCondition returns a condition on the value under a name. If values are given, the value has
// to be one of them. The errors do not quote values.
func NewCondition(name string, values []string) (*Condition, error) {
	name, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	c := &Condition{name: name, typ: wire.TypeSSL, raw: IsCode(name)}
	if !c.partOfSSL() {
		sample, _ := Encode([]Value{{name, "00"}}) // a number, an ID, and hexadecimal
		c.typ, c.subtype = sample[0].Type, subtypeOf(sample[0])
	}
	for i, value := range values {
		if err := c.add(value); err != nil {
			return nil, fmt.Errorf("%s: value %d %w", name, i+1, err)
		}
	}
	return c, nil
}

// add adds a value.
func (c *Condition) add(text string) error {
	if text == "" {
		return errEmptyValue
	}
	c.texts = append(c.texts, text)
	if c.partOfSSL() {
		return nil
	}
	tlvs, err := Encode([]Value{{c.name, text}})
	switch {
	case errors.Is(err, errNotHex):
		return errors.New("is not hexadecimal: use pairs of digits such as 0aff")
	case err != nil:
		return errNeverSent
	case !c.raw && !slices.Contains(Describe(tlvs[0]), Value{c.name, text}):
		return errNeverSent
	}
	c.encoded = append(c.encoded, tlvs[0].Value)
	return nil
}

// partOfSSL reports whether the value is a part of an SSL TLV, or of the certificate in there.
func (c *Condition) partOfSSL() bool { return strings.HasPrefix(c.name, "ssl.") }

// Name returns the name.
func (c *Condition) Name() string { return c.name }

// Type returns the type of the TLV that has the value.
func (c *Condition) Type() wire.Type { return c.typ }

// Secret reports whether the values are secrets: those of a name 0xNN are.
func (c *Condition) Secret() bool { return c.raw }

// AnyValue reports whether any value will do.
func (c *Condition) AnyValue() bool { return len(c.texts) == 0 }

// Holds reports whether the condition holds for TLVs. The time it takes does not depend on where
// a value differs, nor on which value is equal. It allocates nothing if values are given, except
// for the names that begin with ssl.
func (c *Condition) Holds(tlvs wire.TLVs) bool {
	tlv, ok := c.first(tlvs)
	switch {
	case !ok:
		return false
	case len(c.encoded) > 0:
		equal := 0
		for _, value := range c.encoded {
			equal |= subtle.ConstantTimeCompare(tlv.Value, value)
		}
		return equal == 1
	default:
		return c.raw || named(tlv).Has(c.name, c.texts)
	}
}

// Found returns the value that TLVs have under the name, for an error. It is not escaped:
// escape it before it is shown. It is [Redacted] if it is a secret, and ok is false if there is
// none.
func (c *Condition) Found(tlvs wire.TLVs) (text string, ok bool) {
	tlv, ok := c.first(tlvs)
	switch n := named(tlv); {
	case !ok:
		return "", false
	case c.raw:
		return Redacted, true
	case IsList(c.name):
		return strings.Join(n.List(c.name), " "), n.Has(c.name, nil)
	default:
		return n.Text(c.name), n.Has(c.name, nil)
	}
}

// named returns the values of one TLV, without 0xNN.
func named(tlv wire.TLV) *Named {
	n := &Named{Values: make(map[string]string)}
	for _, value := range Describe(tlv) {
		n.Values[value.Name] = value.Text
	}
	return n
}

// first returns the TLV that counts: the first one of the type, or of the subtype if the name is
// that of a subtype.
func (c *Condition) first(tlvs wire.TLVs) (first wire.TLV, ok bool) {
	for tlv := range tlvs.All() {
		if tlv.Type == c.typ && (c.raw || subtypeOf(tlv) == c.subtype) {
			return tlv, true
		}
	}
	return wire.TLV{}, false
}
