package wire

import "strconv"

// Error is an error in a header: the broken rule, and the byte that breaks it. Error is
// not a pointer, so that decoding allocates nothing, even for a malformed header. The
// zero Error means that there is no error.
type Error struct {
	// Problem is the broken rule.
	Problem Problem
	// Offset is the offset of the wrong byte from the start of the header.
	Offset int
}

// Error returns the offset and the broken rule as text. It implements error.
func (e Error) Error() string {
	return "byte " + strconv.Itoa(e.Offset) + ": " + e.Problem.String()
}

// Problem is a rule of the specification that a header breaks.
type Problem uint8

// The problems of headers. 0 is not a problem: the header breaks no rule.
const (
	_ Problem = iota
	ProblemSpace
	ProblemKeyword
	ProblemLoneCRLF
	ProblemNoCRLF
	ProblemAddress
	ProblemDestination
	ProblemPort
	ProblemUnixPort
	ProblemTrailing
	ProblemVersion
	ProblemCommand
	ProblemFamily
	ProblemTransport
	ProblemLength
	ProblemTooLarge
	ProblemTLVOverrun
	ProblemUniqueID
	ProblemCRC32CSize
	ProblemCRC32CTwice
	ProblemChecksum
)

// problems has a short text and the sentence of the specification for each Problem.
var problems = [...]struct{ text, rule string }{
	ProblemSpace: {
		"expected exactly one space",
		`section 2.1: "exactly one space"`},
	ProblemKeyword: {
		"protocol is not TCP4, TCP6 or UNKNOWN",
		`section 2.1: "only "TCP4" [...] and "TCP6" [...] are allowed. Other, unsupported, or unknown protocols must be reported with the name "UNKNOWN""`},
	ProblemLoneCRLF: {
		"CR or LF that is not part of a CRLF",
		`section 2.1: "The receiver must not tolerate a single CR or LF character to end the line when a complete CRLF sequence is expected."`},
	ProblemNoCRLF: {
		"no CRLF within 107 bytes",
		`section 2.1: "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the line invalid."`},
	ProblemAddress: {
		"malformed address, or not of the announced family",
		`section 2.1: "The advertised protocol family dictates what format to use."`},
	ProblemDestination: {
		"destination is not of the announced family; nginx writes this if it took the client's address from the header of another load balancer; to accept the client without the destination, add 'mismatched_destination allow' to 'proxy_protocol_mode'",
		`section 2.1: "The advertised protocol family dictates what format to use."`},
	ProblemPort: {
		"port is not a decimal number of 0 to 65535 without leading zeros",
		`section 2.1: "a decimal integer in the range [0..65535] inclusive. Heading zeroes are not permitted in front of numbers"`},
	ProblemUnixPort: {
		"port of a Unix socket is not 0",
		`section 2.1: "Any sequence which does not exactly match the protocol must be discarded and cause the receiver to abort the connection."`},
	ProblemTrailing: {
		"unexpected bytes between the last port and the CRLF",
		`section 2.1: "Any sequence which does not exactly match the protocol must be discarded and cause the receiver to abort the connection."`},
	ProblemVersion: {
		"version is not 2",
		`section 2.2: "As of this specification, it must always be sent as \x2 and the receiver must only accept this value."`},
	ProblemCommand: {
		"command is not LOCAL or PROXY",
		`section 2.2: "Receivers must drop connections presenting unexpected values here."`},
	ProblemFamily: {
		"unknown address family",
		`section 2.2: "other values are unspecified and must not be emitted in version 2 of this protocol and must be rejected as invalid by receivers."`},
	ProblemTransport: {
		"unknown transport protocol",
		`section 2.2: "other values are unspecified and must not be emitted in version 2 of this protocol and must be rejected as invalid by receivers."`},
	ProblemLength: {
		"length is too small for the addresses",
		`section 2.2: "The receiver must not start to parse an address before the whole address block is received."`},
	ProblemTooLarge: {
		"header is larger than allowed here",
		`section 2: "Both formats are designed to fit in the smallest TCP segment that any TCP/IP host is required to support (576 - 40 = 536 bytes)."`},
	ProblemTLVOverrun: {
		"TLV overruns the header",
		`section 2.2: "following the length field is the number of bytes specified by the length."`},
	ProblemUniqueID: {
		"unique ID is longer than 128 bytes",
		`section 2.2.5: "an opaque byte sequence of up to 128 bytes"`},
	ProblemCRC32CSize: {
		"CRC32C is not 4 bytes long",
		`section 2.2.3: "a 32-bit number storing the CRC32c checksum of the PROXY protocol header."`},
	ProblemCRC32CTwice: {
		"second CRC32C",
		`section 2.2.3: "replace the 32 bits of the checksum field in the received PROXY header with all '0's": there is only one such field`},
	ProblemChecksum: {
		"wrong CRC32C",
		`section 2.2.3: "verify that the calculated CRC32c checksum is the same as the received CRC32c checksum. If it is not, the receiver MUST treat the TCP connection providing the header as invalid."`},
}

// String returns a short description of the problem.
func (p Problem) String() string { return problems[p].text }

// Rule returns the broken rule: the section and the sentence of the specification.
func (p Problem) Rule() string { return problems[p].rule }
