package docstest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// The hosts of situations. Each connects from an address on loopback, and all but this machine get
// another one from caddytest.PeersWrapper.
const (
	balancer      = "10.0.0.5"
	otherBalancer = "10.0.0.6"
	publicOne     = "203.0.113.5"
	monitor       = "10.0.0.9"
	stranger      = "198.51.100.9"
	thisMachine   = "127.0.0.1"
)

var loopbackOf = map[string]string{balancer: "127.0.0.5", otherBalancer: "127.0.0.6", publicOne: "127.0.0.7", monitor: "127.0.0.8", stranger: "127.0.0.9", thisMachine: thisMachine}

// What hosts send.
var (
	plainRequest = caddytest.Request("/")
	clientHello  = func() string {
		var sent bytes.Buffer
		_ = tls.Client(recordingConn{w: &sent}, &tls.Config{ServerName: "localhost"}).Handshake()
		return sent.String()
	}()
	clientV1        = headertest.V1(headertest.Client4, headertest.Server4)
	clientV2        = headertest.V2(headertest.Client4, headertest.Server4)
	balancerV2      = headertest.V2(headertest.Server4, headertest.Server4) // of a load balancer behind another
	checkV2         = headertest.Local()
	largeV2         = headertest.WithTLVs(headertest.TextTLV(0xe0, strings.Repeat("x", 5000)))
	misSignedV2     = headertest.WithTLVs(headertest.TextTLV(auth.DefaultType, "1785000000 "+strings.Repeat("0", 64)))
	endpointV2      = headertest.WithTLVs(headertest.TextTLV(0xea, "\x01vpce-1"))
	otherEndpointV2 = headertest.WithTLVs(headertest.TextTLV(0xea, "\x01vpce-2"))
	withMistake     = "PROXY TCP4 203.0.113.7 192.0.2.1 056324 80\r\n"
	// firstOfQUIC is the first datagram of a QUIC connection, as far as a load balancer can tell.
	firstOfQUIC  = "\xc0\x00\x00\x00\x01" + strings.Repeat("\x00", 1195)
	firstHeaders = headertest.UDP(headertest.Client4, headertest.Server4) + firstOfQUIC
)

// recordingConn is a connection that ends after what is written to it.
type recordingConn struct {
	net.Conn
	w io.Writer
}

func (c recordingConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c recordingConn) Read([]byte) (int, error)    { return 0, io.EOF }
func (c recordingConn) Close() error                { return nil }

// situation is a row of the table in docs/operations.md, which says what an operator must see.
type situation struct {
	name string
	// wrapper is the mode and options of the listener wrapper, and packets those of the packet
	// wrapper, if there is one.
	wrapper, packets string
	// unnamed leaves out caddytest.PeersWrapper, so that all hosts have addresses on loopback.
	unnamed bool
	tls     bool // the port is for HTTPS
	traffic []traffic
}

// traffic is connections of a host, or datagrams.
type traffic struct {
	from, send string
	perMinute  float64
	// Alerts see it from one minute to another. Zero is the beginning, and the end.
	since, until int
	datagrams    bool
}

const always = 60 // a minute

// situations are those of the table, in its order.
var situations = []situation{
	{name: "all is well", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: always}, {from: balancer, send: checkV2 + plainRequest, perMinute: 30}}},
	{name: "all is well, and there are health checks over TCP", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 1, until: 10}, {from: balancer, perMinute: always}}},
	{name: "idle, with health checks, and one stranger every two minutes", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 1, until: 10}, {from: balancer, send: checkV2 + plainRequest, perMinute: 6}, {from: stranger, send: plainRequest, perMinute: 0.5}}},
	{name: "the same, and `trusted_proxies` is not set", wrapper: "on", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 1, until: 10}, {from: balancer, send: checkV2 + plainRequest, perMinute: 6}, {from: stranger, send: plainRequest, perMinute: 0.5}}},
	{name: "idle, with health checks over TCP, and a stranger twice a minute", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 1, until: 10}, {from: balancer, perMinute: 6}, {from: stranger, send: plainRequest, perMinute: 2}}},
	{name: "idle, and a scanner connects 5000 times in two minutes", wrapper: "on", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 1, until: 10}, {from: stranger, send: plainRequest, perMinute: 2500, since: 30, until: 32}}},
	{name: "idle, with health checks, and many strangers all the time", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 1, until: 10}, {from: balancer, send: checkV2 + plainRequest, perMinute: 6}, {from: stranger, send: plainRequest, perMinute: 30}}},
	{name: "busy, and strangers connect all the time", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 600}, {from: stranger, send: plainRequest, perMinute: 30}}},
	{name: "clients connect directly, and the mode is `off`", wrapper: "off", traffic: []traffic{
		{from: stranger, send: plainRequest, perMinute: 1}, {from: "198.51.100.10", send: plainRequest, perMinute: 1}, {from: "198.51.100.11", send: plainRequest, perMinute: 1}}},

	{name: "a private load balancer sends no header", wrapper: "on", traffic: []traffic{{from: balancer, send: plainRequest, perMinute: 30}}},
	{name: "a public one", wrapper: "on", traffic: []traffic{{from: publicOne, send: plainRequest, perMinute: 30}}},
	{name: "one on this machine", wrapper: "on", traffic: []traffic{{from: thisMachine, send: plainRequest, perMinute: 30}}},
	{name: "two of them", wrapper: "on {\ntrusted_proxies static 10.0.0.0/24\n}", traffic: []traffic{
		{from: balancer, send: plainRequest, perMinute: 15}, {from: otherBalancer, send: plainRequest, perMinute: 15}}},
	{name: "one of two", wrapper: "on {\ntrusted_proxies static 10.0.0.0/24\n}", traffic: []traffic{
		{from: otherBalancer, send: clientV2 + plainRequest, perMinute: 30}, {from: balancer, send: plainRequest, perMinute: 30}}},
	{name: "it sends none, and a monitor is `off` beside it", wrapper: "on {\ntrusted_proxies static 10.0.0.5\noff 10.0.0.9\n}", traffic: []traffic{
		{from: monitor, send: plainRequest, perMinute: always}, {from: balancer, send: plainRequest, perMinute: 30}}},
	{name: "it sends none any more", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: always, until: 4}, {from: balancer, send: plainRequest, perMinute: 30, since: 4}}},
	{name: "its health checks have no header", wrapper: "on {\ntrusted_proxies static 10.0.0.5\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: always}, {from: balancer, send: plainRequest, perMinute: 30}}},
	{name: "a monitor connects directly", wrapper: "on {\ntrusted_proxies static 10.0.0.0/24\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 30}, {from: monitor, send: plainRequest, perMinute: 4}}},
	{name: "TLS arrives without a header", wrapper: "on", traffic: []traffic{{from: balancer, send: clientHello, perMinute: 30}}},

	{name: "a load balancer sends headers, and the mode is `off`", wrapper: "off", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 30}, {from: balancer, send: checkV2 + plainRequest, perMinute: 30}}},
	{name: "the same, and clients connect directly beside it", wrapper: "off", traffic: []traffic{
		{from: stranger, send: plainRequest, perMinute: always}, {from: balancer, send: clientV1 + plainRequest, perMinute: 2}}},

	{name: "a load balancer is not in `trusted_proxies`", wrapper: "on {\ntrusted_proxies static 192.0.2.0/24\n}", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 30}}},
	{name: "a public one", wrapper: "on {\ntrusted_proxies static 192.0.2.0/24\n}", traffic: []traffic{
		{from: publicOne, send: clientV2 + plainRequest, perMinute: 30}}},
	{name: "one on this machine", wrapper: "on {\ntrusted_proxies static 192.0.2.0/24\n}", traffic: []traffic{
		{from: thisMachine, send: clientV2 + plainRequest, perMinute: 30}}},
	{name: "one of two", wrapper: "on {\ntrusted_proxies static 10.0.0.6\n}", traffic: []traffic{
		{from: otherBalancer, send: clientV2 + plainRequest, perMinute: 30}, {from: balancer, send: clientV2 + plainRequest, perMinute: 30}}},

	{name: "only health checks arrive", wrapper: "on", traffic: []traffic{{from: balancer, send: checkV2 + plainRequest, perMinute: 30}}},
	{name: "two load balancers in a row, and both send a header", wrapper: "on", traffic: []traffic{
		{from: balancer, send: balancerV2 + clientV2 + plainRequest, perMinute: 30}, {from: balancer, send: checkV2 + plainRequest, perMinute: 30}}},
	{name: "v1 arrives, and `version` is `v2`", wrapper: "on {\nversion v2\n}", traffic: []traffic{{from: balancer, send: clientV1 + plainRequest, perMinute: 30}}},
	{name: "headers are larger than `max_header_size`", wrapper: "on", traffic: []traffic{
		{from: balancer, send: largeV2 + plainRequest, perMinute: 30}, {from: balancer, send: checkV2 + plainRequest, perMinute: 30}}},
	{name: "a load balancer signs with another key", wrapper: "on {\ntrusted_proxies static 10.0.0.5\nrequire signature " + lbKey + "\n}", traffic: []traffic{
		{from: balancer, send: misSignedV2 + plainRequest, perMinute: 30}, {from: balancer, send: checkV2 + plainRequest, perMinute: 6}}},
	{name: "only one private endpoint may connect, and others try", wrapper: "on {\ntrusted_proxies static 10.0.0.5\nrequire tlv aws_vpce_id vpce-1\n}", traffic: []traffic{
		{from: balancer, send: endpointV2 + plainRequest, perMinute: 600}, {from: balancer, send: otherEndpointV2 + plainRequest, perMinute: 30}}},
	{name: "headers are malformed", wrapper: "on", traffic: []traffic{{from: balancer, send: withMistake + plainRequest, perMinute: 30}}},

	{name: "TLS ends at the load balancer, which sends plain HTTP to the TLS port", wrapper: "on", unnamed: true, tls: true, traffic: []traffic{
		{from: thisMachine, send: clientV2 + plainRequest, perMinute: 30}}},
	{name: "TLS is passed through to the plain port", wrapper: "on", unnamed: true, traffic: []traffic{
		{from: thisMachine, send: clientV2 + clientHello, perMinute: 30}}},

	{name: "a load balancer sends no header, and the mode is `unspecified`", wrapper: "unspecified", traffic: []traffic{
		{from: balancer, send: plainRequest, perMinute: 30}}},
	{name: "a load balancer sends headers, and the mode is `unspecified`", wrapper: "unspecified", traffic: []traffic{
		{from: balancer, send: clientV2 + plainRequest, perMinute: 30}, {from: monitor, send: plainRequest, perMinute: 4}}},

	{name: "HTTP/3: a load balancer sends no header", wrapper: "on", unnamed: true, tls: true, packets: "on {\ntrusted_proxies static 127.0.0.1\n}", traffic: []traffic{
		{from: thisMachine, send: firstOfQUIC, perMinute: 3000, datagrams: true}}},
	{name: "HTTP/3: all is well, and idle, with one stranger every two minutes", wrapper: "on", unnamed: true, tls: true, packets: "on {\ntrusted_proxies static 127.0.0.1\n}", traffic: []traffic{
		{from: thisMachine, send: firstHeaders, perMinute: 600, until: 10, datagrams: true}, {from: stranger, send: firstOfQUIC, perMinute: 5, datagrams: true}}},
}

// seen is what an operator sees in a situation.
type seen struct {
	outcomes []string
	// received is that of refusals in the log.
	received        []string
	logHints, hints []string // in the log, and in the status
	series          []alertSeries
}

// TestSituations runs every situation of the table in docs/operations.md with a real Caddy, and
// asserts the outcomes, the log, and the hints. It writes a test of the alerts for promtool, with the
// series that Caddy exported, which .ci/alerts runs.
func TestSituations(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux all of 127.0.0.0/8 are addresses of this machine")
	}
	rows := situationRows(t)
	require.Len(t, rows, len(situations), "docs/operations.md has another number of situations")
	rules := alertRules(t)
	var tests []promtoolTest
	for i, s := range situations {
		name, row := fmt.Sprintf("%02d %s", i+1, s.name), rows[i]
		require.Equal(t, s.name, row.name)
		t.Run(name, func(t *testing.T) {
			got := s.run(t)
			assert.Equal(t, row.outcomes, got.outcomes, "outcomes")
			assert.Equal(t, row.received, got.received, "received")
			requireEachIn(t, "log", row.logHints, got.logHints)
			requireEachIn(t, "status", row.hints, got.hints)
			tests = append(tests, alertsTest(t, name, got.series, row.alerts, rules))
		})
	}
	if len(tests) == len(situations) { // not with -run of some
		requireGolden(t, "alerts.test.yml", promtoolFile(t, tests))
	}
}

// requireEachIn asserts that each part is in a hint, and that each hint has a part.
func requireEachIn(t *testing.T, where string, parts, hints []string) {
	t.Helper()
	for _, part := range parts {
		assert.True(t, slices.ContainsFunc(hints, func(hint string) bool { return strings.Contains(hint, part) }), "%s: no hint has %q:\n%s", where, part, strings.Join(hints, "\n"))
	}
	for _, hint := range hints {
		assert.True(t, slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(hint, part) }), "%s: a hint that is not in the table: %s", where, hint)
	}
}

// run runs the situation once, one connection for each traffic.
func (s situation) run(t *testing.T) (got seen) {
	t.Helper()
	port, metricsPort := caddytest.FreePort(t), caddytest.FreePort(t)
	wrappers := "proxy_protocol_mode " + s.wrapper + "\ntls"
	if !s.unnamed {
		names := caddytest.PeersWrapper
		for host, loopback := range s.hosts() {
			names += " " + loopback + " " + host
		}
		wrappers = names + "\n" + wrappers
	}
	more := ""
	if s.packets != "" {
		more = "packet_conn_wrappers {\nproxy_protocol_mode " + s.packets + "\n}"
	}
	options := "auto_https disable_redirects\n" + caddytest.ServerOptions(port, wrappers, more)
	site := fmt.Sprintf("http://:%d {\nrespond ok\n}\n", port)
	if s.tls {
		options = fmt.Sprintf("https_port %d\n", port) + options
		site = fmt.Sprintf("https://localhost:%d {\ntls %s\nrespond ok\n}\n", port, caddytest.CertificateFiles(t))
	}
	c := caddytest.Start(t, options, fmt.Sprintf("%shttp://:%d {\nmetrics\n}\n", site, metricsPort))

	before := scrapeCounters(t, metricsPort)
	hosts := s.hosts()
	for _, tr := range s.traffic {
		tr.connect(t, hosts[tr.from], port)
		var series []string
		caddytest.Eventually(t, func() bool {
			series = changed(before, scrapeCounters(t, metricsPort))
			return len(series) > 0
		}, "a connection of %s is not counted", tr.from)
		require.Len(t, series, 1)
		before = scrapeCounters(t, metricsPort)
		got.series = append(got.series, alertSeries{series[0], tr})
		outcome := regexp.MustCompile(`outcome="(\w+)"`).FindStringSubmatch(series[0])[1]
		got.outcomes = appendNew(got.outcomes, outcome)
		// The log is written by a goroutine of its own.
		if !slices.Contains([]string{"client", "marked", "local", "direct"}, outcome) {
			c.Logs.WaitFor(t, caddytest.Fields{"reason": outcome, "server_name": "srv0"})
		}
	}
	listeners := caddytest.CurrentStatus(t).Listeners
	for _, l := range listeners {
		if l.WrongPayloads != nil {
			c.Logs.WaitFor(t, caddytest.OfModule.With(caddytest.Fields{"level": "info", "source": headertest.Client4.String()}))
		}
	}
	for _, entry := range slices.Concat(c.Logs.Refusals(caddytest.Fields{"level": "warn"}), c.Logs.Find(caddytest.OfPackets.With(caddytest.Fields{"level": "warn"}))) {
		got.received = appendNew(got.received, entry.Str("received"))
		got.logHints = appendNew(got.logHints, entry.Str("hint"))
	}
	for _, entry := range c.Logs.Find(caddytest.OfModule.With(caddytest.Fields{"level": "info"})) {
		got.logHints = appendNew(got.logHints, entry.Str("hint")) // of a wrong payload
	}
	for _, l := range listeners {
		got.hints = append(got.hints, l.Hints...)
		requireSameAsLog(t, l, c)
	}
	return got
}

// requireSameAsLog asserts that the status has the refusals of the log, with the same hints.
func requireSameAsLog(t *testing.T, l statusapi.Listener, c *caddytest.Caddy) {
	t.Helper()
	for _, r := range l.Refusals {
		entries := c.Logs.Find(caddytest.Fields{"peer": r.Peer, "reason": r.Reason})
		require.NotEmpty(t, entries)
		assert.Equal(t, entries[0].Str("hint"), r.Hint)
		assert.Equal(t, entries[0].Str("received"), r.Received)
	}
}

// hosts returns the hosts of the situation, and the addresses on loopback from which they connect.
func (s situation) hosts() map[string]string {
	hosts := maps.Clone(loopbackOf)
	for i, tr := range s.traffic {
		if hosts[tr.from] == "" {
			hosts[tr.from] = fmt.Sprintf("127.0.1.%d", i+1)
		}
	}
	return hosts
}

// connect sends one connection or datagram to a port of 127.0.0.1.
func (tr traffic) connect(t *testing.T, from string, port int) {
	t.Helper()
	if tr.datagrams {
		udp := caddytest.ListenUDP(t, from)
		_, err := udp.WriteTo([]byte(tr.send), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		require.NoError(t, err)
		return
	}
	conn := caddytest.DialFrom(t, from, port)
	defer conn.Close()
	// A connection of an untrusted peer may be closed before that.
	_, _ = io.WriteString(conn, tr.send)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn) // until Caddy has closed it, with or without an answer
}

var counterLine = regexp.MustCompile(`(?m)^(caddy_proxy_protocol_(?:connections|datagrams)_total\{[^}]*\}) (\d+)$`)

// scrapeCounters returns the counters that Caddy exports at a port.
func scrapeCounters(t *testing.T, port int) map[string]string {
	t.Helper()
	response, err := http.Get("http://" + caddytest.TCP4(port).Address)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	counters := make(map[string]string)
	for _, m := range counterLine.FindAllStringSubmatch(string(text), -1) {
		counters[m[1]] = m[2]
	}
	return counters
}

// changed returns the counters that have another value than before.
func changed(before, now map[string]string) (series []string) {
	for name, value := range now {
		if before[name] != value {
			series = append(series, name)
		}
	}
	return series
}

// appendNew appends a text that is not empty and not there yet.
func appendNew(texts []string, text string) []string {
	if text == "" || slices.Contains(texts, text) {
		return texts
	}
	return append(texts, text)
}

// The table of mistakes that show at load.
func TestSituations_AtLoad(t *testing.T) {
	rows := operationsTable(t, "| Situation | Caddy says | What follows |")
	require.Len(t, rows, 2)
	says := func(i int, name string) string {
		require.Equal(t, name, rows[i][0])
		return strings.Trim(rows[i][1], "`")
	}

	says0 := says(0, "the wrapper comes after `tls`")
	options := func(wrappers string) string {
		return fmt.Sprintf("https_port %d\nhttp_port %d\nservers {\n%s\n}\n", caddytest.FreePort(t), caddytest.FreePort(t), wrappers)
	}
	site := "localhost {\ntls " + caddytest.CertificateFiles(t) + "\nrespond ok\n}\n"
	c := caddytest.New(t)
	err := c.Load(options("listener_wrappers {\ntls\nproxy_protocol_mode on {\ntrusted_proxies static 10.0.0.5\n}\n}"), site)
	require.ErrorContains(t, err, says0)
	_, lines, found := strings.Cut(err.Error(), "write:\n")
	require.True(t, found)
	assert.Contains(t, lines, "10.0.0.5")
	require.NoError(t, c.Load(options(lines), site), "with the lines of the error")

	warned := func() string { return strings.Join(c.Logs.Warnings(), "\n") }
	says1 := says(1, "redirects on port 80 without the wrapper")
	caddytest.Eventually(t, func() bool { return strings.Contains(warned(), says1) }, "no warning: %s", warned())
	assert.Contains(t, warned(), "'http:// { log }'")
	c.Stop()
	c = caddytest.New(t)
	require.NoError(t, c.Load(options(lines), site+"http:// {\nlog\n}\n"), "with the site of the warning")
	assert.NotContains(t, warned(), says1)
	assert.Len(t, caddytest.CurrentStatus(t).Listeners, 2, "port 80 is checked, too")
}

// situationRow is a row of the table in docs/operations.md.
type situationRow struct {
	name                                        string
	outcomes, received, logHints, hints, alerts []string
}

// situationRows returns the rows of the table.
func situationRows(t *testing.T) (rows []situationRow) {
	t.Helper()
	for _, cells := range operationsTable(t, "| Situation | Outcomes | Received | Hint in the log | Hints in the status | Alerts |") {
		row := situationRow{name: cells[0]}
		for i, spans := range []*[]string{&row.outcomes, &row.received, &row.logHints, &row.hints, &row.alerts} {
			for _, m := range codeSpan.FindAllStringSubmatch(cells[i+1], -1) {
				*spans = append(*spans, m[1])
			}
		}
		rows = append(rows, row)
	}
	return rows
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// operationsTable returns the cells of the table in docs/operations.md that has this heading.
func operationsTable(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	_, text, found := strings.Cut(docsRead(t, filepath.Join(docsFolder, "operations.md")), "\n"+heading+"\n")
	require.True(t, found, "no table with the heading %s", heading)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |\n"), " | ")
		if cells[0] != "---" {
			rows = append(rows, cells)
		}
	}
	return rows
}
