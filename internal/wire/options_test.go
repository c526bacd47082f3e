package wire

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCheckMaxSize_Bounds(t *testing.T) {
	for _, size := range []int{MinMaxSize, 4096, MaxSize} {
		assert.NoError(t, CheckMaxSize(size))
	}
	for _, size := range []int{-1, 0, MinMaxSize - 1, MaxSize + 1} {
		assert.ErrorContains(t, CheckMaxSize(size), "is out of bounds: use 536 to 65551")
	}
}

func TestParseVersion(t *testing.T) {
	for name, want := range map[string]uint8{"": 0, "v1": 1, "v2": 2} {
		version, err := ParseVersion(name)
		assert.NoError(t, err)
		assert.Equal(t, want, version)
	}
	for _, name := range []string{"1", "v3", "V1", " v1"} {
		_, err := ParseVersion(name)
		assert.EqualError(t, err, "unknown version '"+name+"': use v1 or v2, or leave it out to accept both")
	}
}
