package proxyprotocol

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

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
// It is for HTTP/3 what the `proxy_protocol_mode` listener wrapper is for TCP. Beside one
// whose mode is `on` it must be `on` as well, or HTTP/3 is disabled.
//
// The protocol is specified in doc/proxy-protocol.txt of HAProxy.
type PacketConnWrapper struct {
	// Whether datagrams must (`on`), must not (`off`) or may (`unspecified`) begin with a
	// header. Default: `unspecified`, which is for tests only.
	Mode Mode `json:"mode,omitempty"`

	// Which peers may send a header, as for the server's own `trusted_proxies`. Under
	// `on` the datagrams of any other peer are dropped. Under `unspecified` those with a
	// header are. Not allowed under `off`. Default: every peer may. A source that returns
	// no ranges trusts nobody. A source other than `static` is asked once a second for
	// each peer that sends.
	//
	// The source address of a datagram is easily forged: a firewall must see to it that
	// datagrams with the address of a trusted peer come from there.
	TrustedProxiesRaw json.RawMessage `json:"trusted_proxies,omitempty" caddy:"namespace=http.ip_sources inline_key=source"`

	// Peers with a mode of their own, to which neither `mode` nor `trusted_proxies`
	// applies. The most specific range that contains a peer wins.
	Ranges []ModeRanges `json:"ranges,omitempty"`

	// The size of the largest header to accept, in bytes, its signature and TLVs included.
	// Default: 4096. At least 536 and at most 65551. A header must fit into one datagram
	// with what it stands before.
	MaxHeaderSize *int `json:"max_header_size,omitempty"`

	shared     *ListenerWrapper // what both wrappers do alike
	serverName string
	listen     listenAddrs
	rules      *rules
	unwrap     bool
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
	if err := lw.unmarshal(d, notOfDatagrams); err != nil {
		return err
	}
	pw.Mode, pw.TrustedProxiesRaw, pw.Ranges, pw.MaxHeaderSize = lw.Mode, lw.TrustedProxiesRaw, lw.Ranges, lw.MaxHeaderSize
	return nil
}

// notOfDatagrams has the options of the listener wrapper that the packet wrapper has not,
// and why.
var notOfDatagrams = map[string]string{
	"timeout":                "a datagram has its header or has none, there is nothing to wait for: remove it",
	"version":                "datagrams have v2 headers, there are no others: remove it",
	"mismatched_destination": "datagrams have v2 headers, and only v1 lines can have one: remove it",
	"http3":                  "it belongs to the listener wrapper, and is not needed with this one: remove it",
}

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
	pw.shared = &ListenerWrapper{Mode: pw.Mode, TrustedProxiesRaw: pw.TrustedProxiesRaw, Ranges: pw.Ranges, MaxHeaderSize: pw.MaxHeaderSize}
	rules, err := pw.shared.compile(ctx, server, logger)
	if err != nil {
		return err
	}
	rules.log.datagrams = true
	pw.rules, pw.shared.rules = rules, rules
	if server != nil {
		if err := pw.prepareServer(server, logger); err != nil {
			return fmt.Errorf("server %s: %w", server.Name(), err)
		}
	}
	pw.shared.warn(logger)
	return pw.onStart(ctx)
}

func (pw *PacketConnWrapper) prepareServer(server *caddyhttp.Server, logger *zap.Logger) error {
	names, err := wrapperNames(server.PacketConnWrappersRaw)
	if err != nil {
		return err
	}
	own := slices.Index(names, wrapperName)
	if slices.Contains(names[own+1:], wrapperName) {
		return fmt.Errorf("packet conn wrapper '%s' is there twice, and a datagram has one header: keep one", wrapperName)
	}
	// What another wrapper does must not be passed by.
	pw.unwrap = own == 0
	installPlaceholders(server)
	pw.guard(server, logger)
	pw.listen, err = listenAddrsOf(server)
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
	packetConns.adopt(h.pw)
	return nil
}

// WrapPacketConn wraps a socket that is new.
func (pw *PacketConnWrapper) WrapPacketConn(inner net.PacketConn) net.PacketConn {
	wrapped := newPacketConn(inner, pw.unwrap)
	c, ok := wrapped.(*packetConn)
	if !ok {
		c = wrapped.(udpPacketConn).packetConn
	}
	packetConns.add(c, pw)
	return wrapped
}

// Cleanup gives up what outlives configurations, unless the next one uses it.
func (pw *PacketConnWrapper) Cleanup() error {
	packetConns.release(pw)
	listeners.release(pw)
	return nil
}

// rulesOf returns the rules for a socket.
func (pw *PacketConnWrapper) rulesOf(addr netip.AddrPort) *rules {
	rules := *pw.rules
	rules.stats = listeners.acquire(listenerKey{pw.serverName, packetAddress + addr.String()}, pw)
	return &rules
}

func (pw *PacketConnWrapper) describe() (Mode, string, []ModeRanges) {
	return pw.Mode, pw.shared.trustedSource, pw.Ranges
}

func (pw *PacketConnWrapper) listensOn(addr netip.AddrPort) bool { return pw.listen.contain(addr) }

// listenAddrsOf returns the addresses of a server. Names are looked up as they are to
// listen on them.
func listenAddrsOf(server *caddyhttp.Server) (addrs listenAddrs, err error) {
	for _, s := range server.Listen {
		network, err := caddy.ParseNetworkAddress(s)
		if err != nil {
			return nil, err
		}
		if network.IsUnixNetwork() || network.IsFdNetwork() {
			continue
		}
		addr := listenAddr{min: network.StartPort, max: network.EndPort}
		host, _, _ := strings.Cut(network.Host, "%")
		ip, err := netip.ParseAddr(host)
		switch {
		case host == "":
			addr.any = true
		case err == nil:
			// Go makes of 0.0.0.0 a socket of both families.
			addr.any, addr.ips = ip.IsUnspecified(), []netip.Addr{ip.Unmap()}
		default:
			// If that fails, listening will as well.
			ips, _ := net.DefaultResolver.LookupNetIP(context.Background(), "ip", host)
			for _, ip := range ips {
				addr.ips = append(addr.ips, ip.Unmap())
			}
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}
