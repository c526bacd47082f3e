package attacktest

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
)

// Large bodies arrive as they were, both ways, whatever came before them, and cost no memory:
// beyond what all ends together take without a wrapper, a fraction of the body's size.
func TestTransfer_LargeBodiesPass(t *testing.T) {
	const (
		size = 100 << 20
		most = size / 16
	)
	content := make([]byte, size)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(content)
	want := checksum(t, bytes.NewReader(content))
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), content, 0o600))
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, checksum(t, r.Body))
	}))
	t.Cleanup(backend.Close)

	const site = "header X-Client {remote}\nhandle /up {\nreverse_proxy %s\n}\nroot %s\nfile_server"
	without := make(map[string]uint64) // allocated without a wrapper, by method and transport
	for _, mode := range []string{caddytest.Unwrapped, "on", "off", "unspecified"} {
		t.Run(mode, func(t *testing.T) {
			options := "auto_https disable_redirects\n"
			if mode != caddytest.Unwrapped {
				options += caddytest.Wrappers("proxy_protocol_mode " + mode + "\ntls")
			}
			plain, secure := caddytest.FreePort(t), caddytest.FreePort(t)
			sites := strings.ReplaceAll(caddytest.PlainSite(plain)+caddytest.SecureSite(t, secure), "respond {remote}", fmt.Sprintf(site, backend.Listener.Addr(), strconv.Quote(dir)))
			caddytest.Start(t, options, sites)
			for _, tr := range []caddytest.Transport{caddytest.HTTP1, caddytest.HTTPS1} {
				port := plain
				if tr.IsTLS() {
					port = secure
				}
				for _, path := range []struct {
					name           string
					to             caddytest.Endpoint
					client, server netip.AddrPort
				}{
					{"IPv4", caddytest.TCP4(port), headertest.Client4, headertest.Server4},
					{"IPv6", caddytest.TCP6(port), headertest.Client6, headertest.Server6},
				} {
					if mode == caddytest.Unwrapped && path.name == "IPv6" {
						continue // it costs the same
					}
					t.Run(string(tr)+" "+path.name, func(t *testing.T) {
						if path.name == "IPv6" {
							caddytest.NeedIPv6(t)
						}
						preamble, remote := headertest.V2(path.client, path.server), path.client
						switch mode {
						case "unspecified":
							remote = netip.AddrPortFrom(remote.Addr(), 0)
						case "off", caddytest.Unwrapped:
							preamble, remote = "", netip.AddrPort{}
						}
						client := caddytest.Sender(t, tr, path.to, preamble)
						for _, transfer := range []func() (*http.Response, error){
							func() (*http.Response, error) { return client.Get(tr.URL("/large")) },
							func() (*http.Response, error) {
								return client.Post(tr.URL("/up"), "application/octet-stream", bytes.NewReader(content))
							},
						} {
							before := allocated()
							response, err := transfer()
							require.NoError(t, err)
							defer response.Body.Close()
							require.Equal(t, http.StatusOK, response.StatusCode)
							seen := netip.MustParseAddrPort(response.Header.Get("X-Client"))
							if preamble == "" {
								assert.True(t, seen.Addr().IsLoopback(), "%s", seen)
							} else {
								assert.Equal(t, remote, seen)
							}
							var got string
							if method := response.Request.Method; method == http.MethodGet {
								got = checksum(t, response.Body)
							} else {
								body, err := io.ReadAll(response.Body)
								require.NoError(t, err)
								got = string(body)
							}
							assert.Equal(t, want, got)
							took, to := allocated()-before, response.Request.Method+" "+string(tr)
							t.Logf("%s: %d KiB allocated", to, took>>10)
							if mode == caddytest.Unwrapped {
								without[to] = took
							} else if least, ok := without[to]; ok { // not if this subtest runs alone
								assert.Less(t, took, least+most)
							}
						}
					})
				}
			}
		})
	}
}

// checksum reads all, and returns how much that was and what.
func checksum(t testing.TB, r io.Reader) string {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.Copy(sum, r)
	assert.NoError(t, err)
	return fmt.Sprintf("%d bytes, CRC %08x", n, sum.Sum32())
}

// allocated is all that this process has ever allocated on the heap.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
