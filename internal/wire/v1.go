package wire

import (
	"bytes"
	"encoding/binary"
	"unicode"
)

// decodeV1 decodes a v1 header (section 2.1), which is one line of text, into r. Its
// fields are not interpreted before the CRLF has arrived. r must be the zero Result.
func decodeV1(b []byte, mismatched bool, r *Result) {
	const keyword = len(SignatureV1) + 1
	if len(b) < keyword {
		*r = Result{State: Partial, Version: 1}
		return
	}
	if b[keyword-1] != ' ' {
		*r = invalid(1, ProblemSpace, keyword-1)
		return
	}
	// A valid line with addresses takes one pass. Any other line takes a second pass,
	// which finds the error.
	line := b[:min(len(b), MaxSizeV1)]
	if at, err := parseLine(line, keyword, &r.Header); err.Problem == 0 && hasPrefix(line[at:], crlf) {
		r.State, r.Version, r.Size = Complete, 1, at+len(crlf)
		return
	}
	*r = decodeLine(b, keyword, mismatched)
}

// decodeLine decodes any v1 line. A line whose destination is not of the announced family
// is valid if mismatched is set.
func decodeLine(b []byte, keyword int, mismatched bool) Result {
	end, r := lineEnd(b, keyword)
	if end == 0 {
		return r
	}
	r = Result{State: Complete, Version: 1, Size: end + len(crlf)}
	at, err := parseLine(b[:end], keyword, &r.Header)
	switch whole := at == end; {
	case err.Problem == 0 && !whole, err.Problem == ProblemDestination && !whole:
		err = Error{ProblemTrailing, at}
	case err.Problem == ProblemDestination && mismatched:
		return r
	}
	if err.Problem != 0 {
		return Result{State: Invalid, Version: 1, Err: err}
	}
	return r
}

// lineEnd returns the offset of the CRLF. If there is no CRLF, or a lone CR or LF before
// it, end is 0 and the Result is that of the header.
func lineEnd(b []byte, keyword int) (end int, _ Result) {
	// The last byte at which a CRLF can begin. If it is not a CR, the bytes behind it do
	// not matter.
	const lastCR = MaxSizeV1 - 2
	line := b[:min(len(b), MaxSizeV1)]
	tooLong := len(line) > lastCR && line[lastCR] != '\r'
	if tooLong {
		line = line[:lastCR+1]
	}
	end = bytes.Index(line, []byte(crlf))
	if end >= 0 {
		line = line[:end]
	}
	// In an UNKNOWN line the receiver must ignore all bytes before the CRLF. In any other
	// line a lone CR or LF is an error, even before the CRLF has arrived.
	if !hasPrefix(b[keyword:], "UNKNOWN ") {
		lone := bytes.IndexByte(line, '\n')
		if cr := bytes.IndexByte(line, '\r'); cr >= 0 && (lone < 0 || cr < lone) && (end >= 0 || cr < len(line)-1) {
			lone = cr
		}
		if lone >= 0 {
			return 0, invalid(1, ProblemLoneCRLF, lone)
		}
	}
	switch {
	case end >= 0:
		return end, Result{}
	case tooLong:
		return 0, invalid(1, ProblemNoCRLF, lastCR)
	case len(line) == MaxSizeV1:
		return 0, invalid(1, ProblemNoCRLF, MaxSizeV1-1)
	default:
		return 0, Result{State: Partial, Version: 1}
	}
}

const crlf = "\r\n"

// parseLine parses a v1 line from the protocol keyword on, into h. It returns the offset
// behind the last port, or behind an UNKNOWN line, which must be given without its CRLF.
// With ProblemDestination it returns the same offset: the destination is then the only
// error of the line so far. With any other error it returns the offset of the error.
func parseLine(line []byte, at int, h *Header) (int, Error) {
	h.version, h.command = 1, Proxy
	switch rest := line[at:]; {
	case string(rest) == "UNKNOWN" || hasPrefix(rest, "UNKNOWN "):
		return len(line), Error{}
	case hasPrefix(rest, "TCP4 "):
		h.family, h.transport = IPv4, Stream
	case hasPrefix(rest, "TCP6 "):
		h.family, h.transport = IPv6, Stream
	default:
		return at, Error{ProblemKeyword, at}
	}
	at += len("TCP4 ")

	var ok bool
	if at, ok = parseIP(line, at, h.family, &h.src); !ok {
		return at, Error{ProblemAddress, at}
	}
	if at, ok = parseSpace(line, at); !ok {
		return at, Error{ProblemSpace, at}
	}
	dst := at
	if at, ok = parseIP(line, dst, h.family, &h.dst); !ok {
		return parseMismatched(line, dst, at, h)
	}
	if at, ok = parseSpace(line, at); !ok {
		return at, Error{ProblemSpace, at}
	}
	if at, ok = parsePort(line, at, &h.srcPort); !ok {
		return at, Error{ProblemPort, at}
	}
	if at, ok = parseSpace(line, at); !ok {
		return at, Error{ProblemSpace, at}
	}
	if at, ok = parsePort(line, at, &h.dstPort); !ok {
		return at, Error{ProblemPort, at}
	}
	return at, Error{}
}

// parseMismatched parses a line from its destination on, which is not an address of the
// announced family. wrong is the offset of the first byte that no such address has. If the
// destination is an address of the other family or the path of a Unix socket, and the ports
// are valid, the error is ProblemDestination, and h has no destination.
func parseMismatched(line []byte, dst, wrong int, h *Header) (int, Error) {
	// No text is an address of both families, or an address that begins with "unix:".
	dstPort, problem := 1<<16-1, ProblemPort
	at, ok := parseUnix(line, dst)
	if ok {
		dstPort, problem = 0, ProblemUnixPort
	} else if at, ok = parseIP(line, dst, IPv4+IPv6-h.family, &h.dst); !ok {
		return wrong, Error{ProblemAddress, wrong}
	}
	if at, ok = parseSpace(line, at); !ok {
		return at, Error{ProblemSpace, at}
	}
	if at, ok = parsePort(line, at, &h.srcPort); !ok {
		return at, Error{ProblemPort, at}
	}
	if at, ok = parseSpace(line, at); !ok {
		return at, Error{ProblemSpace, at}
	}
	if _, at, ok = parseNumber(line, at, dstPort); !ok {
		return at, Error{problem, at}
	}
	h.dst, h.noDst = [16]byte{}, true
	return at, Error{ProblemDestination, dst}
}

// Each of the parsers below reads one field at an offset of line. It returns the offset
// behind the field, or false and the offset of the wrong byte.

func parseSpace(line []byte, at int) (int, bool) {
	if at == len(line) || line[at] != ' ' {
		return at, false
	}
	return at + 1, true
}

// parseNumber reads a decimal number from 0 to limit without leading zeros.
func parseNumber(line []byte, at, limit int) (n, next int, ok bool) {
	for i, c := range line[at:] {
		digit := int(c) - '0'
		if uint(digit) > 9 {
			return n, at + i, i > 0
		}
		if i > 0 && n == 0 { // the first digit was a zero
			return 0, at + i, false
		}
		if n = n*10 + digit; n > limit {
			return 0, at + i, false
		}
	}
	return n, len(line), at < len(line)
}

func parsePort(line []byte, at int, port *uint16) (int, bool) {
	n, at, ok := parseNumber(line, at, 1<<16-1)
	*port = uint16(n)
	return at, ok
}

// parseUnix reads the address of a Unix socket as nginx writes it: "unix:" and the path,
// which is empty for a socket without a name in the file system. A path may have any bytes
// except control characters and the space, which ends the field.
func parseUnix(line []byte, at int) (int, bool) {
	const prefix = "unix:"
	if !hasPrefix(line[at:], prefix) {
		return at, false
	}
	for at += len(prefix); at < len(line) && line[at] > ' ' && line[at] != 0x7f; at++ {
	}
	return at, true
}

func parseIP(line []byte, at int, family Family, ip *[16]byte) (int, bool) {
	if family == IPv4 {
		return parseIPv4(line, at, ip)
	}
	return parseIPv6(line, at, ip)
}

func parseIPv4(line []byte, at int, ip *[16]byte) (int, bool) {
	for i := range 4 {
		if i > 0 {
			if at == len(line) || line[at] != '.' {
				return at, false
			}
			at++
		}
		n, next, ok := parseOctet(line, at)
		if !ok {
			return next, false
		}
		ip[i], at = byte(n), next
	}
	return at, true
}

// parseOctet is parseNumber with the limit 255, without a loop, because octets are most of
// an IPv4 line.
func parseOctet(line []byte, at int) (n, next int, ok bool) {
	if len(line)-at < 4 { // never in a valid line
		return parseNumber(line, at, 255)
	}
	digits := (*[4]byte)(line[at:])
	d0, d1, d2, d3 := uint(digits[0])-'0', uint(digits[1])-'0', uint(digits[2])-'0', uint(digits[3])-'0'
	switch {
	case d0 > 9:
		return 0, at, false
	case d1 > 9:
		return int(d0), at + 1, true
	case d0 == 0: // a leading zero
		return 0, at + 1, false
	case d2 > 9:
		return int(d0*10 + d1), at + 2, true
	}
	n = int(d0*100 + d1*10 + d2)
	switch {
	case n > 255:
		return 0, at + 2, false
	case d3 <= 9:
		return 0, at + 3, false
	default:
		return n, at + 3, true
	}
}

// parseIPv6 reads up to eight groups of up to four hexadecimal digits with at most one
// "::" (RFC 4291, section 2.2). An IPv4 address at the end is accepted only in an
// IPv4-mapped address, the one form with dots that senders write.
func parseIPv6(line []byte, at int, ip *[16]byte) (int, bool) {
	groups, ellipsis := 0, -1
	if hasPrefix(line[at:], "::") {
		ellipsis = 0
		at += 2
	}
	for groups < 8 {
		start, group := at, 0
		for end := min(at+4, len(line)); at < end; at++ {
			digit := hexDigits[line[at]]
			if digit == 0 {
				break
			}
			group = group<<4 | int(digit-1)
		}
		if at == start {
			if ellipsis == groups { // the address ends with "::"
				break
			}
			return at, false
		}
		next := byte(0)
		if at < len(line) {
			next = line[at]
		}
		if next == '.' {
			return parseMapped(line, start, ip, groups, ellipsis)
		}
		binary.BigEndian.PutUint16(ip[2*groups:], uint16(group))
		groups++
		if groups == 8 || next != ':' {
			break
		}
		at++
		if at < len(line) && line[at] == ':' {
			if ellipsis >= 0 {
				return at, false
			}
			ellipsis = groups
			at++
		}
	}
	if ellipsis < 0 {
		return at, groups == 8
	}
	if groups == 8 {
		return at, false
	}
	tail := 2 * (groups - ellipsis)
	copy(ip[16-tail:], ip[2*ellipsis:2*groups])
	clear(ip[2*ellipsis : 16-tail])
	return at, true
}

// parseMapped reads the IPv4 address at the end of an IPv4-mapped IPv6 address. The groups
// before it have been read into ip. ellipsis is the number of groups before the "::", or -1
// if there is none.
func parseMapped(line []byte, at int, ip *[16]byte, groups, ellipsis int) (int, bool) {
	const zeros = 5 // groups of zeros before the group ffff
	if ellipsis == groups || ellipsis < 0 && groups != zeros+1 || ellipsis >= 0 && groups > zeros {
		return at, false
	}
	var prefix [2 * (zeros + 1)]byte // the groups in ip must be zeros, and ffff at the end
	prefix[2*groups-2], prefix[2*groups-1] = 0xff, 0xff
	if string(ip[:2*groups]) != string(prefix[:2*groups]) {
		return at, false
	}
	var v4 [16]byte
	at, ok := parseIPv4(line, at, &v4)
	*ip = [16]byte{10: 0xff, 11: 0xff}
	copy(ip[12:], v4[:4])
	return at, ok
}

// hexDigits has the value of each hexadecimal digit plus 1, and 0 for all other bytes.
var hexDigits = func() (digits [256]uint8) {
	for i, c := range "0123456789abcdef" {
		digits[c] = uint8(i) + 1
		digits[unicode.ToUpper(c)] = uint8(i) + 1
	}
	return digits
}()
