package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
)

// output collects the text that a command prints, so that it is written in one piece. Text from
// the network must be escaped before it is added.
type output struct{ bytes.Buffer }

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
		for words = words[1:]; len(words) > 0 && len(line)+1+len(words[0]) <= textWidth; words = words[1:] {
			line += " " + words[0]
		}
		o.line("%s", line)
	}
}

// table prints rows in aligned columns. Each line begins with indent.
func (o *output) table(indent string, rows [][]string) {
	var aligned bytes.Buffer
	w := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	for line := range strings.Lines(aligned.String()) {
		o.line("%s%s", indent, strings.TrimRight(line, " \n"))
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

// to writes the collected text.
func (o *output) to(w io.Writer) error {
	_, err := w.Write(o.Bytes())
	return err
}
