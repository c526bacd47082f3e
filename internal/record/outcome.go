// Package record keeps the record of connections and datagrams: what became of them (outcomes),
// how many there were, the last refusals, and the log.
package record

import (
	"errors"
	"net"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Outcome is what became of a connection or datagram. Each has one outcome. Its name is a label
// of metrics; the name of a refusal's outcome is the reason in logs.
type Outcome uint8

const (
	// Client: a header named the client, under mode On.
	Client Outcome = iota
	// Marked: a header named the client, under mode Unspecified.
	Marked
	// Local: a header without IP addresses.
	Local
	// Direct: no header, and none needed.
	Direct

	// The outcomes from here on are refusals, except for Silent.

	// Missing: no header where one is mandatory.
	Missing
	// Forbidden: a header where none is allowed.
	Forbidden
	// Untrusted: the peer may not send a header.
	Untrusted
	// Unauthenticated: the header does not prove what is required.
	Unauthenticated
	// Malformed: the header breaks the specification, or was cut off.
	Malformed
	// Checksum: the header's CRC32C is wrong.
	Checksum
	// TooLarge: the header is larger than max_header_size.
	TooLarge
	// Duplicate: a second header.
	Duplicate
	// Timeout: the header was not complete in time.
	Timeout
	// Version: the header's version is not allowed.
	Version
	// IO: the connection failed, or was closed, after its first byte and before its
	// header was complete; or it could not be checked.
	IO
	// Silent: the connection ended or timed out before its first byte, in any mode. Health
	// checks that only connect do that, and browsers with spare connections.
	Silent

	Outcomes // the number of outcomes
)

var outcomeNames = [Outcomes]string{
	Client:          "client",
	Marked:          "marked",
	Local:           "local",
	Direct:          "direct",
	Missing:         "missing",
	Forbidden:       "forbidden",
	Untrusted:       "untrusted",
	Unauthenticated: "unauthenticated",
	Malformed:       "malformed",
	Checksum:        "checksum",
	TooLarge:        "too_large",
	Duplicate:       "duplicate",
	Timeout:         "timeout",
	Version:         "version",
	IO:              "io",
	Silent:          "silent",
}

// refusalMessages are the log messages of refused connections.
var refusalMessages = [Outcomes]string{
	Missing:         "refused connection without PROXY protocol header",
	Forbidden:       "refused connection with PROXY protocol header",
	Untrusted:       "refused connection from untrusted peer",
	Unauthenticated: "refused connection with unauthenticated PROXY protocol header",
	Malformed:       "refused connection with malformed PROXY protocol header",
	Checksum:        "refused connection with wrong PROXY protocol checksum",
	TooLarge:        "refused connection with too large PROXY protocol header",
	Duplicate:       "refused connection with second PROXY protocol header",
	Timeout:         "refused connection whose PROXY protocol header came too late",
	Version:         "refused connection with PROXY protocol header of a version not allowed",
	IO:              "connection failed before its PROXY protocol header",
	Silent:          "connection ended before its first byte",
}

// dropMessages are the log messages of dropped datagrams.
var dropMessages = [Outcomes]string{
	Missing:         "dropped datagram without PROXY protocol header",
	Forbidden:       "dropped datagram with PROXY protocol header",
	Untrusted:       "dropped datagram from untrusted peer",
	Unauthenticated: "dropped datagram with unauthenticated PROXY protocol header",
	Malformed:       "dropped datagram with malformed PROXY protocol header",
	Checksum:        "dropped datagram with wrong PROXY protocol checksum",
	TooLarge:        "dropped datagram with too large PROXY protocol header",
	Duplicate:       "dropped datagram with second PROXY protocol header",
	IO:              "dropped datagram that could not be checked",
}

// AcceptedAs returns the outcome of an accepted connection with this header. The zero Header is
// no header.
func AcceptedAs(h *wire.Header, marked bool) Outcome {
	switch {
	case marked:
		return Marked
	case h.HasAddrs():
		return Client
	case h.Version() != 0:
		return Local
	default:
		return Direct
	}
}

// HasHeader reports whether the outcome is the reason for refusing a whole header, so that its peer
// sends headers.
func (o Outcome) HasHeader() bool {
	switch o {
	case Missing, Untrusted, Malformed, Timeout, IO, Silent:
		return false
	default:
		return o.IsRefusal()
	}
}

// IsRefusal reports whether the outcome is the reason of a refusal, or Silent.
func (o Outcome) IsRefusal() bool { return o >= Missing }

// Message returns the log message of a connection refused for this reason, or of a datagram
// that was dropped. It is empty if there is none.
func (o Outcome) Message(datagram bool) string {
	if datagram {
		return dropMessages[o]
	}
	return refusalMessages[o]
}

// String returns the outcome's name.
func (o Outcome) String() string { return outcomeNames[o] }

// ReasonOf returns the reason for refusing a header with this fault.
func ReasonOf(err wire.Error) Outcome {
	switch err.Problem {
	case wire.ProblemChecksum:
		return Checksum
	case wire.ProblemTooLarge:
		return TooLarge
	default:
		return Malformed
	}
}

// DetailOf returns the error to record for a fault in a header that begins with these bytes: for a
// header that is too large, its size.
func DetailOf(err wire.Error, header []byte, allowed int) error {
	if err.Problem == wire.ProblemTooLarge {
		return SizeError{wire.AnnouncedSize(header), allowed}
	}
	return err
}

// ErrRefused is the error of reads and writes on a refused connection.
var ErrRefused = errors.New("refused for breaking the PROXY protocol policy")

// RefusedError returns ErrRefused in the form that keeps net/http from writing a
// "400 Bad Request" to the connection.
func RefusedError(op string, peer net.Addr) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: peer, Err: ErrRefused}
}
