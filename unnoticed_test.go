package proxyprotocol

// What a weakened check would have changed and no other test noticed: the mutants of
// tools/mutate that survived, and are no equivalents.

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// connFailing is a connection whose methods fail, but for Read.
type connFailing struct{ *connScript }

var errConnFailing = errors.New("fails")

func (connFailing) Close() error                     { return errConnFailing }
func (connFailing) CloseRead() error                 { return errConnFailing }
func (connFailing) CloseWrite() error                { return errConnFailing }
func (connFailing) SetReadDeadline(time.Time) error  { return nil }
func (connFailing) SetWriteDeadline(time.Time) error { return errConnFailing }
func (connFailing) LocalAddr() net.Addr              { return nil }

func TestConnPassesErrorsOn(t *testing.T) {
	rules, _ := connRules(Unspecified)
	c := connOf(connFailing{connSays("GET")}, rules)
	assert.Equal(t, "tcp", c.LocalAddr().Network(), "of no address")
	assert.Empty(t, c.LocalAddr().String())
	assert.Equal(t, errConnFailing, c.SetDeadline(time.Now()))
	assert.Equal(t, errConnFailing, c.CloseRead())
	assert.Equal(t, errConnFailing, c.CloseWrite())
	assert.Equal(t, errConnFailing, c.Close())
}

func TestConnReadDeadlineErrorsArePassedOn(t *testing.T) {
	for _, mode := range []Mode{On, Off} {
		rules, _ := connRules(mode)
		_, server := connTCP(t, "tcp4")
		c := connOf(server, rules)
		require.NoError(t, c.Close())
		assert.ErrorIs(t, c.SetReadDeadline(time.Now()), net.ErrClosed, mode)
	}
}

// connNoRaw is a connection that could be raw and is not.
type connNoRaw struct{ *connScript }

func (connNoRaw) SyscallConn() (syscall.RawConn, error) { return nil, errConnFailing }

func TestConnWithoutRawConnectionSaysSo(t *testing.T) {
	rules, _ := connRules(On)
	raw, err := connOf(connNoRaw{connSays()}, rules).SyscallConn()
	assert.Nil(t, raw)
	assert.Equal(t, errConnFailing, err)
}

func TestSecondHeaderIsRemembered(t *testing.T) {
	rules, _ := connRules(On)
	rules.stats = newStats()
	connReadAll(connOf(connSays(connV1, "PRO", "XY TCP4"), rules))
	last := rules.stats.lastRefusals()
	require.Len(t, last, 1)
	assert.True(t, strings.HasPrefix(last[0].hex(), hex.EncodeToString([]byte("PROXY"))), last[0].hex())
}

func TestConnRefusedAfterItsHeaderHasTheSocketsAddresses(t *testing.T) {
	rules, logs := connRules(On)
	c := connOf(connSays(connV1, connV2), rules)
	assert.Equal(t, connServer, c.LocalAddr().String())
	local := c.LocalAddr()
	_, err := c.Read(make([]byte, 100))
	require.ErrorIs(t, err, errRefused)
	assert.Equal(t, []string{"duplicate"}, connReasons(logs))
	assert.Equal(t, connLocal.String(), local.String())
	assert.Equal(t, connPeer.String(), c.RemoteAddr().String())
}

// connCounted returns what a connection that begins like this is counted as.
func connCounted(t *testing.T, mode Mode, use func(*conn), pieces ...string) (counted []string) {
	rules, _ := connRules(mode)
	rules.stats = newStats()
	use(connOf(connSays(pieces...), rules))
	for o := range outcomes {
		for range rules.stats.total(o) {
			counted = append(counted, o.String())
		}
	}
	return counted
}

func TestConnIsCountedOnceItIsKnown(t *testing.T) {
	closes := func(c *conn) { c.Close() }
	judged := func(c *conn) { c.RemoteAddr() }
	reads := func(c *conn) { _, _ = io.ReadAll(c) }
	both := func(f, g func(*conn)) func(*conn) { return func(c *conn) { f(c); g(c) } }
	for _, tt := range []struct {
		name   string
		mode   Mode
		use    func(*conn)
		pieces []string
		want   []string
	}{
		{"closed before anything", On, closes, nil, []string{"io"}},
		{"closed behind its header", On, both(judged, closes), []string{connV1}, []string{"client"}},
		{"a header may still follow", On, judged, []string{connV1}, nil},
		{"no header can follow, nothing is read", On, judged, []string{connV1 + "GET"}, []string{"client"}},
		{"no header can follow, nothing is read, then closed", Unspecified, both(judged, closes), []string{"GET"}, []string{"direct"}},
		{"a header followed after all", On, both(judged, both(reads, closes)), []string{connV1, connV2}, []string{"duplicate"}},
		{"everything is read", Unspecified, both(reads, closes), []string{connV1, "GET"}, []string{"marked"}},
		{"a read deadline was set", On, both(func(c *conn) { _ = c.SetReadDeadline(time.Now().Add(time.Hour)) }, judged), []string{connV1 + "GET"}, []string{"client"}},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, connCounted(t, tt.mode, tt.use, tt.pieces...)) })
	}
}

func TestConnThatEndsWithinASignatureIsMissingItsHeader(t *testing.T) {
	for _, said := range []string{"P", "\r", "PROX", "\r\n\r\n"} {
		rules, logs := connRules(On)
		connReadAll(connOf(connSays(said), rules))
		assert.Equal(t, []string{"missing"}, connReasons(logs), "%q", said)
	}
}

func TestConnThatEndsAtOnceSaysSoAtOnce(t *testing.T) {
	rules, _ := connRules(Unspecified)
	n, err := connOf(connSays(), rules).Read(make([]byte, 10))
	assert.Zero(t, n)
	assert.Equal(t, io.EOF, err)
}

func TestConnHoldsNoBufferWhileItWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   Mode
		events []connEvent
	}{
		"behind its header":           {On, []connEvent{{data: connV1}}},
		"behind a part of a second":   {On, []connEvent{{data: connV1 + "PRO"}}},
		"after the timeout":           {Unspecified, []connEvent{{data: "PRO"}, {err: errConnTimeout}}},
		"after the timeout, in pairs": {Unspecified, []connEvent{{data: "PR"}, {data: "O"}, {err: errConnTimeout}}},
		"refused":                     {Off, []connEvent{{data: connV1}}},
		"with the timeout":            {Unspecified, []connEvent{{data: "PRO", err: errConnTimeout}}},
	} {
		t.Run(name, func(t *testing.T) {
			rules, _ := connRules(tt.mode)
			c := newConn(&connScript{events: tt.events}, rules, tt.mode, trusted, time.Since(start)-2*rules.timeout)
			c.RemoteAddr()
			if tt.mode == Off {
				connRead(c, 100)
			}
			if c.inbox != nil {
				assert.Nil(t, c.inbox.room)
				assert.LessOrEqual(t, cap(c.inbox.data), 16, "room for what begins a signature")
			}
		})
	}
}

func TestHeaderDurationRunsFromAccept(t *testing.T) {
	for _, timed := range []bool{true, false} {
		rules, _ := connRules(On, func(r *rules) { r.timed = timed })
		rules.stats = newStats()
		newConn(connSays(connV1), rules, On, trusted, time.Since(start)-time.Minute).RemoteAddr()
		headers := &rules.stats.headers
		if !timed {
			assert.Zero(t, headers.sum.Load())
			continue
		}
		sum := time.Duration(headers.sum.Load())
		assert.GreaterOrEqual(t, sum, time.Minute)
		assert.Less(t, sum, time.Minute+connBound)
		assert.EqualValues(t, 1, headers.counts[len(durationBounds)].Load(), "beyond all bounds")
	}
}

func TestDurationsFallIntoTheirBuckets(t *testing.T) {
	for i, bound := range durationBounds {
		var d durations
		d.observe(bound)
		d.observe(bound + 1)
		assert.EqualValues(t, 1, d.counts[i].Load(), "bounds are inclusive: %s", bound)
		assert.EqualValues(t, 1, d.counts[i+1].Load(), bound)
	}
}

// Health checks that only connect are not worth a place in the record of refusals.
func TestRefusalsThatAreRemembered(t *testing.T) {
	for _, tt := range []struct {
		name string
		why  outcome
		err  error
		want int
	}{
		{"connection that says nothing", reasonIO, io.EOF, 0},
		{"connection that fails", reasonIO, net.ErrClosed, 1},
		{"header cut off", reasonMalformed, errCutOff, 1},
		{"malformed, and then the end", reasonMalformed, io.EOF, 1},
		{"second header", reasonDuplicate, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := connRules(On)
			rules.stats = newStats()
			rules.refused(connPeer, connLocal, On, tt.why, nil, tt.err)
			assert.Len(t, rules.stats.lastRefusals(), tt.want)
		})
	}
}

func TestDirectivePassesErrorsOn(t *testing.T) {
	mode := Unspecified
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errConnFailing })
	err := (&Handler{Mode: &mode}).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), next)
	assert.Equal(t, errConnFailing, err)
}

func TestPinnedIPTakesAClientIPThatIsMapped(t *testing.T) {
	m := &MatchPinnedIP{Ranges: []string{"203.0.113.7", "2001:db8::/32"}}
	require.NoError(t, m.compile())
	for client, want := range map[string]bool{
		"203.0.113.7": true, "::ffff:203.0.113.7": true, "2001:db8::1%eth0": true, "203.0.113.8": false, "": false, "@": false,
	} {
		r := requestOn(newTestConn(On, connV1))
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client)
		match, err := m.MatchWithError(r)
		require.NoError(t, err)
		assert.Equal(t, want, match, client)
	}
}

func TestPinnedIPWithBadPlaceholderNeedsNoLog(t *testing.T) {
	m := &MatchPinnedIP{logger: zap.NewNop()}
	assert.False(t, m.pins(netip.MustParseAddr("192.0.2.1"), "{x}", []string{"nonsense"}))
	assert.False(t, m.pins(netip.MustParseAddr("192.0.2.1"), "{x}", nil))
}

func TestPlaceholderIsAListIfItStandsAlone(t *testing.T) {
	repl := caddy.NewReplacer()
	repl.Set("list", []string{"a", "b"})
	repl.Set("one", "1")
	for text, want := range map[string][]string{
		"{list}":     {"a", "b"},
		"{one}":      {"1"},
		"{one}{one}": {"11"},
		"x{one}":     {"x1"},
		"{one}x":     {"1x"},
		"{one":       {"{one"},
		"one}":       {"one}"},
		"plain":      {"plain"},
	} {
		assert.Equal(t, want, placeholderValues(repl, text), text)
	}
}

func TestTextInCELIsConstant(t *testing.T) {
	c := newCaddy(t)
	for _, expression := range []string{
		"pinned_ip('192.0.2.' + string(1))",
		"pinned_ip(string(1) + '92.0.2.1')",
		"pinned_ip('192.0.2.1' - {client_ip})",
	} {
		err := c.load("", "http://:1234 {\n@m expression "+quoted(expression)+"\nrespond @m ok\n}")
		assert.ErrorContains(t, err, "matcher arguments must be string constants", expression)
	}
}

func TestWrapperThatAnotherModuleMadeIsNotLookedForInTheServer(t *testing.T) {
	assert.NoError(t, checkOrder(new(caddyhttp.Server)))
}

func TestWrapperMustStandBeforeTLSWithOnePolicyToo(t *testing.T) {
	server := &caddyhttp.Server{ListenerWrappersRaw: []json.RawMessage{json.RawMessage(`{"wrapper":"proxy_protocol_mode"}`)}}
	assert.NoError(t, checkOrder(server))
	server.TLSConnPolicies = make(caddytls.ConnectionPolicies, 1)
	assert.ErrorContains(t, checkOrder(server), "must come before 'tls'")
}

func TestProtocolsOfAListenerThatHasNoneAreTheServers(t *testing.T) {
	for _, tt := range []struct {
		name      string
		protocols []string
		listeners [][]string
		ok        bool
	}{
		{"of the server, which keeps some", []string{"h1", "h3"}, nil, true},
		{"of the server, which keeps none", []string{"h3"}, nil, false},
		{"one has the server's, which keeps none", []string{"h3"}, [][]string{nil, {"h1"}}, false},
		{"one has the server's, which keeps some", []string{"h2", "h3"}, [][]string{nil, {"h1"}}, true},
		{"all have their own, and keep some", []string{"h3"}, [][]string{{"h1", "h3"}, {"h2"}}, true},
		{"one has its own and keeps none", []string{"h1"}, [][]string{{"h1"}, {"h3"}}, false},
		{"the first has its own and keeps none", []string{"h1"}, [][]string{{"h3"}, {"h1"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := &caddyhttp.Server{Protocols: tt.protocols, ListenProtocols: tt.listeners}
			server.TLSConnPolicies = make(caddytls.ConnectionPolicies, 1)
			core, logs := observer.New(zap.WarnLevel)
			err := disableHTTP3(server, "a reason", zap.New(core))
			if !tt.ok {
				assert.ErrorContains(t, err, "no protocol is left without HTTP/3")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, 1, logs.Len())
			assert.NotEmpty(t, server.Protocols)
			assert.Len(t, server.ListenProtocols, len(tt.listeners))
			for _, protocols := range append(server.ListenProtocols, server.Protocols) {
				assert.NotContains(t, protocols, "h3")
			}
		})
	}
}
