package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The addresses in the headers of probes. RFC 5737 and RFC 3849 reserve them for
// documentation, so they belong to no host.
var (
	claimed4     = netip.MustParseAddrPort("192.0.2.1:51234")
	claimedDest4 = netip.MustParseAddrPort("192.0.2.2:443")
	claimed6     = netip.MustParseAddrPort("[2001:db8::1]:51234")
	claimedDest6 = netip.MustParseAddrPort("[2001:db8::2]:443")
)

// claims are the TLVs and the signature of the headers of probes that name a client.
type claims struct {
	tlvs   []wire.TLV
	signer *signer
}

// preambles returns the bytes that the connection of each probe begins with. The error says that the
// TLVs are too long.
func (c claims) preambles() (p [probeCount][]byte, err error) {
	header := func(h wire.Header, headerErr error, tlvs []wire.TLV, checksum bool) (b []byte) {
		if err == nil {
			err = headerErr
		}
		if err == nil {
			b, err = wire.Append(nil, h, tlvs, checksum)
		}
		return b
	}
	v1, v1Err := wire.NewProxy(1, wire.Stream, claimed4, claimedDest4)
	v2, v2Err := wire.NewProxy(2, wire.Stream, claimed6, claimedDest6)
	tlvs, signErr := c.signer.sign(&v2, c.tlvs)
	p[headerV1] = header(v1, v1Err, nil, false)
	p[headerV2] = header(v2, errors.Join(v2Err, signErr), tlvs, false)
	p[headerLocal] = header(wire.NewLocal(), nil, nil, false)
	p[twoHeadersV1] = bytes.Repeat(p[headerV1], 2)
	p[twoHeadersV2] = bytes.Repeat(p[headerV2], 2)
	// The checksum is behind the TLVs.
	if p[wrongChecksum] = header(v2, nil, tlvs, true); err == nil {
		p[wrongChecksum][len(p[wrongChecksum])-1] ^= 0xff
	}
	return p, err
}

// bare returns the preamble with a v2 header without the TLVs and the signature, or nil if there are
// none.
func (c claims) bare() []byte {
	if len(c.tlvs) == 0 && c.signer == nil {
		return nil
	}
	p, _ := claims{}.preambles()
	return p[headerV2]
}

// prober sends probes to a listener and records the reactions.
type prober struct {
	// target is the listener. Its address is an IP address and a port, once a connection was
	// made.
	target
	// serverName is the server name in TLS, and host is the Host in requests.
	serverName, host string
	// timeout bounds each probe.
	timeout time.Duration
	// claims are those of the headers.
	claims
}

// probe sends all probes at the same time, over TLS or plain HTTP. first is an open connection
// for the first probe; if it is nil, the first probe connects like the others.
func (p *prober) probe(overTLS bool, first net.Conn) *probeResults {
	var results probeResults
	preambles, _ := p.preambles() // parseCheck has found errors
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			if i == 0 && first != nil {
				results[i] = p.talk(first, preambles[i], overTLS)
			} else {
				results[i] = p.probeOne(preambles[i], overTLS)
			}
		})
	}
	wg.Wait()
	return &results
}

// probeBare sends a v2 header without the TLVs and the signature of the others. It returns nil if the
// others have none.
func (p *prober) probeBare(overTLS bool) *probeResult {
	preamble := p.bare()
	if preamble == nil {
		return nil
	}
	r := p.probeOne(preamble, overTLS)
	return &r
}

// probeOne sends a preamble and a request on a connection of its own.
func (p *prober) probeOne(preamble []byte, overTLS bool) probeResult {
	conn, err := p.dial(context.Background(), p.timeout)
	if err != nil {
		return probeResult{unreachable, problem(err)}
	}
	return p.talk(conn, preamble, overTLS)
}

// problem returns a short text for an error of a connection. Addresses and operations are left
// out, because the report names them.
func problem(err error) string {
	var dnsErr *net.DNSError
	var sysErr *os.SyscallError
	var opErr *net.OpError
	switch {
	case isTimeout(err):
		return "timed out"
	case errors.As(err, &dnsErr):
		return escape.Text(dnsErr.Err)
	case errors.As(err, &sysErr):
		err = sysErr.Err
	case errors.As(err, &opErr):
		err = opErr.Err
	}
	return escape.Text(err.Error())
}

// talk sends a preamble and a request, or a ClientHello, and waits for the reaction.
func (p *prober) talk(conn net.Conn, preamble []byte, overTLS bool) probeResult {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(p.timeout)); err != nil {
		return probeResult{unreachable, problem(err)}
	}
	conn = &prefixedConn{Conn: conn, prefix: preamble}
	if overTLS {
		return p.talkTLS(conn)
	}
	// Even if the write fails, an answer may have arrived.
	_, _ = io.WriteString(conn, p.request())
	return readAnswer(conn, nil)
}

// request returns the text of a HEAD request, which changes nothing on the server.
func (p *prober) request() string {
	return "HEAD / HTTP/1.1\r\nHost: " + p.host + "\r\nUser-Agent: " + userAgent + "\r\nConnection: close\r\n\r\n"
}

const userAgent = "caddy-proxy-protocol"

// tlsConfig returns the TLS configuration of probes. Certificates are not verified, because
// probes send nothing secret.
func (p *prober) tlsConfig(protocols ...string) *tls.Config {
	return &tls.Config{ServerName: p.serverName, InsecureSkipVerify: true, NextProtos: protocols} //nolint:gosec
}

// talkTLS makes a TLS handshake. If the answer is not TLS, it is read as one to a plain request.
func (p *prober) talkTLS(conn net.Conn) probeResult {
	recording := &recordingConn{Conn: conn}
	client := tls.Client(recording, p.tlsConfig("h2", "http/1.1"))
	err := client.Handshake()
	var noTLS tls.RecordHeaderError
	switch {
	case err == nil:
		client.Close()
		return probeResult{answered, "TLS handshake completed"}
	case len(recording.received) > 0 && !errors.As(err, &noTLS):
		return probeResult{tlsFailed, problem(err)}
	default:
		return readAnswer(conn, recording.received)
	}
}

// maxAnswer is the number of bytes after which reading an answer ends. A status line is shorter.
const maxAnswer = 1 << 10

// readAnswer reads the beginning of an answer and returns the reaction. received are the bytes
// of the answer that have been read before.
func readAnswer(conn net.Conn, received []byte) probeResult {
	var err error
	for err == nil && len(received) < maxAnswer && !bytes.Contains(received, []byte("\r\n")) {
		var b [maxAnswer]byte
		var n int
		n, err = conn.Read(b[:])
		received = append(received, b[:n]...)
	}
	line, _, complete := bytes.Cut(received, []byte("\r\n"))
	switch {
	case len(received) == 0 && isTimeout(err):
		return probeResult{timedOut, ""}
	case len(received) == 0:
		return probeResult{closed, ""}
	case complete && isStatusLine(line):
		code := string(line[len("HTTP/1.x "):][:3])
		if code == "400" {
			return probeResult{answered400, "HTTP 400"}
		}
		return probeResult{answered, "HTTP " + code}
	default:
		return probeResult{answeredOther, excerpt(received)}
	}
}

// isStatusLine reports whether a line is the first of an HTTP/1.x response.
func isStatusLine(line []byte) bool {
	const like = "HTTP/1.x 200"
	if len(line) < len(like) {
		return false
	}
	for i, c := range []byte(like) {
		switch is := line[i]; {
		case c == 'x' || '0' <= c && c <= '9' && i > len("HTTP/1.x"):
			if is < '0' || '9' < is {
				return false
			}
		case c != is:
			return false
		}
	}
	return len(line) == len(like) || line[len(like)] == ' '
}

// excerpt returns the beginning of an answer, escaped, and the number of bytes if it is cut off.
func excerpt(b []byte) string {
	const most = 16
	if len(b) <= most {
		return escape.Text(string(b))
	}
	return fmt.Sprintf("%s... (%d bytes)", escape.Text(string(b[:most])), len(b))
}

// isTimeout reports whether a deadline or a context has expired.
func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

// prefixedConn is a connection that writes a prefix before the bytes of the first Write, in one
// Write of the connection below.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

// Write writes p, behind the prefix if it is the first Write.
func (c *prefixedConn) Write(p []byte) (int, error) {
	if len(c.prefix) == 0 {
		return c.Conn.Write(p)
	}
	prefix := len(c.prefix)
	n, err := c.Conn.Write(append(c.prefix[:prefix:prefix], p...))
	c.prefix = nil
	return max(n-prefix, 0), err
}

// recordingConn is a connection that keeps all bytes it has read in received.
type recordingConn struct {
	net.Conn
	received []byte
}

// Read reads into p and keeps a copy of the bytes.
func (c *recordingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received = append(c.received, p[:n]...)
	return n, err
}
