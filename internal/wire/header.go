package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Command is the command of a v2 header (section 2.2, the 13th byte). A v1 header has
// no command and counts as Proxy.
type Command uint8

const (
	// Local is LOCAL: the proxy opened the connection for itself, such as for a health
	// check.
	Local Command = iota
	// Proxy is PROXY: the proxy opened the connection on behalf of a client.
	Proxy
)

// Family is the kind of the addresses in a header (section 2.2, the 14th byte).
type Family uint8

const (
	// FamilyUnspec means that no addresses are known. A v1 UNKNOWN header has it, too.
	FamilyUnspec Family = iota
	// IPv4 means IPv4 addresses with ports.
	IPv4
	// IPv6 means IPv6 addresses with ports.
	IPv6
	// Unix means paths of Unix sockets, which this package skips.
	Unix
)

// Transport is the kind of the client's connection (section 2.2, the 14th byte).
type Transport uint8

const (
	// TransportUnspec means that the transport is not known. A v1 UNKNOWN header has it,
	// too.
	TransportUnspec Transport = iota
	// Stream is TCP, or a Unix stream socket.
	Stream
	// Dgram is UDP, or a Unix datagram socket.
	Dgram
)

// Header is one PROXY protocol header without its TLVs. A Header is comparable and holds
// no pointer. Headers from [Decode] and from the constructors are valid; the zero Header
// stands for none.
type Header struct {
	src, dst         [16]byte // an IPv4 address is in the first four bytes
	srcPort, dstPort uint16
	version          uint8
	command          Command
	family           Family
	transport        Transport
	noDst            bool // v1 only: the destination was of another family, and was dropped
}

var (
	errNoIP     = errors.New("source and destination must be IP addresses without a zone")
	errFamilies = errors.New("source and destination must be of one address family")
	errV1Dgram  = errors.New("version 1 supports TCP only")
)

// NewProxy returns a PROXY header of version 1 or 2 for a connection from src to
// dst. Both must be of one family and without a zone; version 1 takes Stream
// only.
func NewProxy(version uint8, transport Transport, src, dst netip.AddrPort) (Header, error) {
	h := Header{
		version: version, command: Proxy, transport: transport,
		srcPort: src.Port(), dstPort: dst.Port(),
	}
	switch {
	case version != 1 && version != 2:
		return Header{}, fmt.Errorf("unknown version %d", version)
	case transport != Stream && transport != Dgram:
		return Header{}, fmt.Errorf("unknown transport %d", transport)
	case version == 1 && transport != Stream:
		return Header{}, errV1Dgram
	case !src.IsValid() || !dst.IsValid() || src.Addr().Zone() != "" || dst.Addr().Zone() != "":
		return Header{}, errNoIP
	case src.Addr().Is4() != dst.Addr().Is4():
		return Header{}, errFamilies
	case src.Addr().Is4():
		h.family = IPv4
		s, d := src.Addr().As4(), dst.Addr().As4()
		copy(h.src[:], s[:])
		copy(h.dst[:], d[:])
	default:
		h.family, h.src, h.dst = IPv6, src.Addr().As16(), dst.Addr().As16()
	}
	return h, nil
}

// NewLocal returns a v2 LOCAL header.
func NewLocal() Header { return Header{version: 2, command: Local} }

// NewUnknown returns a header of a PROXY connection without known addresses: v1
// UNKNOWN, or v2 with unspecified family and transport.
func NewUnknown(version uint8) Header { return Header{version: version, command: Proxy} }

// Version returns 1 or 2, and 0 for the zero Header.
func (h *Header) Version() uint8 { return h.version }

// Command returns the header's command.
func (h *Header) Command() Command { return h.command }

// Family returns the header's address family.
func (h *Header) Family() Family { return h.family }

// Transport returns the header's transport.
func (h *Header) Transport() Transport { return h.transport }

// HasAddrs reports whether the header names a client by IP address and port.
func (h *Header) HasAddrs() bool {
	return h.command == Proxy && h.transport != TransportUnspec &&
		(h.family == IPv4 || h.family == IPv6)
}

// Source returns the client's address as it is in the header: an IPv4-mapped address is
// not unmapped. It returns the zero AddrPort if the header has no source.
func (h *Header) Source() netip.AddrPort { return h.addrPort(&h.src, h.srcPort) }

// Destination returns the address that the client connected to, as it is in the header.
// It returns the zero AddrPort if the header has no destination. A header with a source
// may have none: see [Options].
func (h *Header) Destination() netip.AddrPort {
	if h.noDst {
		return netip.AddrPort{}
	}
	return h.addrPort(&h.dst, h.dstPort)
}

// SourceIP returns the client's IP address, 4 bytes long if it is IPv4 or IPv4-mapped, or
// nil if there is none. The slice is a part of the header: do not change its bytes.
func (h *Header) SourceIP() net.IP {
	switch {
	case !h.HasAddrs():
		return nil
	case h.family == IPv4:
		return h.src[:4:4]
	case [12]byte(h.src[:12]) == [12]byte{10: 0xff, 11: 0xff}:
		return h.src[12:]
	default:
		return h.src[:]
	}
}

// SourcePort returns the client's port, or 0 if there is none.
func (h *Header) SourcePort() int { return int(h.srcPort) }

// addrPort returns an address and port of the header's family, or the zero AddrPort if
// the header has no addresses.
func (h *Header) addrPort(ip *[16]byte, port uint16) netip.AddrPort {
	switch {
	case !h.HasAddrs():
		return netip.AddrPort{}
	case h.family == IPv4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[:4])), port)
	default:
		return netip.AddrPortFrom(netip.AddrFrom16(*ip), port)
	}
}
