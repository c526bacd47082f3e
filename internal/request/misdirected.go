package request

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// RefuseUnwrapped puts a route that refuses misdirected requests in front of all others.
func RefuseUnwrapped(server *caddyhttp.Server, config *datagram.Config, logger *zap.Logger) {
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
	switch accepted := AcceptedFrom(r); {
	case accepted == nil || !accepted.Checked():
		if m.mandatory {
			return errUnwrapped
		}
		return nil
	case QUICConn(r) == nil:
		return errMigrated
	case !m.config.Fits(accepted):
		return ErrOtherConfig
	default:
		return nil
	}
}

var (
	errUnwrapped = errors.New("the QUIC connection did not come through the 'proxy_protocol_mode' packet conn wrapper: restart Caddy")
	errMigrated  = errors.New("the QUIC connection has migrated, and its client address is now marked when it was not before, or the reverse")
)
