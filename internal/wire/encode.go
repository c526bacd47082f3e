package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strconv"
)

var (
	errNoHeader    = errors.New("not a header")
	errV1TLVs      = errors.New("version 1 has no TLVs and no checksum")
	errSkippedTLVs = errors.New("a header without addresses has no TLVs and no checksum")
	errTooLong     = errors.New("addresses and TLVs are longer than 65535 bytes")

	errNoDestination = errors.New("a header with a source and no destination cannot be written")
)

// Append appends the encoded header to b, with the TLVs and, if checksum is set, a
// CRC32C TLV behind them. The contents of TLVs are not checked, so that a caller can
// send malformed ones. Paths of Unix sockets are empty. If there is an error, b is
// returned as it was.
func Append(b []byte, h Header, tlvs []TLV, checksum bool) ([]byte, error) {
	switch {
	case h.version == 1 && (len(tlvs) > 0 || checksum):
		return b, errV1TLVs
	case h.noDst:
		return b, errNoDestination
	case h.version == 1:
		return appendV1(b, h), nil
	case h.version == 2:
		return appendV2(b, h, tlvs, checksum)
	default:
		return b, errNoHeader
	}
}

func appendV1(b []byte, h Header) []byte {
	b = append(b, SignatureV1...)
	switch h.family {
	case IPv4:
		b = append(b, " TCP4 "...)
	case IPv6:
		b = append(b, " TCP6 "...)
	default:
		return append(b, " UNKNOWN\r\n"...)
	}
	b = h.Source().Addr().AppendTo(b)
	b = append(b, ' ')
	b = h.Destination().Addr().AppendTo(b)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(h.srcPort), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(h.dstPort), 10)
	return append(b, "\r\n"...)
}

func appendV2(b []byte, h Header, tlvs []TLV, checksum bool) ([]byte, error) {
	unix := h.family == Unix && h.transport != TransportUnspec
	if (len(tlvs) > 0 || checksum) && !h.HasAddrs() && !unix {
		return b, errSkippedTLVs
	}
	start := len(b)
	b = append(b, SignatureV2...)
	b = append(b, 2<<4|byte(h.command), byte(h.family)<<4|byte(h.transport), 0, 0)
	switch {
	case h.HasAddrs():
		n := 4
		if h.family == IPv6 {
			n = 16
		}
		b = append(b, h.src[:n]...)
		b = append(b, h.dst[:n]...)
		b = binary.BigEndian.AppendUint16(b, h.srcPort)
		b = binary.BigEndian.AppendUint16(b, h.dstPort)
	case unix:
		b = append(b, make([]byte, addrsSizeUnix)...)
	}
	for _, tlv := range tlvs {
		if len(tlv.Value) >= 1<<16 {
			return b[:start], errTooLong
		}
		b = append(b, byte(tlv.Type))
		b = binary.BigEndian.AppendUint16(b, uint16(len(tlv.Value)))
		b = append(b, tlv.Value...)
	}
	if checksum {
		b = append(b, byte(TypeCRC32C), 0, crc32.Size, 0, 0, 0, 0)
	}
	header := b[start:]
	length := len(header) - fixedSizeV2
	if length >= 1<<16 {
		return b[:start], errTooLong
	}
	binary.BigEndian.PutUint16(header[fixedSizeV2-2:], uint16(length))
	if checksum {
		at := len(header) - crc32.Size
		binary.BigEndian.PutUint32(header[at:], crc32c(header, at))
	}
	return b, nil
}
