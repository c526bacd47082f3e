package command

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// FuzzDecode asserts that decode accepts any bytes, and that its output controls no terminal.
func FuzzDecode(f *testing.F) {
	all, err := claims{}.preambles()
	require.NoError(f, err)
	for _, b := range all {
		f.Add(b)
		f.Add([]byte(hex.EncodeToString(b)))
		f.Add([]byte(base64.StdEncoding.EncodeToString(b)))
	}
	f.Add([]byte(wire.SignatureV2 + "\x21\x11\x00\x1a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x03\x1b[2\x20\x00\x05\x01\x00\x00\x00\x00"))
	f.Add([]byte("0x, \\x::"))
	f.Add([]byte("PROXY TCP4 \x1b[2J\r\n"))
	f.Add([]byte(`{"bytes":"PROXY UNKNOWN\\x0d\\x0a"}`))
	f.Add([]byte(`"PROXY UNKNOWN \u00ff\r\n`))
	f.Fuzz(func(t *testing.T, input []byte) {
		d := decode(input)
		require.Equal(t, d.Valid, d.Error == nil && d.CutOff == nil)
		require.False(t, d.Error != nil && d.CutOff != nil)

		var text, asJSON output
		d.print(&text)
		require.NoError(t, asJSON.json(d))
		for _, shown := range []string{text.String(), asJSON.String()} {
			at := strings.IndexFunc(shown, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
			require.Negative(t, at, "%q", shown)
		}
		var again decoded
		require.NoError(t, json.Unmarshal(asJSON.Bytes(), &again))
		assert.Equal(t, *d, again)

		// Input that is a valid raw header is read as raw.
		if wire.Decode(input, wire.MaxSize).State == wire.Complete {
			assert.True(t, d.Valid)
			assert.Equal(t, "raw", d.Encoding)
			asHex := decode([]byte(hex.EncodeToString(input)))
			assert.Equal(t, "hex", asHex.Encoding)
			asHex.Encoding = d.Encoding
			assert.Equal(t, d, asHex)
			for n := range min(len(input), 600) {
				beginning := decodeBytes(input[:n:n], "raw")
				if state, _ := wire.Signature(input[:n]); n < d.Size && state != wire.Absent {
					require.Nil(t, beginning.Error, "%q", input[:n])
				}
			}
			asEscaped := decode([]byte(escape.Text(string(input)) + "\n"))
			asEscaped.Encoding = d.Encoding
			assert.Equal(t, d, asEscaped)
			quoted, err := json.Marshal(escape.Text(string(input)))
			require.NoError(t, err)
			inJSON := decode(quoted)
			inJSON.Encoding = d.Encoding
			assert.Equal(t, d, inJSON)
		}
	})
}

// FuzzReadAnswer asserts that any bytes of a listener give a reaction, with a detail that
// controls no terminal.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 400"))
	f.Add([]byte("\x15\x03\x01\x00\x02\x02\x46"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, received []byte) {
		o := readAnswer(endedConn{}, received)
		assert.NotEqual(t, timedOut, o.reaction)
		assert.Equal(t, len(received) == 0, o.reaction == closed)
		at := strings.IndexFunc(o.String(), func(r rune) bool { return !unicode.IsPrint(r) })
		assert.Negative(t, at, "%q", o.String())
	})
}

// endedConn is a connection that the other end has closed.
type endedConn struct{ net.Conn }

func (endedConn) Read([]byte) (int, error) { return 0, io.EOF }
