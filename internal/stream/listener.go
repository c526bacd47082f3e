// Package stream checks the beginning of TCP and Unix connections for a PROXY protocol header.
//
// A Listener wraps the connections that another listener accepts. Such a connection reads its
// header on first use, is refused if it breaks the policy of the Config, and otherwise has the
// addresses of the header. FromLocalAddr returns the connection of a request, with what is known
// of it. Only these three are exported.
package stream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Config is the configuration that all connections of a listener share. It must not change once
// a Listener uses it.
type Config struct {
	// Policy decides by a peer's address which mode applies, and whether the peer may send a
	// header.
	policy.Policy
	// Require is what headers must prove, or nil.
	Require *auth.Requirement
	// Timeout is how long a connection may take to send its header. It runs from accept to the
	// end of the first header.
	Timeout time.Duration
	// MaxHeaderSize is the size of the largest header that is accepted, in bytes.
	MaxHeaderSize int
	// Version is the only header version allowed, or 0 for both.
	Version uint8
	// MismatchedDestination says that a v1 header is accepted whose destination is not of the
	// address family that the header names.
	MismatchedDestination bool

	// Payload is what the listener expects behind a header. Another payload is recorded, and served.
	Payload record.Payload

	// Recorder counts, remembers and logs what becomes of connections.
	record.Recorder
	// MeasureHeaderTime says that the time from accept to the end of a header is measured.
	MeasureHeaderTime bool
}

// Listener wraps the connections that the embedded listener accepts.
type Listener struct {
	net.Listener
	Config *Config
}

// Accept returns the next connection that is not refused for its peer's address alone. It reads
// nothing from connections, and does not ask the source of trusted peers.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.wrap(accepted); c != nil {
			return c, nil
		}
	}
}

var errAlreadyTLS = errors.New("the connection is TLS already: put 'proxy_protocol_mode' before 'tls' in listener_wrappers, because the header comes before the TLS handshake")

// wrap returns the wrapped connection, or nil if it refused the connection.
func (l *Listener) wrap(accepted net.Conn) (wrapped net.Conn) {
	// A panic in the accept loop ends the process. The accepted connection may be another
	// module's code.
	defer func() {
		if r := recover(); r != nil {
			l.Config.refuse(accepted, nil, nil, l.Config.Mode, record.IO, fmt.Errorf("panic: %v", r))
			wrapped = nil
		}
	}()
	peer, local := policy.PeerAddr(accepted.RemoteAddr()), accepted.LocalAddr()
	config := l.configFor(peer)
	mode, trust := config.For(peer, local)
	config.SawPeer(policy.PeerIP(peer), mode)
	switch {
	case isTLS(accepted):
		config.refuse(accepted, peer, local, mode, record.IO, errAlreadyTLS)
		return nil
	case mode == policy.On && trust == policy.Untrusted:
		config.refuse(accepted, peer, local, mode, record.Untrusted, nil)
		return nil
	default:
		return newConn(accepted, config, mode, trust, monotime.Now())
	}
}

// configFor returns the config of a connection. That of an announced peer differs in its recorder
// alone.
func (l *Listener) configFor(peer net.Addr) *Config {
	if !record.Announced.Take(peer) {
		return l.Config
	}
	config := *l.Config
	config.Recorder = l.Config.ForCheck()
	return &config
}

// refuse closes an accepted connection without reading from it, counts it and logs it.
func (c *Config) refuse(accepted net.Conn, peer, local net.Addr, mode policy.Mode, reason record.Outcome, err error) {
	closeIgnoringPanic(accepted)
	c.Count(mode, 0, reason)
	c.Refuse(record.Refusal{Peer: peer, Local: local, Mode: mode, Reason: reason, Err: err}, nil)
}

// isTLS reports whether c is a TLS connection, of crypto/tls or of another package.
func isTLS(c net.Conn) bool {
	_, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	return ok
}
