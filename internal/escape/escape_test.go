package escape

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

func TestText(t *testing.T) {
	for given, want := range map[string]string{
		"":                              "",
		"plain text, größer, 日本":        "plain text, größer, 日本",
		`a \ backslash`:                 `a \ backslash`,
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

func TestLines(t *testing.T) {
	for given, want := range map[string]string{
		"":                   "",
		"one\ntwo\r\nthree":  "one\ntwo\nthree",
		"one\r\n\r\n":        "one\n\n",
		"one\rtwo\x1b\n":     "one\\x0dtwo\\x1b\n",
		"one\r":              `one\x0d`,
		"one\r\r\ntwo\v\ftr": "one\\x0d\ntwo\\x0b\\x0ctr",
	} {
		assert.Equal(t, want, Lines(given))
	}
}

func FuzzText(f *testing.F) {
	f.Add("text\x1b[0m")
	f.Add("\xc2\x9b\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		printable := func(s string) bool {
			return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
		}
		assert.True(t, printable(Text(s)), "%q", Text(s))
		if printable(s) {
			assert.Equal(t, s, Text(s))
		}
		for line := range strings.SplitSeq(Lines(s), "\n") {
			assert.True(t, printable(line), "%q", line)
		}
	})
}
