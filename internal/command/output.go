package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// output collects the text that a command prints, so that it is written in one piece. Text from
// the network must be escaped before it is added.
type output struct {
	bytes.Buffer
	writer  io.Writer
	colored bool // the writer is a terminal with colors
}

// color is a color of a terminal. These are the ones that Caddy's console log has for levels.
type color int

const (
	red    color = 31 // errors
	yellow color = 33 // warnings
	blue   color = 34
)

// paint returns a text in a color, if the output has colors.
func (o *output) paint(c color, text string) string {
	if !o.colored || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// codes are what paint writes around a text.
var codes = regexp.MustCompile("\x1b\\[[0-9]+m")

// width returns the number of characters that a text takes on a terminal.
func width(text string) int { return utf8.RuneCountInString(codes.ReplaceAllString(text, "")) }

// hasColors reports whether a command's output has colors: Caddy's log has them on a terminal,
// unless the environment forbids them.
func hasColors(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "xterm-mono"
}

// line prints a formatted line.
func (o *output) line(format string, args ...any) {
	fmt.Fprintf(o, format, args...)
	o.WriteByte('\n')
}

// list prints texts as the items of a list.
func (o *output) list(texts []string) {
	for _, text := range texts {
		o.paragraph("  - ", "    ", text)
	}
}

// textWidth is the largest width of a line of running text.
const textWidth = 80

// paragraph prints running text, wrapped into lines. The first line begins with first, the other
// lines with others.
func (o *output) paragraph(first, others, text string) {
	begin := first
	for words := strings.Fields(text); len(words) > 0; begin = others {
		line := begin + words[0]
		for words = words[1:]; len(words) > 0 && width(line)+1+width(words[0]) <= textWidth; words = words[1:] {
			line += " " + words[0]
		}
		o.line("%s", line)
	}
}

// table prints rows in aligned columns. Each line begins with indent. A row of one cell is running
// text.
func (o *output) table(indent string, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if len(row) == 1 {
				break
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	for _, row := range rows {
		if len(row) == 1 {
			text := strings.TrimLeft(row[0], " ")
			begin := indent + row[0][:len(row[0])-len(text)]
			o.paragraph(begin, begin, text)
			continue
		}
		line := indent
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-width(cell)+2)
		}
		o.line("%s", strings.TrimRight(line, " "))
	}
}

// json prints a value as indented JSON, as rawJSON does.
func (o *output) json(value any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return err
	}
	return o.rawJSON(b.Bytes())
}

// rawJSON prints JSON with indents. Characters that cannot be printed become \uNNNN. JSON itself
// requires this for some control characters only.
func (o *output) rawJSON(text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(text), "", "  "); err != nil {
		return err
	}
	for _, r := range b.String() {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			o.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(o, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(o, `\u%04x`, r)
		}
	}
	o.WriteByte('\n')
	return nil
}

// flush writes the text that was collected since the last call.
func (o *output) flush() error {
	_, err := o.WriteTo(o.writer)
	return err
}
