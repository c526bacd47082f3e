package proxyprotocol

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
)

// Require is what a header must prove beside what the mode demands. All of it must hold, or the
// header is refused with the reason `unauthenticated`. A version 1 header that names a client is
// refused, because it can carry nothing of this. Headers that name no client (LOCAL, UNKNOWN) carry
// nothing either; they are accepted only from peers in `trusted_proxies` or in `ranges`.
type Require struct {
	// TLVs that a header must have. The keys are the names of the placeholders (`aws_vpce_id`,
	// `0xe1`). A TLV must have one of the values in its list; if the list is empty, any value
	// will do. Placeholders in values are expanded when the configuration is loaded. Write values
	// of `0xNN` in hexadecimal. They count as secrets: the value of a required `0xNN` is shown as
	// `[redacted]` in placeholders and logs.
	TLVs map[string][]string `json:"tlvs,omitempty"`

	// A signature that a header must have over the addresses that it names, in a TLV. The packet
	// wrapper does not support it: a QUIC connection lives longer than a signature.
	Signature *RequireSignature `json:"signature,omitempty"`
}

// RequireSignature is a signature that a header must have: a TLV with `<unix seconds> <hex>`,
// where hex is HMAC-SHA256(key, `<unix seconds> <source ip> <source port> <destination ip>
// <destination port>`). HAProxy 2.9 and later can send it.
type RequireSignature struct {
	// The keys in base64, at least one. The signature must be of one of them; several serve to
	// change the key without an outage. A key must have at least 16 bytes. Placeholders are
	// expanded when the configuration is loaded, such as `{file./run/secrets/lb.key}` and
	// `{env.LB_KEY}`.
	Keys []string `json:"keys"`

	// The type of the TLV that has the signature, as `0xNN`. Default: `0xe5`. Not allowed: a type
	// that the specification defines.
	TLV string `json:"tlv,omitempty"`

	// How far the time of a signature may be from this machine's clock, in either direction, in
	// whole seconds. Default: 30s. Must be at least 1s. A signature that was seen on the wire can
	// be used again for the same addresses during this time.
	MaxAge *caddy.Duration `json:"max_age,omitempty"`
}

// compile returns the requirement, or nil if r is nil. The values of placeholders are those of now.
func (r *Require) compile(mode Mode) (*auth.Requirement, error) {
	switch {
	case r == nil:
		return nil, nil
	case mode == Off:
		return nil, errUnderOff
	}
	repl := caddy.NewReplacer()
	return r.options().Compile(func(value string) (string, error) { return repl.ReplaceOrErr(value, true, true) })
}

// options returns the requirement as auth.Options. r may be nil.
func (r *Require) options() (o auth.Options) {
	if r == nil {
		return o
	}
	o.TLVs = r.TLVs
	if s := r.Signature; s != nil {
		o.Signature = &auth.SignatureOptions{Keys: s.Keys, TLV: s.TLV, MaxAge: auth.DefaultMaxAge}
		if s.MaxAge != nil {
			o.Signature.MaxAge = time.Duration(*s.MaxAge)
		}
	}
	return o
}

// unmarshalRequire reads the option require:
//
//	require tlv <name> [<values...>]
//	require signature <keys...> {
//		tlv     0xNN
//		max_age <duration>
//	}
func (lw *ListenerWrapper) unmarshalRequire(d *caddyfile.Dispenser) error {
	if lw.Mode == Off {
		return d.Errf("require: %v", errUnderOff)
	}
	if lw.Require == nil {
		lw.Require = new(Require)
	}
	args := d.RemainingArgs()
	switch {
	case len(args) > 1 && args[0] == "tlv":
		return lw.Require.addTLV(d, args[1], args[2:])
	case len(args) > 1 && args[0] == "signature":
		return lw.Require.addSignature(d, args[1:])
	default:
		return d.Err("require: write 'require tlv <name> [<values...>]' or 'require signature <keys...>'")
	}
}

// addTLV adds a required TLV.
func (r *Require) addTLV(d *caddyfile.Dispenser, given string, values []string) error {
	name, err := auth.CheckTLV(given, values)
	if err != nil {
		return d.Errf("require tlv: %v", err)
	}
	if _, duplicate := r.TLVs[name]; duplicate {
		return d.Errf("require tlv: duplicate TLV '%s': write all values in one line", name)
	}
	if r.TLVs == nil {
		r.TLVs = make(map[string][]string)
	}
	r.TLVs[name] = append([]string{}, values...)
	return nil
}

// addSignature adds a required signature.
func (r *Require) addSignature(d *caddyfile.Dispenser, keys []string) error {
	if r.Signature != nil {
		return d.Err("require signature: duplicate: write all keys in one line")
	}
	if err := auth.CheckKeys(keys); err != nil {
		return d.Errf("require signature: %v", err)
	}
	r.Signature = &RequireSignature{Keys: keys}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option, args := d.Val(), d.RemainingArgs()
		if len(args) != 1 {
			return d.Errf("require signature: %s: needs exactly one argument", option)
		}
		if err := r.Signature.set(option, args[0]); err != nil {
			return d.Errf("require signature: %v", err)
		}
	}
	return nil
}

// set sets an option.
func (s *RequireSignature) set(option, arg string) error {
	switch {
	case option == "tlv" && s.TLV != "", option == "max_age" && s.MaxAge != nil:
		return fmt.Errorf("duplicate option '%s': remove one", option)
	case option == "tlv":
		s.TLV = arg
		_, err := auth.ParseType(arg)
		return fieldError(option, err)
	case option == "max_age":
		age, err := caddy.ParseDuration(arg)
		if err != nil || age < auth.MinMaxAge {
			return fmt.Errorf("max_age: '%s' is not a duration of at least %s: use a value such as %s", arg, auth.MinMaxAge, auth.DefaultMaxAge)
		}
		s.MaxAge = (*caddy.Duration)(&age)
		return nil
	default:
		return fmt.Errorf("unrecognized option '%s': use tlv or max_age", option)
	}
}
