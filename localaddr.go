package proxyprotocol

import (
	"io"
	"net"
	"syscall"
)

// fromLocalAddr returns the connection whose LocalAddr returned addr, which may be anything,
// and whether there is one. The connection is nil while its beginning has yet to be judged:
// nothing is known of it then.
func fromLocalAddr(addr any) (c connection, ok bool) {
	local, ok := addr.(*localAddr)
	if !ok || (*conn)(local).isPending() {
		return nil, ok
	}
	return (*conn)(local), true
}

// lookups implements connection.
func (c *conn) lookups() *lookupCache { return &c.extra().cache }

// Interface guards
var (
	_ connection    = (*conn)(nil)
	_ net.Conn      = (*conn)(nil)
	_ io.ReaderFrom = (*conn)(nil)
	_ syscall.Conn  = (*conn)(nil)
)
