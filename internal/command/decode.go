package command

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func decodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "decode [--json] [<file>]",
		Short:                 "Decodes a PROXY protocol header",
		Long: `
Decodes the PROXY protocol header at the beginning of a file or of the standard
input, and prints its contents.

The header may be raw, as it is on the wire, or in base64 or hexadecimal, with
or without white space, colons, commas, 0x and \x. Bytes after the header are
not decoded.

If the header is wrong, the command prints the first wrong byte and the sentence
of the specification that it breaks. The exit code is then 1.

Use - as the file for the standard input.
`,
		Example: `  $ caddy proxy-protocol decode header.bin
  $ echo 0d0a0d0a000d0a515549540a20000000 | caddy proxy-protocol decode
  $ printf 'PROXY UNKNOWN\r\n' | caddy proxy-protocol decode --json`,
	}
	cmd.Flags().Bool("json", false, "Print JSON")
	run(cmd, runDecode)
	return cmd
}

// maxInput is more than the longest header takes in any form.
const maxInput = 8 * wire.MaxSize

func runDecode(out *output, in io.Reader, flags caddycmd.Flags) error {
	if flags.NArg() > 1 {
		return fmt.Errorf("decode needs one file, or none, not %d", flags.NArg())
	}
	if name := flags.Arg(0); name != "" && name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	input, err := io.ReadAll(io.LimitReader(in, int64(maxInput)))
	if err != nil {
		return err
	}
	if len(input) == 0 {
		return errors.New("nothing to decode")
	}
	d := decode(input)
	if flags.Bool("json") {
		err = out.json(d)
	} else {
		d.print(out)
	}
	if err == nil && !d.Valid {
		err = errors.New("no valid PROXY protocol header")
	}
	return err
}

// decoded is what decode says. Text is fit to be shown.
type decoded struct {
	Valid bool `json:"valid"`
	// Encoding is how the input was read: "raw", "hex" or "base64".
	Encoding string `json:"encoding"`
	Version  uint8  `json:"version,omitempty"`
	// Size is that of the header, Rest how many bytes follow it.
	Size int `json:"size,omitempty"`
	Rest int `json:"rest,omitempty"`
	// Command is empty for version 1, which has none.
	Command     string        `json:"command,omitempty"`
	Family      string        `json:"family,omitempty"`
	Transport   string        `json:"transport,omitempty"`
	Source      string        `json:"source,omitempty"`
	Destination string        `json:"destination,omitempty"`
	TLVs        []decodedTLV  `json:"tlvs,omitempty"`
	Note        string        `json:"note,omitempty"`
	Error       *decodedError `json:"error,omitempty"`
}

type decodedTLV struct {
	Type string `json:"type"`
	Size int    `json:"size"`
	// Kind is the name of the type, if it has one in the specification.
	Kind   string         `json:"kind,omitempty"`
	Hex    string         `json:"hex"`
	Values []decodedValue `json:"values,omitempty"`
}

type decodedValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type decodedError struct {
	// Byte counts from 0. Found is the one that is there, unless the header ends there.
	Byte    int    `json:"byte"`
	Found   string `json:"found,omitempty"`
	Problem string `json:"problem"`
	Rule    string `json:"rule"`
}

// decode decodes a header in any form.
func decode(input []byte) *decoded {
	b, encoding := unwrap(input)
	d := &decoded{Encoding: encoding}
	r := wire.Decode(b, wire.MaxSize)
	d.Version = r.Version
	switch r.State {
	case wire.Complete:
		d.Valid = true
		d.Size, d.Rest = r.Size, len(b)-r.Size
		d.describe(r.Header)
		for one := range r.TLVs.All() {
			d.TLVs = append(d.TLVs, describeTLV(one))
		}
		if state, _ := wire.Signature(b[r.Size:]); state == wire.Partial {
			d.Note = "A second header follows. The specification allows only one."
		}
	case wire.Invalid:
		d.fail(b, r.Err.Offset, r.Err.Problem.String(), r.Err.Problem.Rule())
	case wire.Partial, wire.Undecided:
		d.fail(b, len(b), "the header is cut off",
			`section 2.2: "The receiver must also reject incoming connections containing partial protocol headers."`)
	default:
		d.fail(b, firstDifference(b), "not the signature of a header",
			`section 2.2: "otherwise the protocol is not covered by this specification and the connection must be dropped."`)
	}
	return d
}

// fail says what is wrong with the header in b.
func (d *decoded) fail(b []byte, at int, problem, rule string) {
	d.Error = &decodedError{Byte: at, Problem: problem, Rule: rule}
	if at < len(b) {
		d.Error.Found = fmt.Sprintf("0x%02x", b[at])
	}
}

// unwrap finds out in which form a header is given.
func unwrap(input []byte) (b []byte, encoding string) {
	type form struct {
		encoding string
		bytes    []byte
	}
	forms := []form{{"raw", input}}
	if b, err := hex.DecodeString(separators.Replace(string(input))); err == nil && len(b) > 0 {
		forms = append(forms, form{"hex", b})
	}
	if b, ok := fromBase64(whiteSpace.Replace(string(input))); ok {
		forms = append(forms, form{"base64", b})
	}
	// Short texts may be anything: what has a whole signature comes before what begins
	// like one.
	for _, like := range []wire.State{wire.Partial, wire.Undecided} {
		for _, f := range forms {
			if state, _ := wire.Signature(f.bytes); state == like {
				return f.bytes, f.encoding
			}
		}
	}
	if len(forms) > 1 && forms[1].encoding == "hex" {
		return forms[1].bytes, "hex"
	}
	return input, "raw"
}

// separators are what hexadecimal is written with in dumps and source code.
var separators = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "", ":", "", ",", "", "0x", "", `\x`, "")

// whiteSpace is what base64 is wrapped with.
var whiteSpace = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "")

func fromBase64(text string) ([]byte, bool) {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := encoding.DecodeString(text); err == nil && len(b) > 0 {
			return b, true
		}
	}
	return nil, false
}

// firstDifference is the first byte that is in no signature.
func firstDifference(b []byte) int {
	longest := 0
	for _, signature := range []string{wire.SignatureV1, wire.SignatureV2} {
		same := 0
		for same < len(b) && same < len(signature) && b[same] == signature[same] {
			same++
		}
		longest = max(longest, same)
	}
	return longest
}

func (d *decoded) describe(h wire.Header) {
	switch {
	case h.Version() == 1:
	case h.Command() == wire.Local:
		d.Command = "LOCAL"
	default:
		d.Command = "PROXY"
	}
	d.Family = [...]string{wire.FamilyUnspec: "unspecified", wire.IPv4: "IPv4", wire.IPv6: "IPv6", wire.Unix: "Unix"}[h.Family()]
	d.Transport = [...]string{wire.TransportUnspec: "unspecified", wire.Stream: "stream", wire.Dgram: "datagram"}[h.Transport()]
	if h.HasAddrs() {
		d.Source, d.Destination = h.Source().String(), h.Destination().String()
	}
}

// kinds are the types of TLVs that the specification names.
var kinds = map[wire.Type]string{
	wire.TypeALPN:      "ALPN",
	wire.TypeAuthority: "AUTHORITY",
	wire.TypeCRC32C:    "CRC32C",
	wire.TypeNoop:      "NOOP",
	wire.TypeUniqueID:  "UNIQUE_ID",
	wire.TypeSSL:       "SSL",
	wire.TypeNetNS:     "NETNS",
}

func describeTLV(one wire.TLV) decodedTLV {
	d := decodedTLV{
		Type: tlv.Code(one.Type),
		Size: len(one.Value),
		Kind: kinds[one.Type],
		Hex:  hex.EncodeToString(one.Value),
	}
	for _, value := range tlv.Describe(one) {
		d.Values = append(d.Values, decodedValue{value.Name, escape.Text(value.Text)})
	}
	return d
}

func (d *decoded) print(out *output) {
	rows := [][]string{{"read as", d.Encoding}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if d.Version > 0 {
		add("version", fmt.Sprint(d.Version))
	}
	if d.Valid {
		add("size", fmt.Sprintf("%d bytes, followed by %d", d.Size, d.Rest))
		add("command", d.Command)
		add("family", d.Family)
		add("transport", d.Transport)
		add("source", d.Source)
		add("destination", d.Destination)
	}
	out.table("", rows)
	if len(d.TLVs) > 0 {
		out.line("")
		rows = [][]string{{"TLV", "SIZE", "NAME", "VALUE"}}
		for _, one := range d.TLVs {
			rows = append(rows, one.rows()...)
		}
		out.table("", rows)
	}
	if d.Note != "" {
		out.line("")
		out.paragraph("", "", d.Note)
	}
	if d.Error != nil {
		out.line("")
		where := fmt.Sprintf("byte %d, counting from 0", d.Error.Byte)
		if d.Error.Found != "" {
			where += ", which is " + d.Error.Found
		}
		out.paragraph("", "", fmt.Sprintf("Wrong at %s: %s.", where, d.Error.Problem))
		out.paragraph("", "", "The specification, "+d.Error.Rule)
	}
}

// rows are the lines of a table for a TLV: one for each thing it says.
func (d *decodedTLV) rows() [][]string {
	if len(d.Values) == 0 {
		return [][]string{{d.Type, fmt.Sprint(d.Size), d.Kind, d.Hex}}
	}
	var rows [][]string
	for i, value := range d.Values {
		row := []string{"", "", value.Name, value.Value}
		if i == 0 {
			row[0], row[1] = d.Type, fmt.Sprint(d.Size)
		}
		rows = append(rows, row)
	}
	return rows
}
