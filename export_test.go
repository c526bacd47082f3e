package proxyprotocol

import (
	"maps"
	"net"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Names that users write or see. The tests of the documentation compare with them.
var (
	ModeNames        = modeNames[:]
	OutcomeNames     = outcomeNames[:]
	RefusalMessages  = refusalMessages[:]
	VersionNames     = versionNames[:]
	MatchWords       = matchWords
	MatchOptions     = matchOptions
	PlaceholderRoot  = placeholderRoot
	PlaceholderNames = slices.Sorted(maps.Keys(getters))
)

// Limits of what is read, logged and kept.
const (
	DefaultMaxHeaderSize = defaultMaxHeaderSize
	RefusalInterval      = refusalInterval
	RefusalsLogged       = refusalsLogged
	RefusalsKept         = refusalsKept
	PeersKept            = peersKept
)

// ListenAddress returns the address of a listener as Caddy writes it.
var ListenAddress = listenAddress

// TextList is the value of a placeholder that is a list.
type TextList = textList

// Metrics collects the metrics of all listeners.
var Metrics prometheus.Collector = metrics{}

// CountOfEach counts one connection and one datagram, so that each metric has a value. They
// are forgotten when the returned function is called.
func CountOfEach() (forget func()) {
	user := new(ListenerWrapper)
	stats := listeners.acquire(listenerKey{"documentation", "127.0.0.1:0"}, user)
	stats.count(On, 2, outcomeClient)
	stats.headers.observe(time.Millisecond)
	listeners.acquire(listenerKey{"documentation", "udp/127.0.0.1:0"}, user).count(On, 2, outcomeClient)
	return func() { listeners.release(user) }
}

// EachPacketConn calls f with each open socket of the packet wrapper: its key, its address, and
// the mode in force.
func EachPacketConn(f func(key string, local net.Addr, mode Mode)) {
	packetConns.mu.Lock()
	defer packetConns.mu.Unlock()
	for c := range packetConns.conns {
		if config := c.config.Load(); config != nil {
			f(c.key, c.LocalAddr(), config.mode)
		}
	}
}

// ModeOfDatagram returns the mode under which a datagram of this address was accepted.
func ModeOfDatagram(from net.Addr) Mode { return from.(*quicAddr).mode }

// ForgetTLVs empties the TLVs of a connection's header: decoding them again finds nothing.
func ForgetTLVs(c net.Conn) { clear(c.(*conn).tlvs.raw) }

// ForgetTLVValues empties the decoded TLVs: reading a certificate again finds nothing.
func ForgetTLVValues(c net.Conn) { clear(c.(*conn).known().say().Values) }

// NewCELMatcher returns the matcher of the CEL function proxy_protocol with one argument: text
// and placeholders, in turn.
func NewCELMatcher(arg ...string) (caddyhttp.RequestMatcherWithError, error) {
	return matchProxyProtocolOf(celArgs{arg}, zap.NewNop())
}
