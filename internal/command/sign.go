package command

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func keygenCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "keygen",
		Short:                 "Makes a key for signed headers",
		Long: `
Prints a new random key of 32 bytes in base64, for the load balancer that signs
headers and for the option 'require signature'. Keep it as secret as a password.
`,
		Example: `  $ caddy proxy-protocol keygen
  $ (umask 077; caddy proxy-protocol keygen >lb.key)`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	run(cmd, func(out *output, _ io.Reader, flags caddycmd.Flags) error {
		if flags.NArg() > 0 {
			return fmt.Errorf("keygen takes no arguments: remove '%s'", flags.Arg(0))
		}
		var key [keySize]byte
		_, _ = rand.Read(key[:]) // never returns an error
		out.line("%s", base64.StdEncoding.EncodeToString(key[:]))
		return nil
	})
	return cmd
}

// keySize is the size of new keys in bytes: that of the hash of a signature.
const keySize = 32

// keyHelp says how keys are given.
const keyHelp = `A key is in base64, as keygen prints it. Other users of this machine can see the
arguments of commands, so put the key into a file, and write @ and its name. You
can also write a placeholder of Caddy, such as {env.LB_KEY}.`

// signFlags adds the flags with which a command signs headers.
func signFlags(cmd *cobra.Command) {
	cmd.Flags().String("sign-key", "", "Key to sign headers with: @file, a placeholder, or base64")
	signTLVFlag(cmd)
	complete(cmd, "sign-key", cobra.NoFileCompletions)
}

// signTLVFlag adds the flag --sign-tlv.
func signTLVFlag(cmd *cobra.Command) {
	cmd.Flags().String("sign-tlv", tlv.Code(auth.DefaultType), "Type of the TLV with the signature")
	complete(cmd, "sign-tlv", cobra.NoFileCompletions)
}

// parseSignTLV returns the value of the flag --sign-tlv.
func parseSignTLV(flags caddycmd.Flags) (wire.Type, error) {
	typ, err := auth.ParseType(flags.String("sign-tlv"))
	if err != nil {
		return 0, fmt.Errorf("--sign-tlv: %w", err)
	}
	return typ, nil
}

// parseKey returns the key that is the value of a flag. The errors do not quote the value.
func parseKey(flag, value string) (*auth.Key, error) {
	text, err := readKey(value)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	key, err := auth.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("--%s: the key %w", flag, err)
	}
	return key, nil
}

// readKey returns the text of a key, which may be in a file or behind placeholders.
func readKey(value string) (string, error) {
	const longest = 64 << 10
	if name, ok := strings.CutPrefix(value, "@"); ok {
		file, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer file.Close()
		text, err := io.ReadAll(io.LimitReader(file, longest))
		return strings.TrimSpace(string(text)), err
	}
	return caddy.NewReplacer().ReplaceOrErr(value, true, true)
}

// signer signs headers. The nil signer does not.
type signer struct {
	key *auth.Key
	typ wire.Type
}

// parseSigner returns the signer that the flags describe.
func parseSigner(flags caddycmd.Flags) (*signer, error) {
	if !flags.Changed("sign-key") {
		if flags.Changed("sign-tlv") {
			return nil, errors.New("--sign-tlv needs --sign-key")
		}
		return nil, nil
	}
	key, err := parseKey("sign-key", flags.String("sign-key"))
	if err != nil {
		return nil, err
	}
	typ, err := parseSignTLV(flags)
	return &signer{key, typ}, err
}

// sign returns the TLVs, and behind them the signature of a header that has them.
func (s *signer) sign(h *wire.Header, tlvs []wire.TLV) ([]wire.TLV, error) {
	if s == nil {
		return tlvs, nil
	}
	value, err := s.key.Sign(h, time.Now())
	if err != nil {
		return nil, err
	}
	return append(tlvs[:len(tlvs):len(tlvs)], wire.TLV{Type: s.typ, Value: value}), nil
}
