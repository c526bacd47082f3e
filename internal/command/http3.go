package command

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// probesHTTP3 sends a request over HTTP/3 without headers, and at the same time one with a header
// before each datagram. bare is the result without headers. behind is the result with headers, or
// nil if the request without them was answered.
func (p *prober) probesHTTP3() (bare, behind *probeResult) {
	if p.network == "unix" {
		return &probeResult{unreachable, "a Unix socket has no HTTP/3"}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	results := make(chan probeResult, 1)
	go func() { results <- p.probeHTTP3(ctx, datagramHeader()) }()
	answer := p.probeHTTP3(ctx, nil)
	if answer.reaction != timedOut && answer.reaction != unreachable {
		return &answer, nil
	}
	second := <-results
	return &answer, &second
}

// datagramHeader returns the header for the datagrams of a probe.
func datagramHeader() []byte {
	h, err := wire.NewProxy(2, wire.Dgram, claimed6, claimedDest6)
	if err != nil {
		panic(err)
	}
	b, err := wire.Append(nil, h, nil, false)
	if err != nil {
		panic(err)
	}
	return b
}

// probeHTTP3 sends a request over HTTP/3, in datagrams that begin with header, which may be
// empty.
func (p *prober) probeHTTP3(ctx context.Context, header []byte) probeResult {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	// The socket is connected, so that it gets an error at once if the port is closed.
	conn, err := p.dialUDP(ctx)
	if err != nil {
		return probeResult{unreachable, problem(err)}
	}
	udp := &quic.Transport{Conn: connectedPacketConn{conn, header}}
	client := &http3.Transport{
		TLSClientConfig: p.tlsConfig(http3.NextProtoH3),
		QUICConfig:      &quic.Config{HandshakeIdleTimeout: p.timeout, MaxIdleTimeout: p.timeout},
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return udp.Dial(ctx, conn.RemoteAddr(), tlsConfig, config)
		},
		DisableCompression: true,
	}
	defer func() {
		client.Close()
		udp.Close()
		conn.Close()
	}()

	request, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+p.host+"/", nil)
	if err != nil {
		return probeResult{unreachable, problem(err)}
	}
	request.Header.Set("User-Agent", userAgent)
	response, err := client.RoundTrip(request)
	var refusal *quic.TransportError
	var opErr *net.OpError
	switch {
	case err == nil:
		response.Body.Close()
		return probeResult{answered, "HTTP " + strconv.Itoa(response.StatusCode)}
	case errors.As(err, &refusal) && refusal.Remote:
		return probeResult{tlsFailed, escape.Text(refusal.Error())}
	case errors.As(err, &opErr):
		return probeResult{unreachable, problem(err)}
	case isTimeout(err):
		return probeResult{timedOut, ""}
	default:
		return probeResult{answeredOther, escape.Text(err.Error())}
	}
}

// connectedPacketConn is a connected UDP socket with the methods that quic-go needs. It writes
// the header before each datagram.
type connectedPacketConn struct {
	net.Conn
	header []byte
}

// ReadFrom reads a datagram. Its address is always that of the other end.
func (c connectedPacketConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.RemoteAddr(), err
}

// WriteTo writes a datagram behind the header. The address is ignored.
func (c connectedPacketConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	n, err := c.Write(append(c.header[:len(c.header):len(c.header)], p...))
	return max(n-len(c.header), 0), err
}

// SetReadBuffer and SetWriteBuffer do nothing. quic-go calls them to enlarge the buffers of the
// socket, which one request does not need, and logs a warning if it cannot.
func (connectedPacketConn) SetReadBuffer(int) error  { return nil }
func (connectedPacketConn) SetWriteBuffer(int) error { return nil }
