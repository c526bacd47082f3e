package tlv

import "github.com/portzero/caddy-proxy-protocol/internal/wire"

// Types is a set of types of TLVs. The nil Types is the empty set.
type Types [256]bool

// Add adds a type.
func (t *Types) Add(typ wire.Type) { t[typ] = true }

// Has reports whether a type is in the set.
func (t *Types) Has(typ wire.Type) bool { return t != nil && t[typ] }

// Contains reports whether all types of another set are in this one.
func (t *Types) Contains(other *Types) bool {
	for typ := range len(Types{}) {
		if other.Has(wire.Type(typ)) && !t.Has(wire.Type(typ)) {
			return false
		}
	}
	return true
}

// Redacted is shown in place of the value of a secret TLV.
const Redacted = "[redacted]"
