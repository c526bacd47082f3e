//go:build interop

package interop

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// haproxyProgram is one of the versions of HAProxy that the tests start.
type haproxyProgram struct {
	name string
	// path returns the program's path. It fails the test if the program is not there.
	path func(t testing.TB) string
}

// haproxies are the versions of HAProxy: that of the machine, and that of Debian 13. On Debian 13 and
// later both are the same.
var haproxies = []haproxyProgram{
	{"HAProxy", func(t testing.TB) string {
		t.Helper()
		return peers.Need(t, "haproxy", "haproxy")
	}},
	{"HAProxy 3", func(t testing.TB) string {
		t.Helper()
		cache, err := os.UserCacheDir()
		require.NoError(t, err)
		path := filepath.Join(cache, "caddy-proxy-protocol", "haproxy-trixie", "haproxy")
		require.FileExists(t, path, "HAProxy 3 is not there: interop/install-haproxy")
		return path
	}},
}

// haproxySenders returns all ways to set up HAProxy, with all versions.
func haproxySenders() []sender {
	all := haproxies[0].senders()
	for _, s := range haproxies[1].senders() {
		s.brief = true // the first version does the large uploads and downloads
		all = append(all, s)
	}
	return append(all, sender{
		// HAProxy has this option since version 2.9. The first TLV is text with the client's
		// address in it, the second has bytes that are not text.
		name:      haproxies[1].name + " set-proxy-v2-tlv-fmt",
		protocols: []protocol{http1, http2Through, http2Ended},
		version:   2,
		brief:     true,
		start: haproxies[1].starter("mode tcp", "", `send-proxy-v2 proxy-v2-options crc32c `+
			`set-proxy-v2-tlv-fmt(0xE5) "client %[src]" set-proxy-v2-tlv-fmt(0xEA) "%[bin(01767063652d31)]"`),
		tells: func(expected *answer, l leg, client *tls.ConnectionState) {
			haproxyTells(expected, l, client)
			expected.crc32c = true
			expected.tell("0xe5", hex.EncodeToString([]byte("client "+expected.clientIP)))
			expected.tell("aws_vpce_id", "vpce-1")
		},
	})
}

// senders returns the ways to set up any version.
func (p haproxyProgram) senders() []sender {
	return []sender{
		{
			name:      p.name + " send-proxy",
			protocols: everyProtocol,
			version:   1,
			start:     p.starter("mode tcp", "", "send-proxy"),
		},
		{
			name:      p.name + " send-proxy-v2",
			protocols: everyProtocol,
			version:   2,
			start:     p.starter("mode tcp", "", "send-proxy-v2"),
			tells:     haproxyTells,
		},
		{
			name:      p.name + " send-proxy-v2-ssl-cn",
			protocols: everyProtocol,
			version:   2,
			start:     p.starter("mode tcp", "", "send-proxy-v2-ssl-cn"),
			tells: func(expected *answer, l leg, client *tls.ConnectionState) {
				haproxyTells(expected, l, client)
				// Without TLS, the TLV says that there is no TLS.
				expected.tell("ssl.verified", strconv.FormatBool(l.balancerTLS()))
				if l.balancerTLS() {
					expected.tell("ssl.version", opensslVersion(client))
					expected.tell("ssl.cn", clientName)
				}
			},
		},
		{
			name:      p.name + ", all proxy-v2-options",
			protocols: everyProtocol,
			version:   2,
			start:     p.starter("mode tcp", "", "send-proxy-v2 proxy-v2-options "+haproxyOptions),
			tells:     haproxyTellsAll,
		},
		{
			// HAProxy does not pass TLS through in this mode. If an HTTP/2 server closes a connection
			// without an answer, versions 2.6 and 3.0 only notice it after the connect timeout.
			name:       p.name + ", mode http",
			protocols:  []protocol{http1, h2c, http1Ended, http2Ended, http1Repeated, http2Repeated},
			version:    2,
			start:      p.starter("mode http\n\thttp-reuse always\n\ttimeout connect 3s", "", "send-proxy-v2"),
			tells:      haproxyTells,
			speaksHTTP: true,
		},
	}
}

// haproxyOptions are all proxy-v2-options that every version has.
const haproxyOptions = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"

// haproxy returns a starter of the machine's HAProxy with these options.
func haproxy(options, listen, send string) starter {
	return haproxies[0].starter(options, listen, send)
}

// starter returns a starter of this version. options are general options, listen those of bind lines,
// and send those of server lines.
func (p haproxyProgram) starter(options, listen, send string) starter {
	return func(t testing.TB, c *caddy, headers bool, legs []leg) {
		t.Helper()
		program := p.path(t)
		var config strings.Builder
		fmt.Fprintf(&config, `
defaults
	timeout client 30s
	timeout server 30s
	timeout connect 30s
	retries 0
	%s
`, options)
		var listening []string
		for i, l := range legs {
			bind, server := listen, onlyIf(headers, send)
			if l.balancerTLS() {
				bind += " ssl crt FILES/server.pem ca-file FILES/ca.pem verify optional alpn " + l.alpn()
			}
			switch {
			case l.balancerTLS() && l.caddyTLS():
				server += " ssl ca-file FILES/ca.pem verify required verifyhost localhost sni str(localhost) alpn " + l.alpn()
			case strings.HasPrefix(options, "mode http") && l.http2:
				server += " proto h2"
			}
			fmt.Fprintf(&config, `
listen leg%d
	bind %s %s
	unique-id-format id-of-%%[src]:%%[src_port]
	server caddy %s %s
`, i, l.listen, bind, l.caddy, server)
			listening = append(listening, l.listen)
		}
		dir := peers.Files(t, map[string]string{"haproxy.cfg": strings.ReplaceAll(config.String(), "FILES", c.files)})
		peers.Start(t, listening, program, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	}
}

// haproxyTells adds the TLV that all headers of version 2 have if HAProxy ends the client's TLS.
func haproxyTells(expected *answer, l leg, _ *tls.ConnectionState) {
	if l.balancerTLS() {
		expected.tell("alpn", l.alpn())
	}
}

// haproxyTellsAll adds the TLVs of headers with all options.
func haproxyTellsAll(expected *answer, l leg, client *tls.ConnectionState) {
	haproxyTells(expected, l, client)
	expected.crc32c = true
	expected.tell("unique_id", "id-of-"+unbracketed(expected.proxyProtocol.Source))
	expected.tell("ssl.verified", strconv.FormatBool(l.balancerTLS()))
	if l.balancerTLS() {
		expected.tell("authority", "localhost")
		expected.tell("ssl.version", opensslVersion(client))
		expected.tell("ssl.cn", clientName)
		expected.tell("ssl.cipher", tls.CipherSuiteName(client.CipherSuite))
		expected.tell("ssl.key_alg", "EC256")
		expected.tell("ssl.sig_alg", "ecdsa-with-SHA256")
	}
}
