// Package escape makes text from the network safe to show in logs and on terminals.
package escape

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s in a form that breaks no log line and controls no terminal. Each byte of a
// character that cannot be printed, or that is not UTF-8, becomes \xNN, and each backslash
// becomes \\. Different texts stay different: \x0a is a newline, and \\x0a is a backslash
// followed by x0a.
func Text(s string) string {
	var b strings.Builder
	done := 0
	for at := 0; at < len(s); {
		r, size := utf8.DecodeRuneInString(s[at:])
		switch {
		case r == '\\':
			b.WriteString(s[done : at+size]) // with done = at, the backslash is written twice
			done = at
		case !unicode.IsPrint(r) || r == utf8.RuneError && size == 1:
			b.WriteString(s[done:at])
			// Not with fmt, which would move the builder to the heap: Text runs on every request.
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

// Lines escapes s as Text does, except for the ends of lines: LF stays, and CRLF becomes LF.
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

// Undo returns the text of which Text made s, and reports whether s is a result of Text as far as
// its backslashes go.
func Undo(s string) (text string, ok bool) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), true
		case strings.HasPrefix(after, `\`):
			b.WriteByte('\\')
			s = after[1:]
		case strings.HasPrefix(after, "x") && len(after) >= 3:
			c, err := strconv.ParseUint(after[1:3], 16, 8)
			if err != nil {
				return "", false
			}
			b.WriteByte(byte(c))
			s = after[3:]
		default:
			return "", false
		}
	}
}
