package proxyprotocol

import (
	"net"
	"net/netip"
	"sync"

	"github.com/caddyserver/caddy/v2"

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
	// marked says that the client's address came from a header nobody vouched for.
	marked bool
}

// connection is what a request came through: a conn, or over HTTP/3 a quicAddr or
// migratedAddr.
type connection interface {
	known() *facts
	placeholders() caddy.ReplacerFunc
	RemoteAddr() net.Addr
	LocalAddr() net.Addr
}

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

// outcome is what became of a connection or datagram that was not refused.
func (f *facts) outcome() outcome {
	switch {
	case f.marked:
		return outcomeMarked
	case f.header.HasAddrs():
		return outcomeClient
	case f.present():
		return outcomeLocal
	default:
		return outcomeDirect
	}
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
