package proxyprotocol_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
)

// caddyfileModules return the modules that have a syntax in the Caddyfile.
var caddyfileModules = []func() caddyfile.Unmarshaler{
	func() caddyfile.Unmarshaler { return new(proxyprotocol.ListenerWrapper) },
	func() caddyfile.Unmarshaler { return new(proxyprotocol.Handler) },
	func() caddyfile.Unmarshaler { return new(proxyprotocol.MatchProxyProtocol) },
	func() caddyfile.Unmarshaler { return new(proxyprotocol.MatchPinnedIP) },
}

// FuzzCaddyfile asserts that no text in a Caddyfile causes a panic, that an error names its line, and
// that an accepted text has the same meaning in JSON, and loads.
func FuzzCaddyfile(f *testing.F) {
	for _, test := range goodWrappers {
		f.Add(byte(0), test.caddyfile)
	}
	for _, text := range []string{
		"proxy_protocol_mode yes",
		"proxy_protocol_mode on off",
		"proxy_protocol_mode off {\ntrusted_proxies static 10.0.0.0/8\n}",
		"proxy_protocol_mode on {\ntrusted_proxies\n}",
		"proxy_protocol_mode on {\ntrusted_proxies none\n}",
		"proxy_protocol_mode on {\ntrusted_proxies static fe80::1%eth0\n}",
		"proxy_protocol_mode on {\noff 127.0.0.0/8 {\n}\n}",
		"proxy_protocol_mode on {\noff 127.0.0.0/8\non 127.1.2.3/8\n}",
		"proxy_protocol_mode on {\ntimeout 5s\ntimeout 6s\n}",
		"proxy_protocol_mode on {\ntimeout -1s\nmax_header_size 99999999999999999999\n}",
		"proxy_protocol_mode on {\nmax_header_size 1e3KB\n}",
		"proxy_protocol_mode on {\nrequire\n}",
		"proxy_protocol_mode on {\nrequire tlv 0xe1 00 {env.NOTHING}\nrequire tlv ssl.verified true\n}",
		"proxy_protocol_mode on {\nrequire signature AAECAwQFBgcICQoLDA0ODw== {\ntlv 0xe5\nmax_age 1s\n}\nversion v1\n}",
	} {
		f.Add(byte(0), text)
	}
	for _, text := range []string{"proxy_protocol on", "proxy_protocol off", "proxy_protocol unspecified", "proxy_protocol", "proxy_protocol on off", "proxy_protocol on {\n}"} {
		f.Add(byte(1), text)
	}
	for _, text := range []string{
		"proxy_protocol present",
		"proxy_protocol absent {\npeer 10.0.0.0/8 private_ranges\n}",
		"proxy_protocol port_zero present {\nversion v1 v2\ntlv authority example.com www.example.com\ntlv 0xEA 01AB\ntlv ssl.cn\n}",
		"proxy_protocol local\nproxy_protocol {\nversion v2\n}",
		"proxy_protocol present absent",
		"proxy_protocol {\ntlv 0xea zz\n}",
		"proxy_protocol {\ntlv\n}",
		"proxy_protocol {\npeer ::/129\n}",
	} {
		f.Add(byte(2), text)
	}
	for _, text := range []string{
		"pinned_ip 203.0.113.7 2001:db8::/32 private_ranges",
		"pinned_ip {http.request.tls.client.san.ips.0} 192.0.2.1",
		"pinned_ip 192.0.2.1\npinned_ip {env.A}{env.B}",
		"pinned_ip fe80::1%1",
		"pinned_ip ::ffff:10.0.0.0/100 {\n}",
		"pinned_ip",
	} {
		f.Add(byte(3), text)
	}
	f.Fuzz(func(t *testing.T, which byte, text string) {
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return // Caddy's parser always passes at least the name of the module
		}
		newModule := caddyfileModules[int(which)%len(caddyfileModules)]
		module := newModule()
		if err := module.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			require.Contains(t, err.Error(), "Caddyfile:")
			return
		}
		asJSON, err := json.Marshal(module)
		require.NoError(t, err)
		again := newModule()
		require.NoError(t, caddy.StrictUnmarshalJSON(asJSON, again))
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(asJSON), string(twice))
		err = provision(again.(caddy.Provisioner))
		if err != nil && strings.Contains(err.Error(), "require: ") && strings.Count(text, "{") > 1 {
			return // the value of a placeholder
		}
		require.NoError(t, err, "%s", asJSON)
	})
}

// provision provisions a module as if it were on a server with the listener wrapper.
func provision(module caddy.Provisioner) error {
	server := &caddyhttp.Server{ListenerWrappersRaw: []json.RawMessage{json.RawMessage(`{"wrapper":"proxy_protocol_mode"}`)}}
	server.Protocols = []string{"h1", "h2", "h3"}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.WithValue(context.Background(), caddyhttp.ServerCtxKey, server)})
	defer cancel()
	if _, isWrapper := module.(*proxyprotocol.ListenerWrapper); !isWrapper {
		if err := new(proxyprotocol.ListenerWrapper).Provision(ctx); err != nil {
			return err
		}
	}
	return module.Provision(ctx)
}
