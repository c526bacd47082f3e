package proxyprotocol

import (
	"errors"
	"net"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// outcome is what became of a connection, once, or of a datagram. Its name is a label in metrics; that of a
// refusal is the reason in logs.
type outcome uint8

const (
	// outcomeClient: a header named the client, and is believed.
	outcomeClient outcome = iota
	// outcomeMarked: a header named the client, and nobody vouched for it.
	outcomeMarked
	// outcomeLocal: a header without IP addresses.
	outcomeLocal
	// outcomeDirect: no header, and none needed.
	outcomeDirect

	// From here on the connection was refused, or ended before anything could be refused.

	// reasonMissing: no header where one is mandatory.
	reasonMissing
	// reasonForbidden: a header where none is allowed.
	reasonForbidden
	// reasonUntrusted: the peer may not send a header.
	reasonUntrusted
	// reasonMalformed: the header breaks the specification, or was cut off.
	reasonMalformed
	// reasonChecksum: the header's CRC32C is wrong.
	reasonChecksum
	// reasonTooLarge: the header is larger than max_header_size.
	reasonTooLarge
	// reasonDuplicate: a second header.
	reasonDuplicate
	// reasonTimeout: the header was not complete in time.
	reasonTimeout
	// reasonVersion: the header's version is not allowed.
	reasonVersion
	// reasonIO: the connection failed, or was closed, after its first byte and before its
	// header was complete; or it could not be judged at all.
	reasonIO
	// reasonSilent: the connection ended, or its time was over, before its first byte. Health
	// checks that only connect do that, and browsers with connections to spare: it is counted
	// in every mode, and not news.
	reasonSilent

	outcomes // how many there are
)

var outcomeNames = [outcomes]string{
	outcomeClient:   "client",
	outcomeMarked:   "marked",
	outcomeLocal:    "local",
	outcomeDirect:   "direct",
	reasonMissing:   "missing",
	reasonForbidden: "forbidden",
	reasonUntrusted: "untrusted",
	reasonMalformed: "malformed",
	reasonChecksum:  "checksum",
	reasonTooLarge:  "too_large",
	reasonDuplicate: "duplicate",
	reasonTimeout:   "timeout",
	reasonVersion:   "version",
	reasonIO:        "io",
	reasonSilent:    "silent",
}

// refusalMessages are the log messages of refusals. zap limits how many of each are logged.
var refusalMessages = [outcomes]string{
	reasonMissing:   "refused connection without PROXY protocol header",
	reasonForbidden: "refused connection with PROXY protocol header",
	reasonUntrusted: "refused connection from untrusted peer",
	reasonMalformed: "refused connection with malformed PROXY protocol header",
	reasonChecksum:  "refused connection with wrong PROXY protocol checksum",
	reasonTooLarge:  "refused connection with too large PROXY protocol header",
	reasonDuplicate: "refused connection with second PROXY protocol header",
	reasonTimeout:   "refused connection whose PROXY protocol header came too late",
	reasonVersion:   "refused connection with PROXY protocol header of a version not allowed",
	reasonIO:        "connection failed before its PROXY protocol header",
	reasonSilent:    "connection ended before its first byte",
}

// dropMessages are the same of datagrams.
var dropMessages = [outcomes]string{
	reasonMissing:   "dropped datagram without PROXY protocol header",
	reasonForbidden: "dropped datagram with PROXY protocol header",
	reasonUntrusted: "dropped datagram from untrusted peer",
	reasonMalformed: "dropped datagram with malformed PROXY protocol header",
	reasonChecksum:  "dropped datagram with wrong PROXY protocol checksum",
	reasonTooLarge:  "dropped datagram with too large PROXY protocol header",
	reasonDuplicate: "dropped datagram with second PROXY protocol header",
	reasonIO:        "dropped datagram that could not be checked",
}

// acceptedAs is the outcome of what was accepted with this header, or with none, if it is the
// zero Header.
func acceptedAs(h *wire.Header, marked bool) outcome {
	switch {
	case marked:
		return outcomeMarked
	case h.HasAddrs():
		return outcomeClient
	case h.Version() != 0:
		return outcomeLocal
	default:
		return outcomeDirect
	}
}

// refused reports whether the outcome is a reason for a refusal.
func (o outcome) refused() bool { return o >= reasonMissing }

// String returns the outcome's name.
func (o outcome) String() string { return outcomeNames[o] }

// reasonOf is the reason for refusing a header with this fault.
func reasonOf(err wire.Error) outcome {
	switch err.Problem {
	case wire.ProblemChecksum:
		return reasonChecksum
	case wire.ProblemTooLarge:
		return reasonTooLarge
	default:
		return reasonMalformed
	}
}

// errRefused is what reads and writes on a refused connection fail with.
var errRefused = errors.New("refused for breaking the PROXY protocol policy")

// refusedError returns errRefused in the form that keeps net/http from writing a
// "400 Bad Request" to the connection.
func refusedError(op string, peer net.Addr) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: peer, Err: errRefused}
}
