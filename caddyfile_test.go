package proxyprotocol_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// wrapperCaddyfile returns a Caddyfile whose listener wrappers, from line 4 on, are these lines.
func wrapperCaddyfile(wrapper string) string {
	return "{\n\tservers {\n\t\tlistener_wrappers {\n" + wrapper + "\n\t\t}\n\t}\n}\n:1234\n"
}

var goodWrappers = []struct{ name, caddyfile, json string }{
	{"nothing", `proxy_protocol_mode`, `{}`},
	{"an empty block", "proxy_protocol_mode {\n}", `{}`},
	{"mode on", `proxy_protocol_mode on`, `{"mode": "on"}`},
	{"mode off", `proxy_protocol_mode off`, `{"mode": "off"}`},
	{"mode unspecified", `proxy_protocol_mode unspecified`, `{}`},
	{
		"trusted_proxies static",
		"proxy_protocol_mode on {\ntrusted_proxies static 10.0.0.0/8 2001:db8:1b::/48 192.0.2.1\n}",
		`{"mode": "on", "trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8", "2001:db8:1b::/48", "192.0.2.1"]}}`,
	},
	{
		"trusted_proxies static private_ranges",
		"proxy_protocol_mode on {\ntrusted_proxies static private_ranges 192.0.2.1\n}",
		`{"mode": "on", "trusted_proxies": {"source": "static", "ranges": ["192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "127.0.0.1/8", "fd00::/8", "::1", "192.0.2.1"]}}`,
	},
	{
		"trusted_proxies without ranges",
		"proxy_protocol_mode on {\ntrusted_proxies static\n}",
		`{"mode": "on", "trusted_proxies": {"source": "static"}}`,
	},
	{
		"trusted_proxies of another source",
		"proxy_protocol_mode {\ntrusted_proxies proxy_protocol_test {\nname here\n}\n}",
		`{"trusted_proxies": {"source": "proxy_protocol_test", "name": "here"}}`,
	},
	{
		"modes of ranges",
		"proxy_protocol_mode on {\noff 127.0.0.0/8 ::1\nunspecified 10.1.2.3\non 192.0.2.0/24\noff 198.51.100.1\n}",
		`{"mode": "on", "ranges": [
			{"mode": "off", "ranges": ["127.0.0.0/8", "::1"]},
			{"mode": "unspecified", "ranges": ["10.1.2.3"]},
			{"mode": "on", "ranges": ["192.0.2.0/24"]},
			{"mode": "off", "ranges": ["198.51.100.1"]}
		]}`,
	},
	{
		"modes of private ranges",
		"proxy_protocol_mode off {\non private_ranges 2001:db8::1\n}",
		`{"mode": "off", "ranges": [
			{"mode": "on", "ranges": ["192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "127.0.0.1/8", "fd00::/8", "::1", "2001:db8::1"]}
		]}`,
	},
	{
		"one range twice under one mode",
		"proxy_protocol_mode on {\noff 127.0.0.0/8 127.0.0.1/8\noff ::ffff:127.0.0.0/104\n}",
		`{"mode": "on", "ranges": [
			{"mode": "off", "ranges": ["127.0.0.0/8", "127.0.0.1/8"]},
			{"mode": "off", "ranges": ["::ffff:127.0.0.0/104"]}
		]}`,
	},
	{
		"required TLVs",
		"proxy_protocol_mode on {\nrequire tlv aws_vpce_id vpce-08d2bf15fac5001c9 vpce-0a1b2c3d4e5f60718\nrequire tlv 0xE1 {time.now.year}\nrequire tlv authority\n}",
		`{"mode": "on", "require": {"tlvs": {"aws_vpce_id": ["vpce-08d2bf15fac5001c9", "vpce-0a1b2c3d4e5f60718"], "0xe1": ["{time.now.year}"], "authority": []}}}`,
	},
	{
		"a required signature",
		"proxy_protocol_mode on {\nrequire signature AAECAwQFBgcICQoLDA0ODw== \"bm90IGEgc2VjcmV0IGtleQ==\"\n}",
		`{"mode": "on", "require": {"signature": {"keys": ["AAECAwQFBgcICQoLDA0ODw==", "bm90IGEgc2VjcmV0IGtleQ=="]}}}`,
	},
	{
		"a required signature with options, and a TLV",
		"proxy_protocol_mode on {\nrequire signature AAECAwQFBgcICQoLDA0ODw== {\ntlv 0xE6\nmax_age 1m\n}\nrequire tlv 0xe1 00ff\n}",
		`{"mode": "on", "require": {"tlvs": {"0xe1": ["00ff"]}, "signature": {"keys": ["AAECAwQFBgcICQoLDA0ODw=="], "tlv": "0xE6", "max_age": 60000000000}}}`,
	},
	{
		"the shortest max_age",
		"proxy_protocol_mode on {\nrequire signature AAECAwQFBgcICQoLDA0ODw== {\nmax_age 1s\n}\n}",
		`{"mode": "on", "require": {"signature": {"keys": ["AAECAwQFBgcICQoLDA0ODw=="], "max_age": 1000000000}}}`,
	},
	{"timeout", "proxy_protocol_mode {\ntimeout 3s\n}", `{"timeout": 3000000000}`},
	{"timeout in days", "proxy_protocol_mode {\ntimeout 1d\n}", `{"timeout": 86400000000000}`},
	{"max_header_size", "proxy_protocol_mode {\nmax_header_size 4KiB\n}", `{"max_header_size": 4096}`},
	{"smallest max_header_size", "proxy_protocol_mode {\nmax_header_size 536\n}", `{"max_header_size": 536}`},
	{"largest max_header_size", "proxy_protocol_mode {\nmax_header_size 65551B\n}", `{"max_header_size": 65551}`},
	{"version v1", "proxy_protocol_mode {\nversion v1\n}", `{"version": "v1"}`},
	{"version v2", "proxy_protocol_mode {\nversion v2\n}", `{"version": "v2"}`},
	{"http3 allow", "proxy_protocol_mode {\nhttp3 allow\n}", `{"http3": "allow"}`},
	{"mismatched_destination allow", "proxy_protocol_mode {\nmismatched_destination allow\n}", `{"mismatched_destination": "allow"}`},
	{
		"everything",
		"proxy_protocol_mode on {\nmismatched_destination allow\nhttp3 allow\nversion v2\nmax_header_size 1KB\ntimeout 500ms\noff ::1\ntrusted_proxies static 10.0.0.0/8\n}",
		`{
			"mode": "on",
			"trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8"]},
			"ranges": [{"mode": "off", "ranges": ["::1"]}],
			"timeout": 500000000,
			"max_header_size": 1000,
			"version": "v2",
			"http3": "allow",
			"mismatched_destination": "allow"
		}`,
	},
}

func TestCaddyfile_BecomesJSON(t *testing.T) {
	for _, test := range goodWrappers {
		t.Run(test.name, func(t *testing.T) {
			config, err := caddytest.Adapt(wrapperCaddyfile(test.caddyfile))
			require.NoError(t, err)
			wrapper := strings.Replace(test.json, "{", `{"wrapper": "proxy_protocol_mode",`, 1)
			wrapper = strings.Replace(wrapper, ",}", "}", 1)
			assert.JSONEq(t, `{"apps": {"http": {"servers": {"srv0": {"listen": [":1234"], "listener_wrappers": [`+wrapper+`]}}}}}`, string(config))

			c := caddytest.New(t)
			require.NoError(t, c.Load(caddytest.Wrappers(test.caddyfile), caddytest.PlainSite(caddytest.FreePort(t))))
		})
	}
}

func TestCaddyfile_ErrorsNameTheLineAndWhatIsAccepted(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.New(t)
	require.NoError(t, c.Load(caddytest.Wrappers("proxy_protocol_mode on"), caddytest.PlainSite(port)))

	for _, test := range []struct{ name, caddyfile, want string }{
		{
			"an unknown mode",
			"proxy_protocol_mode yes",
			"unknown mode 'yes': use on, off or unspecified, at Caddyfile:4",
		},
		{
			"a mode in upper case",
			"proxy_protocol_mode ON",
			"unknown mode 'ON': use on, off or unspecified, at Caddyfile:4",
		},
		{
			"two modes",
			"proxy_protocol_mode on off",
			"unexpected argument 'off': write one mode here, and the modes of other peers in the block, such as 'off 127.0.0.0/8', at Caddyfile:4",
		},
		{
			"the mode again in the block",
			"proxy_protocol_mode on {\non\n}",
			"on: needs at least one IP address or CIDR range; to set the mode of the wrapper itself, write 'proxy_protocol_mode on', at Caddyfile:5",
		},
		{
			"an unknown option",
			"proxy_protocol_mode on {\ntrust 10.0.0.0/8\n}",
			"unrecognized option 'trust': use trusted_proxies, require, timeout, max_header_size, version, http3, mismatched_destination, or a mode (on, off or unspecified) with ranges, at Caddyfile:5",
		},
		{
			"an option of Caddy's own wrapper",
			"proxy_protocol_mode on {\nallow 10.0.0.0/8\n}",
			"allow: an option of Caddy's own 'proxy_protocol', not of 'proxy_protocol_mode': write mode 'on' behind the name of the wrapper, and in its block: trusted_proxies static 10.0.0.0/8, at Caddyfile:5",
		},
		{
			"Caddy's own deny",
			"proxy_protocol_mode on {\ndeny 10.0.0.0/8 10.1.0.1\n}",
			"deny: an option of Caddy's own 'proxy_protocol', not of 'proxy_protocol_mode': write off 10.0.0.0/8 10.1.0.1, at Caddyfile:5",
		},
		{
			"Caddy's own deny without ranges",
			"proxy_protocol_mode on {\ndeny\n}",
			"deny: an option of Caddy's own 'proxy_protocol', not of 'proxy_protocol_mode': write off 192.0.2.10, at Caddyfile:5",
		},
		{
			"Caddy's own fallback_policy",
			"proxy_protocol_mode {\nfallback_policy reject\n}",
			"fallback_policy: an option of Caddy's own 'proxy_protocol', not of 'proxy_protocol_mode': write mode 'off' behind the name of the wrapper, at Caddyfile:5",
		},
		{
			"an unknown fallback_policy",
			"proxy_protocol_mode {\nfallback_policy nonsense\n}",
			"fallback_policy: an option of Caddy's own 'proxy_protocol', not of 'proxy_protocol_mode': write one of these modes behind the name of the wrapper: on, off or unspecified, at Caddyfile:5",
		},
		{
			"ranges in place of a source",
			"proxy_protocol_mode on {\ntrusted_proxies 10.0.0.0/8 10.1.0.1\n}",
			"trusted_proxies: '10.0.0.0/8' is not a source: write: trusted_proxies static 10.0.0.0/8 10.1.0.1, at Caddyfile:5",
		},
		{
			"private_ranges in place of a source",
			"proxy_protocol_mode on {\ntrusted_proxies private_ranges\n}",
			"trusted_proxies: 'private_ranges' is not a source: write: trusted_proxies static private_ranges, at Caddyfile:5",
		},
		{
			"an option twice",
			"proxy_protocol_mode on {\ntimeout 5s\nversion v1\ntimeout 5s\n}",
			"duplicate option 'timeout': remove one, at Caddyfile:7",
		},
		{
			"trusted_proxies twice",
			"proxy_protocol_mode on {\ntrusted_proxies static 10.0.0.0/8\ntrusted_proxies static 10.0.0.0/8\n}",
			"duplicate option 'trusted_proxies': remove one, at Caddyfile:6",
		},
		{
			"a malformed range",
			"proxy_protocol_mode on {\noff ::1 10.0.0.0/33\n}",
			"off: '10.0.0.0/33' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1, at Caddyfile:5",
		},
		{
			"a name for a range",
			"proxy_protocol_mode on {\noff localhost\n}",
			"off: 'localhost' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1, at Caddyfile:5",
		},
		{
			"an empty range",
			"proxy_protocol_mode on {\noff \"\"\n}",
			"off: '' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1, at Caddyfile:5",
		},
		{
			"no range",
			"proxy_protocol_mode on {\n\nunspecified\n}",
			"unspecified: needs at least one IP address or CIDR range; to set the mode of the wrapper itself, write 'proxy_protocol_mode unspecified', at Caddyfile:6",
		},
		{
			"a range with a zone",
			"proxy_protocol_mode on {\noff fe80::1%eth0\n}",
			"off: 'fe80::1%eth0' has a zone: use an IP address or CIDR range without one, at Caddyfile:5",
		},
		{
			"a range under two modes",
			"proxy_protocol_mode on {\noff 10.0.0.0/8\nunspecified 10.1.0.0/16 10.2.3.4/8\n}",
			"unspecified: 10.0.0.0/8 already has mode 'off' and cannot also have mode 'unspecified': remove one, at Caddyfile:6",
		},
		{
			"an IPv4-mapped range under two modes",
			"proxy_protocol_mode on {\noff 10.0.0.0/8\non ::ffff:10.0.0.0/104\n}",
			"on: 10.0.0.0/8 already has mode 'off' and cannot also have mode 'on': remove one, at Caddyfile:6",
		},
		{
			"trusted_proxies under off",
			"proxy_protocol_mode off {\ntrusted_proxies static 10.0.0.0/8\n}",
			"trusted_proxies: not allowed under mode 'off', which refuses every header: remove it, or set the mode to 'on', at Caddyfile:5",
		},
		{
			"trusted_proxies without source",
			"proxy_protocol_mode on {\ntrusted_proxies\n}",
			"trusted_proxies: the source is missing: write one, such as 'static 10.0.0.0/8', at Caddyfile:5",
		},
		{
			"trusted_proxies of a missing module",
			"proxy_protocol_mode on {\ntrusted_proxies cloudflare\n}",
			"getting module named 'http.ip_sources.cloudflare': module not registered: http.ip_sources.cloudflare, at Caddyfile:5",
		},
		{
			"trusted_proxies with a malformed range",
			"proxy_protocol_mode on {\ntrusted_proxies static 10.0.0.0/8 10.0.0\n}",
			"trusted_proxies: '10.0.0' is not an IP address or CIDR range: use a value such as 10.0.0.0/8 or 2001:db8::1, at Caddyfile:5",
		},
		{
			"trusted_proxies with a zone",
			"proxy_protocol_mode on {\ntrusted_proxies static fe80::%eth0/10\n}",
			"trusted_proxies: 'fe80::%eth0/10' has a zone: use an IP address or CIDR range without one, at Caddyfile:5",
		},
		{
			"require alone",
			"proxy_protocol_mode on {\nrequire\n}",
			"require: write 'require tlv <name> [<values...>]' or 'require signature <keys...>', at Caddyfile:5",
		},
		{
			"require of another kind",
			"proxy_protocol_mode on {\nrequire header x\n}",
			"require: write 'require tlv <name> [<values...>]' or 'require signature <keys...>', at Caddyfile:5",
		},
		{
			"require tlv without name",
			"proxy_protocol_mode on {\nrequire tlv\n}",
			"require: write 'require tlv <name> [<values...>]' or 'require signature <keys...>', at Caddyfile:5",
		},
		{
			"require signature without key",
			"proxy_protocol_mode on {\nrequire signature\n}",
			"require: write 'require tlv <name> [<values...>]' or 'require signature <keys...>', at Caddyfile:5",
		},
		{
			"a required TLV twice",
			"proxy_protocol_mode on {\nrequire tlv 0xea 00\nrequire tlv 0xEA 01\n}",
			"require tlv: duplicate TLV '0xea': write all values in one line, at Caddyfile:6",
		},
		{
			"a required value that is not hexadecimal",
			"proxy_protocol_mode on {\nrequire tlv 0xe1 00 secret\n}",
			"require tlv: value 2 of 0xe1 is not hexadecimal: use pairs of digits such as 0aff, at Caddyfile:5",
		},
		{
			"an empty required value",
			"proxy_protocol_mode on {\nrequire tlv 0xe1 \"\"\n}",
			"require tlv: value 1 of 0xe1 is empty, at Caddyfile:5",
		},
		{
			"a required value that no header has",
			"proxy_protocol_mode on {\nrequire tlv aws_vpce_id vpce-1,vpce-2\n}",
			"require tlv: value 1 of aws_vpce_id is not in the form of this TLV, so that no header can have it, at Caddyfile:5",
		},
		{
			"a key that is not in base64",
			"proxy_protocol_mode on {\nrequire signature secret\n}",
			"require signature: key 1 is not in base64: make one with: caddy proxy-protocol keygen, at Caddyfile:5",
		},
		{
			"a short key",
			"proxy_protocol_mode on {\nrequire signature {file./lb.key} c2VjcmV0\n}",
			"require signature: key 2 has 6 bytes, but needs at least 16: make one with: caddy proxy-protocol keygen, at Caddyfile:5",
		},
		{
			"a required signature twice",
			"proxy_protocol_mode on {\nrequire signature {env.A}\nrequire signature {env.B}\n}",
			"require signature: duplicate: write all keys in one line, at Caddyfile:6",
		},
		{
			"an unknown option of a signature",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\nage 30s\n}\n}",
			"require signature: unrecognized option 'age': use tlv or max_age, at Caddyfile:6",
		},
		{
			"an option of a signature twice",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\nmax_age 30s\ntlv 0xe5\nmax_age 30s\n}\n}",
			"require signature: duplicate option 'max_age': remove one, at Caddyfile:8",
		},
		{
			"the TLV of a signature twice",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\ntlv 0xe5\ntlv 0xe5\n}\n}",
			"require signature: duplicate option 'tlv': remove one, at Caddyfile:7",
		},
		{
			"an option of a signature without value",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\nmax_age\n}\n}",
			"require signature: max_age: needs exactly one argument, at Caddyfile:6",
		},
		{
			"a short max_age",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\nmax_age 999999999ns\n}\n}",
			"require signature: max_age: '999999999ns' is not a duration of at least 1s: use a value such as 30s, at Caddyfile:6",
		},
		{
			"a max_age without unit",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\nmax_age 30\n}\n}",
			"require signature: max_age: '30' is not a duration of at least 1s: use a value such as 30s, at Caddyfile:6",
		},
		{
			"a signature in a TLV with a name",
			"proxy_protocol_mode on {\nrequire signature {env.A} {\ntlv unique_id\n}\n}",
			"require signature: tlv: 'unique_id' is not the number of a type: use one such as 0xe5, at Caddyfile:6",
		},
		{
			"require with version v1",
			"proxy_protocol_mode on {\nrequire tlv aws_vpce_id\nversion v1\n}",
			"require: v1 headers cannot carry what 'require' demands: remove one of the two options, at Caddyfile:7",
		},
		{
			"require under off",
			"proxy_protocol_mode off {\nrequire tlv aws_vpce_id\n}",
			"require: not allowed under mode 'off', which refuses every header: remove it, or set the mode to 'on', at Caddyfile:5",
		},
		{
			"a timeout of zero",
			"proxy_protocol_mode on {\ntimeout 0\n}",
			"timeout: 0s is not positive: use a value such as 5s, at Caddyfile:5",
		},
		{
			"a negative timeout",
			"proxy_protocol_mode on {\ntimeout -5s\n}",
			"timeout: -5s is not positive: use a value such as 5s, at Caddyfile:5",
		},
		{
			"a timeout without unit",
			"proxy_protocol_mode on {\ntimeout 5\n}",
			"timeout: '5' is not a duration: use a value such as 5s, at Caddyfile:5",
		},
		{
			"no timeout",
			"proxy_protocol_mode on {\ntimeout\n}",
			"timeout: needs exactly one argument, at Caddyfile:5",
		},
		{
			"two timeouts",
			"proxy_protocol_mode on {\ntimeout 3s 5s\n}",
			"timeout: needs exactly one argument, at Caddyfile:5",
		},
		{
			"a size that is too small",
			"proxy_protocol_mode on {\nmax_header_size 535\n}",
			"max_header_size: 535 bytes is out of bounds: use 536 to 65551, at Caddyfile:5",
		},
		{
			"a size that is too large",
			"proxy_protocol_mode on {\nmax_header_size 65552\n}",
			"max_header_size: 65552 bytes is out of bounds: use 536 to 65551, at Caddyfile:5",
		},
		{
			"a size that is far too large",
			"proxy_protocol_mode on {\nmax_header_size 16EiB\n}",
			"max_header_size: '16EiB' is not a size: use 536 to 65551 bytes, such as 4KiB, at Caddyfile:5",
		},
		{
			"a size that is no size",
			"proxy_protocol_mode on {\nmax_header_size big\n}",
			"max_header_size: 'big' is not a size: use 536 to 65551 bytes, such as 4KiB, at Caddyfile:5",
		},
		{
			"an unknown version",
			"proxy_protocol_mode on {\nversion 2\n}",
			"version: unknown version '2': use v1 or v2, or leave it out to accept both, at Caddyfile:5",
		},
		{
			"two versions",
			"proxy_protocol_mode on {\nversion v1 v2\n}",
			"version: needs exactly one argument, at Caddyfile:5",
		},
		{
			"an empty version",
			"proxy_protocol_mode on {\nversion \"\"\n}",
			"version: needs exactly one argument, at Caddyfile:5",
		},
		{
			"http3 with another word",
			"proxy_protocol_mode on {\nhttp3 on\n}",
			"http3: unknown value 'on': use allow, or leave it out to disable HTTP/3 where a header is mandatory, at Caddyfile:5",
		},
		{
			"http3 alone",
			"proxy_protocol_mode on {\nhttp3\n}",
			"http3: needs exactly one argument, at Caddyfile:5",
		},
		{
			"mismatched_destination with another word",
			"proxy_protocol_mode on {\nmismatched_destination on\n}",
			"mismatched_destination: unknown value 'on': use allow, or leave it out to refuse version 1 headers whose destination does not match their address family, at Caddyfile:5",
		},
		{
			"mismatched_destination in upper case",
			"proxy_protocol_mode on {\nmismatched_destination ALLOW\n}",
			"mismatched_destination: unknown value 'ALLOW': use allow, or leave it out to refuse version 1 headers whose destination does not match their address family, at Caddyfile:5",
		},
		{
			"mismatched_destination alone",
			"proxy_protocol_mode on {\nmismatched_destination\n}",
			"mismatched_destination: needs exactly one argument, at Caddyfile:5",
		},
		{
			"mismatched_destination and more",
			"proxy_protocol_mode on {\nmismatched_destination allow 10.0.0.1\n}",
			"mismatched_destination: needs exactly one argument, at Caddyfile:5",
		},
		{
			"mismatched_destination twice",
			"proxy_protocol_mode on {\nmismatched_destination allow\nmismatched_destination allow\n}",
			"duplicate option 'mismatched_destination': remove one, at Caddyfile:6",
		},
		{
			"a block where none belongs",
			"proxy_protocol_mode on {\ntimeout 5s {\n}\n}",
			"unrecognized option '{': use trusted_proxies, require, timeout, max_header_size, version, http3, mismatched_destination, or a mode (on, off or unspecified) with ranges, at Caddyfile:5",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := caddytest.Adapt(wrapperCaddyfile(test.caddyfile))
			require.EqualError(t, err, "parsing caddyfile tokens for 'servers': "+test.want)

			err = c.Load(caddytest.Wrappers(test.caddyfile), caddytest.PlainSite(port))
			require.Error(t, err)
			_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headerV2, "/")
			assert.Equal(t, headertest.Client4.String(), body, "the running config stays")
		})
	}
}
