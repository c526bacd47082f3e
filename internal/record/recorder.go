package record

import (
	"errors"
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

// Count counts a connection or datagram.
func (r *Recorder) Count(mode policy.Mode, version uint8, o Outcome) { r.Stats.Count(mode, version, o) }

// ObserveHeader counts the time from accept to the end of a header.
func (r *Recorder) ObserveHeader(took time.Duration) { r.Stats.ObserveHeader(took) }

// SawPeer remembers a peer, unless its address is invalid.
func (r *Recorder) SawPeer(peer netip.Addr) { r.Stats.SawPeer(peer) }

// Accepted logs the accepted header of a connection.
func (r *Recorder) Accepted(peer net.Addr, socket localAddresser, mode policy.Mode, h *wire.Header, marked bool) {
	r.Log.accepted(peer, socket, mode, h, marked)
}

// Marked logs that a client's address is unverified.
func (r *Recorder) Marked(peer net.Addr, socket localAddresser, h *wire.Header) {
	r.Log.marked(peer, socket, h, monotime.Now())
}

// Refuse remembers and logs a refusal. The caller counts it. err is for the log, or nil.
func (r *Recorder) Refuse(peer, local net.Addr, mode policy.Mode, reason Outcome, received []byte, err error) {
	if !isRoutine(reason, err) {
		r.Stats.addRefusal(peer, reason, received)
	}
	r.Log.refusal(peer, local, mode, reason, err)
}

// isRoutine reports whether a refusal is logged at DEBUG and not remembered: the connection
// ended before its first byte, as that of a health check that only connects, or this server
// closed it when it stopped.
func isRoutine(reason Outcome, err error) bool {
	return reason == Silent || errors.Is(err, net.ErrClosed)
}
