package proxyprotocol_test

// The module as Caddy runs it: the decision table of docs/configuration.md, cell by cell, and what
// becomes of connections when Caddy reloads and stops.

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// A row is what a client says before and while it sends a request, and what comes of it
// under each mode.
type tableRow struct {
	name       string
	say        func(*speaker)
	method     string                // of the request; GET if empty
	transports []caddytest.Transport // of the request; all of them if nil

	on, off, unspecified verdict
}

// A verdict is what becomes of a connection.
type verdict struct {
	reason string         // why it is refused, if accepted is false
	client netip.AddrPort // who sent the request, if accepted; the peer if this is zero
	server netip.AddrPort // where it came in; the socket's address if this is zero

	accepted bool
}

func (r tableRow) verdict(mode proxyprotocol.Mode) verdict {
	return map[proxyprotocol.Mode]verdict{proxyprotocol.On: r.on, proxyprotocol.Off: r.off, proxyprotocol.Unspecified: r.unspecified}[mode]
}

func refuse(why string) verdict { return verdict{reason: why} }

var asPeer = verdict{accepted: true}

// accepts is the row of a valid header that names a client.
func accepts(name string, say func(*speaker), client, server netip.AddrPort) tableRow {
	return tableRow{
		name: name, say: say,
		on:          verdict{accepted: true, client: client, server: server},
		off:         refuse("forbidden"),
		unspecified: verdict{accepted: true, client: netip.AddrPortFrom(client.Addr(), 0)},
	}
}

// acceptsPeer is the row of a valid header that names no client.
func acceptsPeer(name string, say func(*speaker)) tableRow {
	return tableRow{name: name, say: say, on: asPeer, off: refuse("forbidden"), unspecified: asPeer}
}

// refuses is the row of a header that is refused for this, but for being there under off.
func refuses(name string, say func(*speaker), why string) tableRow {
	return tableRow{name: name, say: say, on: refuse(why), off: refuse("forbidden"), unspecified: refuse(why)}
}

// bare is the row of a connection that begins with something else.
func bare(name string, say func(*speaker)) tableRow {
	return tableRow{name: name, say: say, on: refuse("missing"), off: asPeer, unspecified: asPeer}
}

func (r tableRow) with(method string) tableRow {
	r.method = method
	r.name += " " + method
	return r
}

// only restricts the row to some transports.
func (r tableRow) only(transports ...caddytest.Transport) tableRow {
	r.transports = transports
	return r
}

// A speaker is a client's end of a connection. What it writes may be late, in pieces, or
// lost on a connection that was refused in the meantime: only what comes back counts.
type speaker struct {
	net.Conn
	logs   caddytest.Logs
	server floorServer
	// The first bytes that http.Client writes are sent one by one, or with a wait for
	// the timeout behind them, or behind others in the same write.
	trickled, early int
	together        string

	mu      sync.Mutex
	got     int
	readErr error
}

func (s *speaker) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got += n
	if err != nil && s.readErr == nil {
		s.readErr = err
	}
	return n, err
}

func (s *speaker) Write(p []byte) (int, error) {
	n := len(p)
	switch first := min(n, max(s.trickled, s.early)); {
	case s.together != "":
		p, s.together = append([]byte(s.together), p...), ""
	case s.early > 0:
		s.early = 0
		s.send(string(p[:first]))
		s.outlast()
		p = p[first:]
	case s.trickled > 0:
		s.trickled -= first
		s.trickle(string(p[:first]))
		p = p[first:]
	}
	if _, err := s.Conn.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}

// Close does nothing: the test closes the connection when it has seen its end.
func (s *speaker) Close() error { return nil }

// end reads until the connection ends, and says how much came in all.
func (s *speaker) end() (got int, err error) {
	var b [512]byte
	for err == nil {
		_, err = s.Read(b[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got, s.readErr
}

func (s *speaker) send(text string) { _, _ = s.Conn.Write([]byte(text)) }

func (s *speaker) trickle(text string) {
	for i := range len(text) {
		s.send(text[i : i+1])
		time.Sleep(50 * time.Microsecond) // let them arrive one by one, mostly
	}
}

// pause waits until Caddy has judged what was sent.
func (s *speaker) pause() { s.waitForLog(caddytest.OfModule.With(s.who())) }

// who are the log entries of this connection.
func (s *speaker) who() caddytest.Fields {
	return caddytest.Fields{"peer": s.address(), "server_name": s.server.name()}
}

// address is what the server sees of this end. It does not look at the name that the
// client has given to its end of a Unix socket.
func (s *speaker) address() string {
	if s.server.network == "Unix" {
		return "@"
	}
	return s.LocalAddr().String()
}

// outlast waits until the timeout has passed.
func (s *speaker) outlast() {
	s.awaitAccept()
	time.Sleep(lateness)
}

// awaitAccept waits until Caddy has accepted the connection.
func (s *speaker) awaitAccept() {
	want := caddytest.Fields{"local": s.server.endpoint.Address}
	if s.server.network != "Unix" { // else it is the only one
		want["peer"] = s.address()
	}
	s.waitForLog(caddytest.OfAccept.With(want))
}

func (s *speaker) waitForLog(want caddytest.Fields) {
	for deadline := time.Now().Add(caddytest.Patience); time.Now().Before(deadline); time.Sleep(caddytest.Tick) {
		if len(s.logs.Find(want)) > 0 {
			return
		}
	}
}

// shortTimeout is the timeout where it is to pass. A busy machine may take a while to
// look at what was sent before.
const shortTimeout = 3 * time.Second

// lateness is how long a connection waits to be late, from when it was accepted.
const lateness = shortTimeout * 3 / 2

// What a client can say.

func says(parts ...string) func(*speaker) {
	return func(s *speaker) {
		for _, part := range parts {
			s.send(part)
		}
	}
}

func trickles(text string) func(*speaker) { return func(s *speaker) { s.trickle(text) } }

func nothing(*speaker) {}

// The headers of the table.

var (
	headerV1      = headertest.V1(headertest.Client4, headertest.Server4)
	headerV2      = headertest.V2(headertest.Client4, headertest.Server4)
	headerLocal   = headertest.Local()
	headerUnknown = headertest.Unknown(1)
)

func tlvOf(typ wire.Type, value string) wire.TLV { return wire.TLV{Type: typ, Value: []byte(value)} }

func withTLVs(checksum bool, tlvs ...wire.TLV) string {
	h, err := wire.NewProxy(2, wire.Stream, headertest.Client4, headertest.Server4)
	return headertest.TextWith(h, err, checksum, tlvs...)
}

// padded is the text of a valid v2 header of this size.
func padded(size int) string {
	return withTLVs(false, tlvOf(wire.TypeNoop, strings.Repeat("\x00", size-len(headerV2)-len("tlv"))))
}

const (
	addrs4 = "\xcb\x00\x71\x07\xc0\x00\x02\x01\xc8\x22\x01\xbb"
	proxy  = 0x21
)

// decisions is the decision table without its second headers and timeouts.
func decisions() []tableRow {
	var (
		mapped4       = netip.AddrPortFrom(netip.AddrFrom16(headertest.Client4.Addr().As16()), headertest.Client4.Port())
		mappedServer4 = netip.AddrPortFrom(netip.AddrFrom16(headertest.Server4.Addr().As16()), headertest.Server4.Port())
		nowhere       = netip.MustParseAddrPort("0.0.0.0:0")
		nowhere6      = netip.MustParseAddrPort("[::]:0")
		dgram, err    = wire.NewProxy(2, wire.Dgram, headertest.Client6, headertest.Server6)
		full          = withTLVs(true, tlvOf(wire.TypeAuthority, "example.com"), tlvOf(wire.TypeUniqueID, strings.Repeat("u", 128)), tlvOf(0xea, "\x01vpce-1"))
	)
	wrongChecksum := []byte(full)
	wrongChecksum[len(wrongChecksum)-1] ^= 1

	return []tableRow{
		accepts("v1 TCP4", says(headerV1), headertest.Client4, headertest.Server4),
		accepts("v1 TCP6", says(headertest.V1(headertest.Client6, headertest.Server6)), headertest.Client6, headertest.Server6),
		accepts("v1 TCP6 with mapped IPv4", says(headertest.V1(mapped4, mappedServer4)), headertest.Client4, headertest.Server4),
		accepts("v1 in pieces", says(headerV1[:3], headerV1[3:20], headerV1[20:]), headertest.Client4, headertest.Server4),
		accepts("v1 byte by byte", trickles(headerV1), headertest.Client4, headertest.Server4),
		accepts("v1 together with the request", func(s *speaker) { s.together = headerV1 }, headertest.Client4, headertest.Server4),
		accepts("v1 without destination", says(headertest.V1(headertest.Client4, nowhere)), headertest.Client4, netip.AddrPort{}),
		accepts("v2 TCP4", says(headerV2), headertest.Client4, headertest.Server4),
		accepts("v2 TCP6", says(headertest.V2(headertest.Client6, headertest.Server6)), headertest.Client6, headertest.Server6),
		accepts("v2 TCP6 with mapped IPv4", says(headertest.V2(mapped4, mappedServer4)), headertest.Client4, headertest.Server4),
		accepts("v2 UDP6", says(headertest.Text(dgram, err)), headertest.Client6, headertest.Server6),
		accepts("v2 with TLVs and CRC32C", says(full), headertest.Client4, headertest.Server4),
		accepts("v2 of 4096 bytes", says(padded(4096)), headertest.Client4, headertest.Server4),
		accepts("v2 byte by byte", trickles(headerV2), headertest.Client4, headertest.Server4),
		accepts("v2 together with the request", func(s *speaker) { s.together = full }, headertest.Client4, headertest.Server4),
		accepts("v2 without destination", says(headertest.V2(headertest.Client6, nowhere6)), headertest.Client6, netip.AddrPort{}),

		acceptsPeer("v1 UNKNOWN", says(headerUnknown)),
		acceptsPeer("v1 UNKNOWN with addresses", says("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n")),
		acceptsPeer("v1 UNKNOWN byte by byte", trickles(headerUnknown)),
		acceptsPeer("v2 LOCAL", says(headerLocal)),
		acceptsPeer("v2 LOCAL byte by byte", trickles(headerLocal)),
		acceptsPeer("v2 LOCAL together with the request", func(s *speaker) { s.together = headerLocal }),
		acceptsPeer("v2 LOCAL TCP4 with TLVs in place of addresses", says(headertest.Raw(0x20, 0x11, "\x03\x00\x04\x00\x00\x00\x00\x04\x00\x01\x00"))),
		acceptsPeer("v2 LOCAL of an unknown family", says(headertest.Raw(0x20, 0xff, "anything"))),
		acceptsPeer("v2 unspecified", says(headertest.Raw(proxy, 0x00, "anything"))),
		acceptsPeer("v2 IPv4 over unspecified transport", says(headertest.Raw(proxy, 0x10, addrs4))),
		acceptsPeer("v2 IPv6 over unspecified transport", says(headertest.Raw(proxy, 0x20, ""))),
		acceptsPeer("v2 unspecified family over TCP", says(headertest.Raw(proxy, 0x01, addrs4))),
		acceptsPeer("v2 unspecified family over UDP", says(headertest.Raw(proxy, 0x02, ""))),
		acceptsPeer("v2 Unix stream", says(headertest.Raw(proxy, 0x31, strings.Repeat("/", 216)))),
		acceptsPeer("v2 Unix datagram", says(headertest.Raw(proxy, 0x32, strings.Repeat("/", 216)))),
		acceptsPeer("v2 Unix over unspecified transport", says(headertest.Raw(proxy, 0x30, ""))),

		refuses("v1 with two spaces", says("PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n"), "malformed"),
		refuses("v1 with a name for an address", says("PROXY TCP4 localhost 192.0.2.1 1 2\r\n"), "malformed"),
		refuses("v1 with addresses of the other family", says("PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n"), "malformed"),
		refuses("v1 that ends in LF", says("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n"), "malformed"),
		refuses("v1 longer than 107 bytes", says("PROXY UNKNOWN "+strings.Repeat("x", 107)), "malformed"),
		refuses("v1 without anything right", says("PROXY!"), "malformed"),
		refuses("v1 cut off", func(s *speaker) { s.cut(headerV1[:len(headerV1)-1]) }, "malformed"),
		refuses("v1 cut off behind its signature", func(s *speaker) { s.cut(wire.SignatureV1) }, "malformed"),
		refuses("v2 of version 3", says(headertest.Raw(0x31, 0x11, addrs4)), "malformed"),
		refuses("v2 of an unknown command", says(headertest.Raw(0x22, 0x11, addrs4)), "malformed"),
		refuses("v2 of an unknown family", says(headertest.Raw(proxy, 0x41, addrs4)), "malformed"),
		refuses("v2 of an unknown transport", says(headertest.Raw(proxy, 0x13, addrs4)), "malformed"),
		refuses("v2 shorter than its addresses", says(headertest.Raw(proxy, 0x21, addrs4)), "malformed"),
		refuses("v2 with a TLV that overruns it", says(headertest.Raw(proxy, 0x11, addrs4+"\x04\x00\x02\x00")), "malformed"),
		refuses("v2 with two CRC32C", says(headertest.Raw(proxy, 0x11, addrs4+strings.Repeat("\x03\x00\x04\x00\x00\x00\x00", 2))), "malformed"),
		refuses("v2 with a unique ID of 129 bytes", says(withTLVs(false, tlvOf(wire.TypeUniqueID, strings.Repeat("u", 129)))), "malformed"),
		refuses("v2 cut off", func(s *speaker) { s.cut(full[:len(full)-1]) }, "malformed"),
		refuses("v2 cut off behind its signature", func(s *speaker) { s.cut(wire.SignatureV2) }, "malformed"),
		refuses("v2 with a wrong CRC32C", says(string(wrongChecksum)), "checksum"),
		refuses("v2 of 4097 bytes", says(padded(4097)), "too_large"),
		refuses("v2 that announces 65551 bytes", says(wire.SignatureV2+"\x21\x11\xff\xff"), "too_large"),

		bare("nothing before", nothing),
		bare("byte by byte", func(s *speaker) { s.trickled = 24 }),
		// These are the methods that begin like "PROXY", and "PRI" does on h2c.
		bare("nothing before", nothing).with("PUT"),
		bare("nothing before", nothing).with("POST"),
		bare("nothing before", nothing).with("PATCH"),
		bare("nothing before", nothing).with("PROPFIND"),
		bare("byte by byte", func(s *speaker) { s.trickled = 24 }).with("PROPFIND"),
		accepts("v1 and byte by byte", func(s *speaker) { s.send(headerV1); s.trickled = 24 }, headertest.Client4, headertest.Server4).with("PROPFIND"),
		accepts("v2 and byte by byte", func(s *speaker) { s.send(headerV2); s.trickled = 24 }, headertest.Client4, headertest.Server4).with("PROPPATCH"),
		accepts("v2 in one write with", func(s *speaker) { s.together = headerV2 }, headertest.Client4, headertest.Server4).with("PUT"),
		acceptsPeer("LOCAL and byte by byte", func(s *speaker) { s.send(headerLocal); s.trickled = 24 }).with("PATCH"),
		acceptsPeer("LOCAL, a pause and", func(s *speaker) { s.send(headerLocal); s.pause() }).with("POST"),
	}
}

// secondHeaders are the rows of a second header, of which the signature alone is enough.
func secondHeaders() (rows []tableRow) {
	headers := []struct{ name, text string }{
		{"v1", headerV1}, {"v2", headerV2}, {"LOCAL", headerLocal}, {"UNKNOWN", headerUnknown},
	}
	seconds := append(headers, []struct{ name, text string }{
		{"a v1 signature", wire.SignatureV1}, {"a v2 signature", wire.SignatureV2},
	}...)
	for _, first := range headers {
		for _, second := range seconds {
			name := fmt.Sprintf("%s and %s", first.name, second.name)
			rows = append(rows,
				refuses(name+" right behind", says(first.text+second.text), "duplicate"),
				refuses(name+" after a pause", func(s *speaker) {
					s.send(first.text)
					s.pause()
					s.send(second.text)
				}, "duplicate"),
				refuses(name+" byte by byte", trickles(first.text+second.text), "duplicate"),
			)
		}
	}
	return rows
}

// lateDecisions are the rows of the decision table that have to do with the timeout.
func lateDecisions() []tableRow {
	lateHeader := func(early, late string) func(*speaker) {
		return func(s *speaker) {
			s.send(early)
			s.outlast()
			s.send(late)
		}
	}
	late := tableRow{on: refuse("timeout"), off: refuse("forbidden"), unspecified: refuse("timeout")}
	lateRow := func(name string, say func(*speaker)) tableRow {
		r := late
		r.name, r.say = name, say
		return r
	}
	silentRow := func(name, late string) tableRow {
		r := lateRow(name, lateHeader("", late))
		r.on = refuse("silent")
		return r
	}
	lateRequest := func(name string, early int) tableRow {
		on := refuse("timeout")
		if early == 0 {
			on = refuse("silent")
		}
		return tableRow{
			name: name, say: func(s *speaker) { s.early = early; s.outlastIf(early == 0) },
			on: on, off: asPeer, unspecified: asPeer,
		}
	}
	return []tableRow{
		lateRequest("nothing, then a request", 0),
		lateRequest("the beginning of a signature, then of a request", 3).with("PROPFIND").only(caddytest.HTTP1),
		lateRequest("the beginning of a signature, then of a request", 2).only(caddytest.H2C),
		silentRow("nothing, then v1", headerV1),
		silentRow("nothing, then v2", headerV2),
		silentRow("nothing, then LOCAL", headerLocal),
		lateRow("the beginning of a v1 signature, then the rest", lateHeader(headerV1[:4], headerV1[4:])),
		lateRow("the beginning of a v2 signature, then the rest", lateHeader(headerV2[:11], headerV2[11:])),
		lateRow("the beginning of a v2 signature, then the rest byte by byte", func(s *speaker) {
			s.send(headerV2[:2])
			s.outlast()
			s.trickle(headerV2[2:])
		}),
		lateRow("a v1 signature, then the rest", lateHeader(headerV1[:5], headerV1[5:])),
		lateRow("a v2 signature, then the rest", lateHeader(headerV2[:12], headerV2[12:])),
		lateRow("all but the last byte of v1, then that", lateHeader(headerV1[:len(headerV1)-1], "\n")),
		lateRow("all but the last byte of v2, then that", lateHeader(headerV2[:len(headerV2)-1], headerV2[len(headerV2)-1:])),
		lateRow("v2 that dribbles in", func(s *speaker) {
			s.awaitAccept()
			for i := range len(headerV2) {
				s.send(headerV2[i : i+1])
				time.Sleep(lateness / time.Duration(len(headerV2)-1))
			}
		}),
		// Silence behind a header is no fault, and not the end of the watch.
		accepts("v2, then silence", lateHeader(headerV2, ""), headertest.Client4, headertest.Server4),
		acceptsPeer("LOCAL, then silence", lateHeader(headerLocal, "")),
		refuses("v1, then silence, then v2", lateHeader(headerV1, headerV2), "duplicate"),
		refuses("v1 and the beginning of v1, then the rest", lateHeader(headerV1+headerV1[:4], headerV1[4:]), "duplicate"),
	}
}

func (s *speaker) outlastIf(now bool) {
	if now {
		s.outlast()
	}
}

// cut sends text and ends the sending half of the connection.
func (s *speaker) cut(text string) {
	s.send(text)
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func TestDecisionTable(t *testing.T) {
	// No cell is about the timeout, so no cell may run into it, however slow the machine.
	startFloor(t, caddytest.Patience, 1).run(t, decisions(), 8)
}

func TestDecisionTable_SecondHeaders(t *testing.T) {
	startFloor(t, caddytest.Patience, 1).run(t, secondHeaders(), 8)
}

func TestDecisionTable_AtTimeout(t *testing.T) {
	// All connections are late at the same time.
	rows := lateDecisions()
	startFloor(t, shortTimeout, len(rows)).run(t, rows, 1000)
}

// A floor is a Caddy with servers for every mode, transport and network.
type floor struct {
	*caddytest.Caddy
	servers []floorServer
}

type floorServer struct {
	mode      proxyprotocol.Mode
	transport caddytest.Transport
	network   string
	copy      int
	copies    int
	endpoint  caddytest.Endpoint
}

func (s floorServer) name() string {
	return fmt.Sprintf("%s-%s-%s-%d", s.mode, s.transport, s.network, s.copy)
}

// startFloor has a server for each mode, transport and network, and so many copies of those on
// Unix sockets, which share the rows. Each has a limit of its own on equal log lines, and no table
// has so many rows as to reach it.
func startFloor(t *testing.T, timeout time.Duration, copies int) *floor {
	var (
		f        = &floor{Caddy: caddytest.New(t)}
		options  strings.Builder
		sites    strings.Builder
		tlsFiles = caddytest.CertificateFiles(t)
		networks = []string{"IPv4", "Unix"}
	)
	if len(caddytest.Loopbacks()) > 1 {
		networks = append(networks, "IPv6")
	}
	options.WriteString("auto_https disable_redirects\n")
	for _, mode := range []proxyprotocol.Mode{proxyprotocol.On, proxyprotocol.Off, proxyprotocol.Unspecified} {
		for _, tr := range caddytest.Transports {
			for _, network := range networks {
				n := 1
				if network == "Unix" {
					n = copies
				}
				for i := range n {
					f.servers = append(f.servers, floorServer{mode: mode, transport: tr, network: network, copy: i, copies: n})
				}
			}
		}
	}
	for i := range f.servers {
		server := &f.servers[i]
		port := caddytest.FreePort(t)
		var bind, address string
		switch server.network {
		case "IPv4":
			server.endpoint = caddytest.TCP4(port)
			bind, address = "127.0.0.1", server.endpoint.Address
		case "IPv6":
			server.endpoint = caddytest.TCP6(port)
			bind, address = "::1", server.endpoint.Address
		case "Unix":
			server.endpoint = caddytest.Unix(caddytest.SocketPath(t))
			bind, address = "unix/"+server.endpoint.Address, "unix/"+server.endpoint.Address
		}
		protocols, scheme, tlsLine := "h1 h2c", "http", ""
		if server.transport.IsTLS() {
			protocols, scheme, tlsLine = "h1 h2", "https", "tls "+tlsFiles
		}
		fmt.Fprintf(&options, `servers %s {
			name %s
			protocols %s
			listener_wrappers {
				%s
				proxy_protocol_mode %s {
					timeout %s
				}
				tls
			}
		}
		`, address, server.name(), protocols, caddytest.AcceptWrapper, server.mode, timeout)
		fmt.Fprintf(&sites, `%s://localhost:%d {
			bind %s
			%s
			log
			respond "{remote_host} {remote} {http.request.local}"
		}
		`, scheme, port, bind, tlsLine)
	}
	require.NoError(t, f.Load(options.String(), sites.String()))
	return f
}

// run runs all cells of these rows, so many at a time. A server on a Unix socket has one
// connection at a time, because the peers of a Unix socket look all the same.
func (f *floor) run(t *testing.T, rows []tableRow, atATime int) {
	var (
		cells             sync.WaitGroup
		slots             = make(chan struct{}, atATime)
		dir               = t.TempDir()
		logs              = f.Logs.Tail()
		accepted, refused atomic.Int64
	)
	for _, server := range f.servers {
		var oneAtATime sync.Mutex
		for i, r := range rows {
			if i%server.copies != server.copy || r.transports != nil && !slices.Contains(r.transports, server.transport) {
				continue
			}
			cells.Go(func() {
				if server.network == "Unix" {
					oneAtATime.Lock()
					defer oneAtATime.Unlock()
				}
				slots <- struct{}{}
				defer func() { <-slots }()
				verdict := r.verdict(server.mode)
				if verdict.accepted {
					accepted.Add(1)
				} else {
					refused.Add(1)
				}
				t.Run(fmt.Sprintf("%s/%s/%s/%s", r.name, server.mode, server.transport, server.network), func(t *testing.T) {
					tableCell{r, server, verdict, fmt.Sprintf("/%d", i), dir}.run(t, f.Logs.Tail())
				})
			})
		}
	}
	cells.Wait()

	// No connection left more than its one line, not even later.
	assert.Equal(t, int(accepted.Load()), len(logs.Find(caddytest.OfAccess)))
	assert.Equal(t, int(refused.Load()), len(logs.Refusals(nil)))
}

type tableCell struct {
	tableRow
	floorServer
	verdict verdict
	path    string
	dir     string
}

func (c tableCell) run(t *testing.T, logs caddytest.Logs) {
	ctx, cancel := context.WithTimeout(context.Background(), caddytest.Patience)
	defer cancel()
	inner, err := c.endpoint.Open(ctx, c.dir)
	require.NoError(t, err)
	defer inner.Close()
	require.NoError(t, inner.SetDeadline(time.Now().Add(2*caddytest.Patience)))
	s := &speaker{Conn: inner, logs: logs, server: c.floorServer}

	dialed := false
	client := c.transport.Client(func(context.Context) (net.Conn, error) {
		if dialed {
			return nil, errors.New("a second connection")
		}
		dialed = true
		c.say(s)
		return s, nil
	})
	defer client.CloseIdleConnections()
	method := c.method
	if method == "" {
		method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(ctx, method, c.transport.URL(c.path), nil)
	require.NoError(t, err)
	response, err := client.Do(request)
	if c.verdict.accepted {
		require.NoError(t, err)
		c.checkAccepted(t, s, logs, response)
	} else {
		require.Error(t, err)
		c.checkRefused(t, s, logs)
	}
}

func (c tableCell) checkAccepted(t *testing.T, s *speaker, logs caddytest.Logs, response *http.Response) {
	defer response.Body.Close()
	body := new(strings.Builder)
	_, err := io.Copy(body, response.Body)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, response.StatusCode)

	remote, host, port, clientIP := s.address(), "", "", ""
	if c.verdict.client.IsValid() {
		remote = c.verdict.client.String()
	}
	if address, err := netip.ParseAddrPort(remote); err == nil {
		host, port = address.Addr().String(), fmt.Sprint(address.Port())
		clientIP = host
	} else {
		host = remote // a Unix socket's
	}
	local := c.endpoint.Address
	if c.verdict.server.IsValid() {
		local = c.verdict.server.String()
	}
	assert.Equal(t, fmt.Sprintf("%s %s %s", host, remote, local), body.String())

	entry := logs.WaitFor(t, caddytest.OfAccess.With(caddytest.Fields{"request.uri": c.path, "request.remote_ip": host, "request.remote_port": port}))
	assert.Equal(t, clientIP, entry.Str("request.client_ip"))
	assert.Empty(t, logs.Refusals(s.who()))
}

func (c tableCell) checkRefused(t *testing.T, s *speaker, logs caddytest.Logs) {
	got, err := s.end()
	assert.Zero(t, got, "bytes received")
	caddytest.RequireClosed(t, err)

	entry := logs.WaitForRefusal(t, s.who())
	assert.Equal(t, c.endpoint.Address, entry.Str("local"))
	assert.Equal(t, c.mode.String(), entry.Str("mode"))
	assert.Equal(t, c.verdict.reason, entry.Str("reason"))
	level := "warn"
	if c.verdict.reason == "silent" {
		level = "debug"
	}
	assert.Equal(t, level, entry.Str("level"))
}

// What is no header must come to the HTTP server as it was sent.
func TestListenerWrapper_AnswersWhatIsNoHeaderAsWithoutIt(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	ports := map[string]caddytest.Endpoint{}
	var options, sites strings.Builder
	options.WriteString("auto_https disable_redirects\n")
	cert := caddytest.CertificateFiles(t)
	for _, scheme := range []string{"http", "https"} {
		for _, mode := range []string{"none", "on", "off", "unspecified"} {
			port := caddytest.FreePort(t)
			ports[scheme+" "+mode] = caddytest.TCP4(port)
			if mode != "none" {
				fmt.Fprintf(&options, "servers 127.0.0.1:%d {\nprotocols h1\nlistener_wrappers {\nproxy_protocol_mode %s\ntls\n}\n}\n", port, mode)
			} else {
				fmt.Fprintf(&options, "servers 127.0.0.1:%d {\nprotocols h1\n}\n", port)
			}
			fmt.Fprintf(&sites, "%s://localhost:%d {\nbind 127.0.0.1\n", scheme, port)
			if scheme == "https" {
				fmt.Fprintf(&sites, "tls %s\n", cert)
			}
			sites.WriteString("respond \"{method} {http.request.body}\"\n}\n")
		}
	}
	caddytest.Start(t, options.String(), sites.String())

	tests := []struct {
		name, text string
	}{
		{"a request", get},
		{"a CRLF", "\r\n"},
		{"a CRLF, then a request", "\r\n" + get},
		{"two CRLF, then a request", "\r\n\r\n" + get},
		{"all but the last byte of a v2 signature", wire.SignatureV2[:11]},
		{"all but the last byte of a v2 signature, then a request", wire.SignatureV2[:11] + get},
		{"the beginning of a v1 signature", "PROX"},
		{"a method like a v1 signature", "PROXIMATE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"},
		{"a v1 signature in lower case", "proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n\r\n"},
		{"a v1 signature behind a space", " " + headerV1 + get},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\n"}, // with all of it Caddy's answer depends on luck
		{"two requests", strings.Replace(get, "Connection: close\r\n", "", 1) + get},
		{"a request with a header in its body", "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 50\r\n\r\n" + headerV1 + headerV2[:50-len(headerV1)]},
		{"noise", "\x00\x01\x02\x03"},
		{"the beginning of a TLS record", "\x16\x03\x01"},
		{"nothing", ""},
	}
	for _, test := range tests {
		for _, scheme := range []string{"http", "https"} {
			t.Run(test.name+"/"+scheme, func(t *testing.T) {
				want := converse(t, ports[scheme+" none"], says(test.text))
				var conversations sync.WaitGroup
				for _, way := range []struct {
					mode, header string
					say          func(string) func(*speaker)
				}{
					{"off", "", whole},
					{"off", "", trickles},
					{"unspecified", "", whole},
					{"unspecified", "", trickles},
					{"unspecified", headerV2, whole},
					{"unspecified", headerUnknown, trickles},
					{"on", headerV1, whole},
					{"on", headerV2, trickles},
					{"on", headerLocal, whole},
				} {
					conversations.Go(func() {
						t.Run(way.mode, func(t *testing.T) {
							got := converse(t, ports[scheme+" "+way.mode], way.say(way.header+test.text))
							assert.Equal(t, want, got, "%s, behind %q", way.mode, way.header)
						})
					})
				}
				conversations.Wait()
			})
		}
	}
}

func whole(text string) func(*speaker) { return says(text) }

// converse says something and nothing more, and returns all that comes back.
func converse(t *testing.T, e caddytest.Endpoint, say func(*speaker)) string {
	t.Helper()
	c := caddytest.Dial(t, e)
	defer c.Close()
	s := &speaker{Conn: c}
	say(s)
	s.cut("")
	reply, err := io.ReadAll(c)
	if err != nil {
		caddytest.RequireClosed(t, err) // by a reset
	}
	date := regexp.MustCompile(`Date: .*`)
	return date.ReplaceAllString(string(reply), "Date: then")
}

func TestMatchers_SeeTheClient(t *testing.T) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on"), fmt.Sprintf(`http://:%d {
		bind 127.0.0.1
		@client remote_ip 203.0.113.0/24
		@client6 client_ip 2001:db8::/64
		@peer expression remote_ip('127.0.0.0/8')
		respond @client client
		respond @client6 client6
		respond @peer peer
	}`, port))
	for header, want := range map[string]string{
		headerV1: "client", headerV2: "client",
		headertest.V1(headertest.Client6, headertest.Server6): "client6", headertest.V2(headertest.Client6, headertest.Server6): "client6",
		headerLocal: "peer", headerUnknown: "peer",
	} {
		_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), header, "/")
		assert.Equal(t, want, body, "%q", header)
	}
}

// The addresses choose the TLS policy, but for the destination in a header that nobody
// vouched for.
func TestListenerWrapper_TLSPolicySeesTheAddresses(t *testing.T) {
	files := strings.Fields(caddytest.CertificateFiles(t))
	var servers []string
	ports := make(map[string]int)
	for _, mode := range []string{"on", "off", "unspecified"} {
		for _, match := range []string{`"remote_ip": {"ranges": ["203.0.113.7"]}`, `"local_ip": {"ranges": ["192.0.2.1"]}`} {
			name := mode + " " + match[1:strings.Index(match, ":")-1]
			ports[name] = caddytest.FreePort(t)
			servers = append(servers, fmt.Sprintf(`%q: {
				"listen": ["127.0.0.1:%d"],
				"automatic_https": {"disable": true},
				"listener_wrappers": [{"wrapper": "proxy_protocol_mode", "mode": %q}, {"wrapper": "tls"}],
				"tls_connection_policies": [{"match": {%s}, "protocol_max": "tls1.2"}, {}]
			}`, name, ports[name], mode, match))
		}
	}
	caddytest.StartJSON(t, fmt.Sprintf(`{
		"tls": {"certificates": {"load_files": [{"certificate": %s, "key": %s}]}},
		"http": {"grace_period": "1s", "servers": {%s}}
	}`, files[0], files[1], strings.Join(servers, ",")))

	for _, test := range []struct {
		server, header string
		version        uint16
	}{
		{"on remote_ip", headerV1, tls.VersionTLS12},
		{"on remote_ip", headerV2, tls.VersionTLS12},
		{"on remote_ip", headertest.V2(headertest.Client6, headertest.Server6), tls.VersionTLS13},
		{"on remote_ip", headerLocal, tls.VersionTLS13},
		{"on local_ip", headerV1, tls.VersionTLS12},
		{"on local_ip", headerV2, tls.VersionTLS12},
		{"on local_ip", headerLocal, tls.VersionTLS13},
		{"unspecified remote_ip", headerV1, tls.VersionTLS12},
		{"unspecified remote_ip", "", tls.VersionTLS13},
		{"unspecified local_ip", headerV2, tls.VersionTLS13},
		{"unspecified local_ip", headerUnknown, tls.VersionTLS13},
		{"off remote_ip", "", tls.VersionTLS13},
		{"off local_ip", "", tls.VersionTLS13},
	} {
		response, _ := caddytest.Get(t, caddytest.HTTPS2, caddytest.TCP4(ports[test.server]), test.header, "/")
		assert.Equal(t, test.version, response.TLS.Version, "%s %q", test.server, test.header)
	}
}

// A peer that only connects, or that waits for the other end to speak first, is gone
// when the HTTP server says so.
func TestListenerWrapper_HTTPDeadlinesRuleASilentConnection(t *testing.T) {
	modes := []string{"off", "unspecified"}
	var options, sites strings.Builder
	ports := make(map[string]int)
	for _, mode := range modes {
		ports[mode] = caddytest.FreePort(t)
		fmt.Fprintf(&options, `servers :%d {
			timeouts {
				read_header 600ms
			}
			listener_wrappers {
				proxy_protocol_mode %s {
					timeout 200ms
				}
			}
		}
		`, ports[mode], mode)
		fmt.Fprintf(&sites, "http://:%d {\n}\n", ports[mode])
	}
	c := caddytest.Start(t, options.String(), sites.String())
	var all sync.WaitGroup
	for _, mode := range modes {
		for _, text := range []string{"", "PRO", "\r\n\r\n"} {
			all.Go(func() {
				t.Run(fmt.Sprintf("%s %q", mode, text), func(t *testing.T) {
					conn := caddytest.Dial(t, caddytest.TCP4(ports[mode]))
					started := time.Now()
					caddytest.Send(t, conn, text)
					caddytest.RequireRefused(t, conn)
					assert.Greater(t, time.Since(started), 500*time.Millisecond)
					for _, entry := range c.Logs.Refusals(caddytest.Fields{"peer": conn.LocalAddr().String()}) {
						assert.Equal(t, []string{"", "silent", "debug"}, []string{text, entry.Str("reason"), entry.Str("level")}, "the HTTP server ended it")
					}
				})
			})
		}
	}
	all.Wait()
}

func TestListenerWrapper_FileGoesOutWhole(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("All work and no play\n", 100_000)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file.txt"), []byte(content), 0o600))
	port := caddytest.FreePort(t)
	caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode on"), fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nroot %q\nfile_server\n}", port, dir))
	_, body := caddytest.Get(t, caddytest.HTTP1, caddytest.TCP4(port), headerV2, "/file.txt")
	assert.Equal(t, content, body)
}

func TestListenerWrapper_DoesNotLookBehindAnUpgrade(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Client: %s\r\n\r\n", r.Header.Get("X-Forwarded-For"))
		_, _ = io.Copy(conn, buffered)
	}))
	defer backend.Close()
	for _, test := range []struct{ mode, header, client string }{
		{"on", headerV1, headertest.Client4.Addr().String()}, {"off", "", "127.0.0.1"}, {"unspecified", headerV2, headertest.Client4.Addr().String()},
	} {
		t.Run(test.mode, func(t *testing.T) {
			port := caddytest.FreePort(t)
			caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode "+test.mode), fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nreverse_proxy %s\n}", port, backend.Listener.Addr()))
			conn := caddytest.Dial(t, caddytest.TCP4(port))
			caddytest.Send(t, conn, test.header, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			in := bufio.NewReader(conn)
			response, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			assert.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
			assert.Equal(t, test.client, response.Header.Get("X-Client"))

			caddytest.Send(t, conn, headerV1, headerV2)
			echo := make([]byte, len(headerV1+headerV2))
			_, err = io.ReadFull(in, echo)
			require.NoError(t, err)
			assert.Equal(t, headerV1+headerV2, string(echo))
		})
	}
}

func TestListenerWrapper_LooksForAHeaderAtTheBeginningOnly(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.Start(t, caddytest.Wrappers("proxy_protocol_mode off"), caddytest.PlainSite(port))
	conn := caddytest.Dial(t, caddytest.TCP4(port))
	caddytest.Send(t, conn, caddytest.Request("/"))
	caddytest.ReadResponse(t, conn)
	caddytest.Send(t, conn, headerV1)
	response, _ := caddytest.ReadResponse(t, conn)
	assert.Equal(t, http.StatusBadRequest, response.StatusCode, "it is a bad request by now")
	assert.Empty(t, c.Logs.Refusals(nil))
}

// Reloads and stops

// modeSite is a Caddyfile with a plain server in this mode.
func modeSite(port int, mode, site string) (options, sites string) {
	return fmt.Sprintf("servers {\nlistener_wrappers {\n%s\nproxy_protocol_mode %s\n}\n}", caddytest.AcceptWrapper, mode),
		fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nlog\n%s\n}", port, site)
}

// halves are the parts of headers that have been sent when Caddy reloads or stops.
var halves = []struct{ name, sent, rest string }{
	{"nothing", "", headerV2},
	{"a part of a v1 signature", headerV1[:3], headerV1[3:]},
	{"a v1 signature", headerV1[:5], headerV1[5:]},
	{"a part of v1", headerV1[:20], headerV1[20:]},
	{"a part of a v2 signature", headerV2[:7], headerV2[7:]},
	{"a v2 signature", headerV2[:12], headerV2[12:]},
	{"a part of v2", headerV2[:20], headerV2[20:]},
	{"a header", headerV2, ""},
	{"a header and a part of a request", headerV2 + "G", ""},
}

func TestReload_LeavesHeadersInProgressToTheOldConfig(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.New(t)
	c.Grace = caddytest.Patience
	require.NoError(t, c.Load(modeSite(port, "on", `respond "old {remote}"`)))
	conns := make([]net.Conn, len(halves))
	for i, half := range halves {
		conns[i] = caddytest.Dial(t, caddytest.TCP4(port))
		caddytest.Send(t, conns[i], half.sent)
		c.Logs.WaitFor(t, caddytest.OfAccept.With(caddytest.Fields{"peer": conns[i].LocalAddr().String()}))
	}

	require.NoError(t, c.Load(modeSite(port, "off", `respond "new {remote}"`)))
	for i, half := range halves {
		peer := caddytest.Fields{"peer": conns[i].LocalAddr().String()}
		caddytest.Send(t, conns[i], half.rest)
		entry := c.Logs.WaitFor(t, caddytest.OfModule.With(peer).With(caddytest.Fields{"msg": "accepted PROXY protocol header"}))
		assert.Equal(t, "on", entry.Str("mode"), half.name)
		// net/http takes no first request once it shuts down, with or without wrapper.
		_, _ = io.WriteString(conns[i], caddytest.Request("/"))
		caddytest.RequireRefused(t, conns[i])
		assert.Empty(t, c.Logs.Refusals(peer), half.name)
	}

	caddytest.Eventually(t, func() bool {
		fresh, err := caddytest.TCP4(port).Open(t.Context(), "")
		if err != nil {
			return false
		}
		defer fresh.Close()
		_ = fresh.SetDeadline(time.Now().Add(caddytest.Patience))
		_, _ = io.WriteString(fresh, headerV2)
		caddytest.RequireRefused(t, fresh)
		return len(c.Logs.Refusals(caddytest.Fields{"mode": "off", "reason": "forbidden"})) > 0
	}, "the new config is not in force")
}

func TestReload_PutsTheWrapperOnAndTakesItAway(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.New(t)
	site := fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nrespond \"%%s {remote}\"\n}", port)
	// The old config stops in the background. It drops some of the connections that come
	// now, and answers none.
	answer := func(text string) (body string) {
		caddytest.Eventually(t, func() bool { return caddy.ListenerUsage("tcp", caddytest.TCP4(port).Address) == 1 }, "the old config does not stop")
		caddytest.Eventually(t, func() bool {
			conn, err := caddytest.TCP4(port).Open(t.Context(), "")
			if err != nil {
				return false
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(caddytest.Patience))
			_, _ = io.WriteString(conn, text)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return false
			}
			defer response.Body.Close()
			b, err := io.ReadAll(response.Body)
			body = strings.ReplaceAll(string(b), conn.LocalAddr().String(), "peer")
			return err == nil
		}, "no answer")
		return body
	}
	require.NoError(t, c.Load("", fmt.Sprintf(site, "none")))
	assert.Equal(t, "none peer", answer(caddytest.Request("/")))
	require.NoError(t, c.Load(caddytest.Wrappers("proxy_protocol_mode on"), fmt.Sprintf(site, "on")))
	assert.Equal(t, "on "+headertest.Client4.String(), answer(headerV2+caddytest.Request("/")))
	conn := caddytest.Dial(t, caddytest.TCP4(port))
	caddytest.Send(t, conn, caddytest.Request("/"))
	caddytest.RequireRefused(t, conn)
	require.NoError(t, c.Load("", fmt.Sprintf(site, "none")))
	assert.Equal(t, "none peer", answer(caddytest.Request("/")))
	assert.Equal(t, "400 Bad Request", answer(headerV1+caddytest.Request("/")), "nobody looks for a header")
}

func TestReload_ClientsComeThrough(t *testing.T) {
	plain, secure := caddytest.FreePort(t), caddytest.FreePort(t)
	c := caddytest.New(t)
	load := func() {
		require.NoError(t, c.Load("auto_https disable_redirects\n"+withProtocols("h1 h2 h2c", "proxy_protocol_mode on\ntls"), caddytest.PlainSite(plain)+caddytest.SecureSite(t, secure)))
	}
	load()
	clients := make(map[caddytest.Transport]*http.Client)
	for _, tr := range caddytest.Transports {
		e := caddytest.TCP4(plain)
		if tr.IsTLS() {
			e = caddytest.TCP4(secure)
		}
		clients[tr] = caddytest.Sender(t, tr, e, headerV1)
	}
	for range 5 {
		for _, tr := range caddytest.Transports {
			// As without the wrapper, a request may meet the end of its connection.
			caddytest.Eventually(t, func() bool {
				response, err := clients[tr].Get(tr.URL("/"))
				if err != nil {
					return false
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				return assert.NoError(t, err) && assert.Equal(t, headertest.Client4.String(), string(body))
			}, "no answer over %s", tr)
		}
		load()
	}
	assert.Empty(t, c.Logs.Refusals(nil))
}

func TestReload_LeavesSecondHeadersToTheOldConfig(t *testing.T) {
	port := caddytest.FreePort(t)
	c := caddytest.New(t)
	c.Grace = caddytest.Patience
	require.NoError(t, c.Load(modeSite(port, "on", "respond old")))
	conn := caddytest.Dial(t, caddytest.TCP4(port))
	caddytest.Send(t, conn, headerV2+"PRO")
	c.Logs.WaitFor(t, caddytest.OfModule.With(caddytest.Fields{"peer": conn.LocalAddr().String()}))

	require.NoError(t, c.Load(modeSite(port, "unspecified", "respond new")))
	caddytest.Send(t, conn, "XY")
	caddytest.RequireRefused(t, conn)
	entry := c.Logs.WaitForRefusal(t, caddytest.Fields{"peer": conn.LocalAddr().String()})
	assert.Equal(t, "on", entry.Str("mode"))
	assert.Equal(t, "duplicate", entry.Str("reason"))
}

func TestReload_DoesNotDisturbARequestInProgress(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"))
	}))
	defer backend.Close()
	port := caddytest.FreePort(t)
	c := caddytest.New(t)
	c.Grace = caddytest.Patience
	require.NoError(t, c.Load(modeSite(port, "on", "reverse_proxy "+backend.Listener.Addr().String())))
	conn := caddytest.Dial(t, caddytest.TCP4(port))
	caddytest.Send(t, conn, headerV1, caddytest.Request("/"))
	select {
	case <-arrived:
	case <-time.After(caddytest.Patience):
		require.Fail(t, "no request")
	}

	require.NoError(t, c.Load(modeSite(port, "off", "respond new")))
	close(release)
	_, body := caddytest.ReadResponse(t, conn)
	assert.Equal(t, headertest.Client4.Addr().String(), body)
}

func TestStop_EndsPendingConnections(t *testing.T) {
	modes := []string{"on", "off", "unspecified"}
	var options, sites strings.Builder
	ports := make(map[string]int)
	for _, mode := range modes {
		ports[mode] = caddytest.FreePort(t)
		fmt.Fprintf(&options, "servers 127.0.0.1:%d {\nlistener_wrappers {\n%s\nproxy_protocol_mode %s {\ntimeout 1m\n}\n}\n}\n", ports[mode], caddytest.AcceptWrapper, mode)
		fmt.Fprintf(&sites, "http://:%d {\nbind 127.0.0.1\n}\n", ports[mode])
	}
	c := caddytest.New(t)
	// net/http ends connections that have not sent a request within 5 seconds.
	c.Grace = caddytest.Patience
	require.NoError(t, c.Load(options.String(), sites.String()))
	var conns []net.Conn
	for _, mode := range modes {
		for _, half := range halves {
			if state, _ := wire.Signature([]byte(half.sent)); state == wire.Partial && mode == "off" {
				continue // refused at once
			}
			conn := caddytest.Dial(t, caddytest.TCP4(ports[mode]))
			caddytest.Send(t, conn, half.sent)
			c.Logs.WaitFor(t, caddytest.OfAccept.With(caddytest.Fields{"peer": conn.LocalAddr().String()}))
			conns = append(conns, conn)
		}
	}
	goroutines := runtime.NumGoroutine()
	c.Stop()
	for _, conn := range conns {
		caddytest.RequireRefused(t, conn)
	}
	for _, entry := range c.Logs.Refusals(nil) {
		assert.Equal(t, "debug", entry.Str("level"), "that Caddy stops is not the peer's fault")
	}
	caddytest.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines-len(conns) }, "goroutines of connections that are closed")
}

// Many connections

func TestSilentConnections_CostNothingOnceTheyAreGone(t *testing.T) {
	const silent = 1000
	for _, mode := range []string{"on", "off", "unspecified"} {
		t.Run(mode, func(t *testing.T) {
			port := caddytest.FreePort(t)
			c := caddytest.Start(t, fmt.Sprintf(`servers {
				listener_wrappers {
					%s
					proxy_protocol_mode %s {
						timeout 3s
					}
				}
			}`, caddytest.AcceptWrapper, mode), fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nrespond {remote}\n}", port))
			header, remote := headerV2, headertest.Client4.String()
			switch mode {
			case "off":
				header, remote = "", ""
			case "unspecified":
				remote = headertest.Client4.Addr().String() + ":0"
			}
			serves := func() {
				conn := caddytest.Dial(t, caddytest.TCP4(port))
				defer conn.Close()
				caddytest.Send(t, conn, header+caddytest.Request("/"))
				_, body := caddytest.ReadResponse(t, conn)
				if remote != "" {
					assert.Equal(t, remote, body)
				} else {
					assert.Equal(t, conn.LocalAddr().String(), body)
				}
			}
			serves()
			goroutines, files := runtime.NumGoroutine(), caddytest.OpenFiles(t)

			conns := make([]net.Conn, silent)
			for i := range conns {
				conns[i] = caddytest.Dial(t, caddytest.TCP4(port))
			}
			caddytest.Eventually(t, func() bool { return len(c.Logs.Find(caddytest.OfAccept)) >= silent }, "not all accepted")
			serves()
			if mode == "on" {
				for _, conn := range conns {
					caddytest.RequireRefused(t, conn) // at the timeout
				}
			}
			for _, conn := range conns {
				conn.Close()
			}
			const others = 5 // Caddy has timers and so on
			caddytest.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+others }, "goroutines are left")
			caddytest.Eventually(t, func() bool { return caddytest.OpenFiles(t) <= files+others }, "open files are left")
			serves()
		})
	}
}

func TestListenerWrapper_ConnectionsDoNotDisturbEachOther(t *testing.T) {
	port, securePort := caddytest.FreePort(t), caddytest.FreePort(t)
	c := caddytest.Start(t, `auto_https disable_redirects
	servers {
		protocols h1 h2 h2c
		listener_wrappers {
			proxy_protocol_mode on
			tls
		}
	}`, fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nrespond {remote}\n}\nhttps://localhost:%d {\nbind 127.0.0.1\ntls %s\nrespond {remote}\n}", port, securePort, caddytest.CertificateFiles(t)))
	endpoints := map[bool]caddytest.Endpoint{false: caddytest.TCP4(port), true: caddytest.TCP4(securePort)}

	// One connection for each transport lives through all of what follows.
	clients := make(map[caddytest.Transport]*http.Client)
	for _, tr := range caddytest.Transports {
		clients[tr] = caddytest.Sender(t, tr, endpoints[tr.IsTLS()], headerV2)
	}
	dialed := len(caddytest.Transports)
	serves := func(t *testing.T) {
		for _, tr := range caddytest.Transports {
			response, err := clients[tr].Get(tr.URL("/"))
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			require.NoError(t, err)
			assert.Equal(t, headertest.Client4.String(), string(body))
			_, fresh := caddytest.Get(t, tr, endpoints[tr.IsTLS()], headerV1, "/")
			assert.Equal(t, headertest.Client4.String(), fresh)
			dialed++
		}
	}
	serves(t)
	others := []struct {
		name, text string
		refused    bool
	}{
		{"silent", "", false},
		{"in the middle of a signature", "PRO", false},
		{"in the middle of a header", headerV2[:20], false},
		{"silent behind a header", headerV2, false},
		{"in the middle of a second signature", headerV2 + "PRO", false},
		{"without header", caddytest.Request("/"), true},
		{"malformed", "PROXY \r\n", true},
		{"with a second header", headerV2 + headerV1, true},
	}
	for _, other := range others {
		t.Run(other.name, func(t *testing.T) {
			for range 20 {
				for _, e := range endpoints {
					conn := caddytest.Dial(t, e)
					caddytest.Send(t, conn, other.text)
					if other.refused {
						caddytest.RequireRefused(t, conn)
					}
				}
			}
			serves(t)
		})
	}
	// Each was the connection it had been all the time.
	accepted := 0
	for _, entry := range c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"msg": "accepted PROXY protocol header"})) {
		if entry.Str("source") == headertest.Client4.String() {
			accepted++
		}
	}
	behindHeader := 0
	for _, other := range others {
		if strings.HasPrefix(other.text, headerV2) {
			behindHeader += 20 * len(endpoints)
		}
	}
	assert.Equal(t, dialed+behindHeader, accepted)
}
