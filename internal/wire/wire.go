// Package wire decodes and encodes the headers of the PROXY protocol, versions
// 1 and 2. It knows bytes and nothing of connections, policies or Caddy.
//
// "The specification" is doc/proxy-protocol.txt in the HAProxy repository;
// sections are cited by its numbers. Where it leaves a choice to the receiver,
// this package refuses: bytes that follow a signature and break a rule are
// [Invalid], never something else.
package wire

// The bytes by which a receiver knows a header, and its version (section 2.2,
// "Identifying the protocol version").
const (
	SignatureV1 = "PROXY"
	SignatureV2 = "\r\n\r\n\x00\r\nQUIT\n"
)

const (
	// MaxSizeV1 is the size of the longest v1 header with its CRLF (section 2.1).
	MaxSizeV1 = 107
	// MinMaxSize is the size every receiver must be able to take: a header that
	// fits the smallest TCP segment (section 2).
	MinMaxSize = 536
	// MaxSize is the size of the longest v2 header: its length field has 16 bits
	// and does not count the 16 bytes before the addresses (section 2.2).
	MaxSize = fixedSizeV2 + 1<<16 - 1
)

// State says what the bytes seen so far are.
type State uint8

const (
	// Undecided: nothing, or the beginning of a signature. More bytes decide.
	Undecided State = iota
	// Absent: no header begins here. More bytes do not change that.
	Absent
	// Partial: a whole signature and nothing wrong yet, but not the whole
	// header.
	Partial
	// Complete: a whole and valid header.
	Complete
	// Invalid: a whole signature, then something that no valid header has.
	Invalid
)

// Result is what [Decode] makes of the bytes it was given.
type Result struct {
	// State decides which of the other fields mean something.
	State State
	// Version is 1 or 2 once a signature is complete, else 0.
	Version uint8
	// Header is the header, if State is Complete.
	Header Header
	// Size is the number of bytes of the whole header, if State is Complete.
	Size int
	// TLVs are the header's TLVs, if State is Complete. They are a part of the
	// decoded bytes, not a copy.
	TLVs TLVs
	// Err says what is wrong, if State is Invalid.
	Err Error
}

// Signature looks for a signature at the start of b. It answers [Undecided],
// [Absent], or [Partial] with the version whose signature is complete.
func Signature(b []byte) (State, uint8) {
	if len(b) == 0 {
		return Undecided, 0
	}
	signature, version := SignatureV1, uint8(1)
	if b[0] == SignatureV2[0] {
		signature, version = SignatureV2, 2
	}
	switch {
	case b[0] != signature[0]: // every request but a few ends here
		return Absent, 0
	case hasPrefix(b, signature):
		return Partial, version
	case len(b) < len(signature) && string(b) == signature[:len(b)]:
		return Undecided, 0
	default:
		return Absent, 0
	}
}

// Options are what a receiver may decide for itself. The zero Options refuse every v2
// header.
type Options struct {
	// MaxSize is the size of the largest v2 header to accept.
	MaxSize int
	// MismatchedDestination accepts what nginx writes as a v1 line if it took the client's
	// address from the header of another load balancer: the source is of the announced
	// family, the destination is an IP address of the other one, or the text "unix:" and a
	// path. Such a header has a source and no destination. Without it, these lines are
	// [ProblemDestination].
	MismatchedDestination bool
}

// Decode decodes the header at the start of b by the letter of the specification. A v2
// header may have maxSize bytes. It looks at no byte behind the header, keeps nothing,
// allocates nothing, and gives the same answer however often it was asked with fewer bytes
// before.
func Decode(b []byte, maxSize int) (r Result) {
	decode(b, Options{MaxSize: maxSize}, &r)
	return r
}

// Decode is what the function of that name does, under these options.
func (o Options) Decode(b []byte) (r Result) {
	decode(b, o, &r)
	return r
}

// decode decodes into r, which must be the zero Result: to return it from here as well would
// be a copy that takes longer than to look for a signature.
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

// invalid is the answer to a header of this version that breaks a rule at this
// byte.
func invalid(version uint8, problem Problem, offset int) Result {
	return Result{State: Invalid, Version: version, Err: Error{problem, offset}}
}

// hasPrefix reports whether b begins with s. Unlike that of package bytes it takes a
// string, which cannot be changed.
func hasPrefix(b []byte, s string) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }
