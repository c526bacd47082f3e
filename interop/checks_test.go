//go:build interop

package interop

import (
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/peers"
)

// TestHAProxyChecks asserts Caddy's reactions to HAProxy's health checks, and the status of Caddy at
// HAProxy.
func TestHAProxyChecks(t *testing.T) {
	for _, program := range haproxies {
		t.Run(program.name, func(t *testing.T) { testHAProxyChecks(t, program) })
	}
}

func testHAProxyChecks(t *testing.T, program haproxyProgram) {
	const (
		// mixed accepts connections of the load balancer with or without a header.
		mixed = "proxy_protocol_mode on {\nunspecified " + serverIP4 + "\n}"
		http  = "option httpchk\n\thttp-check send meth GET uri /check ver HTTP/1.1 hdr Host localhost"
		tcp   = ""
	)
	c := startCaddy(t, on, off, mixed)
	at := func(wrapper string) string { return fmt.Sprintf(" port %d", c.servers[wrapper].plain) }
	for _, test := range []struct {
		name, wrapper string
		// check are HAProxy's options of the health check, and server those of the server.
		check, server string
		tls           bool
		// status is the status of the server at HAProxy. last is the result of a check that
		// succeeded, or empty.
		status, last string
		// facts are in the log entry of a check that Caddy answered, without the peer. They are
		// nil if Caddy answers none.
		facts *facts
		// mode and reason are those of the refusal of a check. They are empty if none is refused.
		mode, reason string
	}{
		{
			name:    "checks with the traffic's headers",
			wrapper: on, check: http, server: "send-proxy-v2 check",
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "on", Present: true, Version: 2, Command: "LOCAL"},
		},
		{
			// Version 1 has no LOCAL: the header names both ends of the connection.
			name:    "the same of version 1",
			wrapper: on, check: http, server: "send-proxy check",
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "on", Present: true, Version: 1, Transport: "TCP4"},
		},
		{
			name:    "the same over TLS",
			wrapper: on, check: http, server: "send-proxy-v2 check check-ssl verify none", tls: true,
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "on", Present: true, Version: 2, Command: "LOCAL"},
		},
		{
			// HAProxy leaves the header out as soon as checks have a port of their own.
			name:    "a port for checks",
			wrapper: on, check: http, server: "send-proxy-v2 check" + at(on),
			status: "DOWN",
			mode:   "on", reason: "missing",
		},
		{
			name:    "a port for checks, and check-send-proxy",
			wrapper: on, check: http, server: "send-proxy-v2 check check-send-proxy" + at(on),
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "on", Present: true, Version: 2, Command: "LOCAL"},
		},
		{
			// Traffic and checks come from the same address. Only a port of their own lets
			// checks in without a header, and leaves it mandatory for traffic.
			name:    "a port for checks where the mode is off",
			wrapper: on, check: http, server: "send-proxy-v2 check" + at(off),
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "off"},
		},
		{
			name:    "a port for checks where the load balancer's mode is unspecified",
			wrapper: mixed, check: http, server: "send-proxy-v2 check" + at(mixed),
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "unspecified"},
		},
		{
			name:    "headers under off",
			wrapper: off, check: http, server: "send-proxy-v2 check",
			status: "DOWN",
			mode:   "off", reason: "forbidden",
		},
		{
			// The check is accepted, but traffic would not be.
			name:    "headers of checks only",
			wrapper: on, check: http, server: "check check-send-proxy",
			status: "UP", last: "L7OK",
			facts: &facts{Mode: "on", Present: true, Version: 1, Transport: "TCP4"},
		},
		{
			// The check only connects, and closes the connection before the header's timeout.
			name:    "a check of TCP, without a header",
			wrapper: on, check: tcp, server: "send-proxy-v2 check" + at(on),
			status: "UP", last: "L4OK",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			logs := c.logs.now(t)
			// Paths in t.TempDir are too long for a socket.
			dir, err := os.MkdirTemp("", "interop")
			require.NoError(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			socket := filepath.Join(dir, "stats")
			listen := ipv4.freeAddress(t)
			config := peers.Files(t, map[string]string{"haproxy.cfg": fmt.Sprintf(`
global
	stats socket %s
defaults
	mode http
	timeout client 30s
	timeout server 30s
	timeout connect 30s
	timeout check 30s
	%s
listen test
	bind %s
	server caddy %s %s inter 100ms rise 1 fall 1
`, socket, test.check, listen, c.servers[test.wrapper].address(ipv4, test.tls), test.server)})
			peers.Start(t, []string{listen}, program.path(t), "-db", "-f", filepath.Join(config, "haproxy.cfg"))
			var status, last string
			eventually(t, "HAProxy does not check", func() bool {
				status, last = serverStatus(t, socket)
				return last != "" && last != "INI" && !strings.HasPrefix(last, "*")
			})
			assert.Equal(t, test.status, status)
			if test.last != "" {
				assert.Equal(t, test.last, last)
			}
			if test.reason != "" {
				refused := logs.waitFor(t, entry.isRefusal)
				assert.Equal(t, test.mode, refused.Mode)
				assert.Equal(t, test.reason, refused.Reason)
			} else {
				assert.Empty(t, logs.find(t, entry.isRefusal))
			}
			isCheck := func(e entry) bool { return e.Request.URI == "/check" }
			if test.facts == nil {
				assert.Empty(t, logs.find(t, isCheck))
				return
			}
			logged := logs.waitFor(t, isCheck)
			assert.Equal(t, 200, logged.Status)
			// The load balancer is the client.
			assert.Equal(t, logged.ProxyProtocol.Peer, net.JoinHostPort(logged.Request.RemoteIP, logged.Request.RemotePort))
			assert.Equal(t, serverIP4, logged.Request.ClientIP)
			if test.facts.Version == 1 {
				test.facts.Source, test.facts.Destination = logged.ProxyProtocol.Peer, c.servers[test.wrapper].address(ipv4, test.tls)
			}
			logged.ProxyProtocol.Peer = ""
			assert.Equal(t, *test.facts, logged.ProxyProtocol)
		})
	}
}

// serverStatus returns the status of the server, and the result of its last check, from HAProxy's
// statistics. Both are empty if HAProxy does not run yet.
func serverStatus(t testing.TB, socket string) (status, last string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", "" // not there yet
	}
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, "show stat\n")
	require.NoError(t, err)
	table, err := csv.NewReader(conn).ReadAll()
	require.NoError(t, err)
	for _, row := range table[1:] {
		named := make(map[string]string)
		for i, name := range table[0] {
			named[name] = row[i]
		}
		if named["svname"] == "caddy" {
			return named["status"], named["check_status"]
		}
	}
	require.Fail(t, "no such server")
	return "", ""
}
