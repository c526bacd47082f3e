package proxyprotocol

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestRequestHasNoFactsBeforeItsConnectionIsJudged(t *testing.T) {
	rules, _ := connRules(Unspecified)
	c := connOf(connSays("GET"), rules)
	r := new(http.Request).WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, (*localAddr)(c)))
	require.True(t, c.state.Load() == statePending)
	assert.Nil(t, factsOf(r))
	c.RemoteAddr()
	assert.NotNil(t, factsOf(r))
}

// The mark is set with the header, or never.
func TestHeaderSetsTheMark(t *testing.T) {
	for _, header := range []struct {
		name, header string
		marks        bool
	}{
		{"v1", connV1, true},
		{"v2", connV2, true},
		{"v2 with TLVs", connAWS, true},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", false},
		{"LOCAL", connBlock(0, 0, ""), false},
		{"a Unix socket's", connBlock(1, 0x31, strings.Repeat("\x00", 216)), false},
	} {
		for _, mode := range []Mode{On, Off, Unspecified} {
			t.Run(fmt.Sprint(header.name, "/", mode), func(t *testing.T) {
				received := []byte(header.header)
				r := wire.Decode(received, wire.MaxSize)
				require.Equal(t, wire.Complete, r.State)
				f := &facts{mode: mode}
				require.False(t, f.Marked())
				f.setHeader(r.Header, r.TLVs)
				assert.Equal(t, mode == Unspecified && header.marks, f.Marked())
				assert.Equal(t, r.Header, f.header)
				if len(r.TLVs) == 0 {
					assert.Nil(t, f.tlvs)
					return
				}
				clear(received) // the buffer is another connection's by now
				assert.Equal(t, "vpce-08d2bf15fac5001c9", f.say().Text("aws_vpce_id"))
			})
		}
	}
}
