package command

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// form is a way to read an input, and the bytes that this gives.
type form struct {
	encoding string
	bytes    []byte
	hex      bool // within JSON, too
}

// unwrap returns the raw bytes of an input, and the form in which it was given.
func unwrap(input []byte) (b []byte, encoding string) {
	// Each form may be an earlier one within another.
	forms := append([]form{{encoding: "raw", bytes: input}}, formsOf(string(input))...)
	for _, text := range jsonTexts(string(input)) {
		forms = append(forms, form{encoding: "json", bytes: []byte(text)})
		for _, f := range formsOf(text) {
			forms = append(forms, form{"json", f.bytes, f.hex})
		}
	}
	// A short text may be valid in several forms. A whole header is best. Then a whole signature
	// is better than the beginning of one: an escaped header has it without unescaping, too.
	for _, f := range forms {
		if wire.Decode(f.bytes, wire.MaxSize).State == wire.Complete {
			return f.bytes, f.encoding
		}
	}
	for _, f := range slices.Backward(forms) {
		if state, _ := wire.Signature(f.bytes); state == wire.Partial {
			return f.bytes, f.encoding
		}
	}
	for _, f := range forms {
		if state, _ := wire.Signature(f.bytes); state == wire.Undecided {
			return f.bytes, f.encoding
		}
	}
	if i := slices.IndexFunc(forms, func(f form) bool { return f.hex }); i >= 0 {
		return forms[i].bytes, forms[i].encoding
	}
	return input, "raw"
}

// formsOf returns the bytes of a text in hexadecimal, in base64 and escaped, where it may be that.
func formsOf(text string) (forms []form) {
	if b, err := hex.DecodeString(separators.Replace(text)); err == nil && len(b) > 0 {
		forms = append(forms, form{"hex", b, true})
	}
	if b, ok := fromBase64(whiteSpace.Replace(text)); ok {
		forms = append(forms, form{encoding: "base64", bytes: b})
	}
	if b, ok := escape.Undo(strings.TrimRight(text, "\r\n")); ok && strings.Contains(text, `\`) {
		forms = append(forms, form{encoding: "escaped", bytes: []byte(b)})
	}
	return forms
}

// evidence is a field of JSON with the first bytes of a connection: of the status, or of a line of
// Caddy's log.
var evidence = regexp.MustCompile(`"(?:bytes|text|received)"\s*:\s*("(?:[^"\\]|\\.)*")`)

// jsonTexts returns the texts that a text may have as JSON: those of fields with evidence, or of a
// string with or without quotes.
func jsonTexts(input string) (texts []string) {
	input = strings.TrimSpace(input)
	var quoted []string
	for _, match := range evidence.FindAllStringSubmatch(input, -1) {
		quoted = append(quoted, match[1])
	}
	if len(quoted) == 0 {
		quoted = []string{strings.TrimRight(input, ", "), `"` + input + `"`}
	}
	for _, one := range quoted {
		var text string
		if json.Unmarshal([]byte(one), &text) != nil || text == input {
			continue
		}
		if escapedByte.MatchString(one) {
			text = latin1(text)
		}
		texts = append(texts, text)
	}
	return texts
}

// escapedByte is an escape in JSON that stands for a byte where other bytes are characters. As a
// character it would not be escaped.
var escapedByte = regexp.MustCompile(`\\u00[89a-fA-F]`)

// latin1 returns a text with a byte in place of each character up to U+00FF.
func latin1(text string) string {
	var b []byte
	for _, r := range text {
		if r > 0xff {
			b = utf8.AppendRune(b, r)
		} else {
			b = append(b, byte(r))
		}
	}
	return string(b)
}

// separators removes the separators of hexadecimal in dumps and source code.
var separators = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "", ":", "", ",", "", "0x", "", `\x`, "")

// whiteSpace removes the white space of wrapped base64.
var whiteSpace = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "")

// fromBase64 decodes base64 of the standard or the URL alphabet, with or without padding.
func fromBase64(text string) ([]byte, bool) {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := encoding.DecodeString(text); err == nil && len(b) > 0 {
			return b, true
		}
	}
	return nil, false
}
