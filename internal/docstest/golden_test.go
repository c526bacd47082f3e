package docstest

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// testdata has the golden files, and Caddyfiles that are not in the documentation.
var testdata = filepath.Join("internal", "docstest", "testdata")

func TestCaddyfile_ExamplesAdaptToTheirGoldenFiles(t *testing.T) {
	examples := map[string]string{"Caddyfile.example": docsRead(t, "Caddyfile.example")}
	files, err := filepath.Glob(filepath.Join(testdata, "*.Caddyfile"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		examples[filepath.Base(file)] = docsRead(t, file)
	}
	for _, block := range docsBlocks(t) {
		if block.lang == "caddyfile" && block.arg == "" {
			name := strings.NewReplacer("/", "-", "\\", "-", ".md", "").Replace(block.file)
			for i := 1; ; i++ {
				numbered := fmt.Sprintf("%s-%d", name, i)
				if _, ok := examples[numbered]; !ok {
					examples[numbered] = block.text
					break
				}
			}
		}
	}
	golden := make(map[string]bool)
	for name, text := range examples {
		golden[name+".json"] = true
		t.Run(name, func(t *testing.T) {
			config, err := caddytest.Adapt(text)
			require.NoError(t, err)
			var indented bytes.Buffer
			require.NoError(t, json.Indent(&indented, config, "", "\t"))
			indented.WriteByte('\n')
			requireGolden(t, name+".json", indented.String())
		})
	}
	t.Run("no golden file is left over", func(t *testing.T) {
		files, err := filepath.Glob(filepath.Join(testdata, "*.json"))
		require.NoError(t, err)
		for _, file := range files {
			if *update && !golden[filepath.Base(file)] {
				require.NoError(t, os.Remove(file))
				continue
			}
			assert.Contains(t, golden, filepath.Base(file))
		}
	})
}

var update = flag.Bool("update", false, "write the golden files in testdata instead of comparing with them")

// requireGolden compares with a file in testdata.
func requireGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join(testdata, name)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run this test with -update")
	require.Equal(t, string(want), got, "if the change is meant, run this test with -update")
}
