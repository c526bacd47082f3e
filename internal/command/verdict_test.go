package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// resultOf has the result for each letter in the tables of tests.
var resultOf = map[rune]probeResult{
	'A': {answered, "HTTP 200"},
	'4': {answered400, "HTTP 400"},
	'F': {tlsFailed, "internal error"},
	'B': {answeredOther, "SSH-2.0"},
	'H': {timedOut, ""},
	'.': {closed, ""},
	'x': {unreachable, "connection refused"},
	'M': {answered, "HTTP 421"},
}

func resultsOf(t testing.TB, letters string) *probeResults {
	t.Helper()
	var r probeResults
	for i, letter := range letters {
		one, ok := resultOf[letter]
		require.True(t, ok && i < len(r), letters)
		r[i] = one
	}
	return &r
}

func TestVerdictOf(t *testing.T) {
	const plain, overTLS = false, true
	for _, test := range []struct {
		name    string
		tls     bool
		probes  string // none, v1, v2, LOCAL, two v1, two v2, wrong checksum
		others  string
		http3   rune
		verdict string
		closest string
		// differing are the probes that the differences begin with.
		differing []string
		notes     string
	}{
		// This module.
		{name: "on", probes: ".AAA...", verdict: "on"},
		{name: "on, only v2", probes: "..AA...", verdict: "on", notes: "version 1 are not"},
		{name: "on, only v1", probes: ".A.....", verdict: "on", notes: "version 2 are not"},
		{name: "on over TLS", tls: overTLS, probes: ".AAA...", http3: 'x', verdict: "on"},
		{name: "on, UDP is dropped", tls: overTLS, probes: ".AAA...", http3: 'H', verdict: "on"},
		{name: "on, HTTP/3 answers 421", tls: overTLS, probes: ".AAA...", http3: 'M', verdict: "on", notes: "restart Caddy"},
		{name: "on, HTTP/3 is a way around", tls: overTLS, probes: ".AAA...", http3: 'A',
			verdict: "other", closest: "on", differing: []string{"HTTP/3"}},
		{name: "on, HTTP/3 says something", tls: overTLS, probes: ".AAA...", http3: 'F',
			verdict: "other", closest: "on", differing: []string{"HTTP/3"}},
		{name: "off", probes: "A......", verdict: "off", notes: "load balancer in front"},
		{name: "off over TLS", tls: overTLS, probes: "A......", http3: 'A', verdict: "off", notes: "HTTP/3 is served as well"},
		{name: "unspecified", probes: "AAAA...", verdict: "unspecified", notes: "for tests only"},
		{name: "unspecified, only v2", probes: "A.AA...", verdict: "unspecified", notes: "version 1 are not"},
		{name: "unspecified, HTTP/3", tls: overTLS, probes: "AAAA...", http3: 'A', verdict: "unspecified", notes: "HTTP/3 is served as well"},

		// A refusal must hold for every protocol.
		{name: "refused", probes: ".......", others: ".......", http3: 'x', verdict: "refused", notes: "firewall"},
		{name: "refused over TLS", tls: overTLS, probes: ".......", others: ".......", http3: 'H', verdict: "refused"},
		{name: "refused, the other not asked", probes: ".......", verdict: "unknown"},
		{name: "refused, but TLS is not", probes: ".......", others: "A......", http3: 'x',
			verdict: "other", closest: "refused", differing: []string{"over TLS, no header"}, notes: "Use --tls"},
		{name: "refused over TLS, but plain is not", tls: overTLS, probes: ".......", others: ".4.....", http3: 'x',
			verdict: "other", closest: "refused", differing: []string{"over plain HTTP, v1 header"}, notes: "Leave --tls out"},
		{name: "refused, then dead", probes: ".......", others: "xxxxxxx", http3: 'x', verdict: "other", closest: "refused",
			differing: []string{"over TLS, no header", "over TLS, v1 header", "over TLS, v2 header", "over TLS, v2 LOCAL header",
				"over TLS, two v1 headers", "over TLS, two v2 headers", "over TLS, v2 header, wrong checksum"}},
		{name: "refused, but HTTP/3 answers", tls: overTLS, probes: ".......", others: ".......", http3: 'A',
			verdict: "other", closest: "refused", differing: []string{"HTTP/3"}},
		{name: "refused, but HTTP/3 answers 421", tls: overTLS, probes: ".......", others: ".......", http3: 'M',
			verdict: "other", closest: "refused", differing: []string{"HTTP/3"}},

		// Other servers.
		{name: "a server without PROXY protocol", probes: "A444444", verdict: "other", closest: "off",
			differing: []string{"v1 header", "v2 header", "v2 LOCAL header", "two v1 headers", "two v2 headers", "v2 header, wrong checksum"}},
		{name: "nginx with proxy_protocol", probes: ".AAA44A", verdict: "other", closest: "on",
			differing: []string{"two v1 headers", "two v2 headers", "v2 header, wrong checksum"}},
		{name: "HAProxy with accept-proxy", probes: ".AAA44.", verdict: "other", closest: "on",
			differing: []string{"two v1 headers", "two v2 headers"}},
		{name: "a header is required aloud", probes: "4AAA...", verdict: "other", closest: "on", differing: []string{"no header"}},
		{name: "headers are optional", probes: "AAAA44A", verdict: "other", closest: "unspecified",
			differing: []string{"two v1 headers", "two v2 headers", "v2 header, wrong checksum"}, notes: "cannot tell whether"},
		{name: "a second header is believed", probes: ".AAAAA.", verdict: "other", closest: "on",
			differing: []string{"two v1 headers", "two v2 headers"}},
		{name: "LOCAL is not taken", probes: ".AA....", verdict: "other", closest: "on", differing: []string{"v2 LOCAL header"}},
		{name: "only LOCAL is taken", probes: "...A...", verdict: "other", closest: "on", differing: []string{"v2 header"}},
		{name: "v1 is answered 400", probes: ".4AA...", verdict: "other", closest: "on", differing: []string{"v1 header"}},
		{name: "headers hang", probes: "AHHHHHH", verdict: "other", closest: "off",
			differing: []string{"v1 header", "v2 header", "v2 LOCAL header", "two v1 headers", "two v2 headers", "v2 header, wrong checksum"}},
		{name: "a connection was lost", probes: ".AAx...", verdict: "other", closest: "on", differing: []string{"v2 LOCAL header"}},

		// No verdict.
		{name: "dead", probes: "xxxxxxx", verdict: "unreachable"},
		{name: "dead in part", probes: ".xxxxxx", verdict: "unknown", notes: "may limit them"},
		{name: "silent", probes: "HHHHHHH", verdict: "unknown", notes: "longer --timeout"},
		{name: "hangs without a header, and closes with one", probes: "H......", verdict: "unknown", notes: "longer --timeout"},
		{name: "a TLS port", probes: "4444444", verdict: "unknown", notes: "use --tls"},
		{name: "a TLS port in mode off", probes: "4......", verdict: "unknown", notes: "use --tls"},
		{name: "a plain port", tls: overTLS, probes: "4444444", http3: 'x', verdict: "unknown", notes: "leave --tls out"},
		{name: "the wrong name", tls: overTLS, probes: "FFFFFFF", http3: 'F', verdict: "unknown", notes: "--sni"},
		{name: "SSH", probes: "BBBBBBB", verdict: "unknown", notes: "not be an HTTP server"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := observation{tls: test.tls, probes: *resultsOf(t, test.probes)}
			if test.others != "" {
				o.others = resultsOf(t, test.others)
			}
			if test.http3 != 0 {
				answer := resultOf[test.http3]
				o.http3 = &answer
			}
			v := verdictOf(o)
			assert.Equal(t, test.verdict, v.Verdict)
			assert.Equal(t, test.closest, v.Closest)
			assert.NotEmpty(t, v.Meaning)
			var differing []string
			for _, difference := range v.Differences {
				probe, _, _ := strings.Cut(difference, ": ")
				differing = append(differing, probe)
			}
			assert.Equal(t, test.differing, differing)
			if notes := strings.Join(v.Notes, "\n"); test.notes != "" {
				assert.Contains(t, notes, test.notes)
			}
		})
	}
}

// TestVerdictOf_NamesAModeOnlyIfExact asserts, for all combinations of four reactions, that a mode
// is the verdict only if the reactions are exactly those of this module.
func TestVerdictOf_NamesAModeOnlyIfExact(t *testing.T) {
	exact := map[string]string{
		".AAA...": "on", "..AA...": "on", ".A.....": "on",
		"A......": "off",
		"AAAA...": "unspecified", "A.AA...": "unspecified", "AA.....": "unspecified",
		".......": "refused",
	}
	none := resultsOf(t, ".......")
	const letters = ".A4x"
	var try func(begin string)
	try = func(begin string) {
		if len(begin) < int(probeCount) {
			for _, letter := range letters {
				try(begin + string(letter))
			}
			return
		}
		v := verdictOf(observation{probes: *resultsOf(t, begin), others: none, http3: &probeResult{}})
		want, isExact := exact[begin]
		named := v.Verdict != verdictOther && v.Verdict != verdictUnknown && v.Verdict != verdictUnreachable
		other := v.Verdict == verdictOther
		if named != isExact || named && v.Verdict != want || other != (len(v.Differences) > 0) || other != (v.Closest != "") {
			assert.Fail(t, "wrong verdict", "%s: %+v", begin, v)
		}
	}
	try("")
}

func TestIsStatusLine(t *testing.T) {
	for line, want := range map[string]bool{
		"HTTP/1.1 200 OK":     true,
		"HTTP/1.0 400":        true,
		"HTTP/1.1 200OK":      false,
		"HTTP/2 200":          false,
		"HTTP/1.1 20":         false,
		"HTTP/1.1 abc Status": false,
		"http/1.1 200 OK":     false,
		"SSH-2.0-OpenSSH_9.2": false,
		"HTTP/x.1 200 OK":     false,
		"":                    false,
	} {
		assert.Equal(t, want, isStatusLine([]byte(line)), line)
	}
}
