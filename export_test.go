package proxyprotocol

import (
	"net"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/stream"
)

// Limits of what is read, logged and kept.
const (
	RefusalInterval = record.RefusalInterval
	RefusalsLogged  = record.RefusalsLogged
	RefusalsKept    = record.RefusalsKept
)

// TextList is the value of a placeholder that is a list.
type TextList = request.TextList

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
