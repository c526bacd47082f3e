package record

import (
	"sync/atomic"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// Payload is what a listener expects behind a header.
type Payload uint8

const (
	// AnyPayload: it is not known what the listener expects.
	AnyPayload Payload = iota
	// PlainPayload: HTTP without TLS.
	PlainPayload
	// TLSPayload: TLS.
	TLSPayload
)

// payloadInterval is the time between two log lines of a listener about wrong payloads.
const payloadInterval = time.Minute

// payloads counts the connections of a listener whose header was followed by something else than
// the listener expects.
type payloads struct {
	tlsOnPlain, plainOnTLS atomic.Uint64
	// last is the monotime.Time of the last one, or 0.
	last atomic.Int64
	// next is the monotime.Time from which on the next one is logged.
	next atomic.Int64
}

// isWrong reports whether a payload is not what the listener expects, for certain.
func (p Payload) isWrong(first []byte) bool {
	switch p {
	case PlainPayload:
		return IsTLS(first)
	case TLSPayload:
		return IsHTTP(first)
	default:
		return false
	}
}

// count counts a wrong payload, and reports whether it must be logged.
func (p *payloads) count(expected Payload, now monotime.Time) bool {
	if expected == PlainPayload {
		p.tlsOnPlain.Add(1)
	} else {
		p.plainOnTLS.Add(1)
	}
	p.last.Store(int64(now))
	next := p.next.Load()
	return int64(now) >= next && p.next.CompareAndSwap(next, int64(now.Add(payloadInterval)))
}

// WrongPayloads returns the number of connections whose header was followed by TLS on a listener
// for plain HTTP, and by plain HTTP on a listener for TLS.
func (s *Stats) WrongPayloads() (tlsOnPlain, plainOnTLS uint64) {
	return s.payloads.tlsOnPlain.Load(), s.payloads.plainOnTLS.Load()
}

// HadWrongPayload reports whether there was such a connection under the running configuration, within
// recentTime.
func (s *Stats) HadWrongPayload() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isRecent(monotime.Time(s.payloads.last.Load()))
}
