package proxyprotocol

import (
	"net"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

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

// connection is what a request came through: a conn, or over HTTP/3 a quicAddr.
type connection interface {
	known() *facts
	say() *tlv.Named
	placeholders() caddy.ReplacerFunc
	RemoteAddr() net.Addr
	LocalAddr() net.Addr
}

// requestConn returns a request's connection, or nil if it did not come through this module.
func requestConn(r *http.Request) connection {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr); ok {
		if (*conn)(local).phase.Load() == pending {
			return nil
		}
		return (*conn)(local)
	}
	if a := requestQUICAddr(r); a != nil {
		return a
	}
	return nil
}

// factsOf returns the facts of a request's connection, or nil if there are none.
func factsOf(r *http.Request) *facts {
	if c := requestConn(r); c != nil {
		return c.known()
	}
	return nil
}

func (f *facts) known() *facts { return f }

// present reports whether there was a header.
func (f *facts) present() bool { return f.header.Version() != 0 }

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
func (c *conn) say() *tlv.Named {
	if named := c.named.Load(); named != nil {
		return named
	}
	c.judging.Lock() // nobody judges any more
	defer c.judging.Unlock()
	if c.named.Load() == nil {
		c.named.Store(new(tlv.Name(c.tlvs)))
	}
	return c.named.Load()
}
