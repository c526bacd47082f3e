package proxyprotocol_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// counted is a Caddy whose metrics are read.
type counted struct {
	*caddytest.Caddy
	options, sites string
	scraped        string // where the metrics are
	ports          map[string]int
}

// startCounted runs a server for each way to be refused, and one with the metrics.
func startCounted(t testing.TB) *counted {
	t.Helper()
	c := &counted{Caddy: caddytest.New(t), ports: make(map[string]int)}
	for name, wrapper := range map[string]string{
		"on":          "on {\ntrusted_proxies static 127.0.0.1\n}",
		"slow":        "on {\ntimeout 50ms\n}",
		"only_v2":     "on {\nversion v2\n}",
		"off":         "off",
		"unspecified": "unspecified",
	} {
		port := caddytest.FreePort(t)
		c.ports[name] = port
		c.options += caddytest.ServerOptions(port, "proxy_protocol_mode "+wrapper+"\ntls", "name "+name)
		c.sites += fmt.Sprintf("http://:%d {\nrespond ok\n}\n", port)
	}
	c.options += "metrics\n"
	port := caddytest.FreePort(t)
	c.scraped = fmt.Sprintf("http://127.0.0.1:%d/", port)
	c.sites += fmt.Sprintf("http://:%d {\nmetrics\n}\n", port)
	require.NoError(t, c.Load(c.options, c.sites))
	return c
}

var connectionsLine = regexp.MustCompile(`(?m)^caddy_proxy_protocol_connections_total\{mode="(\w+)",outcome="(\w+)",server="(\w+)",version="(\w+)"\} (\d+)$`)

// scrape returns the counts by "server mode version outcome".
func (c *counted) scrape(t testing.TB) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for _, m := range connectionsLine.FindAllStringSubmatch(c.text(t), -1) {
		n, err := strconv.Atoi(m[5])
		require.NoError(t, err)
		counts[strings.Join([]string{m[3], m[1], m[4], m[2]}, " ")] = n
	}
	return counts
}

// text returns the metrics as Prometheus gets them.
func (c *counted) text(t testing.TB) string {
	t.Helper()
	resp, err := http.Get(c.scraped)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}

// headers returns how many headers of a server the histogram has seen.
func (c *counted) headers(t testing.TB, server string) string {
	m := regexp.MustCompile(`(?m)^caddy_proxy_protocol_header_duration_seconds_count\{server="` + server + `"\} (\d+)$`).FindStringSubmatch(c.text(t))
	require.NotNil(t, m)
	return m[1]
}

// more returns what counts have more than before.
func more(before, counts map[string]int) map[string]int {
	diff := make(map[string]int)
	for key, n := range counts {
		if n != before[key] {
			diff[key] = n - before[key]
		}
	}
	return diff
}

func TestMetrics_CountEveryOutcomeOnce(t *testing.T) {
	c := startCounted(t)
	header1, header2 := headertest.V1(headertest.Client4, headertest.Server4), headertest.V2(headertest.Client4, headertest.Server4)
	badSum := []byte(headertest.TextWith(mustHeader(wire.NewProxy(2, wire.Stream, headertest.Client4, headertest.Server4)), nil, true))
	badSum[len(badSum)-1] ^= 1

	tests := []struct {
		server, from, say string
		answered          bool
		want              string
	}{
		{server: "on", say: header1 + caddytest.Request("/"), answered: true, want: "on on v1 client"},
		{server: "on", say: header2 + caddytest.Request("/"), answered: true, want: "on on v2 client"},
		{server: "on", say: headertest.Local() + caddytest.Request("/"), answered: true, want: "on on v2 local"},
		{server: "on", say: headertest.Unknown(1) + caddytest.Request("/"), answered: true, want: "on on v1 local"},
		{server: "off", say: caddytest.Request("/"), answered: true, want: "off off none direct"},
		{server: "unspecified", say: caddytest.Request("/"), answered: true, want: "unspecified unspecified none direct"},
		{server: "unspecified", say: header1 + caddytest.Request("/"), answered: true, want: "unspecified unspecified v1 marked"},
		{server: "unspecified", say: headertest.Local() + caddytest.Request("/"), answered: true, want: "unspecified unspecified v2 local"},
		{server: "on", say: caddytest.Request("/"), want: "on on none missing"},
		{server: "off", say: header1, want: "off off v1 forbidden"},
		{server: "off", say: header2, want: "off off v2 forbidden"},
		{server: "on", from: "127.0.0.2", want: "on on none untrusted"},
		{server: "on", say: "PROXY TCP5 \r\n", want: "on on v1 malformed"},
		{server: "on", say: string(badSum), want: "on on v2 checksum"},
		{server: "on", say: wire.SignatureV2 + "\x21\x11\xff\xff", want: "on on v2 too_large"},
		{server: "on", say: header1 + header2, want: "on on v2 duplicate"},
		{server: "unspecified", say: header1 + header1, want: "unspecified unspecified v1 duplicate"},
		{server: "slow", say: "PROXY ", want: "slow on v1 timeout"},
		{server: "only_v2", say: header1, want: "only_v2 on v1 version"},
	}
	all := make(map[string]int)
	first := c.scrape(t)
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			before := c.scrape(t)
			conn := caddytest.DialFrom(t, tt.from, c.ports[tt.server])
			caddytest.Send(t, conn, tt.say)
			if tt.answered {
				// a second request is the same connection
				for range 2 {
					_, body := caddytest.ReadResponse(t, conn)
					assert.Equal(t, "ok", body)
					caddytest.Send(t, conn, caddytest.Request("/"))
				}
			} else {
				caddytest.RequireRefused(t, conn)
			}
			want := map[string]int{tt.want: 1}
			caddytest.Eventually(t, func() bool { return maps.Equal(want, more(before, c.scrape(t))) }, "%s is not all that is counted", tt.want)
			require.NoError(t, conn.Close())
		})
		all[tt.want]++
	}

	t.Run("silent", func(t *testing.T) {
		before := c.scrape(t)
		require.NoError(t, caddytest.DialFrom(t, "", c.ports["on"]).Close())
		want := map[string]int{"on on none silent": 1}
		caddytest.Eventually(t, func() bool { return maps.Equal(want, more(before, c.scrape(t))) }, "silent is not all that is counted")
		all["on on none silent"]++
	})

	// Nothing was counted again when connections ended, and a reload forgets nothing.
	require.NoError(t, c.Load(c.options, c.sites))
	assert.Equal(t, all, more(first, c.scrape(t)))
	assert.Equal(t, "5", c.headers(t, "on"), "headers accepted, one of them with a second behind it")

	conn := caddytest.DialFrom(t, "", c.ports["on"])
	caddytest.Send(t, conn, header1+caddytest.Request("/"))
	caddytest.ReadResponse(t, conn)
	all["on on v1 client"]++
	assert.Equal(t, all, more(first, c.scrape(t)))

	// A server that is gone takes its series along.
	require.NoError(t, c.Load("", strings.SplitAfter(c.sites, "metrics")[0][strings.LastIndex(strings.SplitAfter(c.sites, "metrics")[0], "http://"):]+"\n}\n"))
	caddytest.Eventually(t, func() bool { return len(c.scrape(t)) == 0 }, "series of servers that are gone")
}

func TestMetrics_CountASilentConnectionWhenItEnds(t *testing.T) {
	c := startCounted(t)
	for _, tt := range []struct{ server, say, want string }{
		{"on", headertest.V1(headertest.Client4, headertest.Server4), "on on v1 client"},
		{"off", "", "off off none silent"},
		{"unspecified", "", "unspecified unspecified none silent"},
		{"on", "", "on on none silent"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			before := c.scrape(t)
			conn := caddytest.DialFrom(t, "", c.ports[tt.server])
			caddytest.Send(t, conn, tt.say)
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
			want := map[string]int{tt.want: 1}
			caddytest.Eventually(t, func() bool { return maps.Equal(want, more(before, c.scrape(t))) }, "%s is not all that is counted", tt.want)
		})
	}
}

// A flood of refused connections fills neither the log nor the status, and does not keep a
// good client from its answers.
func TestStatus_IsBoundedInAFloodOfRefusals(t *testing.T) {
	c := startCounted(t)
	good := caddytest.DialFrom(t, "", c.ports["on"])
	caddytest.Send(t, good, headertest.V1(headertest.Client4, headertest.Server4)+caddytest.Request("/"))
	caddytest.ReadResponse(t, good)

	const floods, each = 4, 500
	var wait sync.WaitGroup
	began := time.Now()
	for range floods {
		wait.Go(func() {
			for range each {
				conn, err := net.Dial("tcp", caddytest.TCP4(c.ports["on"]).Address)
				if !assert.NoError(t, err) {
					return
				}
				_, _ = io.WriteString(conn, caddytest.Request("/"))
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
		})
	}
	for range 50 {
		caddytest.Send(t, good, caddytest.Request("/"))
		_, body := caddytest.ReadResponse(t, good)
		assert.Equal(t, "ok", body)
	}
	wait.Wait()

	caddytest.Eventually(t, func() bool { return c.scrape(t)["on on none missing"] == floods*each }, "not all refusals are counted")
	intervals := int(time.Since(began)/proxyprotocol.RefusalInterval) + 2
	assert.LessOrEqual(t, len(c.Logs.Refusals(caddytest.Fields{"reason": "missing"})), intervals*proxyprotocol.RefusalsLogged)
	for _, listener := range caddytest.CurrentStatus(t).Listeners {
		assert.LessOrEqual(t, len(listener.Refusals), proxyprotocol.RefusalsKept)
	}
}

func mustHeader(h wire.Header, err error) wire.Header {
	caddytest.Must(err)
	return h
}
