// Package policy decides what a peer's address alone decides: which mode is in force for the
// peer, and whether the peer may send a header.
package policy

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Policy has the modes and the trusted peers of a listener. It does not change once it is
// built.
type Policy struct {
	// Mode is in force for peers outside of Ranges.
	Mode Mode
	// Ranges has the peers with a mode of their own, or is nil. They are trusted.
	Ranges *bart.Table[Mode]
	// Trusted has the other peers that may send a header, if they were known at load. If
	// Trusted and Source are nil, every peer may.
	Trusted *bart.Lite
	// Source returns the trusted peers otherwise. SetSource sets it.
	Source Source
	// asking holds a value for each call of Source by Ask that has not returned.
	asking chan struct{}
}

// Source returns the ranges of the peers that may send a header, for a connection of this
// peer. It is code of another module: it may block, panic, or ignore ctx.
type Source func(ctx context.Context, peer net.Addr) []netip.Prefix

// Trust says whether a peer may send a header.
type Trust uint8

const (
	// Untrusted: the peer may not send a header.
	Untrusted Trust = iota
	// Trusted: the peer may send a header.
	Trusted
	// AskSource: only Policy.Ask can tell.
	AskSource
)

// For returns the mode in force for a peer that connected to local, and whether it
// may send a header.
func (p *Policy) For(peer, local net.Addr) (Mode, Trust) {
	return p.ForIP(PeerIP(peer), local)
}

// ForIP is For a peer with this IP address. An invalid address is that of a peer without one.
func (p *Policy) ForIP(addr netip.Addr, local net.Addr) (Mode, Trust) {
	if p.Ranges != nil { // it does not contain an invalid address
		if mode, ok := p.Ranges.Lookup(addr); ok {
			return mode, Trusted
		}
	}
	switch {
	case p.TrustsAnyone():
		return p.Mode, Trusted
	case isSocketFile(local):
		return p.Mode, Trusted
	case !addr.IsValid():
		return p.Mode, Untrusted
	case p.Source != nil:
		return p.Mode, AskSource
	case p.Trusted.Contains(addr):
		return p.Mode, Trusted
	default:
		return p.Mode, Untrusted
	}
}

// Listed reports whether the policy names a peer with this IP address, which may send a header. A
// peer that may do so only because every peer may is not listed. The peer of a socket file is: the
// file's permissions name it.
func (p *Policy) Listed(addr netip.Addr, local net.Addr) bool {
	if p.Ranges != nil {
		if _, ok := p.Ranges.Lookup(addr); ok {
			return true
		}
	}
	return !p.TrustsAnyone() || isSocketFile(local)
}

// Uses reports whether any peer has this mode.
func (p *Policy) Uses(mode Mode) bool {
	if p.Mode == mode {
		return true
	}
	if p.Ranges != nil {
		for _, other := range p.Ranges.All() {
			if other == mode {
				return true
			}
		}
	}
	return false
}

// SetSource makes a source of trusted peers the one that is asked.
func (p *Policy) SetSource(s Source) { p.Source, p.asking = s, make(chan struct{}, maxAsking) }

// TrustsAnyone reports whether no trusted peers were configured.
func (p *Policy) TrustsAnyone() bool { return p.Trusted == nil && p.Source == nil }

// TrustedRanges returns the first most ranges of Trusted in order, with "..." if there are more.
func (p *Policy) TrustedRanges(most int) (ranges []string) {
	if p.Trusted == nil {
		return nil
	}
	for prefix := range p.Trusted.AllSorted() {
		if len(ranges) == most {
			return append(ranges, "...")
		}
		ranges = append(ranges, prefix.String())
	}
	return ranges
}

// Ask asks the source whether a peer may send a header. The error says why the peer may not,
// if the reason is not its address: ErrSourceLate or ErrSourceEmpty. Ask returns when ctx ends,
// even if the source has not answered. It panics if the source does, and must not be called by
// the accept loop.
func (p *Policy) Ask(ctx context.Context, peer net.Addr) (Trust, error) {
	if !p.acquire(ctx) {
		return Untrusted, ErrSourceLate
	}
	answers := make(chan sourceAnswer, 1)
	go p.answer(ctx, peer, answers)
	// After the end of ctx an answer does not count: a source may return none because of it.
	select {
	case answer := <-answers:
		if answer.panicked != nil {
			panic(answer.panicked)
		}
		if ctx.Err() == nil {
			return answer.trust, answer.err
		}
	case <-ctx.Done():
	}
	return Untrusted, ErrSourceLate
}

// acquire waits until the source has fewer than maxAsking calls, and counts another one. It
// reports false if ctx ends before.
func (p *Policy) acquire(ctx context.Context) bool {
	select {
	case p.asking <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// sourceAnswer is the answer of a source to Ask.
type sourceAnswer struct {
	trust    Trust
	err      error
	panicked any
}

// answer calls the source, sends its answer, and releases what acquire took. It sends an answer
// even if the source ends the goroutine.
func (p *Policy) answer(ctx context.Context, peer net.Addr, answers chan<- sourceAnswer) {
	defer func() { <-p.asking }()
	var answer sourceAnswer
	defer func() {
		answer.panicked = recover()
		answers <- answer
	}()
	answer.trust, answer.err = p.askNow(ctx, peer)
}

// maxAsking bounds the calls of a source at a time, and so the goroutines that a source which
// never answers can hold.
const maxAsking = 1024

// Errors of Ask.
var (
	ErrSourceLate  = errors.New("trusted_proxies: the source did not answer before the timeout")
	ErrSourceEmpty = errors.New("trusted_proxies: the source returned no ranges, so no peer may send a header")
)

// askNow calls the source and looks the peer up in its answer.
func (p *Policy) askNow(ctx context.Context, peer net.Addr) (Trust, error) {
	ranges := p.Source(ctx, peer)
	if len(ranges) == 0 {
		return Untrusted, ErrSourceEmpty
	}
	addr := PeerIP(peer)
	for _, prefix := range ranges {
		if Normalize(prefix).Contains(addr) {
			return Trusted, nil
		}
	}
	return Untrusted, nil
}

// PeerAddr returns the address of a peer as it may be shown. The peer of a Unix socket can choose
// its name, and choose one that looks like an IP address, so the name is left out.
func PeerAddr(addr net.Addr) net.Addr {
	if unix, ok := addr.(*net.UnixAddr); ok {
		return &net.UnixAddr{Name: "@", Net: unix.Net}
	}
	return addr
}

// PeerIP returns the IP address of a peer without IPv4 mapping and zone, or the zero Addr
// if the peer has none.
func PeerIP(peer net.Addr) netip.Addr {
	var addr netip.Addr
	switch peer := peer.(type) {
	case nil:
	case *net.UnixAddr: // a name that the peer chose, perhaps "10.0.0.1:80"
	case *net.TCPAddr:
		addr = peer.AddrPort().Addr()
	case *net.UDPAddr:
		addr = peer.AddrPort().Addr()
	default:
		// Connections of other modules may have address types of their own.
		if addrPort, err := netip.ParseAddrPort(peer.String()); err == nil {
			addr = addrPort.Addr()
		}
	}
	return NormalizeAddr(addr)
}

// isSocketFile reports whether local is a Unix socket in the file system, whose
// permissions decide who can connect. An abstract socket has none.
func isSocketFile(local net.Addr) bool {
	unix, ok := local.(*net.UnixAddr)
	return ok && unix.Name != "" && unix.Name[0] != '@' && unix.Name[0] != 0
}
