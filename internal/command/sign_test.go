package command_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// keys returns two new keys, and the first one in all forms in which a command accepts it.
func keys(t testing.TB) (key, other string, forms []string) {
	t.Helper()
	key, other = newKey(t), newKey(t)
	file := filepath.Join(t.TempDir(), "lb.key")
	require.NoError(t, os.WriteFile(file, []byte(key+"\n"), 0o600))
	if t, ok := t.(*testing.T); ok {
		t.Setenv("PROXY_PROTOCOL_TEST_KEY", key)
	}
	return key, other, []string{key, "@" + file, "{file." + file + "}", "{env.PROXY_PROTOCOL_TEST_KEY}"}
}

// newKey returns a key of keygen.
func newKey(t testing.TB) string {
	t.Helper()
	output, err := proxyProtocol(t, "", "keygen")
	require.NoError(t, err)
	return strings.TrimSuffix(output, "\n")
}

func TestKeygen_MakesNewKeys(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		key := newKey(t)
		secret, err := base64.StdEncoding.DecodeString(key)
		require.NoError(t, err)
		assert.Len(t, secret, 32)
		assert.False(t, seen[key])
		seen[key] = true
	}
	_, err := proxyProtocol(t, "", "keygen", "x")
	require.EqualError(t, err, "keygen takes no arguments: remove 'x'")
}

// verifier returns what verifies the signatures of a key.
func verifier(t testing.TB, key string, typ wire.Type) *auth.Signature {
	t.Helper()
	parsed, err := auth.ParseKey(key)
	require.NoError(t, err)
	s, err := auth.NewSignature([]*auth.Key{parsed}, typ, time.Minute)
	require.NoError(t, err)
	return s
}

func TestSend_Signs(t *testing.T) {
	key, other, forms := keys(t)
	for i, form := range forms {
		for _, args := range [][]string{
			nil,
			{"--source", "203.0.113.7:51234"},
			{"--source", "[2001:db8::7]:51234", "--tlv", "authority=example.com", "--checksum"},
			{"--sign-tlv", "0xE0"},
		} {
			address, got := receive(t, ok)
			output, err := proxyProtocol(t, "", append(append([]string{"send", "--sign-key", form}, args...), "http://"+address)...)
			require.NoError(t, err, "%d", i)
			assert.NotContains(t, output, key)
			r := (<-got).header
			require.Equal(t, wire.Complete, r.State)
			typ := auth.DefaultType
			if len(args) > 0 && args[0] == "--sign-tlv" {
				typ = 0xe0
			}
			signature := verifier(t, key, typ)
			made, err := signature.Verify(&r.Header, r.TLVs)
			require.NoError(t, err)
			require.NoError(t, signature.CheckAge(made, time.Now()))
			_, err = verifier(t, other, typ).Verify(&r.Header, r.TLVs)
			require.Error(t, err)
		}
	}
}

func TestDecode_VerifiesTheSignature(t *testing.T) {
	key, other, forms := keys(t)
	h, err := wire.NewProxy(2, wire.Stream, headertest.Client4, headertest.Server4)
	require.NoError(t, err)
	signed := func(at time.Time, typ wire.Type) string {
		parsed, err := auth.ParseKey(key)
		require.NoError(t, err)
		value, err := parsed.Sign(&h, at)
		require.NoError(t, err)
		return headertest.TextWith(h, nil, false, wire.TLV{Type: typ, Value: value})
	}
	now := time.Now()
	old, young := signed(now.Add(-time.Hour), auth.DefaultType), signed(now.Add(time.Hour), auth.DefaultType)
	for _, test := range []struct {
		input string
		args  []string
		text  string
		err   string
	}{
		{old, []string{"--key", key}, `(?m)^signature +valid, made at 20\S+Z, 360\d seconds ago$`, ""},
		{young, []string{"--key", forms[1]}, `(?m)^signature +valid, made at 20\S+Z, 3(600|59\d) seconds in the future$`, ""},
		{hex.EncodeToString([]byte(old)), []string{"--key", other, "--key", forms[2]}, "signature +valid", ""},
		{signed(now, 0xef), []string{"--key", key, "--sign-tlv", "0xef"}, "signature +valid", ""},
		{signed(now, 0xef), []string{"--key", key}, "signature +wrong: the header has no signature", "the PROXY protocol header has no valid signature"},
		{old, []string{"--key", other}, "signature +wrong: the signature does not match", "the PROXY protocol header has no valid signature"},
		{headertest.V1(headertest.Client4, headertest.Server4), []string{"--key", key}, "signature +wrong: the header has no signature", "the PROXY protocol header has no valid signature"},
		{headertest.Local(), []string{"--key", key}, "signature +wrong: the header names no client", "the PROXY protocol header has no valid signature"},
		{old[:len(old)-1], []string{"--key", key}, "Cut off in the evidence", "cut off after"},
		{old, nil, "destination", ""},
	} {
		output, err := proxyProtocol(t, test.input, append([]string{"decode"}, test.args...)...)
		if test.err == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, test.err)
		}
		assert.Regexp(t, test.text, output)
		assert.Equal(t, strings.Contains(test.text, "signature +"), strings.Contains(output, "\nsignature "))
		assert.NotContains(t, output, key)
	}

	output, err := proxyProtocol(t, old, "decode", "--json", "--key", key)
	require.NoError(t, err)
	var parsed struct {
		Signature struct {
			Valid bool
			Made  time.Time
			Age   int64 `json:"age_seconds"`
			Error string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(output), &parsed))
	assert.True(t, parsed.Signature.Valid)
	assert.Equal(t, now.Add(-time.Hour).Unix(), parsed.Signature.Made.Unix())
	assert.InDelta(t, 3600, parsed.Signature.Age, patience.Seconds())
}

// requiring serves plain HTTP as a listener of mode 'on' that requires the signature of a key. A lax
// one takes unsigned headers as well, and a strict one refuses LOCAL headers.
func requiring(t testing.TB, key, kind string) string {
	signature := verifier(t, key, auth.DefaultType)
	return serve(t, func(conn net.Conn) {
		var b [4096]byte
		n, err := conn.Read(b[:])
		if err != nil {
			return
		}
		does := likeOn[beginning(t, b[:n])]
		if r := wire.Decode(b[:n], wire.MaxSize); r.State == wire.Complete && (r.Header.HasAddrs() || kind == strict) && kind != lax {
			if _, err := signature.Verify(&r.Header, r.TLVs); err != nil {
				does = closes
			}
		}
		do(conn, does)
	})
}

const (
	lax    = "lax"
	strict = "strict"
)

func TestCheck_SignsHeaders(t *testing.T) {
	key, other, forms := keys(t)
	for _, test := range []struct {
		name             string
		args             []string
		kind             string
		did              string
		verdict, closest string
		note             string
	}{
		{"signed", []string{"--sign-key", forms[1]}, "", "..AA....", "on", "", "Headers need a signature: a bare one is refused."},
		{"signed, with TLVs", []string{"--sign-key", key, "--tlv", "authority=example.com"}, "", "..AA....", "on", "", "Headers need a signature: a bare one is refused."},
		{"not signed", nil, "", "...A...", "other", "on", "The listener may require TLVs or a signature: use --tlv or --sign-key."},
		{"signed with another key", []string{"--sign-key", other}, "", "...A....", "other", "on", "The listener may require other TLVs, or the signature of another key."},
		{"signed, LOCAL refused", []string{"--sign-key", key}, strict, "..A.....", "on", "", "LOCAL headers are refused: if this peer sends them for health checks, add it to trusted_proxies."},
		{"not required", []string{"--sign-key", key}, lax, ".AAA...A", "on", "", "Headers do not need a signature: a bare one is accepted as well."},
		{"TLVs not required", []string{"--tlv", "authority=example.com"}, lax, ".AAA...A", "on", "", "Headers do not need these TLVs: a bare one is accepted as well."},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := check(t, append(test.args, requiring(t, key, test.kind))...)
			assert.Equal(t, test.did, c.did("HTTP"))
			assert.Equal(t, test.verdict, c.Verdict, c.Differences)
			assert.Equal(t, test.closest, c.Closest)
			assert.Contains(t, c.Notes, test.note)
		})
	}
}

func TestSignBadInput(t *testing.T) {
	key := newKey(t)
	short := filepath.Join(t.TempDir(), "short.key")
	require.NoError(t, os.WriteFile(short, []byte("c2VjcmV0c2VjcmV0\n"), 0o600))
	t.Setenv("PROXY_PROTOCOL_TEST_KEY", "")
	for _, test := range []struct{ value, err string }{
		{"", "the key has 0 bytes, but needs at least 16"},
		{"c2VjcmV0 key", "the key is not in base64: make one with: caddy proxy-protocol keygen"},
		{"c2VjcmV0c2VjcmV0", "the key has 12 bytes, but needs at least 16: make one with: caddy proxy-protocol keygen"},
		{"@" + short, "the key has 12 bytes, but needs at least 16"},
		{"@" + short + "x", "no such file or directory"},
		{"{env.PROXY_PROTOCOL_TEST_KEY}", "{env.PROXY_PROTOCOL_TEST_KEY} is empty"},
		{"{file." + short + "x}", "is empty"},
		{"{nothing}", "unrecognized placeholder {nothing}"},
	} {
		for _, args := range [][]string{
			{"send", "--sign-key", test.value, "http://localhost:1"},
			{"check", "--sign-key", test.value, "localhost:1"},
			{"decode", "--key", test.value},
		} {
			output, err := proxyProtocol(t, "PROXY UNKNOWN\r\n", args...)
			require.ErrorContains(t, err, test.err)
			require.ErrorContains(t, err, args[1]+": ")
			assert.NotContains(t, err.Error(), "c2VjcmV0")
			assert.Empty(t, output)
		}
	}
	for _, test := range []struct {
		args []string
		err  string
	}{
		{[]string{"send", "--v1", "--sign-key", key, "http://localhost:1"}, "[sign-key v1] were all set"},
		{[]string{"send", "--local", "--sign-key", key, "http://localhost:1"}, "[local sign-key] were all set"},
		{[]string{"send", "--sign-tlv", "0xe0", "http://localhost:1"}, "--sign-tlv needs --sign-key"},
		{[]string{"send", "--sign-key", key, "--sign-tlv", "authority", "http://localhost:1"}, "--sign-tlv: 'authority' is not the number of a type"},
		{[]string{"check", "--sign-key", key, "--sign-tlv", "0x02", "localhost:1"}, "--sign-tlv: 0x02 is a type that the PROXY protocol specification defines"},
		{[]string{"check", "--tlv", "alpn", "localhost:1"}, "--tlv must be like 'authority=example.com', not 'alpn'"},
		{[]string{"check", "--tlv", "authority=" + strings.Repeat("x", 1<<16-40), "localhost:1"}, "addresses and TLVs are longer than 65535 bytes"},
		{[]string{"check", "--sign-key", key, "--tlv", "authority=" + strings.Repeat("x", 1<<16-60), "localhost:1"}, "addresses and TLVs are longer than 65535 bytes"},
		{[]string{"decode", "--key", key, "--sign-tlv", "x"}, "--sign-tlv: 'x' is not the number of a type"},
	} {
		output, err := proxyProtocol(t, "PROXY UNKNOWN\r\n", test.args...)
		require.ErrorContains(t, err, test.err)
		assert.NotContains(t, err.Error(), key)
		assert.Empty(t, output)
	}
}

func TestSigned_ByCaddyThatRequiresIt(t *testing.T) {
	key, other, forms := keys(t)
	listed, open, endpoint := freeAddress(t), freeAddress(t), freeAddress(t)
	server := func(address string, wrapper, require object) object {
		wrapper["require"] = require
		server := httpServer(address, false, wrapper)
		server["routes"] = []object{{"handle": []object{{
			"handler": "static_response", "body": "{http.request.remote} {http.proxy_protocol.authenticated}",
		}}}}
		return server
	}
	signature := object{"signature": object{"keys": []string{other, key}}}
	onlyNew := object{"signature": object{"keys": []string{key}}}
	run(t, "", object{
		"srv0": server(listed, onFor("127.0.0.1"), signature),
		"srv1": server(open, object{"wrapper": "proxy_protocol_mode", "mode": "on"}, onlyNew),
		"srv2": server(endpoint, onFor("127.0.0.1"), object{"tlvs": object{"aws_vpce_id": []string{"vpce-1"}}}),
	})
	for _, test := range []struct {
		name, address    string
		args             []string
		did              string
		verdict, closest string
		note             string
	}{
		{"signed", listed, []string{"--sign-key", forms[1]}, "..AA....", "on", "", "Headers need a signature: a bare one is refused."},
		{"signed with the old key", listed, []string{"--sign-key", other}, "..AA....", "on", "", "Headers need a signature: a bare one is refused."},
		{"not signed", listed, nil, "...A...", "other", "on", "The listener may require TLVs or a signature: use --tlv or --sign-key."},
		{"signed, without a list", open, []string{"--sign-key", key}, "..A.....", "on", "", "LOCAL headers are refused: if this peer sends them for health checks, add it to trusted_proxies."},
		{"signed with another key, without a list", open, []string{"--sign-key", other}, "........", "refused", "", "A port that forwards connections by server name may refuse other names: use --sni with a name that it serves."},
		{"not signed, without a list", open, nil, ".......", "refused", "", "A listener that requires TLVs or a signature refuses headers without: use --tlv or --sign-key."},
		{"TLV", endpoint, []string{"--tlv", "aws_vpce_id=vpce-1"}, "..AA....", "on", "", "Headers need these TLVs: a bare one is refused."},
		{"another TLV", endpoint, []string{"--tlv", "aws_vpce_id=vpce-2"}, "...A....", "other", "on", "The listener may require other TLVs, or the signature of another key."},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := check(t, append(test.args, test.address)...)
			assert.Equal(t, test.did, c.did("HTTP"))
			assert.Equal(t, test.verdict, c.Verdict, c.Differences)
			assert.Equal(t, test.closest, c.Closest)
			assert.Contains(t, c.Notes, test.note)
		})
	}

	output, err := proxyProtocol(t, "", "send", "--sign-key", forms[2], "--source", "203.0.113.7:51234", "http://"+open)
	require.NoError(t, err)
	assert.Contains(t, output, "203.0.113.7:51234 signature\n")
	_, err = proxyProtocol(t, "", "send", "--sign-key", other, "http://"+open)
	require.EqualError(t, err, "the server closed the connection without a response: it may refuse the header, or this peer")
	_, err = proxyProtocol(t, "", "send", "http://"+open)
	require.EqualError(t, err, "the server closed the connection without a response: it may refuse the header, or this peer")
	output, err = proxyProtocol(t, "", "send", "--tlv", "aws_vpce_id=vpce-1", "http://"+endpoint)
	require.NoError(t, err)
	assert.Contains(t, output, " tlv\n")
}
