//go:build !linux

package datagram

import "net"

// sender sends replies.
type sender struct{ udp *net.UDPConn }

func newSender(udp *net.UDPConn) *sender { return &sender{udp} }

func (s *sender) write(p []byte, path *returnPath) (int, error) {
	n, _, err := s.udp.WriteMsgUDPAddrPort(p, path.oob, path.to)
	return n, err
}
