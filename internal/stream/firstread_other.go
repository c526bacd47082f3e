//go:build !unix

package proxyprotocol

import "net"

// readFirst holds a buffer while a connection is silent: this platform does not say
// when there is something to read.
func readFirst(c net.Conn, w waiter) (*buffer, error) { return readBlocking(c, w) }
