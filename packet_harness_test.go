package proxyprotocol

// What tests of HTTP/3 behind headers have in common: a load balancer, and a client.

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// dgram is the text of a v2 header of a datagram.
func dgram(src, dst netip.AddrPort, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Dgram, src, dst)
	return encodeTLVs(h, err, true, tlvs...)
}

// relay is a load balancer for UDP: each client has a socket towards Caddy, and a header
// that goes before each of its datagrams.
type relay struct {
	t     testing.TB
	front *net.UDPConn
	from  string // IP address towards Caddy
	to    *net.UDPAddr

	mu     sync.Mutex
	header string // of clients that have none of their own
	flows  map[netip.AddrPort]*relayFlow
}

type relayFlow struct {
	client netip.AddrPort
	back   *net.UDPConn
	header *string
}

// startRelay runs a relay until the test ends. It is the peer with this address.
func startRelay(t testing.TB, from string, to endpoint, header string) *relay {
	t.Helper()
	address, err := net.ResolveUDPAddr("udp", to.address)
	require.NoError(t, err)
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r := &relay{t: t, front: front, from: from, to: address, header: header, flows: make(map[netip.AddrPort]*relayFlow)}
	var wait sync.WaitGroup
	wait.Go(r.forth)
	t.Cleanup(func() {
		front.Close()
		wait.Wait()
		r.forget()
	})
	return r
}

func (r *relay) address() string { return r.front.LocalAddr().String() }

// speak makes the relay send this header for all clients that have none of their own.
func (r *relay) speak(header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.header = header
}

// speakFor gives the client a header of its own.
func (r *relay) speakFor(c *h3Client, header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	flow, err := r.flow(c.udp.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(r.t, err)
	flow.header = &header
}

// forget closes the sockets towards Caddy. The next datagram of a client opens a new one.
func (r *relay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for client, flow := range r.flows {
		flow.back.Close()
		delete(r.flows, client)
	}
}

// backPort is the port towards Caddy of a client.
func (r *relay) backPort(c *h3Client) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	flow, err := r.flow(c.udp.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(r.t, err)
	return flow.back.LocalAddr().(*net.UDPAddr).Port
}

func (r *relay) flow(client netip.AddrPort) (*relayFlow, error) {
	flow := r.flows[client]
	if flow == nil {
		back, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(r.from)}, r.to)
		if err != nil {
			return nil, err
		}
		back.SetReadBuffer(1 << 22)
		flow = &relayFlow{client: client, back: back}
		r.flows[client] = flow
		go r.back(flow)
	}
	return flow, nil
}

func (r *relay) forth() {
	r.front.SetReadBuffer(1 << 22)
	buffer := make([]byte, 1<<16)
	for {
		n, client, err := r.front.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		flow, err := r.flow(client)
		header := r.header
		if err == nil && flow.header != nil {
			header = *flow.header
		}
		r.mu.Unlock()
		if err == nil {
			_, _ = flow.back.Write(append([]byte(header), buffer[:n]...)) // UDP may lose it
		}
	}
}

func (r *relay) back(flow *relayFlow) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := flow.back.Read(buffer)
		if n > 0 {
			_, _ = r.front.WriteToUDPAddrPort(buffer[:n], flow.client)
		}
		if err != nil && strings.Contains(err.Error(), net.ErrClosed.Error()) {
			return
		}
	}
}

// h3Client sends requests over one QUIC connection after the other.
type h3Client struct {
	t    testing.TB
	udp  *net.UDPConn
	quic *quic.Transport
	http *http3.Transport

	mu   sync.Mutex
	last *quic.Conn
}

// newH3Client is a client of whoever listens at an address.
func newH3Client(t testing.TB, address string) *h3Client {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", address)
	require.NoError(t, err)
	at := net.IPv4(127, 0, 0, 1)
	if to.IP.To4() == nil {
		at = net.IPv6loopback
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at})
	require.NoError(t, err)
	c := &h3Client{t: t, udp: udp, quic: &quic.Transport{Conn: udp}}
	c.http = &http3.Transport{
		TLSClientConfig:    clientTLS(http3.NextProtoH3),
		QUICConfig:         &quic.Config{HandshakeIdleTimeout: patience, MaxIdleTimeout: patience},
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			conn, err := c.quic.DialEarly(ctx, to, tlsConfig, config)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.last = conn
			return conn, err
		},
	}
	t.Cleanup(func() {
		c.http.Close()
		c.quic.Close()
		udp.Close()
	})
	return c
}

// conn is the client's latest connection.
func (c *h3Client) conn() *quic.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// try sends a request and returns the response with its body.
func (c *h3Client) try(ctx context.Context, method, path string, body io.Reader) (*http.Response, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://localhost"+path, body)
	if err != nil {
		return nil, "", err
	}
	response, err := c.http.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(response.Body)
	return response, text.String(), err
}

// get is try for a request that must be answered.
func (c *h3Client) get(path string) (*http.Response, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	response, body, err := c.try(ctx, http.MethodGet, path, nil)
	require.NoError(c.t, err)
	return response, body
}

// h3Eventually sends requests, each over a new connection, until the answer has this status
// and this in its body. After a reload Caddy may still lose a new connection, or let the
// configuration before answer it.
func h3Eventually(t testing.TB, address string, status int, want string) (response *http.Response, body string) {
	t.Helper()
	const attempt = patience / 10
	eventually(t, func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), attempt)
		defer cancel()
		client := newH3Client(t, address)
		defer client.http.Close()
		var err error
		response, body, err = client.try(ctx, http.MethodGet, "/", nil)
		return err == nil && response.StatusCode == status && strings.Contains(body, want)
	}, "not answered with %d %s", status, want)
	return response, body
}

// h3Says is what the site of h3Options answers.
const h3Says = "{remote} marked={http.proxy_protocol.port_zero} present={http.proxy_protocol.present} mode={http.proxy_protocol.mode} peer={http.proxy_protocol.peer_ip}"

// h3Site is a site that tells what it sees, with more in it.
func h3Site(t testing.TB, port int, more string) string {
	return fmt.Sprintf("https://localhost:%d {\nbind %s\ntls %s\nlog\n%s\nrespond `%s`\n}\n",
		port, strings.Join(loopbacks(), " "), tlsFiles(t), more, h3Says)
}

// packets are the global options that put the packet wrapper on all servers, with the
// listener wrapper beside it. A packet wrapper that is on and does not say whom it trusts
// trusts all peers of this machine.
func packets(listener, packet string) string {
	if strings.HasPrefix(packet, "on") && !strings.Contains(packet, "trusted_proxies") {
		options, _ := strings.CutPrefix(packet, "on")
		options = strings.Trim(options, " {}\n")
		packet = "on {\ntrusted_proxies static 127.0.0.0/8 ::1\n" + options + "\n}"
	}
	options := "auto_https disable_redirects\nservers {\n"
	if listener != "" {
		options += "listener_wrappers {\nproxy_protocol_mode " + listener + "\ntls\n}\n"
	}
	if packet != "" {
		options += "packet_conn_wrappers {\nproxy_protocol_mode " + packet + "\n}\n"
	}
	return options + "}\n"
}

// soonIdle are options that let go of connections after a second. A stream that ends behind its
// connection makes quic-go keep both until they are idle.
func soonIdle(options string) string {
	return strings.Replace(options, "servers {", "servers {\ntimeouts {\nidle 1s\n}", 1)
}

// ofPackets are the fields of what the packet wrapper logs.
var ofPackets = fields{"logger": "caddy.packetconns.proxy_protocol_mode"}

// datagramsOf returns how many datagrams of the only packet wrapper had each outcome.
func datagramsOf(t testing.TB) map[string]uint64 {
	t.Helper()
	for _, l := range currentStatus().Listeners {
		if strings.HasPrefix(l.Address, "udp/") {
			return l.Outcomes
		}
	}
	return nil
}
