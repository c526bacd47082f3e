// Package conninfo has what is known of a connection: its peer, its header, and the mark. Requests
// find it by the connection's addresses.
package conninfo

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Info is what a listener knows of a connection.
type Info struct {
	// Peer is the address of the host at the other end of the connection.
	Peer net.Addr
	// tlvs are those of the header, or nil if it has none.
	tlvs *tlvs
	// Header is the header, or the zero Header if there was none. It needs no alignment, and
	// leaves no gap before the small fields that follow.
	Header wire.Header
	// Mode is the mode in force for the peer.
	Mode policy.Mode
	// Trust says whether the peer may send a header.
	Trust policy.Trust
	// method is how the header has proved who made it.
	method auth.Method
	// marked is the mark: the client's address came from a header under mode Unspecified. Only
	// SetHeader sets it, and nothing removes it.
	marked bool
}

// SetHeader sets the header, a copy of its TLVs, the mark, and what the header has proved. Mode
// must have been set.
func (i *Info) SetHeader(h wire.Header, tlvs wire.TLVs, proof auth.Proof) {
	i.Header, i.method = h, proof.Method
	if len(tlvs) > 0 {
		i.tlvs = copyTLVs(tlvs)
		i.tlvs.secret = proof.Secrets
	}
	i.marked = i.Mode == policy.Unspecified && i.Header.HasAddrs()
}

// Marked reports whether the connection is marked: the client's address came from a header
// under mode Unspecified.
func (i *Info) Marked() bool { return i.marked }

// Authenticated returns how the header has proved who made it.
func (i *Info) Authenticated() auth.Method { return i.method }

// Conn is the connection of a request, over TCP, a Unix socket or QUIC.
type Conn interface {
	// Info returns what is known of the connection.
	Info() *Info
	// Lookups returns the cache for the lookup of the connection's placeholders.
	Lookups() *LookupCache
	// RemoteAddr returns the client's address, with port 0 if it is marked, or the peer's.
	RemoteAddr() net.Addr
	// LocalAddr returns the destination of the header, or that of the connection.
	LocalAddr() net.Addr
}

// Lookup returns the value of a placeholder, and whether there is such a placeholder.
type Lookup func(key string) (any, bool)

// LookupCache keeps the lookup of a connection for all its requests. It is safe for concurrent
// use.
type LookupCache struct{ kept atomic.Pointer[Lookup] }

// Load returns the lookup that was stored last, or nil.
func (c *LookupCache) Load() Lookup {
	if kept := c.kept.Load(); kept != nil {
		return *kept
	}
	return nil
}

// Store keeps a lookup.
func (c *LookupCache) Store(l Lookup) { c.kept.Store(&l) }

// HasHeader reports whether the connection began with a header.
func (i *Info) HasHeader() bool { return i.Header.Version() != 0 }

// Destination returns the header's destination. It is invalid if the connection is marked, or
// if the header has no destination or an unspecified one, as Caddy's own sender writes it.
func (i *Info) Destination() netip.AddrPort {
	to := i.Header.Destination()
	ip := to.Addr().Unmap()
	if i.marked || !ip.IsValid() || ip.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, to.Port())
}

// TLVs returns the values of the TLVs by name, with those of secret types redacted. They are
// decoded once, on the first call.
func (i *Info) TLVs() *tlv.Named {
	if i.tlvs == nil {
		return noTLVs
	}
	i.tlvs.naming.Do(func() { i.tlvs.named = tlv.ParseRedacting(i.tlvs.raw, i.tlvs.secret) })
	return i.tlvs.named
}

// Meets reports whether the header meets a requirement that came into force after it was accepted,
// and all types of TLVs that this requirement makes secret already were. listed says that the
// peer is one that the configuration names.
func (i *Info) Meets(r *auth.Requirement, listed bool) bool {
	var raw wire.TLVs
	var secret *tlv.Types
	if i.tlvs != nil {
		raw, secret = i.tlvs.raw, i.tlvs.secret
	}
	proof, err := r.Check(&i.Header, raw, listed, time.Now())
	return err == nil && secret.Contains(proof.Secrets)
}

// noTLVs has no values.
var noTLVs = new(tlv.Named)

// tlvs are the TLVs of a header.
type tlvs struct {
	raw    wire.TLVs
	secret *tlv.Types // types whose values must not be shown, or nil
	room   [104]byte  // of raw: enough for load balancers' TLVs, so that there is one allocation
	naming sync.Once
	named  *tlv.Named
}

// copyTLVs copies TLVs, because the buffer that they are in will be used again.
func copyTLVs(raw wire.TLVs) *tlvs {
	kept := new(tlvs)
	kept.raw = append(kept.room[:0], raw...)
	return kept
}
