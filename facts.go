package proxyprotocol

import (
	"net"
	"net/http"
	"sync/atomic"

	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// facts are what a listener learned of a connection, for its requests.
type facts struct {
	// peer is the other end of the connection.
	peer net.Addr
	// header is the zero Header if there was none.
	header wire.Header
	// tlvs are the header's.
	tlvs wire.TLVs
	// named is what they say, once somebody has asked.
	named atomic.Pointer[tlv.Named]
	// mode is the mode in force for the peer.
	mode Mode
	// marked says that the client's address came from a header nobody vouched for.
	marked bool
}

// requestConn returns a request's connection, or nil if it did not come through this module.
func requestConn(r *http.Request) *conn {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr)
	if !ok || (*conn)(local).isPending() {
		return nil
	}
	return (*conn)(local)
}

// factsOf returns the facts of a request's connection, or nil if there are none.
func factsOf(r *http.Request) *facts {
	if c := requestConn(r); c != nil {
		return &c.facts
	}
	return nil
}

// present reports whether there was a header.
func (f *facts) present() bool { return f.header.Version() != 0 }

// say returns what the TLVs say, by name. It is found out once, when somebody asks.
func (c *conn) say() *tlv.Named {
	if named := c.named.Load(); named != nil {
		return named
	}
	c.deadlines.Lock() // not judging, which whoever waits for the first data holds
	defer c.deadlines.Unlock()
	if c.named.Load() == nil {
		c.named.Store(new(tlv.Name(c.tlvs)))
	}
	return c.named.Load()
}
