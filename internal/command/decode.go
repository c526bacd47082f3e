package command

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func decodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "decode [--key <key>... [--sign-tlv <0xNN>]] [--json] [<file>]",
		Short:                 "Decodes a PROXY protocol header",
		Long: `
Decodes the PROXY protocol header at the beginning of a file or of the standard
input, and prints its contents.

The header may be raw, as it is on the wire, or in base64 or hexadecimal, with
or without white space, colons, commas, 0x and \x. It may also be escaped as the
status and the log show it, with \xNN and \\, or in JSON: a string, or a line of
'status --json' or of Caddy's log. Bytes after the header are not decoded.

The status and the log have the first bytes of a connection only. If a header is
cut off there, the command prints what is known of it. The exit code is then 1.

If the header is wrong, the command prints the first wrong byte and the sentence
of the specification that it breaks. The exit code is then 1.

With --key, the command verifies the signature of a header as the option 'require
signature' does, but for its age, which it prints. --key can be repeated, and one
of the keys must be the right one. If none is, the exit code is 1.

` + keyHelp + `

Use - as the file for the standard input.
`,
		Example: `  $ caddy proxy-protocol decode header.bin
  $ echo 0d0a0d0a000d0a515549540a20000000 | caddy proxy-protocol decode
  $ printf 'PROXY UNKNOWN\r\n' | caddy proxy-protocol decode --json
  $ caddy proxy-protocol decode --key @lb.key header.bin`,
	}
	cmd.Flags().StringArray("key", nil, "Key to verify the signature with: @file, a placeholder, or base64")
	signTLVFlag(cmd)
	complete(cmd, "key", cobra.NoFileCompletions)
	cmd.Flags().Bool("json", false, "Print JSON")
	run(cmd, runDecode)
	return cmd
}

// maxInput is the number of input bytes that are read. The longest header in any form is
// shorter.
const maxInput = 8 * wire.MaxSize

func runDecode(out *output, in io.Reader, flags caddycmd.Flags) error {
	if flags.NArg() > 1 {
		return fmt.Errorf("decode needs one file, or none, not %d", flags.NArg())
	}
	signature, err := parseVerifier(flags)
	if err != nil {
		return err
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
	if d.Valid && signature != nil {
		d.verify(input, signature, time.Now())
	}
	if flags.Bool("json") {
		err = out.json(d)
	} else {
		d.print(out)
	}
	switch {
	case err != nil:
		return err
	case d.Signature != nil && !d.Signature.Valid:
		return errors.New("the PROXY protocol header has no valid signature")
	case d.Valid:
		return nil
	case d.CutOff != nil:
		return fmt.Errorf("the PROXY protocol header is cut off after %d bytes", d.CutOff.Bytes)
	default:
		return errors.New("no valid PROXY protocol header")
	}
}

// decoded is the output of decode. All text is escaped.
type decoded struct {
	// Valid reports whether the input begins with a valid header.
	Valid bool `json:"valid"`
	// Encoding is the form in which the input was read: "raw", "hex", "base64", "escaped" or
	// "json".
	Encoding string `json:"encoding"`
	// Version is 1 or 2, or 0 if the input does not begin with a signature.
	Version uint8 `json:"version,omitempty"`
	// Size is the number of bytes of the header.
	Size int `json:"size,omitempty"`
	// Rest is the number of bytes behind the header.
	Rest int `json:"rest,omitempty"`
	// Command is "PROXY" or "LOCAL". It is empty for version 1, which has no command.
	Command string `json:"command,omitempty"`
	// Family is the address family, or "unspecified".
	Family string `json:"family,omitempty"`
	// Transport is "stream", "datagram" or "unspecified".
	Transport string `json:"transport,omitempty"`
	// Source is the client's address. It is empty if the header has no IP addresses.
	Source string `json:"source,omitempty"`
	// Destination is the address that the client connected to. It is empty if the header has no
	// IP addresses.
	Destination string `json:"destination,omitempty"`
	// TLVs are the header's TLVs in order.
	TLVs []decodedTLV `json:"tlvs,omitempty"`
	// Signature is the result of verifying the signature. It is nil without --key, and if the
	// header is not valid.
	Signature *decodedSignature `json:"signature,omitempty"`
	// Note is a warning about bytes behind a valid header.
	Note string `json:"note,omitempty"`
	// CutOff is not nil if the input ends within a header in which nothing is wrong so far. The
	// fields above then have what is known of it.
	CutOff *decodedCutOff `json:"cut_off,omitempty"`
	// Error is nil if nothing is wrong.
	Error *decodedError `json:"error,omitempty"`
}

// decodedSignature is the result of verifying the signature of a header.
type decodedSignature struct {
	// Valid reports whether one of the keys made the signature for these addresses.
	Valid bool `json:"valid"`
	// Made is when the signature was made, as RFC 3339 writes it, and Age is how many seconds ago
	// that was. It is negative if that is in the future. Both are only set if Valid is.
	Made string `json:"made,omitempty"`
	Age  *int64 `json:"age_seconds,omitempty"`
	// Error says why it is not valid.
	Error string `json:"error,omitempty"`
}

// parseVerifier returns what verifies signatures with the keys of the flag --key, or nil if there are
// none.
func parseVerifier(flags caddycmd.Flags) (*auth.Signature, error) {
	values, err := flags.GetStringArray("key")
	if err != nil {
		return nil, err
	}
	if flags.Changed("key") && len(values) == 0 {
		values = []string{""} // which GetStringArray leaves out
	}
	var keys []*auth.Key
	for _, value := range values {
		key, err := parseKey("key", value)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	typ, err := parseSignTLV(flags)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	return auth.NewSignature(keys, typ, auth.DefaultMaxAge)
}

// verify sets the result of verifying the signature of a valid header.
func (d *decoded) verify(input []byte, signature *auth.Signature, now time.Time) {
	b, _ := unwrap(input)
	r := wire.Decode(b, wire.MaxSize)
	made, err := signature.Verify(&r.Header, r.TLVs)
	if err != nil {
		d.Signature = &decodedSignature{Error: escape.Text(err.Error())}
		return
	}
	age := now.Unix() - made.Unix()
	d.Signature = &decodedSignature{Valid: true, Made: made.UTC().Format(time.RFC3339), Age: &age}
}

// decodedCutOff is the end of an input within a header.
type decodedCutOff struct {
	// Bytes is the number of bytes of the header that are there.
	Bytes int `json:"bytes"`
	// Size is the number of bytes of the whole header, or 0 if it is not known.
	Size int `json:"size,omitempty"`
}

// decodedTLV is one TLV in the output of decode.
type decodedTLV struct {
	// Type is the type in hexadecimal, such as 0x01.
	Type string `json:"type"`
	// Size is the number of bytes of the value.
	Size int `json:"size"`
	// Kind is the name of the type, if it has one in the specification.
	Kind string `json:"kind,omitempty"`
	// Hex is the value in hexadecimal.
	Hex string `json:"hex"`
	// Values are the named values of the TLV.
	Values []decodedValue `json:"values,omitempty"`
}

// decodedValue is one named value of a TLV.
type decodedValue struct {
	// Name is the name of the value, such as ssl.cn.
	Name string `json:"name"`
	// Value is the escaped text.
	Value string `json:"value"`
}

// decodedError is the error in a header that is not valid.
type decodedError struct {
	// Byte is the offset of the wrong byte, from 0.
	Byte int `json:"byte"`
	// Found is the wrong byte in hexadecimal. It is empty if the input ends before it.
	Found string `json:"found,omitempty"`
	// Problem is a short description.
	Problem string `json:"problem"`
	// Rule is the broken rule of the specification.
	Rule string `json:"rule"`
}

// decode decodes the header at the beginning of an input, which may be raw, hexadecimal or
// base64.
func decode(input []byte) *decoded { return decodeBytes(unwrap(input)) }

// decodeBytes decodes the header at the beginning of bytes that were given in a form.
func decodeBytes(b []byte, encoding string) *decoded {
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
		d.cutOff(b)
	default:
		d.fail(b, firstDifference(b), "not the signature of a header",
			`section 2.2: "otherwise the protocol is not covered by this specification and the connection must be dropped."`)
	}
	return d
}

// cutOff sets what is known of a header of which b is the beginning, or its error.
func (d *decoded) cutOff(b []byte) {
	if err := faultIn(b, d.Version); err.Problem != 0 {
		d.fail(b, err.Offset, err.Problem.String(), err.Problem.Rule())
		return
	}
	d.CutOff = &decodedCutOff{Bytes: len(b)}
	if d.Version == 2 && len(b) >= fixedSize {
		d.CutOff.Size = fixedSize + int(binary.BigEndian.Uint16(b[lengthAt:]))
		d.describeBeginning(b)
	}
}

// The layout of a v2 header (section 2.2).
const (
	familyAt  = len(wire.SignatureV2) + 1
	lengthAt  = len(wire.SignatureV2) + 2
	fixedSize = len(wire.SignatureV2) + 4
)

// describeBeginning sets the fields that the beginning of a v2 header decides.
func (d *decoded) describeBeginning(b []byte) {
	// The same header, with zeros for what is not there of the addresses, and no TLVs.
	size := map[wire.Family]int{wire.IPv4: 12, wire.IPv6: 36, wire.Unix: 216}[wire.Family(b[familyAt]>>4)]
	short := make([]byte, fixedSize+size)
	copy(short, b)
	binary.BigEndian.PutUint16(short[lengthAt:], uint16(size))
	d.describe(wire.Decode(short, wire.MaxSize).Header)
	switch {
	case len(b) < len(short):
		d.Source, d.Destination = "", ""
	case d.Family != "unspecified": // such a header has no TLVs
		for one := range wire.TLVs(b[len(short):]).All() {
			d.TLVs = append(d.TLVs, describeTLV(one))
		}
	}
}

// faultIn returns the error that a header has whatever follows its beginning b, or the zero Error
// if there is none that is certain. Decode does not look for it before a header is whole.
func faultIn(b []byte, version uint8) wire.Error {
	var whole []byte
	var certain func(wire.Error) bool
	switch {
	case version == 1:
		b = bytes.TrimSuffix(b, []byte("\r"))
		whole = append(slices.Clip(b), "\r\n"...)
		certain = func(err wire.Error) bool {
			switch rest := string(b[err.Offset:]); err.Problem {
			case wire.ProblemKeyword:
				return !strings.HasPrefix("TCP4", rest) && !strings.HasPrefix("TCP6", rest) && !strings.HasPrefix("UNKNOWN", rest)
			case wire.ProblemAddress:
				return rest != ":" // another colon may follow
			default:
				return true
			}
		}
	case version == 2 && len(b) >= fixedSize:
		whole = make([]byte, fixedSize+int(binary.BigEndian.Uint16(b[lengthAt:])))
		copy(whole, b)
		// An error in a size is certain once both its bytes are there.
		certain = func(err wire.Error) bool { return err.Problem != wire.ProblemChecksum && err.Offset+1 < len(b) }
	}
	r := wire.Decode(whole, wire.MaxSize)
	if r.State != wire.Invalid || r.Err.Offset >= len(b) || !certain(r.Err) {
		return wire.Error{}
	}
	return r.Err
}

// fail sets the error of the header in b. at is the offset of the wrong byte.
func (d *decoded) fail(b []byte, at int, problem, rule string) {
	d.Error = &decodedError{Byte: at, Problem: problem, Rule: rule}
	if at < len(b) {
		d.Error.Found = fmt.Sprintf("0x%02x", b[at])
	}
}

// firstDifference returns the offset of the first byte that differs from both signatures.
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

// describe sets the fields for a valid header, without its TLVs.
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

// kinds are the names of types of TLVs in the specification.
var kinds = map[wire.Type]string{
	wire.TypeALPN:      "ALPN",
	wire.TypeAuthority: "AUTHORITY",
	wire.TypeCRC32C:    "CRC32C",
	wire.TypeNoop:      "NOOP",
	wire.TypeUniqueID:  "UNIQUE_ID",
	wire.TypeSSL:       "SSL",
	wire.TypeNetNS:     "NETNS",
}

// describeTLV returns a TLV with its named values.
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
	switch {
	case d.Valid:
		add("size", fmt.Sprintf("%d bytes, followed by %d", d.Size, d.Rest))
	case d.CutOff != nil && d.CutOff.Size > 0:
		add("size", fmt.Sprintf("%d bytes, of which %d are here", d.CutOff.Size, d.CutOff.Bytes))
	}
	add("command", d.Command)
	add("family", d.Family)
	add("transport", d.Transport)
	add("source", d.Source)
	add("destination", d.Destination)
	switch s := d.Signature; {
	case s == nil:
	case !s.Valid:
		add("signature", out.paint(red, "wrong")+": "+s.Error)
	case *s.Age < 0:
		add("signature", fmt.Sprintf("valid, made at %s, %d seconds in the future", s.Made, -*s.Age))
	default:
		add("signature", fmt.Sprintf("valid, made at %s, %d seconds ago", s.Made, *s.Age))
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
		out.paragraph("", "", out.paint(yellow, d.Note))
	}
	if d.CutOff != nil {
		out.line("")
		out.paragraph("", "", out.paint(yellow, "Cut off in the evidence")+fmt.Sprintf(": only %d bytes of the header are here, and no fault shows in them. The status and the log keep the first bytes of a connection.", d.CutOff.Bytes))
		out.paragraph("", "", `If the connection itself ended here, that is a fault: section 2.2: "The receiver must also reject incoming connections containing partial protocol headers."`)
	}
	if d.Error != nil {
		out.line("")
		where := fmt.Sprintf("byte %d, counting from 0", d.Error.Byte)
		if d.Error.Found != "" {
			where += ", which is " + d.Error.Found
		}
		out.paragraph("", "", out.paint(red, "Wrong")+fmt.Sprintf(" at %s: %s.", where, d.Error.Problem))
		out.paragraph("", "", "The specification, "+d.Error.Rule)
	}
}

// rows returns the rows of a TLV in a table: one for each named value, or one with the value in
// hexadecimal if there are none.
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
