package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestMutantsThatNoTestNoticesSurvive has tests that look at a limit, far from it, or not at all.
func TestMutantsThatNoTestNoticesSurvive(t *testing.T) {
	for _, tt := range []struct {
		name, checks string
		want         int
	}{
		{"no test", "", 3},
		{"far from the limit", "if !small(5) || small(50) { t.Fatal() }", 2},
		{"at the limit", "if !small(5) || !small(9) || small(10) || small(50) { t.Fatal() }", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"go.mod":    "module example.com/weak\n\ngo 1.26\n",
				"a.go":      "package weak\n\nfunc small(n int) bool { return n < 10 }\n",
				"a_test.go": "package weak\n\nimport \"testing\"\n\nfunc TestSmall(t *testing.T) {\n" + tt.checks + "\n}\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := run(dir, nil)
			if err != nil || got != tt.want {
				t.Fatalf("%d survive, not %d (%v)", got, tt.want, err)
			}
		})
	}
}

// TestFilesAreTheSameWithoutMutant asserts that code with several mutants in one place works as
// before if none is chosen.
func TestFilesAreTheSameWithoutMutant(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/every\n\ngo 1.26\n",
		"a.go": `package every

func f(a, b int, on bool) (n int, err error) {
	for i := 0; i < a && !on; i++ {
		if a-b > 3 || (on && b <= 2) {
			n += a - b
		}
		switch {
		case a == b, on:
			n++
		}
	}
	return n, nil
}
`,
		"a_test.go": `package every

import "testing"

func TestF(t *testing.T) {
	if n, err := f(9, 2, false); n != 63 || err != nil {
		t.Fatal(n, err)
	}
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mutants, sources, err := mutate(dir, nil)
	if err != nil || len(mutants) < 15 {
		t.Fatal(len(mutants), err)
	}
	tmp := t.TempDir()
	p := &program{dir: dir, binary: filepath.Join(tmp, "all.test"), trace: filepath.Join(tmp, "trace")}
	if err := p.build(tmp, sources); err != nil {
		t.Fatal(err)
	}
	tests, err := p.measure()
	if err != nil || len(tests) != 1 || len(tests[0].reaches) < 10 {
		t.Fatal(tests, err)
	}
}
