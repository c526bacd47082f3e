package record

import (
	"net"
	"net/netip"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Recorder records what becomes of the connections of a listener, or of the datagrams of a
// socket: it counts, remembers and logs.
type Recorder struct {
	Log   *Log
	Stats *Stats
}

// ForCheck returns the recorder of announced peers: it counts and remembers apart, and logs at
// INFO with a field "check".
func (r *Recorder) ForCheck() Recorder { return Recorder{Log: r.Log.checks, Stats: r.Stats.checks} }

// Count counts a connection or datagram.
func (r *Recorder) Count(mode policy.Mode, version uint8, o Outcome) { r.Stats.Count(mode, version, o) }

// ObserveHeader counts the time from accept to the end of a header.
func (r *Recorder) ObserveHeader(took time.Duration) { r.Stats.ObserveHeader(took) }

// SawPeer remembers a peer and the mode in force for it, unless its address is invalid.
func (r *Recorder) SawPeer(peer netip.Addr, mode policy.Mode) { r.Stats.SawPeer(peer, mode) }

// LogHeader logs an accepted header.
func (r *Recorder) LogHeader(a *Accepted, socket localAddresser, mode policy.Mode) {
	r.Log.accepted(a, socket, mode)
}

// RememberHeader remembers an accepted header, unless another one follows it.
func (r *Recorder) RememberHeader(a *Accepted) { r.Stats.addHeader(a) }

// Refuse remembers and logs a refusal, and what was received. The caller counts it.
func (r *Recorder) Refuse(refusal Refusal, received []byte) {
	refusal.Time = time.Now()
	refusal.keep(received)
	if !refusal.isRoutine() {
		r.Stats.addRefusal(&refusal)
	}
	r.Log.refusal(&refusal)
}

// CheckPayload counts and logs a connection whose header is followed by TLS on a listener for plain
// HTTP, or the reverse. first are the bytes behind the header, at least one.
func (r *Recorder) CheckPayload(expected Payload, first []byte, peer net.Addr, socket localAddresser, h *wire.Header) {
	if expected.isWrong(first) && r.Stats.payloads.count(expected, monotime.Now()) {
		r.Log.payload(expected, peer, socket, h)
	}
}
