//go:build interop

package interop

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// TestCurl asserts that Caddy accepts the header of curl, which has version 1 and curl's own
// addresses. (Since 8.2, curl can send another client's address, but Debian 12 has 7.88.)
func TestCurl(t *testing.T) {
	curl := peers.Need(t, "curl", "curl")
	c := startCaddy(t, on)
	for _, test := range []struct {
		protocol
		options []string
	}{
		{http1, []string{"--http1.1"}},
		{h2c, []string{"--http2-prior-knowledge"}},
		{http1Through, []string{"--http1.1"}},
		{http2Through, []string{"--http2"}},
	} {
		for _, f := range []family{ipv4, ipv6} {
			t.Run(test.protocol.name+" "+f.String(), func(t *testing.T) {
				l := test.protocol.leg(t, f, f, c.servers[on])
				scheme := "http"
				if l.protocol.tls {
					scheme = "https"
				}
				path := fmt.Sprintf("/%d", requests.Add(1))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				command := exec.CommandContext(ctx, curl, append(test.options, "--silent", "--show-error", "--haproxy-protocol",
					"--cacert", filepath.Join(c.files, "ca.pem"), "--write-out", "\n%{local_ip} %{local_port}", scheme+"://"+l.caddy+path)...)
				command.Stderr = t.Output()
				output, err := command.Output()
				require.NoError(t, err)
				text, local := string(output), ""
				if at := strings.LastIndex(text, "\n"); at >= 0 {
					text, local = text[:at], text[at+1:]
				}
				ip, port, _ := strings.Cut(local, " ")
				require.Equal(t, f.server(), ip)
				client := &client{ip: ip, local: net.JoinHostPort(ip, port)}
				l.listen = l.caddy
				want := sender{version: 1}.expected(l, client, nil)
				got := readAnswer(t, strings.NewReader(text))
				logged := c.logs.waitFor(t, func(e entry) bool { return e.Request.URI == path })
				requireAnswer(t, want, got, logged)
				require.Equal(t, client.local, got.proxyProtocol.Peer)
				require.Equal(t, l.version(), logged.Request.Proto)
			})
		}
	}
}

// TestCurlRefused asserts curl's error for a connection that is refused because it begins without a
// header, or with one.
func TestCurlRefused(t *testing.T) {
	curl := peers.Need(t, "curl", "curl")
	c := startCaddy(t, on, off)
	const emptyReply, handshakeFailed = 52, 35
	for _, test := range []struct {
		name, wrapper string
		options       []string
		tls           bool
		code          int
		mode, reason  string
	}{
		{"no header under on", on, nil, false, emptyReply, "on", "missing"},
		{"no header under on, TLS", on, nil, true, handshakeFailed, "on", "missing"},
		{"a header under off, TLS", off, []string{"--haproxy-protocol"}, true, handshakeFailed, "off", "forbidden"},
	} {
		t.Run(test.name, func(t *testing.T) {
			logs := c.logs.now(t)
			scheme := "http"
			if test.tls {
				scheme = "https"
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			command := exec.CommandContext(ctx, curl, append(test.options, "--silent", "--cacert", filepath.Join(c.files, "ca.pem"),
				scheme+"://"+c.servers[test.wrapper].address(ipv4, test.tls))...)
			output, err := command.Output()
			require.Empty(t, string(output))
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, test.code, exit.ExitCode())
			refused := logs.waitFor(t, entry.isRefusal)
			require.Equal(t, test.mode, refused.Mode)
			require.Equal(t, test.reason, refused.Reason)
		})
	}
}
