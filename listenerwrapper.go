package proxyprotocol

import (
	"encoding/json"
	"errors"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/paste"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/stream"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// ListenerWrapper reads the PROXY protocol header (v1 or v2) at the beginning of
// connections, so that access logs, matchers and TLS policies see the client instead of
// the load balancer. Its mode says whether a header is mandatory (`on`), forbidden (`off`)
// or parsed if present, with the connection marked by source port 0 (`unspecified`, for
// tests only). A connection that does not fit the mode is refused: it is closed without a
// byte written to it, and a line is logged.
//
// It must come before the `tls` listener wrapper, because the header comes before the TLS
// handshake.
//
// The protocol is specified in doc/proxy-protocol.txt of HAProxy.
type ListenerWrapper struct {
	// Whether connections must (`on`), must not (`off`) or may (`unspecified`) begin with
	// a header. Default: `unspecified`, which is for tests only.
	Mode Mode `json:"mode,omitempty"`

	// Which peers may send a header, as for the server's own `trusted_proxies`. Under
	// `on` a connection from any other peer is refused before a byte is read. Under
	// `unspecified` a header from any other peer is refused. Not allowed under `off`.
	// Default: every peer may. If a source returns no ranges, no peer is trusted.
	//
	// Peers on a Unix socket are trusted, because the file's permissions decide who can
	// connect. Peers on an abstract Unix socket are not.
	TrustedProxiesRaw json.RawMessage `json:"trusted_proxies,omitempty" caddy:"namespace=http.ip_sources inline_key=source"`

	// Peers with a mode of their own, to which neither `mode` nor `trusted_proxies`
	// applies. The most specific range that contains a peer wins.
	Ranges []ModeRanges `json:"ranges,omitempty"`

	// What a header must prove, so that not everything rests on the peer's address. Not allowed
	// under `off`, nor with `version` `v1`. Default: nothing.
	Require *Require `json:"require,omitempty"`

	// How long a connection may take from accept to the end of its header. Default: 5s.
	// Must be positive; the specification (section 2) advises at least 3s, to cover a TCP
	// retransmit.
	Timeout *caddy.Duration `json:"timeout,omitempty"`

	// The size of the largest header to accept, in bytes, including its signature and TLVs.
	// Default: 4096. Allowed: 536 (required by section 2 of the specification) to 65551
	// (the largest possible, section 2.2).
	MaxHeaderSize *int `json:"max_header_size,omitempty"`

	// The only header version to accept, `v1` or `v2`. A header of the other one is refused
	// in every mode. Default: both are accepted.
	Version string `json:"version,omitempty"`

	// Set to `allow` to keep HTTP/3 on a server whose mode, or the mode of any range, is
	// `on`. By default HTTP/3 is disabled there: this wrapper checks TCP only, so HTTP/3
	// would bypass it. It stays enabled if the packet wrapper demands a header as well.
	HTTP3 string `json:"http3,omitempty"`

	// Set to `allow` to accept version 1 headers whose destination is an IP address of the
	// other family than the client's, or `unix:` and a path. nginx writes these if it took
	// the client's address from the header of another load balancer (`set_real_ip_from`)
	// that reached it over the other family, or over a Unix socket. The destination is then
	// unknown: the connection's local address, which TLS policies match, is the socket's.
	// By default these headers are refused as malformed, as the specification demands.
	// Version 2 headers are not affected.
	MismatchedDestination string `json:"mismatched_destination,omitempty"`

	serverName string
	settings   statusapi.Settings
	config     *stream.Config
	payloads   request.Payloads
}

const (
	defaultTimeout       = 5 * time.Second
	advisedTimeout       = 3 * time.Second // specification, section 2
	defaultMaxHeaderSize = 4096

	// allowed is the value of the options that permit something.
	allowed = "allow"
)

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.proxy_protocol_mode",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

// Provision validates the configuration, compiles the ranges, and checks and adjusts the
// server that the wrapper is configured on.
func (lw *ListenerWrapper) Provision(ctx caddy.Context) error {
	server, name, logger := request.ServerOf(ctx)
	lw.serverName = name
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	config, err := lw.compile(ctx, server, logger)
	if err != nil {
		return err
	}
	lw.config, lw.payloads = config, request.PayloadsOf(ctx, server)
	logger = lw.settings.KeepWarnings(logger)
	if server != nil {
		lw.settings.HTTP3, err = prepareServer(ctx, server, &config.Policy, lw.Require, lw.HTTP3 == allowed, logger)
		if err != nil {
			return err
		}
	}
	lw.warn(logger)
	return nil
}

// WrapListener wraps l.
func (lw *ListenerWrapper) WrapListener(l net.Listener) net.Listener {
	config := *lw.config
	address := request.ListenAddress(l.Addr())
	config.Stats = record.Listeners.Acquire(record.Key{Server: lw.serverName, Address: address}, lw)
	config.Payload = lw.payloads.On(l.Addr())
	lw.settings.Announce(config.Log, address)
	return &stream.Listener{Listener: l, Config: &config}
}

// Cleanup releases the listeners, whose stats outlive configurations if the next one uses them.
func (lw *ListenerWrapper) Cleanup() error {
	record.Listeners.Release(lw)
	return nil
}

// listenerSettings implements listening.
func (lw *ListenerWrapper) listenerSettings() statusapi.Settings { return lw.settings }

// compile validates the configuration and returns the config of its listeners.
func (lw *ListenerWrapper) compile(ctx caddy.Context, server *caddyhttp.Server, logger *zap.Logger) (*stream.Config, error) {
	config := &stream.Config{
		Timeout:           defaultTimeout,
		MaxHeaderSize:     headerLimit(lw.MaxHeaderSize),
		Recorder:          record.Recorder{Log: record.NewLog(logger, false)},
		MeasureHeaderTime: wantsMetrics(ctx),
	}
	ranges, err := compileRanges(lw.Ranges)
	if err != nil {
		return nil, err
	}
	if lw.Timeout != nil {
		config.Timeout = time.Duration(*lw.Timeout)
	}
	var versionErr error
	config.Version, versionErr = wire.ParseVersion(lw.Version)
	config.MismatchedDestination = lw.MismatchedDestination == allowed
	config.Require, err = lw.Require.compile(lw.Mode)
	if lw.Require != nil && config.Version == 1 {
		err = paste.ErrRequireV1
	}
	if err := errors.Join(
		fieldError("timeout", checkTimeout(config.Timeout)),
		fieldError("max_header_size", wire.CheckMaxSize(config.MaxHeaderSize)),
		fieldError("version", versionErr),
		fieldError("http3", checkAllow("http3", lw.HTTP3)),
		fieldError("mismatched_destination", checkAllow("mismatched_destination", lw.MismatchedDestination)),
		fieldError("require", err),
	); err != nil {
		return nil, err
	}
	var source string
	config.Policy, source, err = compilePolicy(ctx, lw, server, lw.Mode, ranges, lw.TrustedProxiesRaw)
	lw.settings = settingsOf(&config.Policy, source, lw.Ranges, config.Require)
	return config, err
}

// warn logs warnings about a valid configuration.
func (lw *ListenerWrapper) warn(logger *zap.Logger) {
	request.WarnOfPolicy(&lw.config.Policy, lw.config.Require, logger)
	if lw.config.Timeout < advisedTimeout {
		logger.Warn("'timeout' is shorter than the PROXY protocol specification advises; the advised time is long enough for a TCP retransmit",
			zap.Duration("timeout", lw.config.Timeout), zap.Duration("advised", advisedTimeout))
	}
}
