//go:build !unix

package stream

import "net"

// readFirst reads the first bytes of a connection. It holds a buffer while the connection is
// silent, because this platform does not report when there are bytes to read.
func readFirst(c net.Conn, w waiter) (*buffer, error) { return readBlocking(c, w) }
