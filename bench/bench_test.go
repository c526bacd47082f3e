package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain runs the test binary as a Caddy if serveEnv is set, and otherwise runs the tests.
func TestMain(m *testing.M) {
	if serveCaddy() {
		return
	}
	os.Exit(m.Run())
}

// smoke are settings with as little work as every number needs.
var smoke = settings{rounds: 1, turns: 1, turn: 20 * time.Millisecond, workers: 2, connections: 100, benchtime: 5 * time.Millisecond, caddyOnly: true}

func TestEveryTableHasEveryRow(t *testing.T) {
	if runtime.GOOS != "linux" || testing.Short() {
		t.Skip("starts many a Caddy, and measures memory as Linux tells it")
	}
	// Else each process with the race detector sleeps for a second when it ends.
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	requireTables(t, smoke)
}

// requireTables runs the whole command and asserts that its document has every row of every table.
func requireTables(t *testing.T, s settings) {
	document := filepath.Join(t.TempDir(), "benchmarks.md")
	require.NoError(t, os.WriteFile(document, []byte("Before.\n"+resultsBegin+"old\n"+resultsEnd+"After.\n"), 0o600))
	require.NoError(t, run(s, document))
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	require.NotContains(t, string(text), "old")

	servers := []string{
		"Caddy, no wrapper", "Caddy, no wrapper, again", "Caddy, built-in `proxy_protocol`, `REQUIRE`",
		"Caddy, `proxy_protocol_mode on`", "Caddy, `proxy_protocol_mode off`", "Caddy, `proxy_protocol_mode unspecified`",
	}
	if !s.caddyOnly {
		servers = append(servers, "nginx, `proxy_protocol`", "HAProxy, `accept-proxy`")
	}
	headers := []string{"v1/ipv4", "v1/ipv6", "v2/ipv4", "v2/ipv6", "v2/aws"}
	peers := []string{"trusted, in the last range", "trusted, in no range", "modes, in the last range", "modes, in no range"}
	want := map[string][]string{
		"Decoding a header":            pairs(headers, []string{"this", "pires", "mastercactapus"}),
		"Setting up a connection":      pairs(headers, []string{"this on", "this unspecified", "pires", "mastercactapus"}),
		"Judging a peer":               pairs(peers, []string{"1", "10", "100", "1000", "10000"}),
		"New connections":              servers,
		"Keep-alive requests":          servers,
		"New TLS connections":          servers,
		"Keep-alive requests over TLS": servers,
		"Memory of open connections":   servers,
		"Refused connections":          refusedConnections(s),
		"Dropped datagrams": {
			"no header | Caddy, no wrapper", "no header | Caddy, no wrapper, again", "no header | Caddy, `proxy_protocol_mode on`",
			"a header of an untrusted peer | Caddy, no wrapper", "a header of an untrusted peer | Caddy, `proxy_protocol_mode on`",
			"a malformed header | Caddy, no wrapper", "a malformed header | Caddy, `proxy_protocol_mode on`",
		},
	}
	got := tablesOf(t, string(text))
	for title, rows := range want {
		assert.Equal(t, rows, got[title], title)
	}
	assert.Len(t, got, len(want))
}

// refusedConnections returns the beginnings of the rows: the refusal, the server and its answer.
func refusedConnections(s settings) []string {
	others := func(what string) []string {
		if s.caddyOnly {
			return nil
		}
		return []string{what + " | nginx, `proxy_protocol` | none", what + " | HAProxy, `accept-proxy` | none"}
	}
	return slices.Concat(
		[]string{
			"no header | Caddy, no wrapper | 200",
			"no header | Caddy, no wrapper, again | 200",
			"no header | Caddy, built-in `proxy_protocol`, `REQUIRE` | none",
			"no header | Caddy, `proxy_protocol_mode on` | none",
		},
		others("no header"),
		[]string{
			"a header of an untrusted peer | Caddy, no wrapper | 400",
			"a header of an untrusted peer | Caddy, built-in `proxy_protocol`, `REJECT` | none",
			"a header of an untrusted peer | Caddy, `proxy_protocol_mode on` | none",
			"a malformed header | Caddy, no wrapper | 400",
			"a malformed header | Caddy, built-in `proxy_protocol`, `REQUIRE` | none",
			"a malformed header | Caddy, `proxy_protocol_mode on` | none",
		},
		others("a malformed header"),
		[]string{
			"a header where none is allowed | Caddy, no wrapper | 400",
			"a header where none is allowed | Caddy, built-in `proxy_protocol`, `REJECT` | none",
			"a header where none is allowed | Caddy, `proxy_protocol_mode off` | none",
		},
	)
}

// pairs returns the beginnings of rows for each pair of a task and a variant. mastercactapus cannot
// do v2/aws.
func pairs(first, second []string) (all []string) {
	for _, a := range first {
		for _, b := range second {
			if a != "v2/aws" || b != "mastercactapus" {
				all = append(all, a+" | "+b)
			}
		}
	}
	return all
}

// tablesOf returns the beginnings of the rows of each table, by title. It asserts that the other
// cells are numbers.
func tablesOf(t *testing.T, text string) map[string][]string {
	tables := make(map[string][]string)
	for _, section := range strings.Split(text, "\n### ")[1:] {
		title, table, _ := strings.Cut(section, "\n\n")
		lines := strings.Split(table, "\n")
		words := strings.Count(lines[1], " --- ")
		for _, line := range lines[2:] {
			if !strings.HasPrefix(line, "| ") {
				break
			}
			cells := strings.Split(strings.Trim(line, "| "), " | ")
			require.Len(t, cells, strings.Count(lines[0], " | ")+1, line)
			tables[title] = append(tables[title], strings.Join(cells[:words], " | "))
			for _, cell := range cells[words:] {
				var number float64
				_, err := fmt.Sscan(cell, &number)
				assert.NoError(t, err, "%s: %s", title, line)
			}
		}
	}
	return tables
}

func TestWhatIsNotAnsweredIsAnError(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"another status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden); fmt.Fprint(w, "ok") },
		"another body":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "no") },
		"nothing":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		for _, keepAlive := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keep-alive %v", name, keepAlive), func(t *testing.T) {
				answers := httptest.NewServer(answer)
				defer answers.Close()
				s := &server{plain: answers.Listener.Addr().String(), process: new(process)}
				_, err := load{keepAlive: keepAlive}.turn(s, 2, time.Minute)
				assert.ErrorContains(t, err, "unexpected answer")
			})
		}
	}
}

// TestWhatIsNotRefusedIsAnError asserts that an unexpected reaction of a server is an error, so that
// the table does not have it.
func TestWhatIsNotRefusedIsAnError(t *testing.T) {
	for _, test := range []struct {
		name, writes, answer, err string
	}{
		{"closed, as it should", "", "", ""},
		{"a status, as it should", "HTTP/1.1 400 Bad Request\r\n\r\n", "400", ""},
		{"an answer instead of none", "HTTP/1.1 400 Bad Request\r\n\r\n", "", "unexpected answer"},
		{"a byte instead of none", "x", "", "unexpected answer"},
		{"none instead of a status", "", "400", "unexpected answer"},
		{"another status", "HTTP/1.1 403 Forbidden\r\n\r\n", "400", "unexpected answer"},
		{"none instead of a page", "", "200", "unexpected answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Read(make([]byte, 100))
					_, _ = io.WriteString(c, test.writes)
					c.Close()
				}
			}()
			m := &attempt{server: &server{plain: l.Addr().String(), process: new(process)}, answer: test.answer}
			done, err := (&refusal{from: trustedIP, sends: malformedV2}).connections(smoke, m)
			if test.err != "" {
				assert.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			assert.Positive(t, done.requests)
		})
	}
}

func TestARefusalThatIsNotLoggedIsAnError(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	m := &attempt{server: &server{log: log}, reason: "missing"}
	assert.ErrorContains(t, m.checkLog(), "does not say")
	require.NoError(t, os.WriteFile(log, []byte(`{"msg":"dropped","reason":"malformed"}`+"\n"), 0o600))
	assert.ErrorContains(t, m.checkLog(), "does not say")
	m.reason = "malformed"
	assert.NoError(t, m.checkLog())
	assert.NoError(t, (&attempt{server: &server{log: log}}).checkLog())
}

func TestUDPQueue(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux tells")
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer c.Close()
	addr := c.LocalAddr().(*net.UDPAddr)
	requireQueue := func(wantWaiting bool, wantLost int64) {
		waiting, lost, err := udpQueue(addr)
		require.NoError(t, err)
		require.Equal(t, wantWaiting, waiting > 0)
		require.Equal(t, wantLost, lost)
	}
	requireQueue(false, 0)
	client, err := net.DialUDP("udp", nil, addr)
	require.NoError(t, err)
	defer client.Close()
	_, err = client.Write([]byte("one"))
	require.NoError(t, err)
	requireQueue(true, 0)
	_, err = c.Read(make([]byte, 10))
	require.NoError(t, err)
	requireQueue(false, 0)

	require.NoError(t, c.SetReadBuffer(1))
	const many = 1000
	for range many {
		_, err = client.Write([]byte(stray))
		require.NoError(t, err)
	}
	_, lost, err := udpQueue(addr)
	require.NoError(t, err)
	require.Positive(t, lost)
	for taken := lost; taken < many; taken++ {
		_, err = c.Read(make([]byte, 2000))
		require.NoError(t, err)
	}
	requireQueue(false, lost)

	c.Close()
	_, _, err = udpQueue(addr)
	assert.ErrorContains(t, err, "nothing listens")
}

func TestABurstIsTakenCompletely(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux tells")
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	taken := make(chan int)
	go func() {
		buf, n := make([]byte, 2000), 0
		for ; ; n++ {
			if size, err := c.Read(buf); err != nil || string(buf[:size]) != stray {
				break
			}
		}
		taken <- n
	}()
	m := &attempt{server: &server{tls: c.LocalAddr().String(), process: new(process)}}
	done, err := (&refusal{from: untrustedIP, sends: stray}).datagrams(smoke, m)
	c.Close()
	require.NoError(t, err)
	assert.Positive(t, done.requests)
	assert.EqualValues(t, done.requests, <-taken)
}

func TestOnePartOnly(t *testing.T) {
	s := smoke
	s.only = "speed"
	assert.ErrorContains(t, run(s, ""), `-only: "speed" is not a part: use go, requests, refusals or memory`)
	s.only = "refusals"
	assert.ErrorContains(t, run(s, "../docs/benchmarks.md"), "-only and -write: the document needs all parts")
}

func TestADocumentWithoutAPlaceForTheResultsIsLeftAlone(t *testing.T) {
	for _, text := range []string{"", resultsBegin, resultsEnd, resultsEnd + resultsBegin} {
		document := filepath.Join(t.TempDir(), "benchmarks.md")
		require.NoError(t, os.WriteFile(document, []byte(text), 0o600))
		assert.ErrorContains(t, run(smoke, document), "no place for the results")
		after, err := os.ReadFile(document)
		require.NoError(t, err)
		assert.Equal(t, text, string(after))
	}
	assert.ErrorIs(t, run(smoke, filepath.Join(t.TempDir(), "none.md")), os.ErrNotExist)
}

func TestTheDocumentationHasAPlaceForTheResults(t *testing.T) {
	assert.NoError(t, replaceResults("../docs/benchmarks.md", nil))
}

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		values      []float64
		share, want float64
	}{
		{[]float64{7}, .25, 7},
		{[]float64{3, 1, 2}, .5, 2},
		{[]float64{4, 1, 3, 2}, .5, 2.5},
		{[]float64{5, 4, 3, 2, 1}, .25, 2},
		{[]float64{5, 4, 3, 2, 1}, 0, 1},
		{[]float64{5, 4, 3, 2, 1}, 1, 5},
	} {
		assert.InDelta(t, tt.want, quantile(tt.values, tt.share), 1e-9, "%v of %v", tt.share, tt.values)
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	assert.Equal(t, []float64{2, .5, 1}, ratios([]float64{20, 10, 30}, []float64{10, 20, 30}))
	assert.Equal(t, "1.000 (0.500–2.000)", compared([]float64{20, 10, 30}, []float64{10, 20, 30}, 0, 1))
	base := []float64{10, 20, 30}
	assert.Equal(t, "1", compared(base, base, 0, 1))
	assert.Equal(t, "–", compared([]float64{0, 0, 0}, []float64{0, 0, 0}, 0, 1))
}
