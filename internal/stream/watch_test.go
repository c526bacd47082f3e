package stream

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// watches are all ways to reach stateWatching.
var watches = []struct {
	name   string
	mode   policy.Mode
	header string
	reason string
}{
	{"off", policy.Off, "", "forbidden"},
	{"on v1", policy.On, headerV1, "duplicate"},
	{"on v2", policy.On, headerV2, "duplicate"},
	{"on LOCAL", policy.On, headertest.Raw(0x20, 0, ""), "duplicate"},
	{"on UNKNOWN", policy.On, "PROXY UNKNOWN\r\n", "duplicate"},
	{"unspecified v2", policy.Unspecified, headerV2, "duplicate"},
}

func TestWatch_RefusesAHeaderHoweverItIsCut(t *testing.T) {
	seconds := []string{headerV1, headerV2, "PROXY UNKNOWN\r\n", headertest.Raw(0x20, 0, ""), "PROXY", wire.SignatureV2, "PROXYnonsense"}
	for _, tt := range watches {
		t.Run(tt.name, func(t *testing.T) {
			for _, second := range seconds {
				for _, pieces := range waysToCut(second) {
					for _, apart := range []bool{true, false} {
						for size := 1; size <= len(wire.SignatureV2)+2; size++ {
							config, logs := testConfig(tt.mode)
							in := append([]string{tt.header}, pieces...)
							if !apart || tt.header == "" {
								in = append([]string{tt.header + pieces[0]}, pieces[1:]...)
							}
							c := wrapTrusted(says(in...), config)
							got := readOnce(c, size)
							require.ErrorIs(t, got.err, record.ErrRefused, "%q by %d", in, size)
							require.Empty(t, got.data, "%q by %d", in, size)
							require.Equal(t, []string{tt.reason}, logs.Reasons())
							require.Equal(t, peerAddr, c.RemoteAddr())
						}
					}
				}
			}
		})
	}
}

func TestWatch_ReturnsRequestsThatBeginLikeAHeader(t *testing.T) {
	watches := append(watches[:len(watches):len(watches)], struct {
		name   string
		mode   policy.Mode
		header string
		reason string
	}{"unspecified", policy.Unspecified, "", ""})
	for _, tt := range watches {
		t.Run(tt.name, func(t *testing.T) {
			for _, request := range lookalikes {
				for _, pieces := range waysToCut(request) {
					for size := 1; size <= len(wire.SignatureV2)+2; size++ {
						config, logs := testConfig(tt.mode)
						in := append([]string{tt.header}, pieces...)
						if tt.header == "" {
							in = pieces
						}
						c := wrapTrusted(says(in...), config)
						var got string
						for {
							r := readOnce(c, size)
							if r.err == io.EOF {
								break
							}
							require.NoError(t, r.err)
							require.NotEmpty(t, r.data)
							got += r.data
						}
						require.Equal(t, request, got, "%q by %d", in, size)
						require.Empty(t, logs.Reasons())
					}
				}
			}
		})
	}
}

// Bytes are held back only while they match a signature.
func TestWatch_DelaysNothing(t *testing.T) {
	for _, network := range networks {
		for _, tt := range []struct{ held, then string }{
			{"", "G"}, {"", "\x16"}, {"P", "U"}, {"P", "O"}, {"PR", "I"}, {"PRO", "P"}, {"PROX", "X"}, {"\r", "G"}, {"\r\n", "G"}, {wire.SignatureV2[:11], "\r"},
		} {
			for _, watch := range watches {
				t.Run(fmt.Sprintf("%s/%s/%q", network, watch.name, tt.held+tt.then), func(t *testing.T) {
					config, _ := testConfig(watch.mode)
					client, c := dial(t, network, config)
					_, err := io.WriteString(client, watch.header+tt.held)
					require.NoError(t, err)
					_, err = io.WriteString(client, tt.then)
					require.NoError(t, err)
					var got string
					for len(got) < len(tt.held+tt.then) {
						r := soon(t, func() result { return readOnce(c, 100) })
						require.NoError(t, r.err)
						got += r.data
					}
					assert.Equal(t, tt.held+tt.then, got)
				})
			}
		}
	}
}

func TestWatch_GoesOnAfterTheTimeout(t *testing.T) {
	tests := []struct {
		name, early, late string
		want              string                   // or else refused, for
		reason            map[policy.Mode][]string // this reason
	}{
		{name: "a request", late: getRequest, want: getRequest},
		{name: "a request that begins like v1", early: "PRO", late: "PFIND / HTTP/1.1\r\n", want: "PROPFIND / HTTP/1.1\r\n"},
		{name: "a request that begins like v2", early: "\r\n", late: getRequest, want: "\r\n" + getRequest},
		{name: "a v1 header", late: headerV1, reason: map[policy.Mode][]string{policy.Off: {"forbidden"}, policy.Unspecified: {"timeout"}}},
		{name: "a v2 header", late: headerV2, reason: map[policy.Mode][]string{policy.Off: {"forbidden"}, policy.Unspecified: {"timeout"}}},
		{name: "the rest of a v1 signature", early: "PROX", late: "Y", reason: map[policy.Mode][]string{policy.Off: {"forbidden"}, policy.Unspecified: {"timeout"}}},
		{name: "the rest of a v2 signature", early: wire.SignatureV2[:11], late: "\n", reason: map[policy.Mode][]string{policy.Off: {"forbidden"}, policy.Unspecified: {"timeout"}}},
	}
	for _, mode := range []policy.Mode{policy.Off, policy.Unspecified} {
		for _, tt := range tests {
			for _, addrFirst := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/%v", mode, tt.name, addrFirst), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						config, logs := testConfig(mode, func(config *Config) { config.Timeout = 5 * time.Second })
						client, c := pipe(config)
						defer client.Close()
						defer c.Close()
						send(client, tt.early)
						if addrFirst {
							assert.Equal(t, "pipe", c.RemoteAddr().String())
						}
						read := async(func() result { return readOnce(c, 100) })
						time.Sleep(24 * time.Hour)
						synctest.Wait()
						assert.Empty(t, read, "only the user's deadlines rule")
						send(client, tt.late)
						got := <-read
						if tt.want != "" {
							assert.Equal(t, result{tt.want, nil}, got)
							assert.Empty(t, logs.Reasons())
						} else {
							assert.ErrorIs(t, got.err, record.ErrRefused)
							assert.Empty(t, got.data)
							assert.Equal(t, tt.reason[mode], logs.Reasons())
						}
						assert.Equal(t, "pipe", c.RemoteAddr().String())
					})
				})
			}
		}
	}
}

func TestWatch_SecondHeaderIsRemembered(t *testing.T) {
	config, _ := testConfig(policy.On)
	config.Stats = record.NewStats()
	readAll(wrapTrusted(says(headerV1, "PRO", "XY TCP4"), config))
	last := config.Stats.LastRefusals()
	require.Len(t, last, 1)
	assert.True(t, strings.HasPrefix(last[0].Hex(), hex.EncodeToString([]byte("PROXY"))), last[0].Hex())
}
