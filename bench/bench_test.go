package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain makes the test binary the Caddy that is measured.
func TestMain(m *testing.M) {
	if serveCaddy() {
		return
	}
	os.Exit(m.Run())
}

// smoke is enough to have a number for everything.
var smoke = settings{rounds: 1, turns: 1, turn: 20 * time.Millisecond, workers: 2, connections: 100, benchtime: 5 * time.Millisecond, caddyOnly: true}

func TestEveryTableHasEveryRow(t *testing.T) {
	if runtime.GOOS != "linux" || testing.Short() {
		t.Skip("starts many a Caddy, and measures memory as Linux tells it")
	}
	requireTables(t, smoke)
}

// requireTables runs the whole command and looks whether its document has all there is to
// measure.
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
	}
	got := tablesOf(t, string(text))
	for title, rows := range want {
		assert.Equal(t, rows, got[title], title)
	}
	assert.Len(t, got, len(want))
}

// pairs returns what rows begin with that are of each of both, but for what mastercactapus
// cannot do.
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

// tablesOf returns what the rows begin with, by title; the rest must be numbers.
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
