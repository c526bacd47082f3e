package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const document = "../../docs/benchmarks.md"

func TestRun_ThePicturesAreThoseOfTheDocument(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	drawn := filepath.Join(t.TempDir(), "benchmarks.md")
	if err := os.WriteFile(drawn, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(drawn); err != nil {
		t.Fatal(err)
	}
	for _, p := range pictures {
		got, err := os.ReadFile(filepath.Join(filepath.Dir(drawn), p.file))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(filepath.Dir(document), p.file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not of this document: write it with: go -C tools run ./benchplot ../docs/benchmarks.md", p.file)
		}
		if !strings.Contains(string(text), "]("+p.file+")") {
			t.Errorf("the document does not show %s", p.file)
		}
		for decoder := xml.NewDecoder(bytes.NewReader(got)); ; {
			if _, err := decoder.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p.file, err)
			}
		}
	}
}

const small = `# Benchmarks

### New connections

| server | per second | ratio (quartiles) | CPU each, µs | ratio (quartiles) |
| --- | --: | --: | --: | --: |
| Caddy, no wrapper | 10 | 1 | 50.0 | 1 |
| Caddy, ` + "`proxy_protocol_mode on`" + ` | 10 | 0.998 (0.988–1.009) | 53.2 | 0.988 (0.977–0.999) |
| nginx, ` + "`proxy_protocol`" + ` | 20 | 2.000 (1.900–2.100) | 25.0 | 0.500 (0.450–0.550) |

### Other
`

func smallPicture() picture {
	p := pictures[0]
	p.tables = p.tables[:1]
	return p
}

func TestPicture_ReadsTheNumbersOfTheTable(t *testing.T) {
	groups, err := smallPicture().groups(small)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 1 || groups[0].name != "New connections" || len(groups[0].rows) != 1 {
		t.Fatalf("groups: %v", groups)
	}
	if want := (row{"this module, on", measured{0.988, 0.977, 0.999}}); groups[0].rows[0] != want {
		t.Errorf("row: %v instead of %v", groups[0].rows[0], want)
	}
}

func TestPicture_RefusesAnotherDocument(t *testing.T) {
	for _, test := range []struct{ name, from, to, want string }{
		{"no table", "### New connections", "### Connections", "no heading '### New connections'"},
		{"an empty table", "| ", "", "there is no table"},
		{"no such column", "| server |", "| program |", "no column 'server'"},
		{"an unknown row", "proxy_protocol_mode on", "proxy_protocol_mode maybe", "has no short name"},
		{"no ratio", "0.988 (0.977–0.999)", "fast", "'fast' is not a ratio"},
		{"quartiles that do not fit", "0.988 (0.977", "0.988 (0.989", "the median is not between the quartiles"},
		{"a short row", " | 53.2 |", " |", "a row has 4 columns instead of 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := strings.ReplaceAll(small, test.from, test.to)
			if changed == small {
				t.Fatal("nothing changed")
			}
			if _, err := smallPicture().draw(changed); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func TestRatioTicks_LabelsWhatTheValueIs(t *testing.T) {
	ticks := ratioTicks{}.Ticks(0.93, 1.06)
	var labels []string
	for _, tick := range ticks {
		labels = append(labels, tick.Label)
	}
	if got := strings.Join(labels, " "); got != "0.95 1.00 1.05" {
		t.Errorf("labels: %s", got)
	}
}
