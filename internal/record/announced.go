package record

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// Bounds of Announcements.
const (
	// AnnouncedKept is the number of peers that can be announced at a time. A check has 16.
	AnnouncedKept = 256
	// AnnouncedFor is how long an announcement is valid.
	AnnouncedFor = 10 * time.Second
)

// Announced has the peers whose connections are probes of 'caddy proxy-protocol check'.
var Announced Announcements

// Announcements is a table of peers that were announced over the admin API, before they connect.
// What becomes of their connections and datagrams is recorded apart. It is decided as for any
// other peer. Nothing that a peer sends puts it into the table, so that no peer can hide there.
//
// It is safe for concurrent use, and costs one atomic load while it is empty.
type Announcements struct {
	size  atomic.Int32 // of until; written with mu held
	mu    sync.Mutex
	until map[announcement]monotime.Time // when announcements expire; guarded by mu
}

// announcement is a peer, with an unmapped IP address without a zone.
type announcement struct {
	peer      netip.AddrPort
	datagrams bool
}

func announcementOf(peer netip.AddrPort, datagrams bool) announcement {
	return announcement{netip.AddrPortFrom(policy.NormalizeAddr(peer.Addr()), peer.Port()), datagrams}
}

// ErrAnnouncedTooMany is the error of announcements that the table has no room for.
var ErrAnnouncedTooMany = fmt.Errorf("more than %d peers are announced: try again in %v", AnnouncedKept, AnnouncedFor)

// ErrAnnouncedNoPeer is the error of an announcement that is no address with a port.
var ErrAnnouncedNoPeer = errors.New("an announced peer needs an IP address and a port")

// Announce adds peers that will connect, or with datagrams set, that will send datagrams. It adds
// all or none.
func (a *Announcements) Announce(peers []netip.AddrPort, datagrams bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire()
	if len(a.until)+len(peers) > AnnouncedKept {
		return ErrAnnouncedTooMany
	}
	for _, peer := range peers {
		if !peer.IsValid() || peer.Port() == 0 {
			return ErrAnnouncedNoPeer
		}
	}
	if a.until == nil {
		a.until = make(map[announcement]monotime.Time)
	}
	for _, peer := range peers {
		a.until[announcementOf(peer, datagrams)] = monotime.Now().Add(AnnouncedFor)
	}
	a.size.Store(int32(len(a.until)))
	time.AfterFunc(AnnouncedFor, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.expire()
	})
	return nil
}

// expire removes expired announcements. The caller holds mu.
func (a *Announcements) expire() {
	now := monotime.Now()
	maps.DeleteFunc(a.until, func(_ announcement, until monotime.Time) bool { return until <= now })
	a.size.Store(int32(len(a.until)))
}

// Withdraw removes announced peers, and returns those that were there: of them no connection has
// come.
func (a *Announcements) Withdraw(peers []netip.AddrPort, datagrams bool) (unused []netip.AddrPort) {
	for _, peer := range peers {
		if a.remove(announcementOf(peer, datagrams)) {
			unused = append(unused, peer)
		}
	}
	return unused
}

// Take removes the peer of a new connection, and reports whether it was announced. An announcement
// is for one connection.
func (a *Announcements) Take(peer net.Addr) bool {
	if a.size.Load() == 0 {
		return false
	}
	tcp, ok := peer.(*net.TCPAddr)
	return ok && a.remove(announcementOf(tcp.AddrPort(), false))
}

// Has reports whether the sender of a datagram was announced.
func (a *Announcements) Has(peer netip.AddrPort) bool {
	if a.size.Load() == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return monotime.Now() < a.until[announcementOf(peer, true)]
}

// remove removes an announcement, and reports whether it was there and valid.
func (a *Announcements) remove(one announcement) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.until[one]
	delete(a.until, one)
	a.size.Store(int32(len(a.until)))
	return ok && monotime.Now() < until
}
