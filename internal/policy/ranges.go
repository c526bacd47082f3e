package proxyprotocol

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// parseRange parses an IP address or CIDR range as Caddy's own ranges are parsed, but
// refuses zones, which Caddy drops.
func parseRange(s string) (netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return netip.Prefix{}, fmt.Errorf("'%s' has a zone: use an IP address or CIDR range without one", s)
	}
	prefix, err := parsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("'%s' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1", s)
	}
	return normalize(prefix), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	addr, err := netip.ParseAddr(s)
	return netip.PrefixFrom(addr, addr.BitLen()), err
}

// normalize masks a range and makes an IPv4-mapped one IPv4, as peerIP does with
// peers. An IPv6 range that is wider than the mapped ones does not cover IPv4.
func normalize(prefix netip.Prefix) netip.Prefix {
	const mapping = 96 // bits before the IPv4 address
	if prefix.Addr().Is4In6() && prefix.Bits() >= mapping {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapping)
	}
	return prefix.Masked()
}

// Ranges are compiled into tables that cost the same to look up in however many there are.

// compileSet makes a table of ranges.
func compileSet(ranges []string) (*bart.Lite, error) {
	table := new(bart.Lite)
	for _, s := range ranges {
		prefix, err := parseRange(s)
		if err != nil {
			return nil, err
		}
		table.Insert(prefix)
	}
	return table, nil
}

// insertRange refuses a range that has another mode already.
func insertRange(table *bart.Table[Mode], prefix netip.Prefix, mode Mode) error {
	if other, ok := table.Get(prefix); ok && other != mode {
		return fmt.Errorf("%s already has mode '%s' and cannot also have mode '%s': remove one", prefix, other, mode)
	}
	table.Insert(prefix, mode)
	return nil
}
