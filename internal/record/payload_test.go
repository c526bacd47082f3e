package record

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
)

func TestRecorder_CheckPayload(t *testing.T) {
	const (
		tls   = "\x16\x03\x01\x02\x00\x01\x00"
		plain = "GET / HTTP/1.1\r\n"
		other = "SSH-2.0-OpenSSH_9.2\r\n"
	)
	type counts struct{ tls, http uint64 }
	for _, tt := range []struct {
		name     string
		expected Payload
		first    string
		want     counts
		logged   string
	}{
		{"TLS on plain", PlainPayload, tls, counts{tls: 1}, "received TLS behind a PROXY protocol header, but this port is for plain HTTP"},
		{"plain on TLS", TLSPayload, plain, counts{http: 1}, "received plain HTTP behind a PROXY protocol header, but this port is for TLS"},
		{"plain on plain", PlainPayload, plain, counts{}, ""},
		{"TLS on TLS", TLSPayload, tls, counts{}, ""},
		{"something else on plain", PlainPayload, other, counts{}, ""},
		{"something else on TLS", TLSPayload, other, counts{}, ""},
		{"a part of a method on TLS", TLSPayload, "GE", counts{}, ""},
		{"TLS where either may come", AnyPayload, tls, counts{}, ""},
		{"plain where either may come", AnyPayload, plain, counts{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			core, logs := observer.New(zapcore.InfoLevel)
			r := Recorder{NewLog(zap.New(core), false), NewStats()}
			r.CheckPayload(tt.expected, []byte(tt.first), testPeer, socket{testLocal}, testHeader())
			r.Log.Flush()
			var got counts
			got.tls, got.http = r.Stats.WrongPayloads()
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.logged != "", r.Stats.HadWrongPayload())
			if tt.logged == "" {
				assert.Zero(t, logs.Len())
				return
			}
			require.Equal(t, 1, logs.Len())
			assert.Equal(t, zapcore.InfoLevel, logs.All()[0].Level)
			assert.Equal(t, tt.logged, logs.All()[0].Message)
			fields := logs.All()[0].ContextMap()
			assert.NotEmpty(t, fields["hint"])
			delete(fields, "hint")
			assert.Equal(t, map[string]any{"peer": testPeer.String(), "local": testLocal.String(), "source": "203.0.113.7:56324"}, fields)
		})
	}
}

// badSocket is a socket of another module.
type badSocket struct{}

func (badSocket) LocalAddr() net.Addr { panic("another module's fault") }

// The connection is served, so that nothing about it may fail here.
func TestRecorder_CheckPayloadOfASocketThatPanics(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	r := Recorder{NewLog(zap.New(core), false), NewStats()}
	assert.NotPanics(t, func() { r.CheckPayload(PlainPayload, []byte{0x16, 3}, testPeer, badSocket{}, testHeader()) })
	r.Log.Flush()
	require.Equal(t, 1, logs.Len())
	assert.Empty(t, logs.All()[0].ContextMap()["local"])
}

func TestPayloads_OneAMinuteIsLogged(t *testing.T) {
	var p payloads
	for _, at := range []struct {
		now    time.Duration
		logged bool
	}{
		{0, true}, {1, false}, {payloadInterval - 1, false}, {payloadInterval, true}, {payloadInterval + 1, false}, {5 * payloadInterval, true},
	} {
		assert.Equal(t, at.logged, p.count(PlainPayload, monotime.Time(at.now)), at.now)
	}
	assert.EqualValues(t, 6, p.tlsOnPlain.Load())
}
