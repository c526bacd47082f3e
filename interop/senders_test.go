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

// sender is a load balancer with one set of options.
type sender struct {
	name      string
	protocols []protocol
	// version is the version of the headers.
	version int
	start   starter
	// tells changes the expected answer, if headers have more or less than both addresses. client
	// is the state of the client's TLS connection, or nil without TLS. It may be nil.
	tells func(expected *answer, l leg, client *tls.ConnectionState)
	// speaksHTTP reports whether the load balancer answers with an error if Caddy does not answer.
	speaksHTTP bool
	// brief leaves out large uploads and downloads.
	brief bool
}

// starter runs a load balancer until the test ends, so that it forwards the connections of all legs.
// headers reports whether it sends headers.
type starter func(t testing.TB, c *caddy, headers bool, legs []leg)

// leg is a way from a client through a load balancer to Caddy.
type leg struct {
	protocol
	// front is the version of IP between client and load balancer, and back that between load
	// balancer and Caddy.
	front, back family
	// listen is the address of the load balancer, and caddy that of Caddy.
	listen, caddy string
}

func (l leg) String() string { return fmt.Sprintf("%s, %s to %s", l.protocol.name, l.front, l.back) }

// leg returns a way to a server of Caddy, with a free address for the load balancer.
func (p protocol) leg(t testing.TB, front, back family, s server) leg {
	t.Helper()
	return leg{p, front, back, front.freeAddress(t), s.address(back, p.caddyTLS())}
}

// legs returns all ways through the sender to a server of Caddy.
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

// senders are all load balancers, each with the protocols that it can forward.
var senders = append(haproxySenders(), []sender{
	{
		// nginx has no option for the protocol (ALPN) of its TLS connection to Caddy, so Caddy would
		// not speak HTTP/2.
		name:      "nginx stream",
		protocols: []protocol{http1, h2c, http1Through, http2Through, http1Ended, http2Ended, http1Repeated},
		version:   1,
		start:     nginx("", ""),
	},
	{
		// stunnel only ends TLS. It has no option for the protocol in TLS (ALPN), which HTTP/2
		// needs.
		name:      "stunnel",
		protocols: []protocol{http1Ended},
		version:   1,
		start:     stunnel,
	},
	{
		// hitch only ends TLS.
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
			expected.tell("ssl.verified", "false") // hitch does not ask for a certificate
		},
	},
	{
		// reverse_proxy does not pass TLS through.
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
				{Type: proxyproto.PP2_TYPE_NOOP, Value: make([]byte, 600)}, // larger than most buffers
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

// everyProtocol has the protocols of load balancers that forward bytes, with or without TLS.
var everyProtocol = []protocol{http1, h2c, http1Through, http2Through, http1Ended, http2Ended, http1Repeated, http2Repeated}

// passThrough has the protocols of load balancers without TLS of their own.
var passThrough = []protocol{http1, h2c, http1Through, http2Through}

// clientName is the common name of the client's certificate.
const clientName = "client.test"

// tell adds the named value of a TLV to the expected answer.
func (a *answer) tell(name, value string) {
	if a.proxyProtocol.TLV == nil {
		a.proxyProtocol.TLV = make(map[string]string)
	}
	a.proxyProtocol.TLV[name] = value
}

// onlyIf returns the text if the condition is true, and otherwise an empty string.
func onlyIf(condition bool, text string) string {
	if condition {
		return text
	}
	return ""
}

// opensslVersion returns OpenSSL's name of the version of TLS.
func opensslVersion(state *tls.ConnectionState) string {
	return strings.Replace(tls.VersionName(state.Version), "TLS ", "TLSv", 1)
}

// nginx returns a starter of nginx with its stream module. listen are parameters of listen directives,
// and directives are in the block stream.
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

// nginxStream is the path of nginx's module for TCP on Debian.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// stunnel runs stunnel, which ends the clients' TLS.
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

// unbracketed returns an address without the brackets of IPv6.
func unbracketed(address string) string {
	return strings.NewReplacer("[", "", "]", "").Replace(address)
}

// hitch returns a starter of hitch with these options. It runs one hitch for each leg, because a hitch
// has one backend and one list of protocols.
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

// bracketed returns an address in the form of hitch: [127.0.0.1]:80.
func bracketed(address string) string {
	at := strings.LastIndex(address, ":")
	return "[" + strings.Trim(address[:at], "[]") + "]" + address[at:]
}

// reverseProxy returns a starter of a Caddy in front of Caddy. options are options of its servers, and
// send is an option of the transport of reverse_proxy.
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

// caddyTells changes an expected answer to that for headers of Caddy's reverse_proxy, which have no
// client port and no destination.
func caddyTells(expected *answer, l leg, _ *tls.ConnectionState) {
	noPort := net.JoinHostPort(expected.clientIP, "0")
	expected.remote, expected.headerClient, expected.proxyProtocol.Source = noPort, noPort, noPort
	expected.server = l.caddy
	expected.proxyProtocol.Destination = "0.0.0.0:0"
	if strings.Contains(expected.clientIP, ":") {
		expected.proxyProtocol.Destination = "[::]:0"
	}
}

// relay returns a starter of a load balancer in the test's own process, which forwards bytes behind a
// header of a Go library.
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

// pipe copies bytes in both directions until both have ended.
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
