package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// ParseRange parses an IP address or CIDR range as Caddy's own ranges are parsed, but
// refuses zones, which Caddy drops.
func ParseRange(s string) (netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return netip.Prefix{}, fmt.Errorf("'%s' has a zone: use an IP address or CIDR range without one", s)
	}
	prefix, err := parsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("'%s' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1", s)
	}
	return Normalize(prefix), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	addr, err := netip.ParseAddr(s)
	return netip.PrefixFrom(addr, addr.BitLen()), err
}

// NormalizeAddr removes the IPv4 mapping and the zone of an address, as is done with all addresses
// that are looked up in ranges.
func NormalizeAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// Normalize masks a range, and makes an IPv4-mapped range an IPv4 range, as NormalizeAddr does with
// addresses. A wider IPv6 range does not cover IPv4.
func Normalize(prefix netip.Prefix) netip.Prefix {
	const mapping = 96 // bits before the IPv4 address
	if prefix.Addr().Is4In6() && prefix.Bits() >= mapping {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapping)
	}
	return prefix.Masked()
}

// NewSet makes a table of ranges. A lookup costs the same for one range and for many.
func NewSet(ranges []string) (*bart.Lite, error) {
	table := new(bart.Lite)
	for _, s := range ranges {
		prefix, err := ParseRange(s)
		if err != nil {
			return nil, err
		}
		table.Insert(prefix)
	}
	return table, nil
}

// InsertRange adds a range and its mode to a table. A range that already has another mode is an
// error.
func InsertRange(table *bart.Table[Mode], prefix netip.Prefix, mode Mode) error {
	if other, ok := table.Get(prefix); ok && other != mode {
		return fmt.Errorf("%s already has mode '%s' and cannot also have mode '%s': remove one", prefix, other, mode)
	}
	table.Insert(prefix, mode)
	return nil
}
