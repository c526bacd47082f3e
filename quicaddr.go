package proxyprotocol

import (
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go/http3"
)

// quicAddr is where a datagram came from, as QUIC gets it: the client to whoever asks for
// its text, and the peer to whom QUIC hands it back with a reply. What is known of a client
// travels in it, so that there is no table to be filled or poisoned. It never changes.
//
// QUIC keeps one per connection, and takes a datagram from an address with another text for
// a migration, which the client must confirm through the new path.
type quicAddr struct {
	facts
	// rules judged the datagram. They are nil if nobody did.
	rules *rules
	// text is the client's address with port, which is 0 if it is marked.
	text string
	// until is when the source of trusted peers must be asked again, since start, or 0.
	until time.Duration

	// What the datagrams looked like that have this address.
	from     netip.AddrPort // the peer as the socket has it
	raw      string         // the header
	received string         // the control message

	// How replies get back.
	via   net.Addr       // the peer as the socket has it, if it is no UDP socket
	reply []byte         // the control message
	local netip.AddrPort // what the peer sent to, if it is known

	asked   atomic.Uint32 // how often the text was asked for
	mapping atomic.Pointer[caddy.ReplacerFunc]
}

// Network implements net.Addr.
func (a *quicAddr) Network() string { return "udp" }

// String implements net.Addr.
func (a *quicAddr) String() string {
	// QUIC asks once for a token that it sends to somebody it then forgets.
	const forgotten = 1
	if a.asked.Load() <= forgotten && a.asked.Add(1) == forgotten+1 {
		spoken.add(a)
	}
	return a.text
}

// RemoteAddr returns the client's address.
func (a *quicAddr) RemoteAddr() net.Addr { return a }

// LocalAddr returns the header's destination, or what the peer sent to if there is none,
// it is unspecified, or the client is marked.
func (a *quicAddr) LocalAddr() net.Addr {
	if to := a.destination(); to.IsValid() {
		return net.UDPAddrFromAddrPort(to)
	}
	return net.UDPAddrFromAddrPort(a.local)
}

func (a *quicAddr) placeholders() caddy.ReplacerFunc { return mappingOf(a, &a.mapping) }

// requestQUICAddr returns the address that a request's connection has now, or nil if the
// connection did not come through the packet wrapper. What a request sees is one value: the
// very one that gave it its RemoteAddr.
func requestQUICAddr(r *http.Request) *quicAddr {
	accepted := acceptedFrom(r)
	if accepted == nil {
		return nil
	}
	now := accepted
	if !sameString(r.RemoteAddr, accepted.text) {
		now = spoken.find(r.RemoteAddr) // the connection has migrated
	}
	// A connection is marked or not, as long as it lives.
	if now == nil || now.rules == nil || now.marked != accepted.marked {
		return nil
	}
	return now
}

// acceptedFrom returns the address from which a request's connection was accepted, or nil
// if it did not come through the packet wrapper.
func acceptedFrom(r *http.Request) *quicAddr {
	a, ok := r.Context().Value(http3.RemoteAddrContextKey).(*quicAddr)
	if !ok || a.rules == nil {
		return nil
	}
	return a
}

// sameString reports whether two strings are one, not merely equal. Clients may have equal
// texts: that of marked ones is their IP address.
func sameString(a, b string) bool {
	return len(a) == len(b) && unsafe.StringData(a) == unsafe.StringData(b)
}

// spoken leads from the text that an address gave out back to the address. It does not keep
// an address, so that it has no more of them than QUIC.
var spoken spokenAddrs

type spokenAddrs struct {
	// addrs has a weak.Pointer[quicAddr] for the first byte of each text.
	addrs sync.Map
}

func (s *spokenAddrs) add(a *quicAddr) {
	text := unsafe.StringData(a.text)
	s.addrs.Store(text, weak.Make(a))
	runtime.AddCleanup(a, func(text *byte) { s.addrs.Delete(text) }, text)
}

// find returns the address that gave out a text, or nil.
func (s *spokenAddrs) find(text string) *quicAddr {
	found, ok := s.addrs.Load(unsafe.StringData(text))
	if !ok {
		return nil
	}
	a := found.(weak.Pointer[quicAddr]).Value()
	if a == nil || !sameString(text, a.text) {
		return nil
	}
	return a
}
