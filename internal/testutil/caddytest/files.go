package caddytest

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// OpenFiles counts the open files of this process, where that can be done.
func OpenFiles(t testing.TB) int {
	files, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	return len(files)
}
