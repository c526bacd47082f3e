package policy

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMode_HasAName(t *testing.T) {
	for mode, name := range map[Mode]string{Unspecified: "unspecified", On: "on", Off: "off"} {
		got, err := ParseMode(name)
		require.NoError(t, err)
		assert.Equal(t, mode, got)
		text, err := json.Marshal(mode)
		require.NoError(t, err)
		assert.Equal(t, `"`+name+`"`, string(text))
		got = 99
		require.NoError(t, json.Unmarshal(text, &got))
		assert.Equal(t, mode, got)
	}
	_, err := ParseMode("On")
	assert.EqualError(t, err, "unknown mode 'On': use on, off or unspecified")
	mode := Off
	assert.EqualError(t, json.Unmarshal([]byte(`"onn"`), &mode), "mode: unknown mode 'onn': use on, off or unspecified")
	assert.Equal(t, Off, mode, "it is as it was")
}
