// Package escape makes text that came over the wire fit to be shown.
package escape

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with every byte of what cannot be printed, or is not UTF-8, as \xNN, and
// every backslash as \\, so that it breaks no log line and steers no terminal. Different
// texts stay different: \x0a is a newline, and \\x0a is a backslash with x0a behind it.
func Text(s string) string {
	var b strings.Builder
	done := 0
	for at := 0; at < len(s); {
		r, size := utf8.DecodeRuneInString(s[at:])
		switch {
		case r == '\\':
			b.WriteString(s[done : at+size]) // this backslash is the first of two
			done = at
		case !unicode.IsPrint(r) || r == utf8.RuneError && size == 1:
			b.WriteString(s[done:at])
			// fmt would move the builder to the heap, and this is called for every request.
			for _, c := range []byte(s[at : at+size]) {
				const digits = "0123456789abcdef"
				b.WriteString(`\x`)
				b.WriteByte(digits[c>>4])
				b.WriteByte(digits[c&0xf])
			}
			done = at + size
		}
		at += size
	}
	if b.Len() == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// Lines is Text, except that it keeps the ends of lines: LF and CRLF, both as LF.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if i < len(lines)-1 {
			line = strings.TrimSuffix(line, "\r")
		}
		lines[i] = Text(line)
	}
	return strings.Join(lines, "\n")
}
