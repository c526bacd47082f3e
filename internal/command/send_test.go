package command_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/freeport"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// received has the header, the peer and the request that a server received.
type received struct {
	header  wire.Result
	peer    netip.AddrPort
	request *http.Request
}

// receive serves plain HTTP until the test ends. The server reads a header and a request, sends
// the answer, and passes on the header and the request through got.
func receive(t testing.TB, answer string) (address string, got <-chan received) {
	results := make(chan received, 1)
	return serve(t, receiver(results, answer)), results
}

// receiveIPv6 is receive over IPv6.
func receiveIPv6(t testing.TB, answer string) (address string, got <-chan received) {
	results := make(chan received, 1)
	return serveAt(t, "[::1]:0", receiver(results, answer)), results
}

func receiver(results chan<- received, answer string) func(net.Conn) {
	return func(conn net.Conn) {
		r := bufio.NewReaderSize(conn, wire.MaxSize)
		var result received
		for size := 1; ; size++ {
			b, err := r.Peek(size)
			result.header = wire.Decode(b, wire.MaxSize)
			if err != nil || result.header.State == wire.Complete || result.header.State == wire.Invalid {
				break
			}
		}
		result.header.TLVs = bytes.Clone(result.header.TLVs)
		_, _ = r.Discard(result.header.Size)
		result.peer = conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		var err error
		if result.request, err = http.ReadRequest(r); err == nil {
			do(conn, answer)
		}
		results <- result
	}
}

func TestSendHeaders(t *testing.T) {
	const own = "own" // the connection's address
	for _, test := range []struct {
		args                []string
		version             uint8
		command             wire.Command
		source, destination string
		tlvs                string
	}{
		{args: nil, version: 2, source: own, destination: own},
		{args: []string{"--v2"}, version: 2, source: own, destination: own},
		{args: []string{"--v1"}, version: 1, source: own, destination: own},
		{args: []string{"--source", "203.0.113.7:1"}, version: 2, source: "203.0.113.7:1", destination: own},
		{args: []string{"--v1", "--source", "[2001:db8::7]:1"}, version: 1, source: "[2001:db8::7]:1", destination: "[::]:PORT"},
		{args: []string{"--destination", "203.0.113.7:443"}, version: 2, source: own, destination: "203.0.113.7:443"},
		{args: []string{"--destination", "[2001:db8::7]:443"}, version: 2, source: "[::]:PORT", destination: "[2001:db8::7]:443"},
		{args: []string{"--v1", "--source", "203.0.113.7:0", "--destination", "0.0.0.0:65535"}, version: 1, source: "203.0.113.7:0", destination: "0.0.0.0:65535"},
		{args: []string{"--source", "[::ffff:203.0.113.7]:1"}, version: 2, source: "[::ffff:203.0.113.7]:1", destination: "[::]:PORT"},
		{args: []string{"--local"}, version: 2, command: wire.Local},
		{args: []string{"--v2", "--local"}, version: 2, command: wire.Local},
		{args: []string{"--tlv", "authority=example.com", "--tlv", "0xF0=00ff", "--tlv", "alpn="}, version: 2, source: own, destination: own,
			tlvs: "02000b" + hex.EncodeToString([]byte("example.com")) + "f0000200ff" + "010000"},
		{args: []string{"--tlv", "netns=a=b"}, version: 2, source: own, destination: own, tlvs: "300003" + hex.EncodeToString([]byte("a=b"))},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Parallel()
			address, got := receive(t, ok)
			output, err := proxyProtocol(t, "", append(append([]string{"send"}, test.args...), "http://"+address+"/path?query")...)
			require.NoError(t, err)
			assert.Equal(t, "HTTP/1.1 200 OK\nContent-Length: 0\n\n", output)

			r := <-got
			require.Equal(t, wire.Complete, r.header.State)
			h := r.header.Header
			assert.Equal(t, test.version, h.Version())
			if test.command == wire.Local && test.source == "" {
				assert.Equal(t, wire.Local, h.Command())
			} else {
				assert.Equal(t, wire.Proxy, h.Command())
				assert.Equal(t, wire.Stream, h.Transport())
				assertAddress(t, test.source, r.peer, h.Source())
				assertAddress(t, test.destination, netip.MustParseAddrPort(address), h.Destination())
			}
			assert.Equal(t, test.tlvs, hex.EncodeToString(r.header.TLVs))
			assert.Equal(t, "/path?query", r.request.RequestURI)
			assert.Equal(t, http.MethodGet, r.request.Method)
			assert.Equal(t, "caddy-proxy-protocol", r.request.UserAgent())
		})
	}
}

// assertAddress compares an address with the wanted one. "own" stands for the connection's own.
func assertAddress(t testing.TB, want string, own, got netip.AddrPort) {
	t.Helper()
	if want == "own" {
		assert.Equal(t, own, got)
		return
	}
	assert.Equal(t, strings.ReplaceAll(want, "PORT", fmt.Sprint(own.Port())), got.String())
}

func TestSendOverIPv6(t *testing.T) {
	if len(freeport.Loopbacks()) < 2 {
		t.Skip("no IPv6 here")
	}
	for _, test := range []struct {
		args                []string
		source, destination string
	}{
		{nil, "own", "own"},
		{[]string{"--v1"}, "own", "own"},
		{[]string{"--source", "203.0.113.7:1"}, "203.0.113.7:1", "0.0.0.0:PORT"},
		{[]string{"--v1", "--destination", "203.0.113.7:1"}, "0.0.0.0:PORT", "203.0.113.7:1"},
		{[]string{"--source", "[2001:db8::7]:1"}, "[2001:db8::7]:1", "own"},
	} {
		address, got := receiveIPv6(t, ok)
		_, err := proxyProtocol(t, "", append(append([]string{"send"}, test.args...), "http://"+address)...)
		require.NoError(t, err)
		r := <-got
		require.Equal(t, wire.Complete, r.header.State)
		assertAddress(t, test.source, r.peer, r.header.Header.Source())
		assertAddress(t, test.destination, netip.MustParseAddrPort(address), r.header.Header.Destination())
	}

	t.Run("TLVs that leave no room for IPv6 addresses", func(t *testing.T) {
		const room = 1<<16 - 1 - len("\x00\x00\x00")
		fits := func(addresses int) string { return "netns=" + strings.Repeat("x", room-addresses) }
		const ipv4, ipv6 = 2*4 + 2*2, 2*16 + 2*2
		address, got := receiveIPv6(t, ok)
		_, err := proxyProtocol(t, "", "send", "--tlv", fits(ipv4), "http://"+address)
		require.ErrorContains(t, err, "addresses and TLVs are longer than 65535 bytes")
		<-got // the connection on which no bytes arrived
		_, err = proxyProtocol(t, "", "send", "--tlv", fits(ipv6), "http://"+address)
		require.NoError(t, err)
		assert.Equal(t, wire.MaxSize, (<-got).header.Size)
	})
}

func TestSendChecksum(t *testing.T) {
	address, got := receive(t, ok)
	_, err := proxyProtocol(t, "", "send", "--checksum", "--tlv", "unique_id=id", "http://"+address)
	require.NoError(t, err)
	r := <-got
	require.Equal(t, wire.Complete, r.header.State)
	_, present := r.header.TLVs.First(wire.TypeCRC32C)
	assert.True(t, present, "a wrong one would be invalid")
}

func TestSendRequest(t *testing.T) {
	address, got := receive(t, ok)
	_, err := proxyProtocol(t, "", "send", "-X", "delete", "-H", "Host: example.com", "-H", "X-Test:  one ", "-H", "x-test: two",
		"-H", "User-Agent: mine", "http://"+address+"/p")
	require.NoError(t, err)
	r := (<-got).request
	assert.Equal(t, http.MethodDelete, r.Method)
	assert.Equal(t, "example.com", r.Host)
	assert.Equal(t, []string{"one", "two"}, r.Header["X-Test"])
	assert.Equal(t, []string{"mine"}, r.Header["User-Agent"])
}

func TestSendResponse(t *testing.T) {
	for golden, answer := range map[string]string{
		"ok":           "HTTP/1.1 200 OK\r\nServer: test\r\nX-B: 2\r\nX-A: 1\r\nX-B: 1\r\nContent-Length: 12\r\n\r\nHello\r\nagain",
		"redirect":     "HTTP/1.1 308 Permanent Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		"hostile_head": "HTTP/1.0 200 OK\r\nX-Title: \x1b]0;owned\x07\r\n\r\n",
		"hostile": "HTTP/1.0 500 Oh\x1b[2Jno\r\nX-Title: \u009b31m \xff\r\n\r\n" +
			"\x1b[31mred\x1b[0m\ttab\r\nback\rward\n\x00\x7f\u202e\xff\xfe\n",
		"gzip":         "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
		"closed":       closes,
		"reset":        resets,
		"no_http":      "SSH-2.0-\x1b[2J\r\n",
		"cut_off_head": "HTTP/1.1 200 OK\r\nContent-",
		"cut_off_body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
		"hangs":        hangs,
		"long":         "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("0123456789abcde\n", 1<<16+1),
	} {
		t.Run(golden, func(t *testing.T) {
			t.Parallel()
			address, _ := receive(t, answer)
			timeout := patience.String()
			if answer == hangs {
				timeout = impatience
			}
			args := []string{"proxy-protocol", "send", "--timeout", timeout, "http://" + address}
			output, err := caddy(t, "", args...)
			requireHarmless(t, output)
			if golden == "long" {
				assert.Equal(t, "HTTP/1.0 200 OK\n\n"+strings.Repeat("0123456789abcde\n", 1<<16), output)
				output = "...\n"
			}
			requireGolden(t, "send_"+golden, transcript(output, err, args...))
		})
	}
}

// TestSendTimeout asserts that send ends in time if the response does not end, and shows the
// part that has arrived.
func TestSendTimeout(t *testing.T) {
	address, _ := receive(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"+hangs)
	output, err := proxyProtocol(t, "", "send", "--timeout", impatience, "http://"+address)
	require.ErrorContains(t, err, "the response ends too early")
	assert.Equal(t, "HTTP/1.1 200 OK\nContent-Length: 9\n\nhalf\n", output)
}

// headerListener is a listener that reads a header from each connection.
type headerListener struct {
	net.Listener
	got chan wire.Header
}

func (l headerListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// The header and the ClientHello arrive in one piece.
	var b [4096]byte
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	n, _ := conn.Read(b[:])
	_ = conn.SetReadDeadline(time.Time{})
	r := wire.Decode(b[:n], wire.MaxSize)
	l.got <- r.Header
	return &replayedConn{conn, b[r.Size:n]}, nil
}

func TestSendTLS(t *testing.T) {
	got := make(chan wire.Header, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		fmt.Fprintf(w, "%s %s", r.Proto, r.TLS.ServerName)
	}))
	cert, _ := certificate()
	server.Listener = headerListener{server.Listener, got}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	url := strings.Replace(server.URL, "127.0.0.1", "localhost", 1)

	args := []string{"proxy-protocol", "send", "--source", "203.0.113.7:1", "--insecure", url}
	output, err := caddy(t, "", args...)
	require.NoError(t, err)
	header := <-got
	assert.Equal(t, "203.0.113.7:1", header.Source().String())
	requireGolden(t, "send_https", transcript(output, err, args...))

	args = []string{"proxy-protocol", "send", url}
	output, err = caddy(t, "", args...)
	require.Error(t, err)
	<-got
	requireGolden(t, "send_unverified", transcript(output, err, args...))
}

func TestSendBadInput(t *testing.T) {
	dead := "http://" + deadAddress(t)
	for _, test := range []struct {
		args []string
		err  string
	}{
		{nil, "send needs one URL, such as http://localhost:8080, not 0"},
		{[]string{dead}, "no connection: dial tcp 127.0.0.1:"},
		{[]string{"http://no..such..host"}, "no connection: dial tcp: lookup no..such..host: no such host"},
		{[]string{"localhost:8080"}, "send needs a URL such as http://localhost:8080, not 'localhost:8080'"},
		{[]string{"ftp://localhost"}, "not 'ftp://localhost'"},
		{[]string{"http://"}, "not 'http://'"},
		{[]string{"http://a b"}, "not 'http://a b'"},
		{[]string{"http://\x1b[2J"}, `not 'http://\x1b[2J'`},
		{[]string{"--v1", "--v2", dead}, "if any flags in the group [v1 v2] are set none of the others can be"},
		{[]string{"--v1", "--local", dead}, "[local v1] were all set"},
		{[]string{"--local", "--source", "203.0.113.7:1", dead}, "[local source] were all set"},
		{[]string{"--local", "--tlv", "alpn=h2", dead}, "[local tlv] were all set"},
		{[]string{"--local", "--checksum", dead}, "[checksum local] were all set"},
		{[]string{"--v1", "--checksum", dead}, "[checksum v1] were all set"},
		{[]string{"--v1", "--tlv", "alpn=h2", dead}, "[tlv v1] were all set"},
		{[]string{"--source", "203.0.113.7", dead}, "--source must be like 203.0.113.7:51234 or [2001:db8::7]:51234, not '203.0.113.7'"},
		{[]string{"--source", "example.com:1", dead}, "--source must be like"},
		{[]string{"--source", "[fe80::1%eth0]:1", dead}, "--source must be like"},
		{[]string{"--destination", "203.0.113.7:65536", dead}, "--destination must be like"},
		{[]string{"--source", "203.0.113.7:1", "--destination", "[2001:db8::7]:1", dead}, "--source and --destination must be both IPv4 or both IPv6"},
		{[]string{"--tlv", "alpn", dead}, "--tlv must be like 'authority=example.com', not 'alpn'"},
		{[]string{"--tlv", "alpen=h2", dead}, "--tlv: unknown TLV name 'alpen': use alpn, authority"},
		{[]string{"--tlv", "0xf0=zz", dead}, "--tlv: TLV '0xf0': the value must be in hexadecimal"},
		{[]string{"--tlv", "authority=" + strings.Repeat("x", 1<<16), dead}, "addresses and TLVs are longer than 65535 bytes"},
		{[]string{"--method", "GET /", dead}, "--method must be a method such as GET, not 'GET /'"},
		{[]string{"--header", "no colon", dead}, "--header must be like 'Field: value', not 'no colon'"},
		{[]string{"--header", ": value", dead}, "--header must be like 'Field: value', not ': value'"},
		{[]string{"--timeout", "0", dead}, "--timeout must be longer than 0"},
	} {
		output, err := proxyProtocol(t, "", append([]string{"send"}, test.args...)...)
		require.ErrorContains(t, err, test.err, "%v", test.args)
		assert.Empty(t, output)
	}

	address, _ := receive(t, ok)
	_, err := proxyProtocol(t, "", "send", "-H", "X: a\r\nY: b", "http://"+address)
	require.ErrorContains(t, err, "invalid header field value", "and nothing is smuggled")
}
