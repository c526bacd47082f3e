package proxyprotocol

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/gaissmai/bart"
)

// policy decides from a peer's address alone what its connection must begin with,
// before a byte of it is read. It does not change once it is built.
type policy struct {
	// mode is in force for peers outside of ranges.
	mode Mode
	// ranges has the modes of the peers that have one of their own; nil if none.
	ranges *bart.Table[Mode]
	// trusted has the peers outside of ranges that may send a header, if they were
	// known at load. If it and source are nil, everyone may.
	trusted *bart.Lite
	// source is asked for them otherwise.
	source source
	// asking holds a value for each call of source by ask that has not returned.
	asking chan struct{}
}

// source returns the ranges of the peers that may send a header, for a connection of this
// peer. It is code of another module: it may block, panic, or not look at ctx.
type source func(ctx context.Context, peer net.Addr) []netip.Prefix

// trust says whether a peer may send a header.
type trust uint8

const (
	untrusted trust = iota
	trusted
	// unasked: only the source can tell.
	unasked
)

// judge returns the mode in force for a peer that connected to local, and whether it
// may send a header.
func (p *policy) judge(peer, local net.Addr) (Mode, trust) {
	return p.judgeIP(peerIP(peer), local)
}

// judgeIP is judge for a peer with this IP address, or with none.
func (p *policy) judgeIP(addr netip.Addr, local net.Addr) (Mode, trust) {
	if p.ranges != nil { // which do not contain an invalid address
		if mode, ok := p.ranges.Lookup(addr); ok {
			return mode, trusted
		}
	}
	switch {
	case p.anyoneTrusted():
		return p.mode, trusted
	case isSocketFile(local):
		return p.mode, trusted
	case !addr.IsValid():
		return p.mode, untrusted
	case p.source != nil:
		return p.mode, unasked
	case p.trusted.Contains(addr):
		return p.mode, trusted
	default:
		return p.mode, untrusted
	}
}

// uses reports whether any peer has this mode.
func (p *policy) uses(mode Mode) bool {
	if p.mode == mode {
		return true
	}
	if p.ranges != nil {
		for _, other := range p.ranges.All() {
			if other == mode {
				return true
			}
		}
	}
	return false
}

// setSource makes a source of trusted peers the one that is asked.
func (p *policy) setSource(s source) { p.source, p.asking = s, make(chan struct{}, maxAsking) }

// anyoneTrusted reports whether no trusted peers were configured.
func (p *policy) anyoneTrusted() bool { return p.trusted == nil && p.source == nil }

// ask asks the source whether a peer may send a header, and says why if that is not for the
// peer's address alone. It returns when ctx ends, whether the source has answered or not. The
// caller must be prepared for a panic of the source, and must not be the accept loop.
func (p *policy) ask(ctx context.Context, peer net.Addr) (trust, error) {
	if !p.mayAsk(ctx) {
		return untrusted, errSourceLate
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
	return untrusted, errSourceLate
}

// mayAsk waits until the source has fewer than maxAsking calls, and counts another one. It
// reports false if ctx ends before.
func (p *policy) mayAsk(ctx context.Context) bool {
	select {
	case p.asking <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// sourceAnswer is an answer of the source.
type sourceAnswer struct {
	trust    trust
	err      error
	panicked any
}

// answer calls the source, sends its answer, and gives back what mayAsk took. It sends one even
// if the source ends the goroutine.
func (p *policy) answer(ctx context.Context, peer net.Addr, answers chan<- sourceAnswer) {
	defer func() { <-p.asking }()
	var answer sourceAnswer
	defer func() {
		answer.panicked = recover()
		answers <- answer
	}()
	answer.trust, answer.err = p.askNow(ctx, peer)
}

// maxAsking bounds the calls of a source at once, so that one that never answers keeps no
// more goroutines than this.
const maxAsking = 1024

var (
	errSourceLate  = errors.New("trusted_proxies: the source did not answer before the timeout")
	errSourceEmpty = errors.New("trusted_proxies: the source returned no ranges, so no peer may send a header")
)

// askNow calls the source and looks for the peer in its answer.
func (p *policy) askNow(ctx context.Context, peer net.Addr) (trust, error) {
	ranges := p.source(ctx, peer)
	if len(ranges) == 0 {
		return untrusted, errSourceEmpty
	}
	addr := peerIP(peer)
	for _, prefix := range ranges {
		if normalize(prefix).Contains(addr) {
			return trusted, nil
		}
	}
	return untrusted, nil
}

// peerAddr is the address of a peer as it may be shown. A Unix socket's peer can choose the
// name of its end, and choose one that looks like an IP address.
func peerAddr(addr net.Addr) net.Addr {
	if unix, ok := addr.(*net.UnixAddr); ok {
		return &net.UnixAddr{Name: "@", Net: unix.Net}
	}
	return addr
}

// peerIP is the IP address of a peer without IPv4 mapping and zone, or the zero Addr
// if it has none.
func peerIP(peer net.Addr) netip.Addr {
	var addr netip.Addr
	switch peer := peer.(type) {
	case nil:
	case *net.UnixAddr: // a name that the peer chose, perhaps "10.0.0.1:80"
	case *net.TCPAddr:
		addr = peer.AddrPort().Addr()
	case *net.UDPAddr:
		addr = peer.AddrPort().Addr()
	default:
		// Other listeners' connections may have address types of their own.
		if addrPort, err := netip.ParseAddrPort(peer.String()); err == nil {
			addr = addrPort.Addr()
		}
	}
	return addr.Unmap().WithZone("")
}

// isSocketFile reports whether local is a Unix socket in the file system, whose
// permissions decide who can connect. An abstract socket has none.
func isSocketFile(local net.Addr) bool {
	unix, ok := local.(*net.UnixAddr)
	return ok && unix.Name != "" && unix.Name[0] != '@' && unix.Name[0] != 0
}
