package proxyprotocol

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/datagram"
	"github.com/portzero/caddy-proxy-protocol/internal/paste"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// PacketConnWrapper reads the PROXY protocol header (v2) at the beginning of each datagram,
// so that HTTP/3 has the client's address behind a load balancer that puts one there. Its
// mode says whether a header is mandatory (`on`), forbidden (`off`) or parsed if present,
// with the client marked by source port 0 (`unspecified`, for tests only). A datagram that
// does not fit the mode is dropped and counted, and a line is logged.
//
// It does for HTTP/3 what the `proxy_protocol_mode` listener wrapper does for TCP. If the
// mode of that wrapper on the same server is `on`, the mode of this one must be `on` as
// well, or HTTP/3 is disabled.
//
// The protocol is specified in doc/proxy-protocol.txt of HAProxy.
type PacketConnWrapper struct {
	// Whether datagrams must (`on`), must not (`off`) or may (`unspecified`) begin with a
	// header. Default: `unspecified`, which is for tests only.
	Mode Mode `json:"mode,omitempty"`

	// Which peers may send a header, as for the server's own `trusted_proxies`. Required
	// under `on`: datagrams from any other peer are dropped. Optional under `unspecified`:
	// datagrams from any other peer are dropped if they have a header; by default, every
	// peer may send one. Not allowed under `off`. If a source returns no ranges, no peer is
	// trusted; the ranges `0.0.0.0/0` and `::/0` trust every peer.
	//
	// A source other than `static` is asked at most once a second, and for all peers at
	// once: its request has the RemoteAddr `0.0.0.0:0`. It has 5 seconds to answer. While
	// it does not answer, its last answer stays in use until it is 10 seconds old. After
	// that, and before the first answer, no peer is trusted.
	//
	// The source address of a datagram is easily forged. A firewall must drop datagrams
	// that have the address of a trusted peer but come from elsewhere.
	TrustedProxiesRaw json.RawMessage `json:"trusted_proxies,omitempty" caddy:"namespace=http.ip_sources inline_key=source"`

	// Peers with a mode of their own, to which neither `mode` nor `trusted_proxies`
	// applies. The most specific range that contains a peer wins.
	Ranges []ModeRanges `json:"ranges,omitempty"`

	// What a header must prove, so that not everything rests on the peer's address: TLVs, but no
	// signature. Not allowed under `off`. Default: nothing.
	Require *Require `json:"require,omitempty"`

	// The size of the largest header to accept, in bytes, including its signature and TLVs.
	// Default: 4096. Allowed: 536 to 65551. A header and the data behind it must fit into
	// one datagram.
	MaxHeaderSize *int `json:"max_header_size,omitempty"`

	serverName string
	settings   statusapi.Settings
	keys       request.SocketKeys // of the server's sockets
	config     *datagram.Config
	logger     *zap.Logger
	unwrap     bool // no other wrapper is below this one
}

// CaddyModule returns the Caddy module information.
func (PacketConnWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.packetconns.proxy_protocol_mode",
		New: func() caddy.Module { return new(PacketConnWrapper) },
	}
}

// UnmarshalCaddyfile sets up the packet wrapper from Caddyfile tokens. Syntax:
//
//	proxy_protocol_mode [on|off|unspecified] {
//		trusted_proxies <source> <args...>
//		on|off|unspecified <ranges...>
//		require tlv <name> [<values...>]
//		max_header_size <size>
//	}
func (pw *PacketConnWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	lw := new(ListenerWrapper)
	first := *d
	if err := lw.unmarshal(d, paste.NotOfDatagrams); err != nil {
		return err
	}
	if lw.Mode == On && lw.TrustedProxiesRaw == nil {
		first.Next()
		return first.Errf("trusted_proxies: %v", paste.ErrNobodyTrusted)
	}
	if lw.Require != nil && lw.Require.Signature != nil {
		first.Next()
		return first.Errf("require signature: %v", paste.ErrSignedDatagrams)
	}
	pw.Mode, pw.TrustedProxiesRaw, pw.Ranges, pw.MaxHeaderSize = lw.Mode, lw.TrustedProxiesRaw, lw.Ranges, lw.MaxHeaderSize
	pw.Require = lw.Require
	return nil
}

// Provision validates the configuration, compiles the ranges, and checks and adjusts the
// server that the wrapper is configured on.
func (pw *PacketConnWrapper) Provision(ctx caddy.Context) error {
	server, name, logger := request.ServerOf(ctx)
	pw.serverName = name
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	config, err := pw.compile(ctx, server, logger)
	if err != nil {
		return err
	}
	pw.config, pw.logger = config, logger
	if server != nil {
		if err := pw.prepareServer(server, logger); err != nil {
			return fmt.Errorf("server %s: %w", server.Name(), err)
		}
	}
	request.WarnOfPolicy(&pw.config.Policy, pw.config.Require, pw.settings.KeepWarnings(logger))
	return pw.onStart(ctx)
}

// compile validates the configuration and returns the config of its sockets.
func (pw *PacketConnWrapper) compile(ctx caddy.Context, server *caddyhttp.Server, logger *zap.Logger) (*datagram.Config, error) {
	config := &datagram.Config{
		MaxHeaderSize: headerLimit(pw.MaxHeaderSize),
		Recorder:      record.Recorder{Log: record.NewLog(logger, true)},
	}
	ranges, err := compileRanges(pw.Ranges)
	if err != nil {
		return nil, err
	}
	if err := wire.CheckMaxSize(config.MaxHeaderSize); err != nil {
		return nil, fieldError("max_header_size", err)
	}
	if config.Require, err = pw.Require.compile(pw.Mode); config.Require.HasSignature() {
		err = paste.ErrSignedDatagrams
	}
	if err != nil {
		return nil, fieldError("require", err)
	}
	var source string
	config.Policy, source, err = compilePolicy(ctx, pw, server, pw.Mode, ranges, pw.TrustedProxiesRaw)
	if err != nil {
		return nil, err
	}
	pw.settings = settingsOf(&config.Policy, source, pw.Ranges, config.Require)
	pw.settings.HTTP3 = statusapi.HTTP3Checked
	if pw.Mode == On && config.TrustsAnyone() {
		return nil, fieldError("trusted_proxies", paste.ErrNobodyTrusted)
	}
	if config.Source != nil {
		config.TrustedList = datagram.NewTrustedList(ctx, config.Source, logger)
	}
	return config, nil
}

func (pw *PacketConnWrapper) prepareServer(server *caddyhttp.Server, logger *zap.Logger) error {
	names, err := request.WrapperNames(server.PacketConnWrappersRaw)
	if err != nil {
		return err
	}
	own := slices.Index(names, wrapperName)
	if slices.Contains(names[own+1:], wrapperName) {
		return fmt.Errorf("duplicate packet conn wrapper '%s': a datagram has only one header: remove one wrapper", wrapperName)
	}
	// Reading from the socket itself must not skip another wrapper.
	pw.unwrap = own == 0
	request.Install(server, own < 0)
	request.RefuseUnwrapped(server, pw.config, logger)
	pw.keys, err = request.SocketKeysOf(server)
	return err
}

// onStart has the wrapper claim its sockets when the configuration runs: Caddy keeps open sockets
// across reloads.
func (pw *PacketConnWrapper) onStart(ctx caddy.Context) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	return app.(*caddyevents.App).On("started", startHandler{pw})
}

// startHandler handles the event "started".
type startHandler struct{ pw *PacketConnWrapper }

// Handle implements caddyevents.Handler.
func (h startHandler) Handle(context.Context, caddy.Event) error {
	datagram.Sockets.Claim(socketsOf(h))
	return nil
}

// WrapPacketConn wraps a new socket.
func (pw *PacketConnWrapper) WrapPacketConn(inner net.PacketConn) net.PacketConn {
	key := datagram.KeyOf(inner, pw.keys)
	if key == "" && len(pw.keys) > 0 {
		pw.logger.Warn("another module hides the UDP socket, so this wrapper cannot recognize it after a reload; restart Caddy instead of reloading it, or HTTP/3 requests are answered with 421 under mode 'on'",
			zap.String("local", conninfo.AddrString(inner.LocalAddr())))
	}
	return datagram.Sockets.Wrap(inner, key, pw.unwrap, socketsOf{pw})
}

// Cleanup releases the sockets, which outlive configurations if the next one uses them.
func (pw *PacketConnWrapper) Cleanup() error {
	datagram.Sockets.Release(socketsOf{pw})
	record.Listeners.Release(pw)
	return nil
}

// socketsOf is the datagram.Owner of a packet wrapper. It keeps the methods of Owner out of the
// exported module.
type socketsOf struct{ pw *PacketConnWrapper }

// Owns implements datagram.Owner.
func (s socketsOf) Owns(key string) bool { return s.pw.keys[key] }

// ConfigOf implements datagram.Owner.
func (s socketsOf) ConfigOf(addr netip.AddrPort) *datagram.Config {
	config := *s.pw.config
	address := record.DatagramPrefix + addr.String()
	config.Stats = record.Listeners.Acquire(record.Key{Server: s.pw.serverName, Address: address}, s.pw)
	s.pw.settings.Announce(config.Log, address)
	return &config
}

// listenerSettings implements listening.
func (pw *PacketConnWrapper) listenerSettings() statusapi.Settings { return pw.settings }
