package wire

import (
	"encoding/binary"
	"hash/crc32"
)

// fixedSizeV2 is the size of the fixed part of v2 headers: the signature, a byte with
// version and command, a byte with family and transport, and the length of the rest.
const fixedSizeV2 = len(SignatureV2) + 4

// atLengthV2 is the offset of the length in v2 headers.
const atLengthV2 = len(SignatureV2) + 2

// Sizes of the v2 address blocks (section 2.2).
const (
	addrsSizeIPv4 = 2*4 + 2*2
	addrsSizeIPv6 = 2*16 + 2*2
	addrsSizeUnix = 2 * 108
)

// decodeV2 decodes a v2 header (section 2.2) into r. An error in the first 16 bytes is
// found before the rest has arrived. r must be the zero Result.
func decodeV2(b []byte, maxSize int, r *Result) {
	const (
		atCommand = len(SignatureV2)
		atFamily  = atCommand + 1
	)
	h := &r.Header
	h.version = 2
	if len(b) > atCommand {
		if b[atCommand]>>4 != 2 {
			*r = invalid(2, ProblemVersion, atCommand)
			return
		}
		h.command = Command(b[atCommand] & 0xf)
		if h.command > Proxy {
			*r = invalid(2, ProblemCommand, atCommand)
			return
		}
	}
	// A LOCAL header's block is discarded "including the family which is ignored".
	if len(b) > atFamily && h.command == Proxy {
		h.family, h.transport = Family(b[atFamily]>>4), Transport(b[atFamily]&0xf)
		if h.family > Unix {
			*r = invalid(2, ProblemFamily, atFamily)
			return
		}
		if h.transport > Dgram {
			*r = invalid(2, ProblemTransport, atFamily)
			return
		}
	}
	if len(b) < fixedSizeV2 {
		*r = Result{State: Partial, Version: 2}
		return
	}

	size := fixedSizeV2 + int(binary.BigEndian.Uint16(b[atLengthV2:]))
	if size > maxSize {
		*r = invalid(2, ProblemTooLarge, atLengthV2)
		return
	}
	addrsSize, skip := 0, false
	switch {
	case h.command == Local, h.family == FamilyUnspec, h.transport == TransportUnspec:
		skip = true
	case h.family == IPv4:
		addrsSize = addrsSizeIPv4
	case h.family == IPv6:
		addrsSize = addrsSizeIPv6
	default:
		addrsSize = addrsSizeUnix
	}
	if size < fixedSizeV2+addrsSize {
		*r = invalid(2, ProblemLength, atLengthV2)
		return
	}
	if len(b) < size {
		*r = Result{State: Partial, Version: 2}
		return
	}
	if skip {
		r.State, r.Version, r.Size = Complete, 2, size
		return
	}

	addrs := b[fixedSizeV2 : fixedSizeV2+addrsSize]
	switch h.family {
	case IPv4:
		copy(h.src[:], addrs[0:4])
		copy(h.dst[:], addrs[4:8])
	case IPv6:
		copy(h.src[:], addrs[0:16])
		copy(h.dst[:], addrs[16:32])
	}
	if h.family != Unix {
		ports := addrs[addrsSize-4:]
		h.srcPort, h.dstPort = binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	}
	if err := checkTLVs(b[:size], fixedSizeV2+addrsSize); err.Problem != 0 {
		*r = Result{State: Invalid, Version: 2, Err: err}
		return
	}
	r.State, r.Version, r.Size = Complete, 2, size
	r.TLVs = TLVs(b[fixedSizeV2+addrsSize : size])
}

// checkTLVs checks the TLVs of a whole header, which begin at an offset, and the checksum
// if there is one.
func checkTLVs(header []byte, at int) Error {
	checksum := 0 // the offset of the checksum's value, or 0
	for at < len(header) {
		if len(header)-at < tlvHeadSize {
			return Error{ProblemTLVOverrun, at}
		}
		value := at + tlvHeadSize
		next := value + int(binary.BigEndian.Uint16(header[at+1:]))
		if next > len(header) {
			return Error{ProblemTLVOverrun, at + 1}
		}
		switch typ := Type(header[at]); {
		case typ == TypeCRC32C && next-value != crc32.Size:
			return Error{ProblemCRC32CSize, at + 1}
		case typ == TypeCRC32C && checksum > 0:
			return Error{ProblemCRC32CTwice, at}
		case typ == TypeCRC32C:
			checksum = value
		case typ == TypeUniqueID && next-value > MaxUniqueIDSize:
			return Error{ProblemUniqueID, at + 1}
		}
		at = next
	}
	if checksum > 0 && binary.BigEndian.Uint32(header[checksum:]) != crc32c(header, checksum) {
		return Error{ProblemChecksum, checksum}
	}
	return Error{}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeros takes the place of the checksum's value while the checksum is computed (section
// 2.2.3), so that the header does not have to be changed.
var zeros [crc32.Size]byte

// crc32c returns the checksum of a v2 header. at is the offset of the checksum's value.
func crc32c(header []byte, at int) uint32 {
	sum := crc32.Update(0, castagnoli, header[:at])
	sum = crc32.Update(sum, castagnoli, zeros[:])
	return crc32.Update(sum, castagnoli, header[at+crc32.Size:])
}
