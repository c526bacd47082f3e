package record

import (
	"encoding/binary"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// BytesKept is the number of bytes of a refused connection that are remembered. Those that follow
// may be a request with secrets.
const BytesKept = 16

// Received names what bytes begin with: "http", "tls", "quic", "v1", "v2", or "nothing" if there are
// none.
// Of other bytes it returns the first ones, escaped.
func Received(b []byte) string {
	if len(b) == 0 {
		return "nothing"
	}
	switch _, version := wire.Signature(b); {
	case version != 0:
		return VersionNames[version]
	case IsTLS(b):
		return "tls"
	case IsHTTP(b):
		return "http"
	case isQUIC(b):
		return "quic"
	default:
		return escape.Text(string(b[:min(len(b), BytesKept)]))
	}
}

// IsTLS reports whether bytes begin like a TLS handshake: a record of type handshake (22) whose
// version has the major number 3.
func IsTLS(b []byte) bool {
	return len(b) > 0 && b[0] == 22 && (len(b) == 1 || b[1] == 3)
}

// IsHTTP reports whether bytes begin like an HTTP request: a method in capital letters, and a
// space. HTTP/2 without TLS begins so, too.
func IsHTTP(b []byte) bool {
	const longest = 20 // longer than the longest registered method, UPDATEREDIRECTREF
	for i, c := range b[:min(len(b), longest)] {
		switch {
		case c == ' ':
			return i > 0
		case (c < 'A' || c > 'Z') && c != '-':
			return false
		}
	}
	return false
}

// isQUIC reports whether bytes begin like the first datagram of a QUIC connection: a packet with a long
// header (RFC 9000, section 17.2) of version 1 or 2.
func isQUIC(b []byte) bool {
	if len(b) < 5 || b[0]&0xc0 != 0xc0 {
		return false
	}
	version := binary.BigEndian.Uint32(b[1:])
	return version == 1 || version == 0x6b3343cf
}
