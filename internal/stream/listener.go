package proxyprotocol

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

// rules are what all connections of a listener wrapper have in common. They do not
// change once they are built.
type rules struct {
	policy
	// timeout runs from accept to the end of the first header.
	timeout time.Duration
	// maxHeaderSize is the size of the largest header, in bytes.
	maxHeaderSize int
	// version is the only header version allowed, or 0 for both.
	version uint8
	// mismatchedDestination accepts v1 lines whose destination is not of their family.
	mismatchedDestination bool

	recorder
	// timed says that the time headers take is measured.
	timed bool
}

// listener wraps the connections of a listener.
type listener struct {
	net.Listener
	rules *rules
}

// Accept returns the next connection that is not refused for its peer alone. It does not
// wait for a byte of any.
func (l *listener) Accept() (net.Conn, error) {
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

// wrap returns nil if it refused the connection.
func (l *listener) wrap(accepted net.Conn) (wrapped net.Conn) {
	// A panic in the accept loop ends the process. Connections below are anyone's code.
	defer func() {
		if r := recover(); r != nil {
			l.refuse(accepted, nil, nil, l.rules.mode, reasonIO, fmt.Errorf("panic: %v", r))
			wrapped = nil
		}
	}()
	peer, local := peerAddr(accepted.RemoteAddr()), accepted.LocalAddr()
	mode, trust := l.rules.judge(peer, local)
	l.rules.sawPeer(peerIP(peer))
	switch {
	case isTLS(accepted):
		l.refuse(accepted, peer, local, mode, reasonIO, errAlreadyTLS)
		return nil
	case mode == On && trust == untrusted:
		l.refuse(accepted, peer, local, mode, reasonUntrusted, nil)
		return nil
	default:
		return newConn(accepted, l.rules, mode, trust, monotime.Now())
	}
}

func (l *listener) refuse(accepted net.Conn, peer, local net.Addr, mode Mode, why outcome, err error) {
	closeIgnoringPanic(accepted)
	l.rules.count(mode, 0, why)
	l.rules.refuse(peer, local, mode, why, nil, err)
}

func isTLS(c net.Conn) bool {
	_, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	return ok
}
