//go:build interop

package interop

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mastercactapus/proxyprotocol"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// sender is a load balancer, set up in some way.
type sender struct {
	name      string
	protocols []protocol
	// version is that of its headers.
	version int
	start   starter
	// tells changes what headers are expected to tell, if it is more or less than both
	// addresses. The client's TLS connection is nil if there is none.
	tells func(expected *answer, l leg, client *tls.ConnectionState)
	// speaksHTTP says that it answers by itself if Caddy does not.
	speaksHTTP bool
	// brief leaves out large uploads and downloads.
	brief bool
}

// starter runs a load balancer until the test ends, with headers or without, so that it
// forwards along some legs.
type starter func(t testing.TB, c *caddy, headers bool, legs []leg)

// leg is a way through a load balancer.
type leg struct {
	protocol
	// front is between client and load balancer, back between that and Caddy.
	front, back family
	// listen is where the load balancer listens, caddy where it connects to.
	listen, caddy string
}

func (l leg) String() string { return fmt.Sprintf("%s, %s to %s", l.protocol.name, l.front, l.back) }

// leg is a way to a server of Caddy.
func (p protocol) leg(t testing.TB, front, back family, s server) leg {
	t.Helper()
	return leg{p, front, back, front.freeAddress(t), s.address(back, p.caddyTLS())}
}

// legs are all ways through the sender to a server of Caddy.
func (s sender) legs(t testing.TB, to server) (legs []leg) {
	t.Helper()
	for _, p := range s.protocols {
		for _, front := range []family{ipv4, ipv6} {
			for _, back := range []family{ipv4, ipv6} {
				legs = append(legs, p.leg(t, front, back, to))
			}
		}
	}
	return legs
}

// senders are all that there are, with the protocols that they can be set up for.
var senders = append(haproxySenders(), []sender{
	{
		// It has no option for the protocol of the TLS connection that it begins (ALPN),
		// so Caddy would not speak HTTP/2.
		name:      "nginx stream",
		protocols: []protocol{http1, h2c, http1Through, http2Through, http1Ended, http2Ended, http1Repeated},
		version:   1,
		start:     nginx("", ""),
	},
	{
		// It is there to end TLS, and has no option for the protocol in it (ALPN), which
		// HTTP/2 needs.
		name:      "stunnel",
		protocols: []protocol{http1Ended},
		version:   1,
		start:     stunnel,
	},
	{
		// It is there to end TLS.
		name:      "hitch write-proxy-v1",
		protocols: []protocol{http1Ended, http2Ended},
		version:   1,
		start:     hitch("write-proxy-v1 = on"),
	},
	{
		name:      "hitch write-proxy-v2",
		protocols: []protocol{http1Ended, http2Ended},
		version:   2,
		start:     hitch("write-proxy-v2 = on"),
		tells: func(expected *answer, l leg, client *tls.ConnectionState) {
			expected.tell("alpn", l.alpn())
			expected.tell("authority", "localhost")
			expected.tell("ssl.version", opensslVersion(client))
			expected.tell("ssl.cipher", tls.CipherSuiteName(client.CipherSuite))
			expected.tell("ssl.verified", "false") // it does not ask for a certificate
		},
	},
	{
		// It does not pass TLS through.
		name:       "Caddy reverse_proxy v1",
		protocols:  []protocol{http1, h2c, http1Ended, http2Ended, http1Repeated, http2Repeated},
		version:    1,
		start:      reverseProxy("", "proxy_protocol v1"),
		tells:      caddyTells,
		speaksHTTP: true,
	},
	{
		name:       "Caddy reverse_proxy v2",
		protocols:  []protocol{http1, h2c, http1Ended, http2Ended, http1Repeated, http2Repeated},
		version:    2,
		start:      reverseProxy("", "proxy_protocol v2"),
		tells:      caddyTells,
		speaksHTTP: true,
	},
	{
		name:      "mastercactapus/proxyprotocol v1",
		protocols: passThrough,
		version:   1,
		start: relay(func(client, server *net.TCPAddr) io.WriterTo {
			return proxyprotocol.HeaderV1{SrcIP: client.IP, SrcPort: client.Port, DestIP: server.IP, DestPort: server.Port}
		}),
	},
	{
		name:      "mastercactapus/proxyprotocol v2",
		protocols: passThrough,
		version:   2,
		start: relay(func(client, server *net.TCPAddr) io.WriterTo {
			return proxyprotocol.HeaderV2{Command: proxyprotocol.CmdProxy, Src: client, Dest: server}
		}),
	},
	{
		name:      "pires/go-proxyproto v1",
		protocols: passThrough,
		version:   1,
		start: relay(func(client, server *net.TCPAddr) io.WriterTo {
			return proxyproto.HeaderProxyFromAddrs(1, client, server)
		}),
	},
	{
		name:      "pires/go-proxyproto v2",
		protocols: passThrough,
		version:   2,
		start: relay(func(client, server *net.TCPAddr) io.WriterTo {
			header := proxyproto.HeaderProxyFromAddrs(2, client, server)
			err := header.SetTLVs([]proxyproto.TLV{
				{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte("id-of-" + client.String())},
				{Type: proxyproto.PP2_TYPE_NOOP, Value: make([]byte, 600)}, // more than fits into most buffers
				{Type: tlvparse.PP2_TYPE_AWS, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
			})
			if err != nil {
				panic(err)
			}
			return header
		}),
		tells: func(expected *answer, l leg, client *tls.ConnectionState) {
			expected.tell("unique_id", "id-of-"+expected.proxyProtocol.Source)
			expected.tell("aws_vpce_id", "vpce-08d2bf15fac5001c9")
		},
	},
}...)

// everyProtocol is what a load balancer can do that passes on bytes, with or without TLS.
var everyProtocol = []protocol{http1, h2c, http1Through, http2Through, http1Ended, http2Ended, http1Repeated, http2Repeated}

// passThrough is what a load balancer can do that knows nothing of TLS.
var passThrough = []protocol{http1, h2c, http1Through, http2Through}

// clientName is the common name of the client's certificate.
const clientName = "client.test"

// tell adds what a TLV says.
func (a *answer) tell(name, value string) {
	if a.proxyProtocol.TLV == nil {
		a.proxyProtocol.TLV = make(map[string]string)
	}
	a.proxyProtocol.TLV[name] = value
}

// onlyIf is a text or nothing.
func onlyIf(condition bool, text string) string {
	if condition {
		return text
	}
	return ""
}

// opensslVersion is what OpenSSL calls the version of TLS.
func opensslVersion(state *tls.ConnectionState) string {
	return strings.Replace(tls.VersionName(state.Version), "TLS ", "TLSv", 1)
}

// nginx runs nginx with its stream module, with these parameters of addresses that it
// listens at, and directives.
func nginx(listen, directives string) starter {
	return func(t testing.TB, c *caddy, headers bool, legs []leg) {
		t.Helper()
		program := peers.Need(t, "nginx", "nginx libnginx-mod-stream")
		require.FileExists(t, nginxStream, "type: apt-get install -y libnginx-mod-stream")
		var servers strings.Builder
		var listening []string
		for _, l := range legs {
			fmt.Fprintf(&servers, `
	server {
		listen %s %s %s;
		proxy_pass %s;
		%s
		%s
		%s
	}
`, l.listen, listen, onlyIf(l.balancerTLS(), "ssl"), l.caddy,
				onlyIf(headers, "proxy_protocol on;"),
				onlyIf(l.balancerTLS(), "ssl_alpn "+l.alpn()+";"),
				onlyIf(l.balancerTLS() && l.caddyTLS(), "proxy_ssl on;"))
			listening = append(listening, l.listen)
		}
		dir := peers.Files(t, map[string]string{"nginx.conf": strings.ReplaceAll(`
load_module `+nginxStream+`;
daemon off;
master_process off;
pid DIR/pid;
error_log stderr;
events {}
stream {
	ssl_certificate FILES/server.pem;
	ssl_certificate_key FILES/key.pem;
	proxy_ssl_name localhost;
	proxy_ssl_server_name on;
	proxy_ssl_verify on;
	proxy_ssl_trusted_certificate FILES/ca.pem;
	`+directives+servers.String()+`}
`, "FILES", c.files)})
		peers.Start(t, listening, program, "-c", filepath.Join(dir, "nginx.conf"), "-p", dir, "-e", "stderr")
	}
}

// nginxStream is nginx's module for TCP, as Debian has it.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// stunnel runs stunnel as the end of clients' TLS.
func stunnel(t testing.TB, c *caddy, headers bool, legs []leg) {
	t.Helper()
	program := peers.Need(t, "stunnel4", "stunnel4")
	config := "foreground = yes\npid =\n"
	var listening []string
	for _, l := range legs {
		config += fmt.Sprintf("[%s]\naccept = %s\nconnect = %s\ncert = %s\nkey = %s\n%s\n", strings.Trim(l.listen, "[]"),
			unbracketed(l.listen), unbracketed(l.caddy), filepath.Join(c.files, "server.pem"), filepath.Join(c.files, "key.pem"),
			onlyIf(headers, "protocol = proxy"))
		listening = append(listening, l.listen)
	}
	dir := peers.Files(t, map[string]string{"stunnel.conf": config})
	peers.Start(t, listening, program, filepath.Join(dir, "stunnel.conf"))
}

// unbracketed is an address with its IPv6 address as it is.
func unbracketed(address string) string {
	return strings.NewReplacer("[", "", "]", "").Replace(address)
}

// hitch runs one hitch with some options for each leg, because it has one backend and one
// list of protocols.
func hitch(options string) starter {
	return func(t testing.TB, c *caddy, headers bool, legs []leg) {
		t.Helper()
		program := peers.Need(t, "hitch", "hitch")
		for _, l := range legs {
			dir := peers.Files(t, map[string]string{"hitch.conf": fmt.Sprintf(`
frontend = %q
backend = %q
pem-file = %q
alpn-protos = %q
workers = 1
%s
%s
`, bracketed(l.listen), bracketed(l.caddy), filepath.Join(c.files, "server.pem"), l.alpn(),
				onlyIf(os.Getuid() == 0, `user = "nobody"`), strings.ReplaceAll(onlyIf(headers, options), "FILES", c.files))})
			peers.Start(t, []string{l.listen}, program, "--config", filepath.Join(dir, "hitch.conf"))
		}
	}
}

// bracketed is an address as hitch writes it: [127.0.0.1]:80.
func bracketed(address string) string {
	at := strings.LastIndex(address, ":")
	return "[" + strings.Trim(address[:at], "[]") + "]" + address[at:]
}

// reverseProxy runs Caddy in front of Caddy, with these options of servers and of the
// transport.
func reverseProxy(options, send string) starter {
	return func(t testing.TB, c *caddy, headers bool, legs []leg) {
		t.Helper()
		config := `{
	admin off
	persist_config off
	skip_install_trust
	auto_https disable_redirects
	grace_period 1s
	storage file_system DIR/storage
	servers {
		protocols h1 h2 h2c
		` + options + `
	}
}
`
		var listening []string
		for _, l := range legs {
			scheme, upstream, versions := "http", l.caddy, "1.1"
			if l.balancerTLS() {
				scheme = "https"
			}
			switch {
			case l.http2 && l.caddyTLS():
				versions = "2"
			case l.http2:
				versions = "h2c 2"
			}
			config += fmt.Sprintf(`%s://localhost:%s {
	bind %s
	%s
	reverse_proxy %s {
		transport http {
			versions %s
			%s
			%s
		}
	}
}
`, scheme, l.listen[strings.LastIndex(l.listen, ":")+1:], l.front.server(),
				onlyIf(l.balancerTLS(), "tls FILES/server.pem FILES/key.pem"),
				upstream, versions, onlyIf(headers, send),
				onlyIf(l.caddyTLS(), "tls\ntls_server_name localhost\ntls_trust_pool file FILES/ca.pem"))
			listening = append(listening, l.listen)
		}
		dir := peers.Files(t, map[string]string{"Caddyfile": strings.ReplaceAll(config, "FILES", c.files)})
		peers.Start(t, listening, caddyProgram, "run", "--config", filepath.Join(dir, "Caddyfile"))
	}
}

// caddyTells is what Caddy's reverse_proxy writes into headers: no client port, and no
// destination.
func caddyTells(expected *answer, l leg, _ *tls.ConnectionState) {
	noPort := net.JoinHostPort(expected.clientIP, "0")
	expected.remote, expected.headerClient, expected.proxyProtocol.Source = noPort, noPort, noPort
	expected.server = l.caddy
	expected.proxyProtocol.Destination = "0.0.0.0:0"
	if strings.Contains(expected.clientIP, ":") {
		expected.proxyProtocol.Destination = "[::]:0"
	}
}

// relay forwards bytes, behind a header that a Go library makes.
func relay(header func(client, server *net.TCPAddr) io.WriterTo) starter {
	return func(t testing.TB, _ *caddy, headers bool, legs []leg) {
		t.Helper()
		var open sync.WaitGroup
		t.Cleanup(open.Wait)
		for _, l := range legs {
			listener, err := net.Listen("tcp", l.listen)
			require.NoError(t, err)
			t.Cleanup(func() { listener.Close() })
			open.Go(func() {
				for {
					client, err := listener.Accept()
					if err != nil {
						return
					}
					open.Go(func() {
						defer client.Close()
						caddy, err := net.DialTimeout("tcp", l.caddy, patience)
						if !assert.NoError(t, err) {
							return
						}
						defer caddy.Close()
						if headers {
							_, err := header(client.RemoteAddr().(*net.TCPAddr), client.LocalAddr().(*net.TCPAddr)).WriteTo(caddy)
							if !assert.NoError(t, err) {
								return
							}
						}
						pipe(client, caddy)
					})
				}
			})
		}
	}
}

// pipe copies in both directions until both have ended.
func pipe(a, b net.Conn) {
	var copying sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{a: b, b: a} {
		copying.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		})
	}
	copying.Wait()
}
