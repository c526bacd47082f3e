package proxyprotocol

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gaissmai/bart"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// This file finds and disables HTTP/3 that would bypass mode On. A request that comes around the
// packet wrapper all the same is answered with 421: see request.RefuseUnwrapped.

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
	udp, err := compileRanges(pw.Ranges)
	if err != nil {
		return "", err
	}
	if difference := policy.UncoveredOn(tcp, udp); difference != "" {
		reason = fmt.Sprintf("'%s' in 'packet_conn_wrappers' has %s", wrapperName, difference)
	}
	return reason, nil
}

// disableHTTP3IfBypass disables HTTP/3 on the server if it would bypass the listener wrapper with
// these ranges and this requirement.
func disableHTTP3IfBypass(server *caddyhttp.Server, ranges *bart.Table[policy.Mode], require *Require, logger *zap.Logger) error {
	pw, err := packetWrapperOf(server)
	if err != nil {
		return err
	}
	reason, err := http3Bypass(ranges, pw)
	if err != nil {
		return err
	}
	if reason != "" {
		return request.DisableHTTP3(server, reason+", so HTTP/3 would bypass mode 'on'", logger)
	}
	if missing := require.options().Exceeds(pw.Require.options()); missing != "" {
		return request.DisableHTTP3(server, fmt.Sprintf("'%s' in 'packet_conn_wrappers' does not require %s, so HTTP/3 would bypass 'require'", wrapperName, missing), logger)
	}
	return nil
}
