package proxyprotocol_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	. "github.com/portzero/caddy-proxy-protocol"
)

func TestMode_IsAStringInJSONAndInSchemas(t *testing.T) {
	assert.Equal(t, reflect.String, reflect.TypeFor[Mode]().Kind())
	for mode, name := range map[Mode]string{Unspecified: "unspecified", On: "on", Off: "off"} {
		parsed, err := ParseMode(name)
		require.NoError(t, err)
		assert.Equal(t, mode, parsed)
		assert.Equal(t, name, mode.String())
		text, err := json.Marshal(mode)
		require.NoError(t, err)
		assert.Equal(t, `"`+name+`"`, string(text))
		var got Mode = "something else"
		require.NoError(t, json.Unmarshal(text, &got))
		assert.Equal(t, mode, got)
	}
	for text, message := range map[string]string{
		`"On"`: "mode: unknown mode 'On': use on, off or unspecified",
		`""`:   "mode: unknown mode '': use on, off or unspecified",
		`true`: `mode: true is not a mode: write "on", "off" or "unspecified", with the quotes; YAML reads on and off without quotes as true and false`,
	} {
		mode := Off
		assert.EqualError(t, json.Unmarshal([]byte(text), &mode), message)
		assert.Equal(t, Off, mode, "it is as it was")
	}
	mode := Off
	require.NoError(t, json.Unmarshal([]byte("null"), &mode))
	assert.Equal(t, Off, mode)
	_, err := ParseMode("On")
	assert.EqualError(t, err, "unknown mode 'On': use on, off or unspecified")
}

// Go code can make a Mode of any text.
func TestMode_ThatIsUnknownIsALoadError(t *testing.T) {
	unknown := Mode("maybe")
	assert.ErrorContains(t, provision(&ListenerWrapper{Mode: unknown}), "mode: unknown mode 'maybe'")
	assert.ErrorContains(t, provision(&ListenerWrapper{Ranges: []ModeRanges{{Mode: &unknown, Ranges: []string{"10.0.0.1"}}}}), "ranges[0].mode: unknown mode 'maybe'")
	assert.ErrorContains(t, provision(&PacketConnWrapper{Mode: unknown}), "mode: unknown mode 'maybe'")
}
