package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Command is what a v2 header says of its connection (section 2.2, the 13th
// byte). A v1 header has none; it counts as Proxy.
type Command uint8

const (
	// Local: the proxy opened the connection for itself, for a health check say.
	Local Command = iota
	// Proxy: the proxy opened the connection on behalf of a client.
	Proxy
)

// Family is the kind of the addresses in a header (section 2.2, the 14th byte).
type Family uint8

const (
	// FamilyUnspec: no address known; v1 UNKNOWN too.
	FamilyUnspec Family = iota
	// IPv4 addresses with ports.
	IPv4
	// IPv6 addresses with ports.
	IPv6
	// Unix socket paths, which this package skips.
	Unix
)

// Transport is the kind of the client's connection (section 2.2, the 14th byte).
type Transport uint8

const (
	// TransportUnspec: not known; v1 UNKNOWN too.
	TransportUnspec Transport = iota
	// Stream is TCP, or a Unix stream socket.
	Stream
	// Dgram is UDP, or a Unix datagram socket.
	Dgram
)

// Header is one header without its TLVs. It is comparable, holds no pointer, and
// is valid if it came from [Decode] or a constructor. The zero Header is no
// header.
type Header struct {
	src, dst         [16]byte // an IPv4 address stands in the first four bytes
	srcPort, dstPort uint16
	version          uint8
	command          Command
	family           Family
	transport        Transport
	noDst            bool // the line named a destination that is not of its family
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

// Version is 1 or 2, and 0 for the zero Header.
func (h *Header) Version() uint8 { return h.version }

// Command is the header's command.
func (h *Header) Command() Command { return h.command }

// Family is the header's address family.
func (h *Header) Family() Family { return h.family }

// Transport is the header's transport.
func (h *Header) Transport() Transport { return h.transport }

// HasAddrs reports whether the header names a client by IP address and port.
func (h *Header) HasAddrs() bool {
	return h.command == Proxy && h.transport != TransportUnspec &&
		(h.family == IPv4 || h.family == IPv6)
}

// Source is the client's address as the header has it (an IPv4-mapped one is not
// unmapped), or the zero AddrPort if it has none.
func (h *Header) Source() netip.AddrPort { return h.addrPort(&h.src, h.srcPort) }

// Destination is the address the client connected to, as the header has it, or
// the zero AddrPort if it has none. That can be so although it has a source: see
// [Options].
func (h *Header) Destination() netip.AddrPort {
	if h.noDst {
		return netip.AddrPort{}
	}
	return h.addrPort(&h.dst, h.dstPort)
}

// SourceIP is the client's IP address, 4 bytes long if it is IPv4 or IPv4-mapped, or nil if
// there is none. It is a part of the header and must not be changed.
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

// SourcePort is the client's port, or 0 if there is none.
func (h *Header) SourcePort() int { return int(h.srcPort) }

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
