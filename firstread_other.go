//go:build !unix

package proxyprotocol

import "net"

// readFirst holds an inbox while a connection is silent: this platform does not say
// when there is something to read.
func readFirst(c net.Conn, w waiter) (*inbox, error) { return readWaiting(c, w) }
