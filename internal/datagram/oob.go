package datagram

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// requestOOB makes the kernel send with each datagram the address that the datagram was sent to.
// A reply must come from there.
func requestOOB(udp *net.UDPConn) {
	// The call for the other family fails.
	_ = ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	_ = ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
}

// parseOOB returns the address that a datagram with this out-of-band data was sent to, and the
// out-of-band data of a reply that comes from there. A socket of one address needs none.
func (c *packetConn) parseOOB(oob []byte) (local netip.AddrPort, replyOOB []byte) {
	if len(oob) == 0 {
		return c.addr, nil
	}
	v6, v4 := new(ipv6.ControlMessage), new(ipv4.ControlMessage)
	_, _ = v6.Parse(oob), v4.Parse(oob) // a message that cannot be parsed stays empty
	to, index := v6.Dst, v6.IfIndex
	if v4.Dst != nil {
		to, index = v4.Dst, v4.IfIndex
	}
	ip, ok := netip.AddrFromSlice(to)
	if !ok {
		return c.addr, nil
	}
	ip = ip.Unmap()
	if !ip.IsLinkLocalUnicast() {
		// A reply must take the route to the peer, not the interface through which a datagram
		// came that may be forged.
		index = 0
	}
	if ip.Is4() {
		replyOOB = (&ipv4.ControlMessage{Src: ip.AsSlice(), IfIndex: index}).Marshal()
	} else {
		replyOOB = (&ipv6.ControlMessage{Src: ip.AsSlice(), IfIndex: index}).Marshal()
	}
	return netip.AddrPortFrom(ip, c.addr.Port()), replyOOB
}
