package proxyprotocol_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// benchServers runs the same site on a server with the wrapper and on one without.
func benchServers(t testing.TB, site string) map[string]*caddyhttp.Server {
	wrapped, bare := caddytest.FreePort(t), caddytest.FreePort(t)
	caddytest.Start(t, caddytest.ServerOptions(wrapped, "proxy_protocol_mode on"), fmt.Sprintf("http://:%d, http://:%d {\n%s\n}", wrapped, bare, site))
	return map[string]*caddyhttp.Server{"wrapped": caddytest.Server(t, wrapped), "unwrapped": caddytest.Server(t, bare)}
}

// benchRequest is one that came through a listener with the wrapper, or without.
func benchRequest(t testing.TB, wrapped bool) *http.Request {
	r, err := http.NewRequest(http.MethodGet, "http://localhost/", nil)
	require.NoError(t, err)
	r.RemoteAddr = headertest.Client4.String()
	var local net.Addr = net.TCPAddrFromAddrPort(headertest.Server4)
	if wrapped {
		local = newTestConn(t, proxyprotocol.On, headertest.WithTLVs(headertest.TextTLV(0x02, "a.test"), headertest.TextTLV(0xea, "\x01vpce-1"))).LocalAddr()
	}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
}

// discardResponse is a response that nobody reads.
type discardResponse struct{ header http.Header }

func (w *discardResponse) Header() http.Header         { return w.header }
func (w *discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (w *discardResponse) WriteHeader(int)             {}

// BenchmarkRequest compares a request on a server with the wrapper with the same on a
// server without. What the sites use is named by the benchmark.
func BenchmarkRequest(b *testing.B) {
	benchmarks := []struct {
		name, site string
		kinds      []string
	}{
		{"nothing", "respond 204", []string{"unwrapped", "wrapped"}},
		{"another placeholder", "header X-Remote {http.request.remote.host}\nrespond 204", []string{"unwrapped", "wrapped"}},
		{"peer_ip", "header X-Peer {http.proxy_protocol.peer_ip}\nrespond 204", []string{"wrapped"}},
		{"tlv", "header X-Endpoint {http.proxy_protocol.tlv.aws_vpce_id}\nrespond 204", []string{"wrapped"}},
		{"whole", "header X-Whole {http.proxy_protocol}\nrespond 204", []string{"wrapped"}},
		{"client_ip matcher", "@m client_ip 203.0.113.0/24\nrespond @m 204", []string{"unwrapped", "wrapped"}},
		{"pinned_ip matcher", "@m pinned_ip 203.0.113.0/24\nrespond @m 204", []string{"wrapped"}},
		{"pinned_ip matcher with a placeholder", "@m pinned_ip {http.request.remote.host}\nrespond @m 204", []string{"wrapped"}},
		{"proxy_protocol matcher", "@m proxy_protocol present {\ntlv authority a.test\n}\nrespond @m 204", []string{"wrapped"}},
	}
	for _, bb := range benchmarks {
		b.Run(bb.name, func(b *testing.B) {
			servers := benchServers(b, bb.site)
			for _, kind := range bb.kinds {
				b.Run(kind, func(b *testing.B) {
					server, r := servers[kind], benchRequest(b, kind == "wrapped")
					w := &discardResponse{make(http.Header)}
					b.ReportAllocs()
					for b.Loop() {
						server.ServeHTTP(w, r)
					}
				})
			}
		})
	}
}

// BenchmarkWhatTheWrapperCosts is BenchmarkRequest/nothing on a machine with other things to
// do: it takes turns, and reports the median of the differences.
func BenchmarkWhatTheWrapperCosts(b *testing.B) {
	servers := benchServers(b, "respond 204")
	w := &discardResponse{make(http.Header)}
	const requests = 100
	elapsed := func(kind string, r *http.Request) float64 {
		start := time.Now()
		for range requests {
			servers[kind].ServeHTTP(w, r)
		}
		return float64(time.Since(start).Nanoseconds()) / requests
	}
	bare, wrapped := benchRequest(b, false), benchRequest(b, true)
	var extra []float64
	for b.Loop() {
		before := elapsed("unwrapped", bare)
		with := elapsed("wrapped", wrapped)
		after := elapsed("unwrapped", bare)
		extra = append(extra, with-(before+after)/2)
	}
	slices.Sort(extra)
	b.ReportMetric(extra[len(extra)/2], "extra-ns/request")
}

func BenchmarkHandler(b *testing.B) {
	port := caddytest.FreePort(b)
	caddytest.Start(b, caddytest.ServerOptions(port, "proxy_protocol_mode on"), fmt.Sprintf("http://:%d {\nproxy_protocol on\nrespond 204\n}", port))
	server, r := caddytest.Server(b, port), benchRequest(b, true)
	w := &discardResponse{make(http.Header)}
	b.ReportAllocs()
	for b.Loop() {
		server.ServeHTTP(w, r)
	}
}

func TestPlaceholders_CostOneAllocationIfUnused(t *testing.T) {
	servers := benchServers(t, "respond 204")
	allocs := func(kind string) float64 {
		server, r := servers[kind], benchRequest(t, kind == "wrapped")
		w := &discardResponse{make(http.Header)}
		return testing.AllocsPerRun(1000, func() { server.ServeHTTP(w, r) })
	}
	require.LessOrEqual(t, allocs("wrapped"), allocs("unwrapped")+1)
}
