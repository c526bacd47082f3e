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
)

// probeHTTP3 sends a request over HTTP/3. Nothing comes before it: UDP has no connection
// that a header could stand at the beginning of.
func (p *prober) probeHTTP3(ctx context.Context) outcome {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	// A connected socket learns at once that nobody listens.
	conn, err := new(net.Dialer).DialContext(ctx, "udp", p.address)
	if err != nil {
		return outcome{unreachable, problem(err)}
	}
	udp := &quic.Transport{Conn: connectedPacketConn{conn}}
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
		return outcome{unreachable, problem(err)}
	}
	request.Header.Set("User-Agent", userAgent)
	response, err := client.RoundTrip(request)
	var refusal *quic.TransportError
	var opErr *net.OpError
	switch {
	case err == nil:
		response.Body.Close()
		return outcome{answered, "HTTP " + strconv.Itoa(response.StatusCode)}
	case errors.As(err, &refusal) && refusal.Remote:
		return outcome{tlsFailed, escape.Text(refusal.Error())}
	case errors.As(err, &opErr):
		return outcome{unreachable, problem(err)}
	case isTimeout(err):
		return outcome{hung, ""}
	default:
		return outcome{babbled, escape.Text(err.Error())}
	}
}

// connectedPacketConn makes a connected UDP socket what QUIC wants.
type connectedPacketConn struct{ net.Conn }

func (c connectedPacketConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.RemoteAddr(), err
}

func (c connectedPacketConn) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

// One request needs no larger buffers, and no warning that there are none.
func (connectedPacketConn) SetReadBuffer(int) error  { return nil }
func (connectedPacketConn) SetWriteBuffer(int) error { return nil }
