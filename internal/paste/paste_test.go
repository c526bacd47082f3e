package paste

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWrapper_KeepsAllOptions(t *testing.T) {
	for _, tt := range []struct{ name, json, want string }{
		{"nothing", `{}`, "proxy_protocol_mode on"},
		{"not to be read", `[]`, "proxy_protocol_mode on"},
		{"for tests", `{"mode":"unspecified"}`, "proxy_protocol_mode on"},
		{"off", `{"mode":"off"}`, "proxy_protocol_mode off"},
		{"ranges that are trusted", `{"mode":"on","trusted_proxies":{"source":"static","ranges":["10.0.0.0/8","::1"]}}`, "proxy_protocol_mode on {\n\ttrusted_proxies static 10.0.0.0/8 ::1\n}"},
		{"no ranges that are trusted", `{"mode":"on","trusted_proxies":{"source":"static"}}`, "proxy_protocol_mode on {\n\ttrusted_proxies static ...\n}"},
		{"another source", `{"mode":"on","trusted_proxies":{"source":"cloud","interval":"1h"}}`, "proxy_protocol_mode on {\n\ttrusted_proxies cloud ...\n}"},
		{"a source that cannot be read", `{"mode":"on","trusted_proxies":[]}`, "proxy_protocol_mode on {\n\ttrusted_proxies ...\n}"},
		{"the rest", `{"mode":"on","ranges":[{"mode":"off","ranges":["::1"]}],"timeout":4000000000,"max_header_size":1000,"version":"v2","http3":"allow","mismatched_destination":"allow"}`,
			"proxy_protocol_mode on {\n\toff ::1\n\ttimeout 4s\n\tmax_header_size 1000\n\tversion v2\n\thttp3 allow\n\tmismatched_destination allow\n}"},
		{"required TLVs", `{"mode":"on","require":{"tlvs":{"aws_vpce_id":["vpce-1","vpce-2"],"authority":[],"0xe1":["{env.LB_TOKEN}"]}}}`,
			"proxy_protocol_mode on {\n\trequire tlv 0xe1 {env.LB_TOKEN}\n\trequire tlv authority\n\trequire tlv aws_vpce_id vpce-1 vpce-2\n}"},
		{"a required signature", `{"mode":"on","require":{"signature":{"keys":["{file./run/lb.key}","{env.LB_KEY}"]}}}`,
			"proxy_protocol_mode on {\n\trequire signature {file./run/lb.key} {env.LB_KEY}\n}"},
		{"a required signature with options", `{"mode":"on","require":{"signature":{"keys":["{env.LB_KEY}"],"tlv":"0xe6","max_age":60000000000}},"version":"v2"}`,
			"proxy_protocol_mode on {\n\trequire signature {env.LB_KEY} {\n\t\ttlv 0xe6\n\t\tmax_age 1m0s\n\t}\n\tversion v2\n}"},
		{"values that are not one word", `{"mode":"on","require":{"tlvs":{"ssl.cn":["Big Corp","say \"a\"","#1","a#b","{env.CN}",""]}}}`,
			"proxy_protocol_mode on {\n\trequire tlv ssl.cn \"Big Corp\" \"say \\\"a\\\"\" \"#1\" \"a#b\" {env.CN} \"\"\n}"},
		{"secrets, which are not shown", `{"mode":"on","require":{"tlvs":{"0xe1":["5ec7e7","5e{env.PART}","{env.A}{env.B}","{","","{}}"]},"signature":{"keys":["5ecret"],"max_age":"30s"}}}`,
			"proxy_protocol_mode on {\n\trequire tlv 0xe1 {env.YOUR_SECRET} {env.YOUR_SECRET} {env.YOUR_SECRET} {env.YOUR_SECRET} {env.YOUR_SECRET} {env.YOUR_SECRET}\n\trequire signature {env.YOUR_SECRET} {\n\t\tmax_age 30s\n\t}\n}"},
		{"a duration as text", `{"timeout":"4s"}`, "proxy_protocol_mode on {\n\ttimeout 4s\n}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, Wrapper(json.RawMessage(tt.json), ""))
		})
	}
	assert.Equal(t, "\t\tproxy_protocol_mode on {\n\t\t\tversion v1\n\t\t}", Wrapper(json.RawMessage(`{"version":"v1"}`), "\t\t"))
}

func TestBuiltinOption_IsTranslated(t *testing.T) {
	assert.False(t, IsBuiltinOption("timeout"))
	for _, option := range []string{"allow", "deny", "fallback_policy"} {
		assert.True(t, IsBuiltinOption(option))
		for _, args := range [][]string{nil, {"10.0.0.0/8"}, {"REQUIRE"}, {"Ignore"}} {
			assert.Contains(t, BuiltinOption(option, args), option+": an option of Caddy's own 'proxy_protocol'")
		}
	}
	assert.Contains(t, BuiltinOption("fallback_policy", []string{"require"}), "trusted_proxies static", "not every peer is believed")
}

func TestIsRange(t *testing.T) {
	for _, s := range []string{"10.0.0.0/8", "::1", "private_ranges"} {
		assert.True(t, IsRange(s), s)
	}
	for _, s := range []string{"static", "10.0.0.0/33", ""} {
		assert.False(t, IsRange(s), s)
	}
}
