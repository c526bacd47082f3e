package command_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestDecode(t *testing.T) {
	v2 := func(tlvs ...wire.TLV) []byte {
		h, err := wire.NewProxy(2, wire.Stream, headertest.Client4, headertest.Server4)
		return []byte(headertest.TextWith(h, err, len(tlvs) > 0, tlvs...))
	}
	all := v2(
		wire.TLV{Type: wire.TypeNoop, Value: []byte{0}},
		wire.TLV{Type: wire.TypeALPN, Value: []byte("h2")},
		wire.TLV{Type: wire.TypeAuthority, Value: []byte("example.com")},
		wire.TLV{Type: wire.TypeAuthority, Value: []byte("\x1b]0;owned\x07\u009b\xff")},
		wire.TLV{Type: wire.TypeUniqueID, Value: []byte("\x00\x01")},
		wire.TLV{Type: wire.TypeSSL, Value: []byte("\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.3\x22\x00\x01x")},
		wire.TLV{Type: wire.TypeSSL, Value: []byte("\x01")},
		wire.TLV{Type: 0xea, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
		wire.TLV{Type: 0xee, Value: []byte("\x01\x01\x00\x00\x00")},
		wire.TLV{Type: 0xe0, Value: []byte("\x00\x00\x00\x00\x00\x00\x00\x09")},
		wire.TLV{Type: 0xf1, Value: []byte("?")},
	)
	wrong := v2(wire.TLV{Type: wire.TypeALPN})
	wrong[len(wrong)-1]++
	asHex := hex.EncodeToString(v2())
	const v1 = "PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n"

	for _, test := range []struct {
		golden, input string
		invalid       bool
	}{
		{"v1", v1, false},
		{"v1_unknown", "PROXY UNKNOWN what ever\r\n", false},
		{"v1_request", v1 + "GET / HTTP/1.1\r\n\r\n", false},
		{"v2", string(v2()), false},
		{"v2_local", wire.SignatureV2 + "\x20\x11\x00\x03abc", false},
		{"v2_unix", wire.SignatureV2 + "\x21\x31\x00\xd8" + strings.Repeat("\x00", 216), false},
		{"v2_udp6", wire.SignatureV2 + "\x21\x22\x00\x24" + strings.Repeat("\x20", 36), false},
		{"v2_tlvs", string(all), false},
		{"two_headers", string(v2()) + v1, false},
		{"hex", asHex + "\n", false},
		{"hex", "0x" + strings.ToUpper(asHex), false},
		{"hex", strings.Join(pairs(asHex), " ") + "\n", false},
		{"hex", strings.Join(pairs(asHex), ":"), false},
		{"hex", "\\x" + strings.Join(pairs(asHex), "\\x") + "\n", false},
		{"hex", asHex[:32] + "\r\n" + asHex[32:] + "\r\n", false},
		{"hex_v1", hex.EncodeToString([]byte(v1)), false},
		{"base64", base64.StdEncoding.EncodeToString(v2()), false},
		{"base64", base64.RawURLEncoding.EncodeToString(v2()) + "\r\n", false},
		{"base64_v1", base64.RawURLEncoding.EncodeToString([]byte(v1)) + "\n", false},

		{"escaped_v1", escape.Text(v1) + "\n", false},
		{"escaped_v2", escape.Text(string(all)) + "\n", false},
		{"json_v1", `"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n"` + "\n", false},
		{"json_v1", `PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\u000d\u000a`, false},
		{"json_v1", `      "bytes": "` + hex.EncodeToString([]byte(v1)) + `",` + "\n", false},
		{"json_v1", jsonText(escape.Text(v1)) + ",\n", false},
		{"json_v1", `{"time":"2026-01-02T03:04:05Z","peer":"192.0.2.1:1","reason":"missing","bytes":` + jsonText(escape.Text(v1)) + `}`, false},
		{"json_v1", "2026/01/02 03:04:05.678\tWARN\tcaddy.listeners.proxy_protocol_mode\trefused connection\t" +
			`{"peer": "192.0.2.1:1", "received": "v1", "bytes": ` + jsonText(escape.Text(v1)) + `}`, false},
		{"json_v2", jsonText(escape.Text(string(v2()))), false},
		{"json_v2", `"\r\n\r\n\u0000\r\nQUIT\n!\u0011\u0000\f\u00cb\u0000q\u0007\u00c0\u0000\u0002\u0001\u00c8\u0022\u0001\u00bb"`, false},

		{"evidence_v1", hex.EncodeToString([]byte(v1)[:16]), true},
		{"evidence_v1_escaped", escape.Text(v1[:len(v1)-1]), true},
		{"evidence_v2", asHex[:32], true},
		{"evidence_v2_addresses", hex.EncodeToString(v2()[:27]), true},
		{"evidence_v2_tlvs", `"bytes":` + jsonText(escape.Text(string(all[:50]))), true},
		{"evidence_v2_local", escape.Text(wire.SignatureV2 + "\x20\x11\x00\x0fabc\x02\x00\x01x"), true},
		{"evidence_v2_command", escape.Text(wire.SignatureV2 + "\x21"), true},
		{"evidence_v2_unix", hex.EncodeToString([]byte(wire.SignatureV2 + "\x21\x31\x00\xff/run")), true},
		{"evidence_wrong_v1", escape.Text("PROXY TCP4 203.0.113.7 192.0.2.1 1 1 \r"), true},
		{"evidence_wrong_v1", jsonText(escape.Text("PROXY TCP4 203.0.113.7 192.0.2.1 1 1 \r"))[1:], true},
		{"evidence_wrong_keyword", escape.Text("PROXY TCP5 2"), true},
		{"evidence_wrong_v2", hex.EncodeToString([]byte(wire.SignatureV2 + "\x21\x11\x00\x20" + strings.Repeat("\x01", 12) + "\x02\x00\x40shop")), true},
		{"evidence_request", `"bytes":"` + hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")) + `"`, true},

		{"invalid_lf", "PROXY TCP4 203.0.113.7 192.0.2.1 51234 443\n", true},
		{"invalid_address", "PROXY TCP4 203.0.113.256 192.0.2.1 51234 443\r\n", true},
		{"invalid_destination", "PROXY TCP6 2001:db8::7 unix:/run/nginx/chain.sock 51234 0\r\n", true},
		{"invalid_checksum", string(wrong), true},
		{"invalid_version", hex.EncodeToString([]byte(wire.SignatureV2)) + "1100000c", true},
		{"invalid_length", base64.StdEncoding.EncodeToString([]byte(wire.SignatureV2 + "\x21\x11\x00\x0b")), true},
		{"invalid_cut_off", string(v2()[:20]), true},
		{"invalid_cut_off_signature", wire.SignatureV2[:5], true},
		{"invalid_cut_off_base64", "DQoNCg==", true},
		{"invalid_request", "GET / HTTP/1.1\r\n\r\n", true},
		{"invalid_almost_v1", "PROPFIND / HTTP/1.1\r\n\r\n", true},
		{"invalid_almost_v2", wire.SignatureV2[:11] + "\r", true},
		{"invalid_hex", "deadbeef", true},
		{"invalid_hostile", "PROXY \x1b[2J\x1b]0;owned\x07\r\n", true},
		{"invalid_nothing", "", true},
	} {
		t.Run(test.golden, func(t *testing.T) {
			var text string
			for _, flags := range [][]string{nil, {"--json"}} {
				args := append([]string{"proxy-protocol", "decode"}, flags...)
				output, err := caddy(t, test.input, args...)
				assert.Equal(t, test.invalid, err != nil)
				requireHarmless(t, output)
				text += transcript(output, err, args...)
			}
			requireGolden(t, "decode_"+test.golden, text)
		})
	}
}

// TestDecodeBeginnings asserts that no beginning of a valid header has a fault.
func TestDecodeBeginnings(t *testing.T) {
	h, err := wire.NewProxy(2, wire.Stream, headertest.Client6, headertest.Server6)
	checksum := string(headertest.TextWith(h, err, true, wire.TLV{Type: wire.TypeUniqueID, Value: make([]byte, 128)}, wire.TLV{Type: 0xe0}))
	for _, header := range []string{
		"PROXY TCP4 203.0.113.7 192.0.2.1 51234 443\r\n", "PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 0 65535\r\n",
		"PROXY TCP6 2001:db8:1:2:3:4:5:7 :: 10000 1\r\n", "PROXY TCP6 ::1 1:: 1 0\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN a\rb\r\n",
		checksum, wire.SignatureV2 + "\x20\x11\x00\x05abcde",
	} {
		for n := 1; n < len(header); n++ {
			for _, input := range []string{header[:n], hex.EncodeToString([]byte(header[:n]))} {
				output, err := proxyProtocol(t, input, "decode")
				require.EqualError(t, err, fmt.Sprintf("the PROXY protocol header is cut off after %d bytes", n))
				assert.Contains(t, output, "Cut off in the evidence")
				assert.NotContains(t, output, "Wrong at")
			}
		}
	}
}

// jsonText returns a text as JSON.
func jsonText(text string) string {
	b, err := json.Marshal(text)
	caddytest.Must(err)
	return string(b)
}

// pairs returns the pairs of digits of a text.
func pairs(digits string) []string {
	var pairs []string
	for ; digits != ""; digits = digits[2:] {
		pairs = append(pairs, digits[:2])
	}
	return pairs
}

func TestDecodeFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "header")
	require.NoError(t, os.WriteFile(file, []byte("PROXY UNKNOWN\r\n"), 0o600))
	fromFile, err := proxyProtocol(t, "", "decode", file)
	require.NoError(t, err)
	fromInput, err := proxyProtocol(t, "PROXY UNKNOWN\r\n", "decode", "-")
	require.NoError(t, err)
	assert.Equal(t, fromInput, fromFile)

	_, err = proxyProtocol(t, "", "decode", filepath.Join(dir, "missing"))
	require.ErrorContains(t, err, filepath.Join(dir, "missing"))
	_, err = proxyProtocol(t, "", "decode", dir)
	require.ErrorContains(t, err, dir)
	_, err = proxyProtocol(t, "", "decode", file, file)
	require.EqualError(t, err, "decode needs one file, or none, not 2")
}

func TestDecodeMuchInput(t *testing.T) {
	header := wire.SignatureV2 + "\x20\x00\xff\xff" + strings.Repeat("x", 1<<16-1)
	for _, input := range []string{
		header + strings.Repeat("x", 1<<20),
		"\\x" + strings.Join(pairs(hex.EncodeToString([]byte(header))), ", \\x"),
	} {
		output, err := proxyProtocol(t, input, "decode")
		require.NoError(t, err)
		assert.Contains(t, output, "65551 bytes, followed by ")
	}
}
