//go:build unix

package command

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// bind binds a socket that has not been connected to an IP address and a free port, and returns
// both.
func bind(socket syscall.RawConn, ip netip.Addr) (local netip.AddrPort, err error) {
	to := sockaddr(ip)
	controlErr := socket.Control(func(fd uintptr) {
		if err = syscall.Bind(int(fd), to); err != nil {
			return
		}
		var bound syscall.Sockaddr
		if bound, err = syscall.Getsockname(int(fd)); err == nil {
			local = netip.AddrPortFrom(ip, portOf(bound))
		}
	})
	if err == nil {
		err = controlErr
	}
	return local, err
}

// sockaddr returns an IP address with port 0, which stands for any free port.
func sockaddr(ip netip.Addr) syscall.Sockaddr {
	if ip.Is4() {
		return &syscall.SockaddrInet4{Addr: ip.As4()}
	}
	return &syscall.SockaddrInet6{Addr: ip.As16(), ZoneId: zoneID(ip.Zone())}
}

// zoneID returns the number of a zone, which is the name or the number of an interface, or 0.
func zoneID(zone string) uint32 {
	if named, err := net.InterfaceByName(zone); err == nil {
		return uint32(named.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32) // or 0
	return uint32(n)
}

func portOf(address syscall.Sockaddr) uint16 {
	switch address := address.(type) {
	case *syscall.SockaddrInet4:
		return uint16(address.Port)
	case *syscall.SockaddrInet6:
		return uint16(address.Port)
	default:
		return 0
	}
}
