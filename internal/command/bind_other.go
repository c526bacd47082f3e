//go:build !unix

package command

import (
	"errors"
	"net/netip"
	"syscall"
)

// bind is not supported here: connections are not announced.
func bind(syscall.RawConn, netip.Addr) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.ErrUnsupported
}
