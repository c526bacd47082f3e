package proxyprotocol_test

import (
	"crypto/tls"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// A load balancer that sends to the wrong port, or ends TLS when it should not, is found in the log
// and in the status: the connection fails at the HTTP server, which does not say why.
func TestListenerWrapper_SaysThatTLSCameOnAPortForPlainHTTPAndTheReverse(t *testing.T) {
	const onPlain, onTLS = "received TLS behind a PROXY protocol header, but this port is for plain HTTP", "received plain HTTP behind a PROXY protocol header, but this port is for TLS"
	header := headertest.V2(headertest.Client4, headertest.Server4)
	for _, tt := range []struct {
		name     string
		wrappers string
		tls      bool // the port expects TLS
		sendTLS  bool // the client does TLS
		want     string
	}{
		{"TLS on plain", "proxy_protocol_mode on\ntls", false, true, onPlain},
		{"plain on TLS", "proxy_protocol_mode on\ntls", true, false, onTLS},
		{"TLS on plain, tls not listed", "proxy_protocol_mode on", false, true, onPlain},
		{"plain on plain", "proxy_protocol_mode on\ntls", false, false, ""},
		{"TLS on TLS", "proxy_protocol_mode on\ntls", true, true, ""},
		{"plain on TLS that is redirected", "proxy_protocol_mode on\nhttp_redirect\ntls", true, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plainPort, tlsPort := caddytest.FreePort(t), caddytest.FreePort(t)
			c := caddytest.New(t)
			global := fmt.Sprintf("http_port %d\nhttps_port %d\nauto_https disable_redirects\nservers {\nlistener_wrappers {\n%s\n}\n}\n", plainPort, tlsPort, tt.wrappers)
			certificate := caddytest.CertificateFiles(t)
			site, port := fmt.Sprintf("http://localhost:%d {\nrespond ok\n}\n", plainPort), plainPort
			if tt.tls {
				site, port = fmt.Sprintf("https://localhost:%d {\ntls %s\nrespond ok\n}\n", tlsPort, certificate), tlsPort
			}
			require.NoError(t, c.Load(global, site))
			for range 2 { // the second is not logged
				conn := caddytest.DialFrom(t, "", port)
				caddytest.Send(t, conn, header)
				if tt.sendTLS {
					_ = tls.Client(conn, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}).Handshake()
				} else {
					caddytest.Send(t, conn, caddytest.Request("/"))
					caddytest.ReadResponse(t, conn)
				}
				conn.Close()
			}
			status := func() statusapi.Listener { return caddytest.CurrentStatus(t).Listeners[0] }
			caddytest.Eventually(t, func() bool { return status().Outcomes["client"] == 2 }, "not counted")
			logged := c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"level": "info", "source": headertest.Client4.String()}))
			switch tt.want {
			case "":
				assert.Empty(t, logged)
				assert.Nil(t, status().WrongPayloads)
				assert.Empty(t, status().Hints)
				return
			case onPlain:
				assert.Equal(t, &statusapi.WrongPayloads{TLS: 2}, status().WrongPayloads)
				assert.Contains(t, status().Hints[0], "TLS arrives behind the header, but this port is for plain HTTP (connections: 2)")
			default:
				assert.Equal(t, &statusapi.WrongPayloads{HTTP: 2}, status().WrongPayloads)
				assert.Contains(t, status().Hints[0], "plain HTTP arrives behind the header, but this port is for TLS (connections: 2)")
			}
			require.Len(t, logged, 1)
			assert.Equal(t, tt.want, logged[0].Str("msg"))
			assert.Len(t, status().Hints, 1)
		})
	}
}

func TestStatus_SaysWhatBecameOfHTTP3(t *testing.T) {
	const packets = "\npacket_conn_wrappers {\nproxy_protocol_mode on {\ntrusted_proxies static 127.0.0.1\n}\n}"
	for _, tt := range []struct {
		name, wrapper, more, want string
		listeners                 int
	}{
		{"on", "proxy_protocol_mode on", "", "disabled", 1},
		{"on, allowed", "proxy_protocol_mode on {\nhttp3 allow\n}", "", "unchecked", 1},
		{"on, with the packet wrapper", "proxy_protocol_mode on", packets, "checked", 2},
		{"off", "proxy_protocol_mode off", "", "unchecked", 1},
		{"without HTTP/3", "proxy_protocol_mode on", "\nprotocols h1 h2", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, fmt.Sprintf("https_port %d\nauto_https disable_redirects\nservers {\nlistener_wrappers {\n%s\ntls\n}%s\n}\n", port, tt.wrapper, tt.more),
				fmt.Sprintf("https://localhost:%d {\ntls %s\nrespond ok\n}\n", port, caddytest.CertificateFiles(t)))
			opened := caddytest.Fields{"msg": "checking PROXY protocol headers"}
			caddytest.Eventually(t, func() bool { return len(c.Logs.Find(opened)) == tt.listeners }, "not logged")
			for _, l := range caddytest.CurrentStatus(t).Listeners {
				assert.Equal(t, tt.want, l.HTTP3, l.Address)
			}
			for _, entry := range c.Logs.Find(opened) {
				assert.Equal(t, tt.want, entry.Str("http3"))
			}
		})
	}
}
