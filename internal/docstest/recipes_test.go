package docstest

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
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

// recipe is a Caddyfile of a page in docs/recipes, and what its sender does.
type recipe struct {
	page string
	nth  int // of the page's whole Caddyfiles, from 0
	// peer is where the sender connects from, unless a visit says otherwise.
	peer string
	// upstream is the address of an application in the Caddyfile, which the test plays.
	upstream string
	// optional is set if a header is optional, as under mode unspecified.
	optional bool
	visits   []visit
}

// visit is a connection of the sender, with one request.
type visit struct {
	name   string
	from   string
	port   int    // 443, with TLS, if 0
	header string // what the sender sends first, byte by byte
	// signed says that the sender adds a signature to the header, made with lbKey now.
	signed bool
	host   string // example.com if empty
	path   string // "/" if empty
	// with one of these:
	body     string // of the answer 200
	status   int    // of an answer without a body
	location string // of a redirect
	refused  string // the reason
}

// healthy is the visit of an HTTP health check.
func healthy(name, header string) visit {
	return visit{name: name, port: 80, header: header, host: "10.0.1.20", path: "/health", status: http.StatusOK}
}

// secure is the same over HTTPS.
func (v visit) secure() visit {
	v.port, v.host = 443, "example.com"
	return v
}

// The bytes. Those with an address in them have the client 203.0.113.7:51234 if no source
// has another one.
const (
	// The specification, section 2.2.
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n"

	// LOCAL, family unspecified, length 0: the specification, section 2.2. HAProxy 2.6.12
	// sends it for checks.
	localV2 = signatureV2 + "\x20\x00\x00\x00"
	// PROXY, family unspecified, length 0: the same section.
	unspecifiedV2 = signatureV2 + "\x21\x00\x00\x00"

	// The specification, section 2.1. nginx 1.22.1 sends it for a client on a Unix socket,
	// Google Cloud for health checks.
	// https://cloud.google.com/sdk/gcloud/reference/compute/health-checks/update/https
	unknownV1 = "PROXY UNKNOWN\r\n"

	// Version 2, PROXY, TCP over IPv4, 12 bytes of addresses and ports, to 198.51.100.10:443:
	// the specification, section 2.2, and
	// https://developers.cloudflare.com/spectrum/how-to/enable-proxy-protocol/
	plainV2 = signatureV2 + "\x21\x11\x00\x0c" +
		"\xcb\x00\x71\x07" + "\xc6\x33\x64\x0a" + "\xc8\x22" + "\x01\xbb"

	// The format of the specification, section 2.1, which DigitalOcean shows as well, to the
	// same destination.
	// https://blog.digitalocean.com/load-balancers-now-support-proxy-protocol/
	plainV1 = "PROXY TCP4 203.0.113.7 198.51.100.10 51234 443\r\n"

	// AWS's own test: CRC32C, VPC endpoint ID, padding.
	// https://github.com/aws/elastic-load-balancing-tools/blob/c8eee30ab991ab4c57dc37d1c58f09f67bd534aa/proprot/tst/com/amazonaws/proprot/Compatibility_AwsNetworkLoadBalancerTest.java#L41
	awsEndpoint = signatureV2 + "\x21\x11\x00\x54" +
		"\xac\x1f\x07\x71" + "\xac\x1f\x0a\x1f" + "\xc8\xf2" + "\x00\x50" +
		"\x03\x00\x04" + "\xe8\xd6\x89\x2d" +
		"\xea\x00\x17" + "\x01vpce-08d2bf15fac5001c9" +
		"\x04\x00\x24" + zeros12 + zeros12 + zeros12
	// A recording from PrivateLink.
	// https://github.com/pires/go-proxyproto/blob/v0.15.0/tlvparse/aws_test.go
	awsRecorded = signatureV2 + "\x21\x11\x00\x54" +
		"\xc0\xa8\x2c\x0a" + "\xc0\xa8\x2c\x07" + "\xcc\x3e" + "\x24\x1b" +
		"\x03\x00\x04" + "\xb9\x28\x6f\xa6" +
		"\xea\x00\x17" + "\x01vpce-00eafc458ec97b833" +
		"\x04\x00\x24" + zeros12 + zeros12 + zeros12
	// A recording of a health check: LOCAL, TCP over IPv4, and TLVs at once.
	// https://github.com/kubernetes/kubernetes/issues/57250
	awsHealth = signatureV2 + "\x20\x11\x00\x54" +
		"\x03\x00\x04" + "\xbc\xe5\x95\x1f" +
		"\x04\x00\x4a" + zeros12 + zeros12 + zeros12 + zeros12 + zeros12 + zeros12 + "\x00\x00"
	zeros12 = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

	// A packet capture in the network of https://codelabs.developers.google.com/cloudnet-psc-ilb.
	// The layout, with the connection ID's 8 bytes in network order, is that of
	// https://cloud.google.com/vpc/docs/about-vpc-hosted-services#proxy-protocol
	gcpConsumer = signatureV2 + "\x21\x11\x00\x17" +
		"\x0a\x00\x3c\x02" + "\x0a\x00\x3c\x64" + "\x81\x38" + "\x00\x50" +
		"\xe0\x00\x08" + "\x00\x9b\x34\xd7\x0a\x00\x3c\x64"

	// The subtype, and the link ID in little endian.
	// https://learn.microsoft.com/en-us/azure/private-link/private-link-service-overview#getting-connection-information-using-tcp-proxy-v2
	azureConsumer = signatureV2 + "\x21\x11\x00\x14" +
		"\x0a\x09\x00\x04" + "\x0a\x01\x02\x64" + "\xc8\x22" + "\x01\xbb" +
		"\xee\x00\x05" + "\x01" + "\xc1\x45\x00\x21"

	// The same with the destination port 80.
	plainV2Port80 = signatureV2 + "\x21\x11\x00\x0c" +
		"\xcb\x00\x71\x07" + "\xc6\x33\x64\x0a" + "\xc8\x22" + "\x00\x50"
	// The layout of the specification, section 2.2.6: TLS 1.3, no client certificate. HAProxy
	// sends it with send-proxy-v2-ssl if it ended the client's TLS. The tests with real load
	// balancers see that.
	tlsV2 = signatureV2 + "\x21\x11\x00\x1e" +
		"\xcb\x00\x71\x07" + "\xc6\x33\x64\x0a" + "\xc8\x22" + "\x01\xbb" +
		"\x20\x00\x0f" + "\x01\x00\x00\x00\x00" + "\x21\x00\x07TLSv1.3"
	// The same for a client without TLS.
	noTLSV2 = signatureV2 + "\x21\x11\x00\x14" +
		"\xcb\x00\x71\x07" + "\xc6\x33\x64\x0a" + "\xc8\x22" + "\x00\x50" +
		"\x20\x00\x05" + "\x00\x00\x00\x00\x01"

	// As HAProxy 2.6.12 sends it, with another client and the checksum for that: CRC32C and
	// unique ID.
	haproxyV2 = signatureV2 + "\x21\x11\x00\x2c" +
		"\xcb\x00\x71\x07" + "\x0a\x00\x00\x50" + "\xc8\x22" + "\x01\xbb" +
		"\x03\x00\x04" + "\x06\x0e\xb3\x66" +
		"\x05\x00\x16" + "CB007107:C822_6B06DCC7"
	// A recording of its check with proxy-v2-options crc32c: LOCAL, family unspecified, and
	// the checksum.
	haproxyCheckV2 = signatureV2 + "\x20\x00\x00\x07" + "\x03\x00\x04" + "\xa9\xb8\x7e\x8f"
	// Its check with send-proxy: its own address, and the server's.
	haproxyCheckV1 = "PROXY TCP4 10.0.0.10 10.0.0.20 34532 443\r\n"

	// https://developers.cloudflare.com/spectrum/how-to/enable-proxy-protocol/
	cloudflareTCP4 = "PROXY TCP4 192.0.2.0 192.0.2.255 42300 443\r\n"
	cloudflareTCP6 = "PROXY TCP6 2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 42300 443\r\n"
	// Simple Proxy Protocol, which is for UDP: magic number, addresses, ports.
	// https://developers.cloudflare.com/spectrum/reference/simple-proxy-protocol-header/
	cloudflareSimple = "\x56\xec" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x07" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x0a" + "\xc8\x22" + "\x01\xbb"

	// Caddy v2.11.9: no port, and no destination. TestRecipes_CaddySends sees it send this.
	caddyV1 = "PROXY TCP4 203.0.113.7 0.0.0.0 0 0\r\n"
	caddyV2 = signatureV2 + "\x21\x11\x00\x0c" +
		"\xcb\x00\x71\x07" + "\x00\x00\x00\x00" + "\x00\x00" + "\x00\x00"
	caddyV2IPv6 = signatureV2 + "\x21\x21\x00\x24" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x00\x00\x00\x00" + zeros12 + "\x00\x00" + "\x00\x00"
)

var recipes = []recipe{
	{
		page: "aws-nlb.md", peer: "10.0.1.7",
		visits: []visit{
			{name: "client of an endpoint", header: awsEndpoint, body: "Hello vpce-08d2bf15fac5001c9"},
			{name: "client of another endpoint", from: "10.0.2.9", header: awsRecorded, body: "Hello 192.168.44.10"},
			healthy("health check", awsHealth),
			{name: "client's own header behind it", header: awsEndpoint + plainV2, refused: "duplicate"},
			{name: "client's own header alone", header: plainV1, refused: "version"},
			{name: "client IP preservation", from: "172.31.7.113", header: awsEndpoint, refused: "untrusted"},
		},
	},
	{
		page: "aws-nlb.md", nth: 1, peer: "10.0.1.7",
		visits: []visit{
			{name: "client of an endpoint", header: awsEndpoint, body: "Hello vpce-08d2bf15fac5001c9"},
			{name: "client of another endpoint", from: "10.0.2.9", header: awsRecorded, refused: "unauthenticated"},
			{name: "client of no endpoint", header: plainV2, refused: "unauthenticated"},
			healthy("health check", awsHealth),
		},
	},
	{
		page: "gcp.md", nth: 2, peer: "192.168.0.3",
		visits: []visit{
			{name: "consumer", header: gcpConsumer, body: "Hello 43686719580552292"},
			{name: "another consumer", header: strings.Replace(gcpConsumer, "\x9b", "\x9c", 1), refused: "unauthenticated"},
			{name: "health check", from: "35.191.8.1", port: 80, host: "192.168.0.20", path: "/health", status: http.StatusOK},
		},
	},
	{
		page: "azure-private-link.md", nth: 1, peer: "10.1.2.4",
		visits: []visit{
			{name: "consumer", header: azureConsumer, body: "Hello 553665985"},
			{name: "second consumer", header: strings.Replace(azureConsumer, "\xc1", "\xc2", 1), body: "Hello 553665986"},
			{name: "another consumer", header: strings.Replace(azureConsumer, "\xc1", "\xc3", 1), refused: "unauthenticated"},
			{name: "local probe", from: "168.63.129.16", port: 80, host: "10.1.2.100", header: localV2, path: "/health", status: http.StatusOK},
		},
	},
	{
		page: "gcp.md", nth: 0, peer: "35.191.8.1",
		visits: []visit{
			{name: "client", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client through another front end", from: "130.211.1.2", header: plainV1, body: "Hello 203.0.113.7"},
			healthy("health check", unknownV1),
		},
	},
	{
		page: "gcp.md", nth: 1, peer: "192.168.0.3",
		visits: []visit{
			{name: "consumer", header: gcpConsumer, body: "Hello 43686719580552292"},
			{name: "another consumer", header: strings.Replace(gcpConsumer, "\x9b", "\x9c", 1), status: http.StatusForbidden},
			{name: "health check", from: "35.191.8.1", port: 80, host: "192.168.0.20", path: "/health", status: http.StatusOK},
			{name: "header of a health check", from: "35.191.8.1", header: unknownV1, refused: "forbidden"},
		},
	},
	{
		page: "azure-private-link.md", peer: "10.1.2.4",
		visits: []visit{
			{name: "consumer", header: azureConsumer, body: "Hello 553665985"},
			{name: "another consumer", header: strings.Replace(azureConsumer, "\xc1", "\xc2", 1), status: http.StatusForbidden},
			{name: "local probe", from: "168.63.129.16", port: 80, host: "10.1.2.100", header: localV2, path: "/health", status: http.StatusOK},
			{name: "unspecified probe", from: "168.63.129.16", port: 80, host: "10.1.2.100", header: unspecifiedV2, path: "/health", status: http.StatusOK},
			{name: "probe without a header", from: "168.63.129.16", port: 80, path: "/health", refused: "missing"},
		},
	},
	{
		page: "haproxy.md", peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: haproxyV2, body: "Hello 203.0.113.7"},
			{name: "client, wrong checksum", header: strings.Replace(haproxyV2, "\x06\x0e", "\x06\x0f", 1), refused: "checksum"},
			{name: "client, version 1", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client, version 2 without options", header: plainV2, body: "Hello 203.0.113.7"},
			healthy("check with a checksum", haproxyCheckV2).secure(),
			healthy("check", localV2).secure(),
			healthy("check, version 1", haproxyCheckV1).secure(),
			{name: "check of port 80", port: 80, header: localV2, status: http.StatusPermanentRedirect},
			{name: "check of its own port", path: "/health", refused: "missing"},
			{name: "behind another load balancer", header: haproxyV2 + plainV1, refused: "duplicate"},
		},
	},
	{
		page: "haproxy.md", nth: 1, peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: plainV2, signed: true, body: "Hello 203.0.113.7"},
			{name: "client, not signed", header: plainV2, refused: "unauthenticated"},
			{name: "client, version 1", header: plainV1, refused: "unauthenticated"},
			{name: "check", port: 80, header: localV2, status: http.StatusPermanentRedirect},
			{name: "signed elsewhere", from: elsewhere, header: plainV2, signed: true, refused: "untrusted"},
		},
	},
	{
		page: "nginx.md", peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client over IPv6", header: "PROXY TCP6 2001:db8::7 2001:db8:1::1 51234 443\r\n", body: "Hello 2001:db8::7"},
			{name: "client of a Unix socket", header: unknownV1, status: http.StatusOK},
			{name: "client of port 80", port: 80, header: plainV1, status: http.StatusPermanentRedirect},
			{name: "behind another load balancer", header: plainV1 + plainV1, refused: "duplicate"},
			{name: "behind another load balancer, over another family", header: "PROXY TCP6 2001:db8::7 10.0.0.10 51234 443\r\n", refused: "malformed"},
			{name: "behind another load balancer, over a Unix socket", header: "PROXY TCP6 2001:db8::7 unix:/run/nginx/chain.sock 51234 0\r\n", refused: "malformed"},
		},
	},
	{
		// nginx 1.22.1 was recorded to send the first two behind another load balancer.
		page: "nginx.md", nth: 1, peer: "10.0.0.10",
		visits: []visit{
			{name: "client over IPv6, IPv4 between", header: "PROXY TCP6 2001:db8::7 10.0.0.10 51234 443\r\n", body: "Hello 2001:db8::7"},
			{name: "client over IPv6, a Unix socket between", header: "PROXY TCP6 2001:db8::7 unix:/run/nginx/chain.sock 51234 0\r\n", body: "Hello 2001:db8::7"},
			{name: "client over IPv4, a Unix socket between", header: "PROXY TCP4 203.0.113.7 unix:/run/nginx/chain.sock 51234 0\r\n", body: "Hello 203.0.113.7"},
			{name: "client over IPv4, IPv6 between", header: "PROXY TCP4 203.0.113.7 2001:db8:1::1 51234 443\r\n", body: "Hello 203.0.113.7"},
			{name: "client of one family", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client, version 2", header: caddytest.NginxV2("[2001:db8::7]:51234", "[::ffff:10.0.0.10]:443"), body: "Hello 2001:db8::7"},
			{name: "client, version 2 with TLS", header: caddytest.NginxV2("203.0.113.7:51234", "10.0.0.10:443", caddytest.NginxTLS(1, 1)...), body: "Hello 203.0.113.7"},
			{name: "a Unix socket between, version 2", header: caddytest.NginxV2("", ""), status: http.StatusOK},
			{name: "a source of the other family", header: "PROXY TCP6 203.0.113.7 2001:db8:1::1 51234 443\r\n", refused: "malformed"},
		},
	},
	{
		page: "hetzner.md", peer: "10.0.0.3",
		visits: []visit{
			{name: "client, version 1", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client, version 2", header: plainV2, body: "Hello 203.0.113.7"},
			healthy("health check, version 1", unknownV1),
			healthy("health check, version 2", localV2),
			{name: "health check without a header", port: 80, path: "/health", refused: "missing"},
		},
	},
	{
		page: "digitalocean.md", peer: "10.108.0.2",
		visits: []visit{
			{name: "client", header: plainV1, body: "Hello 203.0.113.7"},
			healthy("health check", plainV1),
			healthy("health check without addresses", unknownV1),
			{name: "health check without a header", port: 80, path: "/health", refused: "missing"},
		},
	},
	{
		page: "kubernetes.md", nth: 0, peer: "10.0.8.5",
		visits: []visit{
			{name: "client, version 1", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client, version 2", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "probe", from: "10.0.16.4", port: 80, host: "10.244.1.9", path: "/healthz", status: http.StatusOK},
			{name: "probe from the node's address in the pod network", from: "10.244.1.1", port: 80, host: "10.244.1.9", path: "/healthz", status: http.StatusOK},
			{name: "header from a node", from: "10.0.16.4", header: plainV2, refused: "forbidden"},
		},
	},
	{
		page: "kubernetes.md", nth: 1, peer: "10.0.16.5",
		visits: []visit{
			{name: "client", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "client of port 80", port: 80, header: plainV2, status: http.StatusPermanentRedirect},
			{name: "probe", port: 8081, host: "10.244.1.9:8081", path: "/healthz", status: http.StatusOK},
			{name: "header to the port of the probes", port: 8081, header: plainV2, refused: "forbidden"},
			{name: "probe of the wrong port", port: 80, host: "10.244.1.9", path: "/healthz", refused: "missing"},
		},
	},
	{
		page: "cloudflare-spectrum.md", peer: "162.158.1.1",
		visits: []visit{
			{name: "client", header: cloudflareTCP4, body: "Hello 192.0.2.0"},
			{name: "client over IPv6", header: cloudflareTCP6, body: "Hello 2001:db8::"},
			{name: "client, version 2", from: "172.64.0.1", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "simple proxy protocol", header: cloudflareSimple, refused: "missing"},
		},
	},
	{
		page: "tls-at-the-load-balancer.md", nth: 0, peer: "10.0.0.10", upstream: "localhost:3000",
		visits: []visit{
			{name: "client over HTTPS", port: 8080, header: plainV2, body: "https for 203.0.113.7"},
			{name: "client over HTTP", port: 80, header: plainV2Port80, status: http.StatusMovedPermanently, location: "https://example.com/"},
		},
	},
	{
		page: "tls-at-the-load-balancer.md", nth: 1, peer: "10.0.0.10", upstream: "localhost:3000",
		visits: []visit{
			{name: "client over HTTPS", port: 80, header: plainV2, body: "https for 203.0.113.7"},
			{name: "client over HTTP", port: 80, header: plainV2Port80, status: http.StatusMovedPermanently, location: "https://example.com/"},
			{name: "health check", port: 80, header: localV2, status: http.StatusMovedPermanently, location: "https://example.com/"},
		},
	},
	{
		page: "tls-at-the-load-balancer.md", nth: 2, peer: "10.0.0.10", upstream: "localhost:3000",
		visits: []visit{
			{name: "client over HTTPS", port: 80, header: tlsV2, body: "https for 203.0.113.7"},
			{name: "client over HTTP", port: 80, header: noTLSV2, status: http.StatusMovedPermanently, location: "https://example.com/"},
			{name: "client of a load balancer that does not say", port: 80, header: plainV2, status: http.StatusMovedPermanently, location: "https://example.com/"},
			{name: "health check", port: 80, header: localV2, status: http.StatusMovedPermanently, location: "https://example.com/"},
		},
	},
	{
		page: "switching-on.md", nth: 0, peer: "10.0.0.10", optional: true,
		visits: []visit{
			{name: "client, before step 2", body: "Hello 127.0.0.10"},
			{name: "client, after step 2", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "health check, after step 2", header: localV2, body: "Hello 127.0.0.10"},
			{name: "client's own header behind it", header: plainV2 + plainV1, refused: "duplicate"},
		},
	},
	{
		page: "switching-on.md", nth: 1, peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "client of port 80", port: 80, header: plainV2Port80, status: http.StatusPermanentRedirect},
		},
	},
	{
		page: "containers.md", peer: "172.20.0.2",
		visits: []visit{
			{name: "client", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "any host, behind the gateway", from: "172.20.0.1", header: plainV2, refused: "untrusted"},
		},
	},
	{
		page: "this-machine.md", nth: 0, peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: plainV2, body: "Hello alice from 203.0.113.7"},
			{name: "health check", from: "127.0.0.1", port: 80, host: "localhost", path: "/health", status: http.StatusOK},
			{name: "header from this machine", from: "127.0.0.1", port: 80, header: plainV2, refused: "forbidden"},
			{name: "client at the port of forward_auth", port: 9091, header: plainV2, status: http.StatusForbidden},
		},
	},
	{
		page: "this-machine.md", nth: 1, peer: "10.0.0.10",
		visits: []visit{
			{name: "client, whose name ask knows", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "this machine at the port of its own", from: "127.0.0.1", port: 8081, host: "localhost", path: "/ask?domain=example.com", status: http.StatusOK},
			{name: "a name that ask does not know", from: "127.0.0.1", port: 8081, host: "localhost", path: "/ask?domain=example.net", status: http.StatusNotFound},
			{name: "this machine at the port for clients", from: "127.0.0.1", port: 80, refused: "untrusted"},
		},
	},
	{
		page: "acme.md", peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "client of port 80", port: 80, header: plainV2Port80, status: http.StatusPermanentRedirect},
		},
	},
	{
		page: "traefik.md", peer: "10.0.0.10",
		visits: []visit{
			{name: "client", header: plainV2, body: "Hello 203.0.113.7"},
			{name: "client, version 1", header: plainV1, body: "Hello 203.0.113.7"},
			{name: "client of port 80", port: 80, header: plainV2Port80, status: http.StatusPermanentRedirect},
			{name: "behind another load balancer", header: plainV2 + plainV2, refused: "duplicate"},
		},
	},
	{
		// Xray writes version 2 without TLVs, and addresses as Go does.
		page: "sni-routers.md", nth: 0, peer: "127.0.0.1",
		visits: []visit{
			{name: "fallback", port: 8080, header: plainV2, body: "Hello 203.0.113.7"},
			{name: "fallback, version 1", port: 8080, header: plainV1, body: "Hello 203.0.113.7"},
			{name: "fallback over IPv6", port: 8080, header: "PROXY TCP6 2001:db8::7 2001:db8::10 51234 443\r\n", body: "Hello 2001:db8::7"},
			{name: "fallback of a Unix socket", port: 8080, header: unknownV1, body: "Hello 127.0.0.1"},
			{name: "fallback of a Unix socket, version 2", port: 8080, header: localV2, body: "Hello 127.0.0.1"},
		},
	},
	{
		page: "sni-routers.md", nth: 1, peer: "127.0.0.1",
		visits: []visit{
			{name: "REALITY", port: 8443, header: plainV2, body: "Hello 203.0.113.7"},
			{name: "REALITY, version 1", port: 8443, header: plainV1, body: "Hello 203.0.113.7"},
		},
	},
	{
		page: "caddy.md", nth: 1, peer: "10.0.0.10",
		visits: []visit{
			{name: "client", port: 8080, header: caddyV2, body: "Hello 203.0.113.7 in the office"},
			{name: "client, version 1", port: 8080, header: caddyV1, body: "Hello 203.0.113.7 in the office"},
			{name: "client over IPv6", port: 8080, header: caddyV2IPv6, body: "Hello 2001:db8::7"},
			{name: "health check", port: 8080, header: "", refused: "missing"},
		},
	},
}

// elsewhere is in no recipe's ranges, on loopback either.
const elsewhere = "198.51.100.66"

// front is the Caddyfile of a sender on a page, which TestRecipes_CaddySends runs.
const front = "caddy.md#0"

func (r recipe) name() string { return fmt.Sprintf("%s#%d", r.page, r.nth) }

// TestRecipes makes the connections of each sender.
func TestRecipes(t *testing.T) {
	needLoopbacks(t)
	blocks := recipeBlocks(t)
	untested := []string{front}
	for _, r := range recipes {
		untested = append(untested, r.name())
		t.Run(r.name(), func(t *testing.T) {
			block := blocks[r.name()]
			require.NotNil(t, block, "no such Caddyfile")
			text := block.text
			if r.upstream != "" {
				require.Contains(t, text, r.upstream)
				text = strings.ReplaceAll(text, r.upstream, application(t))
			}
			r.run(t, startKitchen(t, text), block)
		})
	}
	for name := range blocks {
		assert.Contains(t, untested, name, "nothing connects to this Caddyfile")
	}
}

func (r recipe) run(t *testing.T, k *kitchen, block *docsBlock) {
	port := r.visits[0].port
	strangers := []visit{
		{name: "without a header", port: port, refused: "missing"},
		{name: "from elsewhere", port: port, from: elsewhere, header: r.visits[0].header, refused: "untrusted"},
		{name: "from elsewhere without a header", port: port, from: elsewhere, refused: "untrusted"},
	}
	if r.optional {
		strangers = []visit{
			{name: "from elsewhere", port: port, from: elsewhere, header: plainV2, refused: "untrusted"},
			{name: "from elsewhere without a header", port: port, from: elsewhere, body: "Hello " + moveToLoopback(elsewhere)},
		}
	}
	for _, v := range append(strangers, r.visits...) {
		if v.from == "" {
			v.from = r.peer
		}
		t.Run(v.name, func(t *testing.T) { k.receive(t, v) })
	}
	for next := block.next; next != nil && !next.isCaddyfile(); next = next.next {
		if next.lang == "log" {
			for line := range strings.Lines(next.text) {
				k.requireLogged(t, next, k.senders.move(line))
			}
		}
	}
}

// application starts an application that says what it is told of its client.
func application(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// TestRecipes_CaddyPinsNothing checks what the page warns of: the recipe of Caddy in front
// of Caddy matches no pinned address.
func TestRecipes_CaddyPinsNothing(t *testing.T) {
	needLoopbacks(t)
	text := recipeBlocks(t)["caddy.md#1"].text
	pinned := strings.Replace(text, "@office remote_ip", "@office pinned_ip", 1)
	require.NotEqual(t, text, pinned)
	k := startKitchen(t, pinned)
	k.receive(t, visit{from: "10.0.0.10", port: 8080, header: caddyV2, body: "Hello 203.0.113.7"})
	k.receive(t, visit{from: "10.0.0.10", port: 8080, header: plainV2, body: "Hello 203.0.113.7 in the office"})
}

// TestRecipes_CaddySends runs the recipe's front. Whether the client's address comes from
// the connection or from a trusted X-Forwarded-For, its port is not sent.
func TestRecipes_CaddySends(t *testing.T) {
	needLoopbacks(t)
	for _, test := range []struct{ name, version, forwarded, want string }{
		{"version 1", "v1", "203.0.113.7", caddyV1},
		{"version 2", "v2", "203.0.113.7", caddyV2},
		{"version 2, IPv6", "v2", "2001:db8::7", caddyV2IPv6},
		{"version 1, client of the connection", "v1", "", strings.Replace(caddyV1, "203.0.113.7", "127.0.0.1", 1)},
		{"version 2, client of the connection", "v2", "", strings.Replace(caddyV2, "\xcb\x00\x71\x07", "\x7f\x00\x00\x01", 1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream, err := net.Listen("tcp", caddytest.TCP4(0).Address)
			require.NoError(t, err)
			t.Cleanup(func() { upstream.Close() })
			received := make(chan string, 1)
			go func() {
				c, err := upstream.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(caddytest.Patience))
				header := make([]byte, len(test.want))
				_, _ = io.ReadFull(c, header)
				received <- string(header)
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			}()

			k := startKitchen(t, "{\n\tservers {\n\t\ttrusted_proxies static 127.0.0.1\n\t}\n}\n\n"+frontTo(t, upstream.Addr(), test.version))
			k.awaitCertificate(t, "127.0.0.1", "", 443)
			c := caddytest.StartTLS(t, k.dial(t, "127.0.0.1", 443), recipeTLS())
			request := "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n"
			if test.forwarded != "" {
				request += "X-Forwarded-For: " + test.forwarded + "\r\n"
			}
			caddytest.Send(t, c, request+"\r\n")
			response, _ := caddytest.ReadResponse(t, c)
			assert.Equal(t, http.StatusNoContent, response.StatusCode)
			select {
			case header := <-received:
				assert.Equal(t, test.want, header)
			case <-time.After(caddytest.Patience):
				assert.Fail(t, "no connection to the upstream")
			}
		})
	}
}

// TestRecipes_CaddyChecksNothing checks what the page says of its active health checks.
func TestRecipes_CaddyChecksNothing(t *testing.T) {
	needLoopbacks(t)
	upstream, err := net.Listen("tcp", caddytest.TCP4(0).Address)
	require.NoError(t, err)
	t.Cleanup(func() { upstream.Close() })
	text := frontTo(t, upstream.Addr(), "v2")
	checked := strings.Replace(text, "\t\ttransport", "\t\thealth_uri /health\n\t\ttransport", 1)
	require.NotEqual(t, text, checked)
	k := startKitchen(t, checked)
	k.awaitCertificate(t, "127.0.0.1", "", 443)
	k.requireLine(t, regexp.MustCompile(`"HTTP request failed".*failed to get proxy protocol info from context`))
}

// frontTo is the Caddyfile of the recipe's front, for an upstream and a version.
func frontTo(t *testing.T, upstream net.Addr, version string) string {
	t.Helper()
	text := recipeBlocks(t)[front].text
	require.Contains(t, text, "reverse_proxy 10.0.0.20:8080")
	require.Contains(t, text, "proxy_protocol v2")
	return strings.NewReplacer("10.0.0.20:8080", upstream.String(), "proxy_protocol v2", "proxy_protocol "+version).Replace(text)
}

// needLoopbacks skips a test where not all of 127.0.0.0/8 are addresses of this machine.
func needLoopbacks(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux all of 127.0.0.0/8 are addresses of this machine")
	}
}

// recipeBlocks returns the whole Caddyfiles of the recipes, by page and number.
func recipeBlocks(t *testing.T) map[string]*docsBlock {
	t.Helper()
	blocks, nth := make(map[string]*docsBlock), make(map[string]int)
	for _, block := range docsBlocks(t) {
		dir, page := path.Split(strings.ReplaceAll(block.file, string(os.PathSeparator), "/"))
		if dir == "docs/recipes/" && block.isCaddyfile() {
			blocks[fmt.Sprintf("%s#%d", page, nth[page])] = block
			nth[page]++
		}
	}
	require.NotEmpty(t, blocks)
	return blocks
}

// senders are the ranges of a Caddyfile that headers or health checks come from.
type senders []netip.Prefix

// sendersIn finds them in its lines.
func sendersIn(t *testing.T, caddyfile string) (all senders) {
	t.Helper()
	for line := range strings.Lines(caddyfile) {
		words := strings.Fields(line)
		if len(words) > 2 && words[0] == "trusted_proxies" && words[1] == "static" {
			words = words[1:]
		} else if len(words) < 2 || !slices.Contains(modeNames, words[0]) {
			continue
		}
		for _, word := range words[1:] {
			if !strings.Contains(word, "/") {
				word += "/32"
			}
			sender, err := netip.ParsePrefix(word)
			require.NoError(t, err)
			all = append(all, sender)
		}
	}
	return all
}

var ipv4Address = regexp.MustCompile(`\b\d+(?:\.\d+){3}\b`)

// move moves the senders' addresses in a text to this machine: the first number becomes 127.
func (s senders) move(text string) string {
	return ipv4Address.ReplaceAllStringFunc(text, func(address string) string {
		addr, err := netip.ParseAddr(address)
		if err != nil || !slices.ContainsFunc(s, func(sender netip.Prefix) bool { return sender.Contains(addr) }) {
			return address
		}
		return moveToLoopback(address)
	})
}

func moveToLoopback(address string) string {
	_, rest, _ := strings.Cut(address, ".")
	return "127." + rest
}

// kitchen is where a recipe runs.
type kitchen struct {
	docsShell
	senders senders
	ports   map[string]int // by the Caddyfile's
	secure  bool           // once it has its certificate
}

// startKitchen runs Caddy with a Caddyfile, until the test ends: on loopback, on free
// ports, for senders on this machine, with certificates of its own.
func startKitchen(t *testing.T, text string) *kitchen {
	t.Helper()
	k := &kitchen{senders: sendersIn(t, text), ports: make(map[string]int)}
	k.admin = caddytest.FreePort(t)
	if !strings.HasPrefix(text, "{\n") {
		text = "{\n}\n\n" + text
	}
	text = strings.Replace(k.senders.move(text), "{\n", "{\n\tlocal_certs\n\tskip_install_trust\n", 1)
	config := docsConfig(t, text)
	app := config["apps"].(map[string]any)["http"].(map[string]any)
	for _, server := range app["servers"].(map[string]any) {
		listen := server.(map[string]any)["listen"].([]any)
		for i := range listen {
			_, port, err := net.SplitHostPort(listen[i].(string))
			require.NoError(t, err)
			listen[i] = caddytest.TCP4(k.port(t, port)).Address
		}
	}
	app["http_port"], app["https_port"] = k.port(t, "80"), k.port(t, "443")
	adapted, err := json.Marshal(config)
	require.NoError(t, err)
	config = nil
	require.NoError(t, json.Unmarshal(k.ownPorts(adapted), &config))
	k.startConfig(t, config)
	return k
}

// ownPorts replaces the ports of what Caddy asks of itself.
func (k *kitchen) ownPorts(config []byte) []byte {
	return regexp.MustCompile(`localhost:(\d+)`).ReplaceAllFunc(config, func(address []byte) []byte {
		_, port, _ := strings.Cut(string(address), ":")
		if k.ports[port] == 0 {
			return address
		}
		return []byte("127.0.0.1:" + strconv.Itoa(k.ports[port]))
	})
}

// port is the one that stands for that of the Caddyfile.
func (k *kitchen) port(t *testing.T, port string) int {
	t.Helper()
	if k.ports[port] == 0 {
		k.ports[port] = caddytest.FreePort(t)
	}
	return k.ports[port]
}

// dial connects from an address of this machine.
func (k *kitchen) dial(t *testing.T, from string, port int) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: caddytest.Patience}
	c, err := dialer.Dial("tcp", caddytest.TCP4(k.ports[strconv.Itoa(port)]).Address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(caddytest.Patience)))
	return c
}

func recipeTLS() *tls.Config {
	return &tls.Config{ServerName: "example.com", InsecureSkipVerify: true}
}

// awaitCertificate waits until TLS handshakes succeed, as they do a moment after the start.
func (k *kitchen) awaitCertificate(t *testing.T, from, header string, port int) {
	t.Helper()
	if k.secure {
		return
	}
	caddytest.Eventually(t, func() bool {
		c := k.dial(t, from, port)
		defer c.Close()
		caddytest.Send(t, c, header)
		return tls.Client(c, recipeTLS()).Handshake() == nil
	}, "no certificate")
	k.secure = true
}

// signature adds a signature to a header, as HAProxy does.
func signature(t *testing.T, header string) string {
	t.Helper()
	r := wire.Decode([]byte(header), wire.MaxSize)
	require.Equal(t, wire.Complete, r.State)
	key, err := auth.ParseKey(lbKey)
	require.NoError(t, err)
	value, err := key.Sign(&r.Header, time.Now())
	require.NoError(t, err)
	return headertest.TextWith(r.Header, nil, false, wire.TLV{Type: auth.DefaultType, Value: value})
}

// receive makes the connection of a sender.
func (k *kitchen) receive(t *testing.T, v visit) {
	t.Helper()
	if v.signed {
		v.header = signature(t, v.header)
	}
	from := moveToLoopback(v.from)
	if v.port == 0 {
		v.port = 443
	}
	if v.host == "" {
		v.host = "example.com"
	}
	if v.path == "" {
		v.path = "/"
	}
	request := "GET " + v.path + " HTTP/1.1\r\nHost: " + k.senders.move(v.host) + "\r\nConnection: close\r\n\r\n"
	if v.refused != "" {
		c := k.dial(t, from, v.port)
		_, _ = io.WriteString(c, v.header+request) // it may be closed already
		caddytest.RequireRefused(t, c)
		k.requireRefusal(t, c.LocalAddr(), v.refused)
		return
	}
	secure := v.port == 443 || v.port == 8443
	if secure {
		k.awaitCertificate(t, from, v.header, v.port)
	}
	c := k.dial(t, from, v.port)
	caddytest.Send(t, c, v.header)
	if secure {
		c = caddytest.StartTLS(t, c, recipeTLS())
	}
	caddytest.Send(t, c, request)
	response, body := caddytest.ReadResponse(t, c)
	if v.status == 0 {
		v.status = http.StatusOK
		assert.Equal(t, v.body, body)
	}
	assert.Equal(t, v.status, response.StatusCode)
	if v.location != "" {
		assert.Equal(t, v.location, response.Header.Get("Location"))
	}
}

// requireRefusal waits for the log line of a refused connection.
func (k *kitchen) requireRefusal(t *testing.T, peer net.Addr, reason string) {
	t.Helper()
	k.requireLine(t, regexp.MustCompile(fmt.Sprintf(`"peer":"%s",.*"reason":"%s"`, regexp.QuoteMeta(peer.String()), reason)))
}

// requireLine waits for a log line.
func (k *kitchen) requireLine(t *testing.T, line *regexp.Regexp) {
	t.Helper()
	caddytest.Eventually(t, func() bool {
		log, err := os.ReadFile(k.log)
		require.NoError(t, err)
		return line.Match(log)
	}, "no log line with %s", line)
}
