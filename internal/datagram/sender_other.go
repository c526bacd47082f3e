//go:build !linux

package proxyprotocol

import "net"

// packetSender sends replies.
type packetSender struct{ udp *net.UDPConn }

func newPacketSender(udp *net.UDPConn) *packetSender { return &packetSender{udp} }

func (s *packetSender) write(p []byte, to *wayBack) (int, error) {
	n, _, err := s.udp.WriteMsgUDPAddrPort(p, to.oob, to.to)
	return n, err
}
