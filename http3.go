package proxyprotocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// This file is about HTTP/3 as a bypass of mode On: it is found, disabled, or answered with 421.

// refuseUnwrapped puts a route that refuses misdirected requests in front of all others.
func refuseUnwrapped(server *caddyhttp.Server, config *datagram.Config, logger *zap.Logger) {
	m := misdirected{
		config:    config,
		mandatory: config.Uses(policy.On),
		logger:    record.Limit(logger, record.RefusalInterval, 1),
	}
	server.Routes = append(caddyhttp.RouteList{{
		MatcherSets: caddyhttp.MatcherSets{{m}},
		Handlers:    []caddyhttp.MiddlewareHandler{m},
	}}, server.Routes...)
}

// misdirected matches requests over HTTP/3 that must not be served. It answers them with the
// error 421, upon which a client may try again over a new connection.
type misdirected struct {
	config    *datagram.Config // of the configuration that serves the request
	mandatory bool             // config uses mode On
	logger    *zap.Logger
}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (m misdirected) MatchWithError(r *http.Request) (bool, error) {
	return r.ProtoMajor == 3 && m.check(r) != nil, nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (m misdirected) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := m.check(r)
	if err == nil {
		return next.ServeHTTP(w, r) // the source of trusted peers has another answer since MatchWithError
	}
	if err == errUnwrapped {
		w.Header().Set("Alt-Svc", "clear") // or the client would use HTTP/3 again
		m.logger.Warn("refused HTTP/3: its UDP listener was opened before 'proxy_protocol_mode' was added to 'packet_conn_wrappers', and Caddy keeps the listener across reloads; restart Caddy")
	}
	return caddyhttp.Error(http.StatusMisdirectedRequest, err)
}

// check returns an error if a request must not be served: its connection did not come through
// the packet wrapper where a header is mandatory, or its mark has changed, or it was accepted
// under another configuration and does not fit this one.
func (m misdirected) check(r *http.Request) error {
	switch accepted := request.AcceptedFrom(r); {
	case accepted == nil || !accepted.Checked():
		if m.mandatory {
			return errUnwrapped
		}
		return nil
	case request.QUICConn(r) == nil:
		return errMigrated
	case !m.config.Fits(accepted):
		return request.ErrOtherConfig
	default:
		return nil
	}
}

var (
	errUnwrapped = errors.New("the QUIC connection did not come through the 'proxy_protocol_mode' packet conn wrapper: restart Caddy")
	errMigrated  = errors.New("the QUIC connection has migrated, and its client address is now marked when it was not before, or the reverse")
)

// packetWrapperOf returns the server's packet wrapper, not provisioned, or nil if there is none.
func packetWrapperOf(server *caddyhttp.Server) (*PacketConnWrapper, error) {
	names, err := request.WrapperNames(server.PacketConnWrappersRaw)
	i := slices.Index(names, wrapperName)
	if err != nil || i < 0 {
		return nil, err
	}
	pw := new(PacketConnWrapper)
	return pw, json.Unmarshal(server.PacketConnWrappersRaw[i], pw)
}

// http3Bypass returns the reason why HTTP/3 would bypass a mandatory header, or an empty text if
// it would not: the mode of the packet wrapper must be On for every peer for which that of the
// listener wrapper is. tcp are the ranges of the listener wrapper, or nil.
func http3Bypass(tcp *bart.Table[policy.Mode], pw *PacketConnWrapper) (reason string, err error) {
	switch {
	case pw == nil:
		return "this wrapper cannot check UDP", nil
	case pw.Mode != On:
		return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has mode '%s'", wrapperName, pw.Mode), nil
	}
	if tcp == nil {
		tcp = new(bart.Table[policy.Mode])
	}
	udp, err := compileRanges(pw.Ranges)
	if err != nil || udp == nil {
		return "", err
	}
	for prefix, mode := range udp.All() {
		if same, ok := tcp.Get(prefix); mode != policy.On && (!ok || same != mode) {
			return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has mode '%s' for %s, but the listener wrapper does not", wrapperName, mode, prefix), nil
		}
	}
	for prefix, mode := range tcp.All() {
		if other, ok := udp.LookupPrefix(prefix); mode == policy.On && ok && other != policy.On {
			return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has mode '%s' for %s, but the listener wrapper has mode 'on'", wrapperName, other, prefix), nil
		}
	}
	return "", nil
}

// disableHTTP3IfBypass disables HTTP/3 on the server if it would bypass the listener wrapper with
// these ranges.
func disableHTTP3IfBypass(server *caddyhttp.Server, ranges *bart.Table[policy.Mode], logger *zap.Logger) error {
	pw, err := packetWrapperOf(server)
	if err != nil {
		return err
	}
	reason, err := http3Bypass(ranges, pw)
	if err != nil || reason == "" {
		return err
	}
	return request.DisableHTTP3(server, reason, logger)
}
