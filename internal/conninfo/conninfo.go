package proxyprotocol

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// facts are what a listener learned of a connection, for its requests.
type facts struct {
	// peer is the other end of the connection.
	peer net.Addr
	// tlvs are the header's, or nil if it has none.
	tlvs *tlvs
	// header is the zero Header if there was none. It stands here because it needs no
	// alignment: facts are no larger for it.
	header wire.Header
	// mode is the mode in force for the peer.
	mode Mode
	// trust says whether the peer may send a header.
	trust trust
	// marked says that the client's address came from a header nobody vouched for. Only
	// setHeader sets it, and nothing removes it.
	marked bool
}

// setHeader sets the header, a copy of its TLVs, and the mark. The mode must be set before.
func (f *facts) setHeader(h wire.Header, tlvs wire.TLVs) {
	f.header = h
	if len(tlvs) > 0 {
		f.tlvs = keepTLVs(tlvs)
	}
	f.marked = f.mode == Unspecified && f.header.HasAddrs()
}

// Marked reports whether the client's address came from a header nobody vouched for.
func (f *facts) Marked() bool { return f.marked }

// connection is what a request came through: a conn, or over HTTP/3 a quicAddr or
// migratedAddr.
type connection interface {
	// known returns the facts of the connection.
	known() *facts
	// lookups returns the cache for what looks up the connection's placeholders.
	lookups() *lookupCache
	RemoteAddr() net.Addr
	LocalAddr() net.Addr
}

// lookup returns the value of a placeholder, and whether there is such a placeholder.
type lookup func(key string) (any, bool)

// lookupCache keeps the lookup of a connection for its requests.
type lookupCache struct{ kept atomic.Pointer[lookup] }

// load returns the lookup that was stored last, or nil.
func (c *lookupCache) load() lookup {
	if kept := c.kept.Load(); kept != nil {
		return *kept
	}
	return nil
}

// store keeps a lookup.
func (c *lookupCache) store(l lookup) { c.kept.Store(&l) }

func (f *facts) known() *facts { return f }

// present reports whether there was a header.
func (f *facts) present() bool { return f.header.Version() != 0 }

// destination is the header's destination, or invalid if there is none to go by: it is
// unspecified, as Caddy's own sender writes it, or the client is marked.
func (f *facts) destination() netip.AddrPort {
	to := f.header.Destination()
	ip := to.Addr().Unmap()
	if f.marked || !ip.IsValid() || ip.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, to.Port())
}

// say returns what the TLVs say, by name. It is found out once, when somebody asks.
func (f *facts) say() *tlv.Named {
	if f.tlvs == nil {
		return noTLVs
	}
	f.tlvs.naming.Do(func() { f.tlvs.named = tlv.Name(f.tlvs.raw) })
	return f.tlvs.named
}

// noTLVs say nothing.
var noTLVs = new(tlv.Named)

// tlvs are the TLVs of a header.
type tlvs struct {
	raw    wire.TLVs
	room   [104]byte // for all that load balancers send, so that it is one allocation
	naming sync.Once
	named  *tlv.Named
}

// keepTLVs copies TLVs out of the buffer that they came in.
func keepTLVs(raw wire.TLVs) *tlvs {
	kept := new(tlvs)
	kept.raw = append(kept.room[:0], raw...)
	return kept
}
