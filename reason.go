package proxyprotocol

import (
	"errors"
	"net"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// reason is why a connection was refused. Its name is a label in logs and metrics.
type reason uint8

const (
	// reasonMissing: no header where one is mandatory.
	reasonMissing reason = iota
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
	// reasonIO: the connection ended or failed before it could be judged.
	reasonIO
)

var reasons = [...]struct{ name, message string }{
	reasonMissing:   {"missing", "refused connection without PROXY protocol header"},
	reasonForbidden: {"forbidden", "refused connection with PROXY protocol header"},
	reasonUntrusted: {"untrusted", "refused connection from untrusted peer"},
	reasonMalformed: {"malformed", "refused connection with malformed PROXY protocol header"},
	reasonChecksum:  {"checksum", "refused connection with wrong PROXY protocol checksum"},
	reasonTooLarge:  {"too_large", "refused connection with too large PROXY protocol header"},
	reasonDuplicate: {"duplicate", "refused connection with second PROXY protocol header"},
	reasonTimeout:   {"timeout", "refused connection whose PROXY protocol header came too late"},
	reasonVersion:   {"version", "refused connection with PROXY protocol header of a version not allowed"},
	reasonIO:        {"io", "connection failed before its PROXY protocol header"},
}

// String returns the reason's name.
func (r reason) String() string { return reasons[r].name }

// message is the log message; zap samples by it.
func (r reason) message() string { return reasons[r].message }

// reasonOf is the reason for refusing a header with this fault.
func reasonOf(err wire.Error) reason {
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
