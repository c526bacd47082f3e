package proxyprotocol

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// recorder keeps the record of what becomes of the connections of a listener, or of the
// datagrams of a socket: it counts, remembers and logs.
type recorder struct {
	log   *connLog
	stats *stats
}

// count counts a connection or datagram.
func (r *recorder) count(mode Mode, version uint8, o outcome) { r.stats.count(mode, version, o) }

// observeHeader counts the time that a header took.
func (r *recorder) observeHeader(took time.Duration) { r.stats.observeHeader(took) }

// sawPeer remembers a peer, if it has an IP address.
func (r *recorder) sawPeer(peer netip.Addr) { r.stats.sawPeer(peer) }

// accepted logs the accepted header of a connection.
func (r *recorder) accepted(peer net.Addr, socket localAddresser, mode Mode, h *wire.Header, marked bool) {
	r.log.accepted(peer, socket, mode, h, marked)
}

// marked logs that the address of a client is not trustworthy.
func (r *recorder) marked(peer net.Addr, socket localAddresser, h *wire.Header) {
	r.log.marked(peer, socket, h, monotime.Now())
}

// refuse remembers and logs a refusal, which is counted apart. err tells the log more.
func (r *recorder) refuse(peer, local net.Addr, mode Mode, why outcome, received []byte, err error) {
	if !isNoNews(why, err) {
		r.stats.refused(peer, why, received)
	}
	r.log.refused(peer, local, mode, why, err)
}

// isNoNews reports whether a refusal is everyday life, and not worth a warning or a place
// among the last refusals: the connection ended before its first byte, as health checks that
// only connect do, or this server closed it when it stopped.
func isNoNews(why outcome, err error) bool {
	return why == reasonSilent || errors.Is(err, net.ErrClosed)
}
