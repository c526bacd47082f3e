package escape

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for given, want := range map[string]string{
		"":                              "",
		"plain text, größer, 日本":        "plain text, größer, 日本",
		`a \ backslash`:                 `a \\ backslash`,
		`\`:                             `\\`,
		`\x0a is no newline` + "\n":     `\\x0a is no newline\x0a`,
		"\\\n\\":                        `\\\x0a\\`,
		`größer\日本\\`:                   `größer\\日本\\\\`,
		"\x1b[2J\x1b]0;title\x07":       `\x1b[2J\x1b]0;title\x07`,
		"line\r\nline\ttab\x00\x7f":     `line\x0d\x0aline\x09tab\x00\x7f`,
		"\u009b31m":                     `\xc2\x9b31m`,
		"\xff\xfe valid \xc3":           `\xff\xfe valid \xc3`,
		"right to left \u202e override": `right to left \xe2\x80\xae override`,
		"\ufffd is a character":         "\ufffd is a character",
		"no-break\u00a0space":           `no-break\xc2\xa0space`,
	} {
		assert.Equal(t, want, Text(given))
	}
}

func TestTextCopiesNothingThatCanBeShown(t *testing.T) {
	assert.Zero(t, testing.AllocsPerRun(10, func() { Text("plain text, größer, 日本") }))
}

func TestLines(t *testing.T) {
	for given, want := range map[string]string{
		"":                   "",
		"one\ntwo\r\nthree":  "one\ntwo\nthree",
		"one\r\n\r\n":        "one\n\n",
		"one\rtwo\x1b\n":     "one\\x0dtwo\\x1b\n",
		"one\r":              `one\x0d`,
		"C:\\one\n\\x0a":     "C:\\\\one\n\\\\x0a",
		"one\r\r\ntwo\v\ftr": "one\\x0d\ntwo\\x0b\\x0ctr",
	} {
		assert.Equal(t, want, Lines(given))
	}
}

func TestTextTellsDifferentTextsApart(t *testing.T) {
	seen := make(map[string]string)
	pieces := []string{"", `\`, "\n", "x0a", "x5c", "a", "\xff"}
	for _, a := range pieces {
		for _, b := range pieces {
			for _, c := range pieces {
				text := a + b + c
				shown := Text(text)
				if before, ok := seen[shown]; ok {
					assert.Equal(t, before, text, "both are shown as %s", shown)
				}
				seen[shown] = text
				assert.Equal(t, text, unescape(t, shown))
			}
		}
	}
}

// unescape is Undo for a result of Text.
func unescape(t *testing.T, shown string) string {
	t.Helper()
	text, ok := Undo(shown)
	require.True(t, ok, "%q", shown)
	return text
}

func TestUndo_ReturnsNoTextForWhatTextDoesNotWrite(t *testing.T) {
	for _, s := range []string{`\`, `a\`, `\x`, `\x0`, `\xg0`, `\x0g`, `\x-1`, `\n`, `\u000d`, `\\\`} {
		_, ok := Undo(s)
		assert.False(t, ok, s)
	}
}

func FuzzText(f *testing.F) {
	f.Add("text\x1b[0m")
	f.Add("\xc2\x9b\xff\n")
	f.Add(`C:\x0a\\` + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		printable := func(s string) bool {
			return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
		}
		assert.True(t, printable(Text(s)), "%q", Text(s))
		assert.Equal(t, s, unescape(t, Text(s)))
		if printable(s) && !strings.Contains(s, `\`) {
			assert.Equal(t, s, Text(s))
		}
		var lines []string
		for line := range strings.SplitSeq(Lines(s), "\n") {
			assert.True(t, printable(line), "%q", line)
			lines = append(lines, unescape(t, line))
		}
		assert.Equal(t, strings.ReplaceAll(s, "\r\n", "\n"), strings.Join(lines, "\n"))
	})
}
