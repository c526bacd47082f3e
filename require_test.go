package proxyprotocol_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The secrets of tests.
var (
	lbKey    = base64.StdEncoding.EncodeToString([]byte("the load balancer's own key"))
	lbNewKey = base64.StdEncoding.EncodeToString([]byte("the key that comes after it"))
)

const (
	lbToken    = "an unguessable token"
	lbTokenHex = "616e20756e677565737361626c6520746f6b656e"
)

// signedHeader returns the header of a TCP connection with a signature, made with a key at a time.
func signedHeader(t testing.TB, key string, src, dst netip.AddrPort, at time.Time, tlvs ...wire.TLV) string {
	parsed, err := auth.ParseKey(key)
	require.NoError(t, err)
	h, err := wire.NewProxy(2, wire.Stream, src, dst)
	require.NoError(t, err)
	value, err := parsed.Sign(&h, at)
	require.NoError(t, err)
	return headertest.TextWith(h, nil, true, append(tlvs, wire.TLV{Type: auth.DefaultType, Value: value})...)
}

// writeKey writes a file as operators do, with a line feed at the end, and returns its placeholder.
func writeKey(t testing.TB, path, key string) string {
	require.NoError(t, os.WriteFile(path, []byte(key+"\n"), 0o600))
	return "{file." + path + "}"
}

func TestRequire_SignatureOverEveryTransport(t *testing.T) {
	port, securePort := caddytest.FreePort(t), caddytest.FreePort(t)
	key := writeKey(t, filepath.Join(t.TempDir(), "lb.key"), lbKey)
	options := caddytest.Wrappers("proxy_protocol_mode on {\nrequire signature " + key + "\n}\ntls")
	answer := "respond `{client_ip} {http.proxy_protocol.authenticated} {http.proxy_protocol.tlv.0xe5}`"
	c := caddytest.Start(t, options, strings.NewReplacer("respond {remote}", answer).Replace(
		caddytest.PlainSite(port)+caddytest.SecureSite(t, securePort)))
	for _, transport := range caddytest.Transports {
		for _, src := range []netip.AddrPort{headertest.Client4, headertest.Client6} {
			dst := headertest.Server4
			if src.Addr().Is6() {
				dst = headertest.Server6
			}
			at := port
			if transport.IsTLS() {
				at = securePort
			}
			_, body := caddytest.Get(t, transport, caddytest.TCP4(at), signedHeader(t, lbKey, src, dst, time.Now()), "/")
			assert.Equal(t, src.Addr().String()+" signature [redacted]", body)
		}
	}
	assert.Empty(t, c.Logs.Refusals(nil))
	for _, warning := range c.Logs.Warnings() {
		assert.NotContains(t, warning, "without 'trusted_proxies'", "the key is what is trusted")
	}
}

// A refused header reaches neither HTTP nor TLS, and is said to be unauthenticated everywhere.
func TestRequire_RefusesUnauthenticatedHeaders(t *testing.T) {
	port, securePort := caddytest.FreePort(t), caddytest.FreePort(t)
	t.Setenv("LB_KEY", lbKey)
	t.Setenv("LB_TOKEN_HEX", lbTokenHex)
	c := caddytest.Start(t,
		caddytest.Wrappers("proxy_protocol_mode on {\nrequire tlv 0xe1 {env.LB_TOKEN_HEX}\nrequire signature {env.LB_KEY} {\ntlv 0xe6\nmax_age 1m\n}\n}\ntls")+"metrics\n",
		caddytest.PlainSite(port)+caddytest.SecureSite(t, securePort))
	token := headertest.TextTLV(0xe1, lbToken)
	signed := func(key string, at time.Time) wire.TLV {
		tlv := tlvsOf(t, signedHeader(t, key, headertest.Client4, headertest.Server4, at))
		value, _ := tlv.First(auth.DefaultType)
		return wire.TLV{Type: 0xe6, Value: value}
	}
	now := time.Now()
	good := signed(lbKey, now)
	_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headertest.WithTLVs(token, good), "/")
	assert.Equal(t, headertest.Client4.String(), body)

	n := 0
	for name, test := range map[string]struct{ header, err string }{
		"no TLVs":           {headertest.V2(headertest.Client4, headertest.Server4), "require signature: the header has no signature"},
		"of another type":   {headertest.WithTLVs(token, wire.TLV{Type: 0xe5, Value: good.Value}), "require signature: the header has no signature"},
		"of another key":    {headertest.WithTLVs(token, signed(lbNewKey, now)), "require signature: the signature does not match: it was made with another key, or for other addresses"},
		"of another client": {headertest.TextWith(wire.Decode([]byte(headertest.V2(headertest.Client6, headertest.Server6)), 4096).Header, nil, true, token, good), "require signature: the signature does not match: it was made with another key, or for other addresses"},
		"old":               {headertest.WithTLVs(token, signed(lbKey, now.Add(-2*time.Hour))), "require signature: the signature is 72"},
		"from the future":   {headertest.WithTLVs(token, signed(lbKey, now.Add(2*time.Hour))), "require signature: the signature is from 7"},
		"malformed":         {headertest.WithTLVs(token, headertest.TextTLV(0xe6, "+"+string(good.Value))), "require signature: the time in the signature is not a decimal number"},
		"twice":             {headertest.WithTLVs(token, good, good), "require signature: the header has two signatures"},
		"without the token": {headertest.WithTLVs(good), "require tlv: the header has no 0xe1"},
		"the token longer":  {headertest.WithTLVs(good, headertest.TextTLV(0xe1, lbToken+"x")), "require tlv: the value of 0xe1 is not one of those that are required"},
		"v1":                {headertest.V1(headertest.Client4, headertest.Server4), "require: a version 1 header cannot carry what is required"},
		"LOCAL":             {headertest.Local(), "require: the header names no client"},
		"UNKNOWN":           {headertest.Unknown(1), "require: the header names no client"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, at := range []int{port, securePort} {
				tail := c.Logs.Tail()
				conn := caddytest.Dial(t, caddytest.TCP4(at))
				caddytest.Send(t, conn, test.header+caddytest.Request("/"))
				caddytest.RequireRefused(t, conn)
				entry := tail.WaitForRefusal(t, caddytest.Fields{"reason": "unauthenticated"})
				assert.Equal(t, "refused connection with unauthenticated PROXY protocol header", entry.Str("msg"))
				assert.Contains(t, entry.Str("error"), test.err)
			}
			n++
		})
	}
	assert.EqualValues(t, n, caddytest.Outcomes(t, caddytest.TCP4(port))["unauthenticated"])

	status, err := json.Marshal(caddytest.CurrentStatus(t))
	require.NoError(t, err)
	assert.Contains(t, string(status), `"require":["tlv 0xe1","signature in tlv 0xe6, max_age 1m0s"]`)
	entry := c.Logs.WaitFor(t, caddytest.Fields{"msg": "checking PROXY protocol headers"})
	assert.Equal(t, []any{"tlv 0xe1", "signature in tlv 0xe6, max_age 1m0s"}, entry.Get("require"))
	requireNoSecret(t, string(status), lbKey, lbTokenHex, lbToken, string(good.Value), string(good.Value[11:]))
	requireNoSecret(t, fmt.Sprint(c.Logs.Find(nil)), lbKey, lbTokenHex, lbToken, string(good.Value), string(good.Value[11:]))
}

// tlvsOf returns the TLVs of a header.
func tlvsOf(t testing.TB, header string) wire.TLVs {
	r := wire.Decode([]byte(header), wire.MaxSize)
	require.Equal(t, wire.Complete, r.State)
	return r.TLVs
}

// requireNoSecret asserts that no secret is in a text, neither as it is nor in hexadecimal or base64.
func requireNoSecret(t testing.TB, text string, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		for _, form := range []string{secret, fmt.Sprintf("%x", secret), base64.RawStdEncoding.EncodeToString([]byte(secret))} {
			require.NotContains(t, text, form)
		}
	}
}

// The value of a required 0xNN is shown nowhere, but matchers compare with it.
func TestRequire_RedactsSecretValues(t *testing.T) {
	t.Setenv("LB_KEY", lbKey)
	t.Setenv("LB_TOKEN_HEX", lbTokenHex)
	port := caddytest.FreePort(t)
	c := caddytest.Start(t,
		caddytest.Wrappers("proxy_protocol_mode on {\nrequire tlv 0xe1 00 {env.LB_TOKEN_HEX}\nrequire tlv aws_vpce_id\nrequire signature {env.LB_KEY}\n}"),
		fmt.Sprintf(`http://:%d {
			bind 127.0.0.1
			log
			log_append pp {http.proxy_protocol}
			log_append token {http.proxy_protocol.tlv.0xe1}
			log_append signature {http.proxy_protocol.tlv.0xE5}
			vars pp {http.proxy_protocol}
			@token proxy_protocol {
				tlv 0xe1 %s
			}
			@cel expression `+"`proxy_protocol('tlv:0xe1=%[2]s', 'tlv:0xe5')`"+`
			@shown expression `+"`{http.proxy_protocol.tlv.0xe1} == '[redacted]'`"+`
			header @token X-Token matches
			header @cel X-Cel matches
			header @shown X-Shown matches
			header X-Object {http.proxy_protocol}
			respond "{vars.pp} {http.proxy_protocol.tlv.0xe1} {http.proxy_protocol.tlv.0xe5} {http.proxy_protocol.tlv.aws_vpce_id} {http.proxy_protocol.tlv.0xea} {http.proxy_protocol.tlv.alibaba_vpc_id}"
		}
		`, port, lbTokenHex))
	header := signedHeader(t, lbKey, headertest.Client4, headertest.Server4, time.Now(),
		headertest.TextTLV(0xe1, lbToken), headertest.TextTLV(0xea, "\x01vpce-1"))
	value, _ := tlvsOf(t, header).First(auth.DefaultType)
	response, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), header, "/")
	for _, name := range []string{"X-Token", "X-Cel", "X-Shown"} {
		assert.Equal(t, "matches", response.Header.Get(name), name)
	}
	object := `{"authenticated":"signature","command":"PROXY","destination":"192.0.2.1:443","mode":"on","peer":"PEER","port_zero":false,"present":true,"source":"203.0.113.7:51234","tlv":{"0xe1":"[redacted]","0xe5":"[redacted]","aws_vpce_id":"vpce-1"},"transport":"TCP4","version":2}`
	entry := c.Logs.WaitFor(t, caddytest.OfAccess)
	object = strings.Replace(object, "PEER", entry.Str("pp.peer"), 1)
	assert.Equal(t, object+" [redacted] [redacted] vpce-1 01767063652d31 ", body)
	assert.JSONEq(t, object, response.Header.Get("X-Object"))
	logged, err := json.Marshal(entry.Get("pp"))
	require.NoError(t, err)
	assert.JSONEq(t, object, string(logged))
	assert.Equal(t, "[redacted]", entry.Str("token"))
	assert.Equal(t, "[redacted]", entry.Str("signature"))
	all := fmt.Sprint(body, response.Header, c.Logs.Find(nil))
	requireNoSecret(t, strings.ReplaceAll(all, "matches "+lbTokenHex, ""), lbKey, lbToken, string(value), string(value[11:]))
}

func TestRequire_SaysWhatWasAuthenticated(t *testing.T) {
	for name, test := range map[string]struct{ options, header, want string }{
		"nothing required": {"", headertest.WithTLVs(), ""},
		"a TLV":            {"require tlv aws_vpce_id vpce-1 vpce-2", headertest.WithTLVs(headertest.TextTLV(0xea, "\x01vpce-2")), "tlv"},
		"a signature":      {"require signature " + lbKey, signedHeader(t, lbKey, headertest.Client4, headertest.Server4, time.Now()), "signature"},
		"a health check":   {"require signature " + lbKey + "\ntrusted_proxies static 127.0.0.1", headertest.Local(), ""},
		"no header":        {"require signature " + lbKey + "\noff 127.0.0.1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on {\n"+test.options+"\n}"), fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nrespond \"is {http.proxy_protocol.authenticated}\"\n}\n", port))
			_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), test.header, "/")
			assert.Equal(t, "is "+test.want, body)
		})
	}
}

// While both keys are configured, no header is refused, whichever key the load balancer has. Right
// after a reload, Caddy may lose a new connection, or the last configuration may accept it.
func TestRequire_RotatesKeysWithoutAnOutage(t *testing.T) {
	port := caddytest.FreePort(t)
	path := filepath.Join(t.TempDir(), "lb.key")
	c := caddytest.New(t)
	get := func(key string) bool {
		_, body, err := caddytest.TryGet(t, caddytest.HTTP1, caddytest.TCP4(port), signedHeader(t, key, headertest.Client4, headertest.Server4, time.Now()), "/")
		return err == nil && body == headertest.Client4.String()
	}
	// reload loads keys, of which served are those of headers that must be served, and refused that
	// of one that must not.
	reload := func(keys, refused string, served ...string) {
		t.Helper()
		require.NoError(t, c.Load(caddytest.Wrappers("proxy_protocol_mode on {\nrequire signature "+keys+"\n}"), caddytest.PlainSite(port)))
		for _, key := range served {
			caddytest.Eventually(t, func() bool { return get(key) }, "the key is not in force")
		}
		if refused != "" {
			caddytest.Eventually(t, func() bool { return !get(refused) }, "the key is still in force")
		}
		for range 5 {
			for _, key := range served {
				assert.True(t, get(key))
			}
		}
		if refused != "" {
			assert.False(t, get(refused))
		}
	}
	old := writeKey(t, path, lbKey)
	next := writeKey(t, path+".new", lbNewKey)
	reload(old, lbNewKey, lbKey)
	reload(old+" "+next, "", lbKey, lbNewKey)
	reload(next+" "+old, "", lbKey, lbNewKey)
	reload(next, lbKey, lbNewKey)
	// The same configuration with another key in the file.
	writeKey(t, path+".new", lbKey)
	reload(next, lbNewKey, lbKey)
}

func TestRequire_ConfigShowsWhatWasWritten(t *testing.T) {
	t.Setenv("LB_KEY", lbKey)
	t.Setenv("LB_TOKEN_HEX", lbTokenHex)
	port, admin := caddytest.FreePort(t), caddytest.FreePort(t)
	c := caddytest.New(t)
	config := strings.Replace(c.Caddyfile(
		caddytest.Wrappers("proxy_protocol_mode on {\nrequire tlv 0xe1 {env.LB_TOKEN_HEX}\nrequire signature {env.LB_KEY}\n}"),
		caddytest.PlainSite(port)), "admin off", fmt.Sprintf("admin 127.0.0.1:%d", admin), 1)
	require.NoError(t, c.LoadCaddyfile(config))
	for _, path := range []string{"/config/", "/proxy_protocol/status", "/metrics", "/debug/vars"} {
		r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", admin, path), nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		w := httptest.NewRecorder()
		require.NoError(t, response.Write(w))
		require.NoError(t, response.Body.Close())
		requireNoSecret(t, w.Body.String(), lbKey, lbTokenHex, lbToken)
		if path == "/config/" {
			assert.Contains(t, w.Body.String(), `"require":{"signature":{"keys":["{env.LB_KEY}"]},"tlvs":{"0xe1":["{env.LB_TOKEN_HEX}"]}}`)
		}
	}
}

// The errors of a configuration do not quote a secret.
func TestRequire_ErrorsOfTheConfiguration(t *testing.T) {
	t.Setenv("LB_SHORT", base64.StdEncoding.EncodeToString([]byte("5ecret")))
	t.Setenv("LB_TEXT", "5ecret in the clear")
	t.Setenv("LB_NOTHING", "")
	missing := filepath.Join(t.TempDir(), "missing.key")
	t.Setenv("LB_KEY", lbKey)
	const key = `"{env.LB_KEY}"`
	for name, test := range map[string]struct{ wrapper, err string }{
		"nothing":                {`"require":{}`, "require: nothing is required: write 'tlv' with a name, or 'signature' with a key"},
		"off":                    {`"mode":"off","require":{"tlvs":{"aws_vpce_id":[]}}`, "require: not allowed under mode 'off', which refuses every header: remove it, or set the mode to 'on'"},
		"off, signature":         {`"mode":"off","require":{"signature":{"keys":[` + key + `]}}`, "require: not allowed under mode 'off'"},
		"version v1":             {`"version":"v1","require":{"tlvs":{"aws_vpce_id":[]}}`, "require: v1 headers cannot carry what 'require' demands: remove one of the two options"},
		"no keys":                {`"require":{"signature":{}}`, "require: signature.keys: missing: write at least one"},
		"a short key":            {`"require":{"signature":{"keys":[` + key + `,"{env.LB_SHORT}"]}}`, "require: signature.keys: key 2 has 6 bytes, but needs at least 16: make one with: caddy proxy-protocol keygen"},
		"a key in the clear":     {`"require":{"signature":{"keys":["{env.LB_TEXT}"]}}`, "require: signature.keys: key 1 is not in base64: make one with: caddy proxy-protocol keygen"},
		"an empty variable":      {`"require":{"signature":{"keys":["{env.LB_NOTHING}"]}}`, "require: signature.keys: key 1: evaluated placeholder {env.LB_NOTHING} is empty: set it before Caddy loads the configuration"},
		"an unknown placeholder": {`"require":{"signature":{"keys":["{evn.LB_KEY}"]}}`, "require: signature.keys: key 1: unrecognized placeholder {evn.LB_KEY}: set it before Caddy loads the configuration"},
		"a missing file":         {`"require":{"signature":{"keys":["{file.` + missing + `}"]}}`, "require: signature.keys: key 1: evaluated placeholder {file." + missing + "} is empty: set it before Caddy loads the configuration"},
		"an open placeholder":    {`"require":{"signature":{"keys":["{env.LB_TEXT"]}}`, "require: signature.keys: key 1 is not in base64"},
		"a token in the clear":   {`"require":{"tlvs":{"0xe1":["{env.LB_TEXT}"]}}`, "require: tlvs: 0xe1: value 1 is not hexadecimal: use pairs of digits such as 0aff"},
		"an empty token":         {`"require":{"tlvs":{"0xe1":["{env.LB_NOTHING}"]}}`, "require: tlvs: 0xe1: value 1: evaluated placeholder {env.LB_NOTHING} is empty"},
		"an unknown TLV":         {`"require":{"tlvs":{"vpce":[]}}`, "require: tlvs: unknown TLV name 'vpce': use "},
		"a zero max_age":         {`"require":{"signature":{"keys":[` + key + `],"max_age":0}}`, "require: signature.max_age: 0s is shorter than 1s: use a value such as 30s"},
		"another type":           {`"require":{"signature":{"keys":[` + key + `],"tlv":"0x20"}}`, "require: signature.tlv: 0x20 is a type that the PROXY protocol specification defines: use one of 0xe0 to 0xef"},
	} {
		t.Run(name, func(t *testing.T) {
			c := caddytest.New(t)
			err := c.LoadJSON(fmt.Sprintf(`{"http":{"servers":{"srv0":{"listen":["127.0.0.1:%d"],"listener_wrappers":[{"wrapper":"proxy_protocol_mode",%s}]}}}}`, caddytest.FreePort(t), test.wrapper))
			require.ErrorContains(t, err, test.err)
			requireNoSecret(t, err.Error()+fmt.Sprint(c.Logs.Find(nil)), "5ecret", lbKey)
			if !strings.Contains(test.wrapper, "version") {
				err = c.LoadJSON(fmt.Sprintf(`{"http":{"servers":{"srv0":{"listen":["127.0.0.1:%d"],"packet_conn_wrappers":[{"wrapper":"proxy_protocol_mode",%s}]}}}}`, caddytest.FreePort(t), test.wrapper))
				require.ErrorContains(t, err, test.err, "the packet wrapper says the same")
			}
		})
	}
}

func TestRequire_PacketWrapperRefusesASignature(t *testing.T) {
	const want = "a signature cannot be required of datagrams: each one has the header of its connection, which lives longer than max_age: use 'require tlv' here, with a secret value such as 'require tlv 0xe1 {env.LB_TOKEN_HEX}'"
	_, err := caddytest.Adapt("{\n\tservers {\n\t\tpacket_conn_wrappers {\n\t\t\tproxy_protocol_mode on {\n\t\t\t\ttrusted_proxies static 127.0.0.1\n\t\t\t\trequire signature " + lbKey + "\n\t\t\t}\n\t\t}\n\t}\n}\n:1234\n")
	assert.ErrorContains(t, err, "require signature: "+want)
	err = caddytest.New(t).LoadJSON(fmt.Sprintf(`{"http":{"servers":{"srv0":{"listen":["127.0.0.1:%d"],"packet_conn_wrappers":[{"wrapper":"proxy_protocol_mode","require":{"signature":{"keys":[%q]}}}]}}}}`, caddytest.FreePort(t), lbKey))
	assert.ErrorContains(t, err, "require: "+want)
	requireNoSecret(t, err.Error(), lbKey)
}

func TestRequire_Warnings(t *testing.T) {
	const believesAnyone = "mode 'on' without 'trusted_proxies' accepts headers from any peer"
	for options, want := range map[string]bool{
		"require tlv aws_vpce_id vpce-1": true,
		"require signature " + lbKey:     false,
	} {
		c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on {\n"+options+"\n}"), caddytest.PlainSite(caddytest.FreePort(t)))
		assert.Equal(t, want, strings.Contains(fmt.Sprint(c.Logs.Warnings()), believesAnyone), options)
	}
}

// An environment variable in the form {$NAME} that is not set leaves no value, which is valid.
func TestRequire_TLVWithoutValuesIsWarnedOf(t *testing.T) {
	for lines, want := range map[string]bool{
		"require tlv 0xe1": true,
		"require tlv aws_vpce_id vpce-1\nrequire tlv 0xe1 {$UNSET_IN_THIS_TEST}": true,
		"require tlv 0xe1 aa": false,
	} {
		c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on {\n"+lines+"\n}"), caddytest.PlainSite(caddytest.FreePort(t)))
		warned := strings.Contains(fmt.Sprint(c.Logs.Warnings()), "'require tlv' without values accepts any value")
		assert.Equal(t, want, warned, lines)
		c.Stop()
	}
}

func TestRequire_TLVsOfDatagrams(t *testing.T) {
	port := caddytest.FreePort(t)
	t.Setenv("LB_TOKEN_HEX", lbTokenHex)
	demand := "require tlv 0xe1 {env.LB_TOKEN_HEX}"
	c := caddytest.Start(t,
		caddytest.Packets("on {\n"+demand+"\n}", "on {\ntrusted_proxies static 127.0.0.2\n"+demand+"\n}"),
		caddytest.HTTP3Site(t, port, "header X-Proof \"{http.proxy_protocol.authenticated} {http.proxy_protocol.tlv.0xe1}\""))
	token := headertest.TextTLV(0xe1, lbToken)
	relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.UDP(headertest.Client4, headertest.Server4, token))
	client := caddytest.NewHTTP3Client(t, relay.Address())
	response, body := client.Get("/")
	assert.Contains(t, body, headertest.Client4.String())
	assert.Equal(t, "tlv [redacted]", response.Header.Get("X-Proof"))

	local := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), headertest.Local())
	response, _ = caddytest.NewHTTP3Client(t, local.Address()).Get("/")
	assert.Equal(t, "", strings.TrimSpace(response.Header.Get("X-Proof")), "a health check of a trusted peer")

	for _, header := range []string{
		headertest.UDP(headertest.Client4, headertest.Server4),
		headertest.UDP(headertest.Client4, headertest.Server4, headertest.TextTLV(0xe1, lbToken+"x")),
	} {
		tail := c.Logs.Tail()
		udp := caddytest.ListenUDP(t, "127.0.0.2")
		_, err := udp.WriteToUDPAddrPort([]byte(header+"some payload"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)))
		require.NoError(t, err)
		entry := tail.WaitFor(t, caddytest.Fields{"reason": "unauthenticated"})
		assert.Equal(t, "dropped datagram with unauthenticated PROXY protocol header", entry.Str("msg"))
		assert.Contains(t, entry.Str("error"), "require tlv: the ")
	}
	assert.EqualValues(t, 2, caddytest.Datagrams(t)["unauthenticated"])
	requireNoSecret(t, fmt.Sprint(c.Logs.Find(nil)), lbToken, lbTokenHex)
}

// A connection that was accepted before a TLV was required is not served afterwards, and its TLV is
// not shown.
func TestRequire_TLVsOfDatagramsAfterAReload(t *testing.T) {
	port := caddytest.FreePort(t)
	site := caddytest.HTTP3Site(t, port, "header X-Token {http.proxy_protocol.tlv.0xe1}")
	load := func(c *caddytest.Caddy, required string) {
		require.NoError(t, c.Load(caddytest.SoonIdle(caddytest.Packets("", "on {\ntrusted_proxies static 127.0.0.2\n"+required+"\n}")), site))
	}
	c := caddytest.New(t)
	load(c, "")
	token := headertest.UDP(headertest.Client4, headertest.Server4, headertest.TextTLV(0xe1, lbToken))
	relay := caddytest.StartRelay(t, "127.0.0.2", caddytest.TCP4(port), token)
	client := caddytest.NewHTTP3Client(t, relay.Address())
	response, _ := client.Get("/")
	assert.Equal(t, lbTokenHex, response.Header.Get("X-Token"), "nothing is secret yet")
	load(c, "require tlv 0xe1 "+lbTokenHex)
	response, _ = caddytest.EventuallyHTTP3(t, relay.Address(), http.StatusOK, headertest.Client4.String())
	assert.Equal(t, "[redacted]", response.Header.Get("X-Token"))
	response, _ = client.Get("/") // over the old connection, or over a new one
	assert.NotEqual(t, lbTokenHex, response.Header.Get("X-Token"))
}

// HTTP/3 is no way around what TCP requires.
func TestRequire_DisablesHTTP3ThatRequiresLess(t *testing.T) {
	const trusted = "trusted_proxies static 127.0.0.1 127.0.0.2\n"
	for name, test := range map[string]struct {
		listener, packet string
		missing          string
	}{
		"the same":                   {"require tlv 0xe1 00 01", "require tlv 0xe1 00 01", ""},
		"more":                       {"require tlv 0xe1 00", "require tlv 0xe1 00\nrequire tlv aws_vpce_id", ""},
		"nothing required over TCP":  {"", "require tlv 0xe1 00", ""},
		"nothing required over UDP":  {"require tlv 0xe1 00", "", "the same TLV 0xe1"},
		"another TLV":                {"require tlv 0xe1 00", "require tlv 0xe2 00", "the same TLV 0xe1"},
		"other values":               {"require tlv 0xe1 00", "require tlv 0xe1 00 01", "the same TLV 0xe1"},
		"any value":                  {"require tlv 0xe1 00", "require tlv 0xe1", "the same TLV 0xe1"},
		"a signature":                {"require signature " + lbKey, "require tlv 0xe1 00", "a signature"},
		"a signature, http3 allowed": {"http3 allow\nrequire signature " + lbKey, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, caddytest.Packets("on {\n"+trusted+test.listener+"\n}", "on {\n"+trusted+test.packet+"\n}"), caddytest.HTTP3Site(t, port, ""))
			assert.Equal(t, test.missing == "", caddytest.ListensOnUDP(t, port))
			warnings := fmt.Sprint(c.Logs.Warnings())
			if test.missing == "" {
				assert.NotContains(t, warnings, "HTTP/3 is disabled")
				return
			}
			assert.Contains(t, warnings, "HTTP/3 is disabled: 'proxy_protocol_mode' in 'packet_conn_wrappers' does not require "+test.missing+", so HTTP/3 would bypass 'require'; to keep it anyway, add 'http3 allow' to 'proxy_protocol_mode'")
		})
	}
}
