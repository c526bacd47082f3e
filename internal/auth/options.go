package auth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Options are a requirement as the configuration has it, with placeholders.
type Options struct {
	// TLVs are the required TLVs: the accepted values by name, or none if any value will do.
	TLVs map[string][]string
	// Signature is the required signature, or nil.
	Signature *SignatureOptions
}

// SignatureOptions are a required signature as the configuration has it.
type SignatureOptions struct {
	// Keys are in base64.
	Keys []string
	// TLV is the name 0xNN of the TLV's type, or empty for that of [DefaultType].
	TLV string
	// MaxAge is how far the time of a signature may be from this machine's.
	MaxAge time.Duration
}

// Compile returns the requirement. expand replaces the placeholders in a value, and must return an
// error for one that is empty or not known. The errors begin with the JSON field, and do not quote
// values.
func (o Options) Compile(expand func(string) (string, error)) (*Requirement, error) {
	if len(o.TLVs) == 0 && o.Signature == nil {
		return nil, errNothing
	}
	var conditions []*tlv.Condition
	for _, name := range slices.Sorted(maps.Keys(o.TLVs)) {
		values, err := expandAll(o.TLVs[name], expand)
		if err != nil {
			return nil, fmt.Errorf("tlvs: %s: value %w", name, err)
		}
		condition, err := tlv.NewCondition(name, values)
		if err != nil {
			return nil, fmt.Errorf("tlvs: %w", err)
		}
		if slices.ContainsFunc(conditions, func(c *tlv.Condition) bool { return c.Name() == condition.Name() }) {
			return nil, fmt.Errorf("tlvs: %s: duplicate: write all values in one list", name)
		}
		conditions = append(conditions, condition)
	}
	if o.Signature == nil {
		return New(conditions, nil), nil
	}
	signature, err := o.Signature.compile(expand)
	if err != nil {
		return nil, fmt.Errorf("signature.%w", err)
	}
	return New(conditions, signature), nil
}

// Exceeds returns something that is required of TCP connections and not of datagrams, whose options
// udp are, or nothing. Datagrams cannot have a signature.
func (o Options) Exceeds(udp Options) string {
	if o.Signature != nil {
		return "a signature"
	}
	for _, name := range slices.Sorted(maps.Keys(o.TLVs)) {
		if values, ok := udp.TLVs[name]; !ok || !slices.Equal(o.TLVs[name], values) {
			return "the same TLV " + name
		}
	}
	return ""
}

var errNothing = errors.New("nothing is required: write 'tlv' with a name, or 'signature' with a key")

// compile returns what verifies signatures.
func (o *SignatureOptions) compile(expand func(string) (string, error)) (*Signature, error) {
	texts, err := expandAll(o.Keys, expand)
	if err != nil {
		return nil, fmt.Errorf("keys: key %w", err)
	}
	var keys []*Key
	for i, text := range texts {
		key, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("keys: key %d %w", i+1, err)
		}
		keys = append(keys, key)
	}
	typ, err := ParseType(o.TLV)
	if err != nil {
		return nil, fmt.Errorf("tlv: %w", err)
	}
	return NewSignature(keys, typ, o.MaxAge)
}

// ParseType returns the type of the TLV that has the signature. Its name is in the form 0xNN, or
// empty for [DefaultType].
func ParseType(name string) (wire.Type, error) {
	if name == "" {
		return DefaultType, nil
	}
	condition, err := tlv.NewCondition(name, nil)
	if err != nil || !condition.Secret() {
		return 0, fmt.Errorf("'%s' is not the number of a type: use one such as %s", name, tlv.Code(DefaultType))
	}
	if typ := condition.Type(); !slices.Contains(definedTypes, typ) {
		return typ, nil
	}
	return 0, fmt.Errorf("%s is a type that the PROXY protocol specification defines: use one of 0xe0 to 0xef", strings.ToLower(name))
}

// CheckTLV returns the name of a required TLV in the form of [tlv.ParseName]. It checks the values that
// have no placeholders, so that the error of a Caddyfile has the line.
func CheckTLV(name string, values []string) (string, error) {
	parsed, err := tlv.ParseName(name)
	if err != nil {
		return "", err
	}
	for i, value := range values {
		if _, err := tlv.NewCondition(parsed, []string{value}); err != nil && !hasPlaceholder(value) {
			return "", fmt.Errorf("value %d of %s %w", i+1, parsed, errors.Unwrap(err))
		}
	}
	return parsed, nil
}

// CheckKeys checks the keys that have no placeholders, as [CheckTLV] does.
func CheckKeys(keys []string) error {
	for i, key := range keys {
		if _, err := ParseKey(key); err != nil && !hasPlaceholder(key) {
			return fmt.Errorf("key %d %w", i+1, err)
		}
	}
	return nil
}

// hasPlaceholder reports whether the value of a placeholder may change a text.
func hasPlaceholder(text string) bool { return strings.Contains(text, "{") }

// expandAll replaces the placeholders in values. The error begins with the number of the value.
func expandAll(values []string, expand func(string) (string, error)) ([]string, error) {
	expanded := make([]string, len(values))
	for i, value := range values {
		var err error
		if expanded[i], err = expand(value); err != nil {
			return nil, fmt.Errorf("%d: %w: set it before Caddy loads the configuration", i+1, err)
		}
	}
	return expanded, nil
}
