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
)

// This file closes the ways around mode On that HTTP/3 could be.

// guard puts a route in front of all others that refuses misdirected requests.
func (pw *PacketConnWrapper) guard(server *caddyhttp.Server, logger *zap.Logger) {
	m := misdirected{
		config:    pw.config,
		mandatory: pw.config.uses(On),
		logger:    limited(logger, refusalInterval, 1),
	}
	server.Routes = append(caddyhttp.RouteList{{
		MatcherSets: caddyhttp.MatcherSets{{m}},
		Handlers:    []caddyhttp.MiddlewareHandler{m},
	}}, server.Routes...)
}

// misdirected matches requests over HTTP/3 that must not be served. It answers them with the
// error 421, upon which a client may try again over a new connection.
type misdirected struct {
	config    *packetConfig // of the configuration that serves the request
	mandatory bool          // some of them are On
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
		return next.ServeHTTP(w, r) // the source of trusted peers has another answer by now
	}
	if err == errUnwrapped {
		w.Header().Set("Alt-Svc", "clear") // or it would be HTTP/3 again
		m.logger.Warn("refused HTTP/3: its UDP listener was opened before 'proxy_protocol_mode' was added to 'packet_conn_wrappers', and Caddy keeps the listener across reloads; restart Caddy")
	}
	return caddyhttp.Error(http.StatusMisdirectedRequest, err)
}

// check returns an error if a request must not be served: its connection came past the
// packet wrapper where it is mandatory, or is not what it was, or was accepted under other
// rules and does not fit these.
func (m misdirected) check(r *http.Request) error {
	switch accepted := acceptedFrom(r); {
	case accepted == nil || !accepted.judged():
		if m.mandatory {
			return errUnwrapped
		}
		return nil
	case requestQUICConn(r) == nil:
		return errMigrated
	case !m.config.fits(accepted):
		return errOtherRules
	default:
		return nil
	}
}

var (
	errUnwrapped  = errors.New("the QUIC connection did not come through the 'proxy_protocol_mode' packet conn wrapper: restart Caddy")
	errMigrated   = errors.New("the QUIC connection has migrated, and its client address is now marked when it was not before, or the reverse")
	errOtherRules = errors.New("the QUIC connection was accepted under another configuration, and this configuration's 'proxy_protocol_mode' does not allow it")
)

// hadDatagramHeader reports whether a request's connection was accepted with a header.
func hadDatagramHeader(r *http.Request) bool {
	accepted := acceptedFrom(r)
	return accepted != nil && accepted.present()
}

// wrapperNames returns the names of wrappers in order.
func wrapperNames(wrappers []json.RawMessage) ([]string, error) {
	var names []string
	for _, raw := range wrappers {
		var module struct {
			Wrapper string `json:"wrapper"`
		}
		if err := json.Unmarshal(raw, &module); err != nil {
			return nil, err
		}
		names = append(names, module.Wrapper)
	}
	return names, nil
}

// packetWrapperOf returns the configuration of the server's packet wrapper, or nil if it has
// none. It is not provisioned.
func packetWrapperOf(server *caddyhttp.Server) (*PacketConnWrapper, error) {
	names, err := wrapperNames(server.PacketConnWrappersRaw)
	i := slices.Index(names, wrapperName)
	if err != nil || i < 0 {
		return nil, err
	}
	pw := new(PacketConnWrapper)
	return pw, json.Unmarshal(server.PacketConnWrappersRaw[i], pw)
}

// wayAround says how HTTP/3 would be a way around a mandatory header, or nothing if the
// packet wrapper closes it: that must be On, for every peer for which the listener wrapper
// is.
func (lw *ListenerWrapper) wayAround(pw *PacketConnWrapper) (string, error) {
	switch {
	case pw == nil:
		return "this wrapper cannot check UDP", nil
	case pw.Mode != On:
		return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has mode '%s'", wrapperName, pw.Mode), nil
	}
	tcp := lw.rules.ranges
	if tcp == nil {
		tcp = new(bart.Table[Mode])
	}
	udp, err := compileRanges(pw.Ranges)
	if err != nil || udp == nil {
		return "", err
	}
	for prefix, mode := range udp.All() {
		if same, ok := tcp.Get(prefix); mode != On && (!ok || same != mode) {
			return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has mode '%s' for %s, but the listener wrapper does not", wrapperName, mode, prefix), nil
		}
	}
	for prefix, mode := range tcp.All() {
		if other, ok := udp.LookupPrefix(prefix); mode == On && ok && other != On {
			return fmt.Sprintf("'%s' in 'packet_conn_wrappers' has mode '%s' for %s, but the listener wrapper has mode 'on'", wrapperName, other, prefix), nil
		}
	}
	return "", nil
}
