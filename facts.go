package proxyprotocol

import (
	"net"
	"net/http"
	"sync"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// facts are what a listener learned of a connection, for its requests.
type facts struct {
	// mode is the mode in force for the peer.
	mode Mode
	// peer is the other end of the connection.
	peer net.Addr
	// header is the zero Header if there was none.
	header wire.Header
	// tlvs are the header's.
	tlvs wire.TLVs
	// marked says that the client's address came from a header nobody vouched for.
	marked bool

	named     namedTLVs
	namedOnce sync.Once
}

// factsOf returns the facts of a request's connection, or nil if there are none: its
// connection did not come through this module.
func factsOf(r *http.Request) *facts {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr)
	if !ok || local.conn.phase.Load() == pending {
		return nil
	}
	return &local.conn.facts
}

// present reports whether there was a header.
func (f *facts) present() bool { return f.header.Version() != 0 }

// namedTLVs returns what the TLVs say. It is found out once, when somebody asks.
func (f *facts) namedTLVs() *namedTLVs {
	f.namedOnce.Do(func() { f.named = nameTLVs(f.tlvs) })
	return &f.named
}
