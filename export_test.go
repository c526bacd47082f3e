package proxyprotocol

import (
	"net"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/metrics"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/stream"
)

// Names that users write or see. The tests of the documentation compare with them.
var (
	VersionNames     = record.VersionNames[:]
	ModeNames        = namesOf[Mode](policy.Modes)
	OutcomeNames     = namesOf[record.Outcome](int(record.Outcomes))
	MatchWords       = match.Words
	MatchOptions     = match.Options
	PlaceholderRoot  = request.PlaceholderRoot
	PlaceholderNames = request.PlaceholderNames()
)

// namesOf returns the names of the first n values of a type.
func namesOf[T interface {
	~uint8
	String() string
}](n int) (names []string) {
	for i := range n {
		names = append(names, T(i).String())
	}
	return names
}

// RefusalMessage returns the log message of connections refused for the reason at this place in
// OutcomeNames.
func RefusalMessage(outcome int) string { return record.Outcome(outcome).Message(false) }

// Limits of what is read, logged and kept.
const (
	DefaultMaxHeaderSize = defaultMaxHeaderSize
	RefusalInterval      = record.RefusalInterval
	RefusalsLogged       = record.RefusalsLogged
	RefusalsKept         = record.RefusalsKept
	PeersKept            = record.PeersKept
)

// ListenAddress returns the address of a listener as Caddy writes it.
var ListenAddress = listenAddress

// TextList is the value of a placeholder that is a list.
type TextList = request.TextList

// Metrics collects the metrics of all listeners.
var Metrics prometheus.Collector = metrics.Collector{}

// CountOfEach counts one connection and one datagram, so that each metric has a value. They
// are forgotten when the returned function is called.
func CountOfEach() (forget func()) {
	user := new(ListenerWrapper)
	stats := record.Listeners.Acquire(record.Key{Server: "documentation", Address: "127.0.0.1:0"}, user)
	stats.Count(On, 2, record.Client)
	stats.ObserveHeader(time.Millisecond)
	record.Listeners.Acquire(record.Key{Server: "documentation", Address: "udp/127.0.0.1:0"}, user).Count(On, 2, record.Client)
	return func() { record.Listeners.Release(user) }
}

// ForgetTLVs empties the TLVs of a connection's header: decoding them again finds nothing.
func ForgetTLVs(c net.Conn) {
	tlvs := reflect.ValueOf(infoOf(c)).Elem().FieldByName("tlvs")
	clear(tlvs.Elem().FieldByName("raw").Bytes())
}

// ForgetTLVValues empties the decoded TLVs: reading a certificate again finds nothing.
func ForgetTLVValues(c net.Conn) { clear(infoOf(c).TLVs().Values) }

func infoOf(c net.Conn) *conninfo.Info {
	known, _ := stream.FromLocalAddr(c.LocalAddr())
	return known.Info()
}

// NewCELMatcher returns the matcher of the CEL function proxy_protocol with one argument: text
// and placeholders, in turn.
func NewCELMatcher(arg ...string) (caddyhttp.RequestMatcherWithError, error) {
	return matchProxyProtocolOf(match.Args{arg}, zap.NewNop())
}
