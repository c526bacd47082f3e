package wire

import (
	"encoding/binary"
	"iter"
)

// tlvHeadSize is the size of a TLV's type and length.
const tlvHeadSize = 3

// Type is the type of a TLV (section 2.2).
type Type uint8

// The types that the specification registers.
const (
	TypeALPN      Type = 0x01
	TypeAuthority Type = 0x02
	TypeCRC32C    Type = 0x03
	TypeNoop      Type = 0x04
	TypeUniqueID  Type = 0x05
	TypeSSL       Type = 0x20
	TypeNetNS     Type = 0x30
)

// MaxUniqueIDSize is the largest size of a unique ID in bytes (section 2.2.5).
const MaxUniqueIDSize = 128

// TLV is one type-length-value vector.
type TLV struct {
	Type  Type
	Value []byte
}

// TLVs are the encoded TLVs behind a header's addresses.
type TLVs []byte

// All yields the TLVs in order, including those of repeated types and NOOPs. It stops at
// the first TLV that overruns the end. TLVs from [Decode] do not overrun it.
func (t TLVs) All() iter.Seq[TLV] {
	return func(yield func(TLV) bool) {
		for rest := t; len(rest) >= tlvHeadSize; {
			end := tlvHeadSize + int(binary.BigEndian.Uint16(rest[1:]))
			if end > len(rest) || !yield(TLV{Type(rest[0]), rest[tlvHeadSize:end:end]}) {
				return
			}
			rest = rest[end:]
		}
	}
}

// First returns the value of the first TLV of a type. ok is false if there is none.
func (t TLVs) First(typ Type) (value []byte, ok bool) {
	for tlv := range t.All() {
		if tlv.Type == typ {
			return tlv.Value, true
		}
	}
	return nil, false
}
