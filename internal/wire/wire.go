// Package wire decodes and encodes the headers of the PROXY protocol, versions 1 and 2.
// It works on bytes: connections, policies and Caddy are above it.
//
// "The specification" is doc/proxy-protocol.txt in the HAProxy repository. Sections are
// those of the specification. Where the specification leaves a choice to the receiver, this
// package refuses: bytes that begin with a signature and break a rule are [Invalid], never
// [Absent].
package wire

import (
	"encoding/binary"
	"fmt"
)

// The signatures, with which headers of each version begin (section 2.2, "Identifying the
// protocol version").
const (
	SignatureV1 = "PROXY"
	SignatureV2 = "\r\n\r\n\x00\r\nQUIT\n"
)

const (
	// MaxSizeV1 is the size of the longest v1 header with its CRLF (section 2.1).
	MaxSizeV1 = 107
	// MinMaxSize is the smallest limit that a receiver may have: a header of this size
	// fits into the smallest TCP segment (section 2).
	MinMaxSize = 536
	// MaxSize is the size of the longest v2 header. Its length field has 16 bits and does
	// not count the 16 bytes before the addresses (section 2.2).
	MaxSize = fixedSizeV2 + 1<<16 - 1
)

// CheckMaxSize returns an error for a size that a receiver may not have as its limit.
func CheckMaxSize(size int) error {
	if size < MinMaxSize || size > MaxSize {
		return fmt.Errorf("%d bytes is out of bounds: use %d to %d", size, MinMaxSize, MaxSize)
	}
	return nil
}

// ParseVersion returns the version with this name, or 0 if the name is empty.
func ParseVersion(name string) (uint8, error) {
	switch name {
	case "":
		return 0, nil
	case "v1":
		return 1, nil
	case "v2":
		return 2, nil
	default:
		return 0, fmt.Errorf("unknown version '%s': use v1 or v2, or leave it out to accept both", name)
	}
}

// State is what is known of a header from the bytes that have arrived.
type State uint8

const (
	// Undecided means that there are no bytes, or only the beginning of a signature. More
	// bytes are needed.
	Undecided State = iota
	// Absent means that the bytes do not begin with a header. More bytes do not change
	// this.
	Absent
	// Partial means that there is a whole signature and no error yet, but not the whole
	// header. More bytes are needed.
	Partial
	// Complete means that there is a whole, valid header.
	Complete
	// Invalid means that there is a whole signature, and an error behind it. More bytes do
	// not change this.
	Invalid
)

// Result is the result of [Decode].
type Result struct {
	// State is the state of the header. It decides which of the other fields are set.
	State State
	// Version is 1 or 2 once a signature is complete, else 0.
	Version uint8
	// Header is the decoded header. It is only valid if State is Complete.
	Header Header
	// Size is the number of bytes of the whole header, if State is Complete.
	Size int
	// TLVs are the header's TLVs, if State is Complete. They are a part of the decoded
	// bytes, not a copy.
	TLVs TLVs
	// Err is the error, if State is Invalid.
	Err Error
}

// Signature looks for a signature at the start of b. It returns [Undecided], [Absent], or
// [Partial] and the version of the signature.
func Signature(b []byte) (State, uint8) {
	if len(b) == 0 {
		return Undecided, 0
	}
	signature, version := SignatureV1, uint8(1)
	if b[0] == SignatureV2[0] {
		signature, version = SignatureV2, 2
	}
	switch {
	case b[0] != signature[0]: // almost every request returns here
		return Absent, 0
	case hasPrefix(b, signature):
		return Partial, version
	case len(b) < len(signature) && string(b) == signature[:len(b)]:
		return Undecided, 0
	default:
		return Absent, 0
	}
}

// AnnouncedSize returns the size that the v2 header at the start of b announces, in bytes. It returns
// 0 if there is no v2 header, and the number of bytes in b if they end before the announced length.
func AnnouncedSize(b []byte) int {
	switch {
	case !hasPrefix(b, SignatureV2):
		return 0
	case len(b) < fixedSizeV2:
		return len(b)
	default:
		return fixedSizeV2 + int(binary.BigEndian.Uint16(b[atLengthV2:]))
	}
}

// Options are the choices that a receiver has. The zero Options refuse every v2 header.
type Options struct {
	// MaxSize is the size in bytes of the largest v2 header to accept.
	MaxSize int
	// MismatchedDestination accepts v1 lines that nginx writes if it took the client's
	// address from the header of another load balancer: the source is of the announced
	// family, but the destination is an IP address of the other family, or the text "unix:"
	// and a path. Such a header has a source and no destination. Without this option, these
	// lines are [Invalid] with [ProblemDestination].
	MismatchedDestination bool
}

// Decode decodes the header at the start of b, strictly by the specification. A v2 header
// may have up to maxSize bytes. Decode reads no byte behind the header, keeps no state and
// no reference except in TLVs, and allocates nothing.
func Decode(b []byte, maxSize int) (r Result) {
	decode(b, Options{MaxSize: maxSize}, &r)
	return r
}

// Decode decodes the header at the start of b as [Decode] does, with these options.
func (o Options) Decode(b []byte) (r Result) {
	decode(b, o, &r)
	return r
}

// decode decodes into r, which must be the zero Result. It does not return the Result,
// because to copy one takes longer than to look for a signature.
func decode(b []byte, o Options, r *Result) {
	state, version := Signature(b)
	switch version {
	case 1:
		decodeV1(b, o.MismatchedDestination, r)
	case 2:
		decodeV2(b, o.MaxSize, r)
	default:
		r.State = state
	}
}

// invalid returns the Result for a header that breaks a rule. offset is the offset of the
// wrong byte.
func invalid(version uint8, problem Problem, offset int) Result {
	return Result{State: Invalid, Version: version, Err: Error{problem, offset}}
}

// hasPrefix reports whether b begins with s. Unlike bytes.HasPrefix, hasPrefix takes a
// string, so that signatures can be constants.
func hasPrefix(b []byte, s string) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }
