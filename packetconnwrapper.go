package proxyprotocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
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

	// The size of the largest header to accept, in bytes, including its signature and TLVs.
	// Default: 4096. Allowed: 536 to 65551. A header and the data behind it must fit into
	// one datagram.
	MaxHeaderSize *int `json:"max_header_size,omitempty"`

	serverName    string
	trustedSource string     // the module of trusted_proxies, if there is one
	keys          socketKeys // of the server's sockets
	config        *packetConfig
	logger        *zap.Logger
	unwrap        bool
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
//		max_header_size <size>
//	}
func (pw *PacketConnWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	lw := new(ListenerWrapper)
	first := *d
	if err := lw.unmarshal(d, notOfDatagrams); err != nil {
		return err
	}
	if lw.Mode == On && lw.TrustedProxiesRaw == nil {
		first.Next()
		return first.Errf("trusted_proxies: %v", errNobodyTrusted)
	}
	pw.Mode, pw.TrustedProxiesRaw, pw.Ranges, pw.MaxHeaderSize = lw.Mode, lw.TrustedProxiesRaw, lw.Ranges, lw.MaxHeaderSize
	return nil
}

// notOfDatagrams has the options of the listener wrapper that the packet wrapper has not,
// and why.
var notOfDatagrams = map[string]string{
	"timeout":                "not supported for datagrams, because a header arrives whole or not at all: remove it",
	"version":                "not supported for datagrams, because they have v2 headers only: remove it",
	"mismatched_destination": "not supported for datagrams, because only v1 headers can have a mismatched destination: remove it",
	"http3":                  "an option of the listener wrapper, which does not need it beside this packet conn wrapper: remove it",
}

// errNobodyTrusted has an address that is nobody's, so that its lines are safe as they stand.
var errNobodyTrusted = errors.New(`missing: mode 'on' of the packet conn wrapper 'proxy_protocol_mode' needs it, because the source address of a datagram can be forged; write, with the addresses of your load balancers in place of 192.0.2.10:

	packet_conn_wrappers {
		proxy_protocol_mode on {
			trusted_proxies static 192.0.2.10
		}
	}

or in JSON, beside "mode": "on":

	"trusted_proxies": {"source": "static", "ranges": ["192.0.2.10"]}

To trust every host that can reach the port, write: trusted_proxies static 0.0.0.0/0 ::/0`)

// Provision validates the configuration, compiles the ranges, and checks and adjusts the
// server that the wrapper is configured on.
func (pw *PacketConnWrapper) Provision(ctx caddy.Context) error {
	logger := ctx.Logger()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server != nil {
		pw.serverName = server.Name()
		logger = logger.With(zap.String("server_name", pw.serverName))
	}
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
	warnOfPolicy(&pw.config.policy, logger)
	return pw.onStart(ctx)
}

// compile validates the configuration and makes a config of it.
func (pw *PacketConnWrapper) compile(ctx caddy.Context, server *caddyhttp.Server, logger *zap.Logger) (*packetConfig, error) {
	config := &packetConfig{
		maxHeaderSize: headerLimit(pw.MaxHeaderSize),
		recorder:      recorder{log: newConnLog(logger, true)},
	}
	ranges, err := compileRanges(pw.Ranges)
	if err != nil {
		return nil, err
	}
	if err := checkMaxHeaderSize(config.maxHeaderSize); err != nil {
		return nil, inField("max_header_size", err)
	}
	config.policy, pw.trustedSource, err = compilePolicy(ctx, pw, server, pw.Mode, ranges, pw.TrustedProxiesRaw)
	if err != nil {
		return nil, err
	}
	if pw.Mode == On && config.anyoneTrusted() {
		return nil, inField("trusted_proxies", errNobodyTrusted)
	}
	if config.source != nil {
		config.list = newTrustedList(ctx, config.source, logger)
	}
	return config, nil
}

func (pw *PacketConnWrapper) prepareServer(server *caddyhttp.Server, logger *zap.Logger) error {
	names, err := wrapperNames(server.PacketConnWrappersRaw)
	if err != nil {
		return err
	}
	own := slices.Index(names, wrapperName)
	if slices.Contains(names[own+1:], wrapperName) {
		return fmt.Errorf("duplicate packet conn wrapper '%s': a datagram has only one header: remove one wrapper", wrapperName)
	}
	// What another wrapper does must not be passed by.
	pw.unwrap = own == 0
	installPlaceholders(server)
	pw.guard(server, logger)
	pw.keys, err = socketKeysOf(server)
	return err
}

// onStart takes over the sockets that Caddy keeps from the configuration before, once this
// one runs.
func (pw *PacketConnWrapper) onStart(ctx caddy.Context) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	return app.(*caddyevents.App).On("started", startHandler{pw})
}

// startHandler handles the event that the configuration runs.
type startHandler struct{ pw *PacketConnWrapper }

// Handle implements caddyevents.Handler.
func (h startHandler) Handle(context.Context, caddy.Event) error {
	packetConns.adopt(socketsOf{h.pw})
	return nil
}

// WrapPacketConn wraps a socket that is new.
func (pw *PacketConnWrapper) WrapPacketConn(inner net.PacketConn) net.PacketConn {
	key := pw.keys.of(inner)
	if key == "" && len(pw.keys) > 0 {
		pw.logger.Warn("another module hides the UDP socket, so this wrapper cannot recognize it after a reload; restart Caddy instead of reloading it, or HTTP/3 requests are answered with 421 under mode 'on'",
			zap.String("local", addrString(inner.LocalAddr())))
	}
	return packetConns.wrap(inner, key, pw.unwrap, socketsOf{pw})
}

// Cleanup gives up what outlives configurations, unless the next one uses it.
func (pw *PacketConnWrapper) Cleanup() error {
	packetConns.release(socketsOf{pw})
	listeners.release(pw)
	return nil
}

// socketsOf is the packetOwner of a packet wrapper, whose own methods are those of its module.
type socketsOf struct{ pw *PacketConnWrapper }

// owns implements packetOwner.
func (s socketsOf) owns(key string) bool { return s.pw.keys[key] }

// configOf implements packetOwner.
func (s socketsOf) configOf(addr netip.AddrPort) *packetConfig {
	config := *s.pw.config
	config.stats = listeners.acquire(listenerKey{s.pw.serverName, packetAddress + addr.String()}, s.pw)
	return &config
}

func (pw *PacketConnWrapper) describe() (Mode, string, []ModeRanges) {
	return pw.Mode, pw.trustedSource, pw.Ranges
}

// socketKeys are the keys by which Caddy opens sockets: a network for datagrams, and host
// and port as they are written in the configuration, like "udp4/0.0.0.0:443". Caddy hands a
// socket over to the next configuration by its key alone. Sockets with the same key are the
// same, those with another key are not, even if they have the same address.
type socketKeys map[string]bool

// socketKeysOf returns the keys of the sockets for HTTP/3 of a server. Without TLS Caddy opens
// none, and the sockets with these keys are another server's.
func socketKeysOf(server *caddyhttp.Server) (socketKeys, error) {
	keys := make(socketKeys)
	if len(server.TLSConnPolicies) == 0 {
		return keys, nil
	}
	for i, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil {
			return nil, err
		}
		protocols := server.Protocols
		if i < len(server.ListenProtocols) && server.ListenProtocols[i] != nil {
			protocols = server.ListenProtocols[i]
		}
		if addr.IsUnixNetwork() || len(protocols) > 0 && !slices.Contains(protocols, "h3") {
			continue
		}
		network := addr.Network
		if datagrams, ok := datagramNetworks[network]; ok {
			network = datagrams
		}
		for offset := range addr.PortRangeSize() {
			keys[network+"/"+addr.JoinHostPort(offset)] = true
		}
	}
	return keys, nil
}

// datagramNetworks are the networks of HTTP/3 on addresses of TCP. Others are the same.
var datagramNetworks = map[string]string{"tcp": "udp", "tcp4": "udp4", "tcp6": "udp6"}

// of returns the key of a socket that Caddy opened for the server of these keys, or an empty
// one if it cannot be told.
func (k socketKeys) of(socket net.PacketConn) string {
	// Caddy does not tell the key, but writes it into an unexported field of the socket, to
	// count its uses by it.
	for below := socket; below != nil; {
		for _, field := range [...]string{"lnKey", "key"} {
			if key := stringField(below, field); k[key] {
				return key
			}
		}
		wrapped, ok := below.(interface{ Unwrap() net.PacketConn })
		if !ok {
			break
		}
		below = wrapped.Unwrap()
	}
	if len(k) == 1 {
		for only := range k {
			return only
		}
	}
	return ""
}

// stringField returns the value of a string field, unexported ones too, or an empty string
// if there is none.
func stringField(of any, name string) (value string) {
	defer func() { _ = recover() }() // an embedded pointer on the way may be nil
	v := reflect.Indirect(reflect.ValueOf(of))
	if v.Kind() != reflect.Struct {
		return ""
	}
	if field := v.FieldByName(name); field.IsValid() && field.Kind() == reflect.String {
		return field.String()
	}
	return ""
}
