// Package match has the logic of the matchers: the conditions on a PROXY protocol header, the
// arguments of CEL functions, and the search for negated matchers in a configuration.
package match

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Conditions are what a matcher requires of the header of a connection. All of them must hold.
// If one has several values, one of the values must match.
type Conditions struct {
	Is      []string            // of Words
	Version []string            // v1 or v2
	Peer    []string            // IP addresses or CIDR ranges
	TLV     map[string][]string // values by name; no values are any
}

// The words of Conditions.Is.
const (
	present  = "present"
	absent   = "absent"
	portZero = "port_zero"
	local    = "local"
)

// Words are the accepted values of Conditions.Is.
var Words = []string{present, absent, portZero, local}

// Options are the names of the other conditions.
var Options = []string{"version", "peer", "tlv"}

// Header is a matcher with compiled conditions.
type Header struct {
	is       map[string]bool
	versions []uint8
	peers    *bart.Lite
	tlvs     map[string][]string
}

// AddTLV adds a condition on a TLV.
func (c *Conditions) AddTLV(name string, values ...string) {
	if c.TLV == nil {
		c.TLV = make(map[string][]string)
	}
	c.TLV[name] = append(c.TLV[name], values...)
}

// AddArg adds a condition in the form that CEL functions have it: a word, or `option:value`. The
// values of peer are expanded first.
func (c *Conditions) AddArg(arg string, expandPeer func([]string) []string) {
	option, value, ok := strings.Cut(arg, ":")
	switch {
	case ok && option == "version":
		c.Version = append(c.Version, value)
	case ok && option == "peer":
		c.Peer = append(c.Peer, expandPeer([]string{value})...)
	case ok && option == "tlv":
		if name, value, ok := strings.Cut(value, "="); ok {
			c.AddTLV(name, value)
		} else {
			c.AddTLV(name)
		}
	default:
		c.Is = append(c.Is, arg)
	}
}

// CheckPrefix returns an error if no value of its placeholders can make an argument usable,
// because its option or the name of its TLV is wrong.
func CheckPrefix(arg Arg) error {
	option, value, ok := strings.Cut(arg[0], ":")
	if !ok {
		return nil
	}
	if !slices.Contains(Options, option) {
		return unknownWordError(arg.String())
	}
	if name, _, ok := strings.Cut(value, "="); ok && option == "tlv" {
		if _, err := tlv.ParseName(name); err != nil {
			return fmt.Errorf("tlv: %w", err)
		}
	}
	return nil
}

// String returns the matcher as it stands in a Caddyfile, in one line. The values of 0xNN are not
// shown: they may be secrets.
func (c *Conditions) String() string {
	var options []string
	if len(c.Version) > 0 {
		options = append(options, "version "+strings.Join(c.Version, " "))
	}
	if len(c.Peer) > 0 {
		options = append(options, "peer "+strings.Join(c.Peer, " "))
	}
	for _, name := range slices.Sorted(maps.Keys(c.TLV)) {
		values := c.TLV[name]
		if tlv.IsCode(name) && len(values) > 0 {
			values = []string{tlv.Redacted}
		}
		options = append(options, strings.Join(append([]string{"tlv", name}, values...), " "))
	}
	words := append([]string{"proxy_protocol"}, c.Is...)
	if len(options) > 0 {
		words = append(words, "{", strings.Join(options, "; "), "}")
	}
	return strings.Join(words, " ")
}

// Compile checks the conditions and compiles them.
func (c *Conditions) Compile() (*Header, error) {
	h := &Header{is: make(map[string]bool), tlvs: make(map[string][]string)}
	for _, word := range c.Is {
		if !slices.Contains(Words, word) {
			return nil, unknownWordError(word)
		}
		h.is[word] = true
	}
	for _, name := range c.Version {
		if name != "v1" && name != "v2" {
			return nil, fmt.Errorf("version: unknown version '%s': use v1 or v2", name)
		}
		h.versions = append(h.versions, name[1]-'0')
	}
	if len(c.Peer) > 0 {
		var err error
		if h.peers, err = policy.NewSet(c.Peer); err != nil {
			return nil, fmt.Errorf("peer: %w", err)
		}
	}
	for given, values := range c.TLV {
		name, err := tlv.ParseName(given)
		if err != nil {
			return nil, fmt.Errorf("tlv: %w", err)
		}
		for i, value := range values {
			if tlv.IsCode(name) {
				if _, err := hex.DecodeString(value); err != nil { // the value may be a secret
					return nil, fmt.Errorf("tlv: value %d of %s is not hexadecimal: use pairs of digits such as 0aff", i+1, name)
				}
				value = strings.ToLower(value)
			}
			h.tlvs[name] = append(h.tlvs[name], value)
		}
		if len(values) == 0 && h.tlvs[name] == nil {
			h.tlvs[name] = []string{}
		}
	}
	claims := h.is[present] || h.is[portZero] || h.is[local] || len(h.versions) > 0 || len(h.tlvs) > 0
	switch {
	case !claims && !h.is[absent] && h.peers == nil:
		return nil, fmt.Errorf("the proxy_protocol matcher needs at least one of %s, %s", strings.Join(Words, ", "), strings.Join(Options, ", "))
	case claims && h.is[absent]:
		return nil, errors.New("'absent' cannot be combined with 'present', 'port_zero', 'local', 'version' or 'tlv': these need a header")
	case h.is[local] && (h.is[portZero] || len(h.tlvs) > 0):
		return nil, errors.New("'local' cannot be combined with 'port_zero' or 'tlv': a LOCAL header has no addresses and no TLVs")
	default:
		return h, nil
	}
}

func unknownWordError(word string) error {
	return fmt.Errorf("unknown word '%s': use %s", word, strings.Join(Words, ", "))
}

// Matches reports whether a connection fulfils the conditions.
func (h *Header) Matches(i *conninfo.Info) bool {
	if h.needsVouching() && i.Mode != policy.On {
		return false
	}
	if h.is[present] && !i.HasHeader() ||
		h.is[absent] && i.HasHeader() ||
		h.is[portZero] && !i.Marked() ||
		h.is[local] && !(i.HasHeader() && i.Header.Command() == wire.Local) ||
		h.versions != nil && !slices.Contains(h.versions, i.Header.Version()) ||
		h.peers != nil && !h.peers.Contains(policy.PeerIP(i.Peer)) {
		return false
	}
	for name, values := range h.tlvs {
		if !i.TLVs().Has(name, values) {
			return false
		}
	}
	return true
}

// needsVouching reports whether the conditions are claims of a header, so that only headers
// accepted under mode On may match. With port_zero or local beside them, the claims are those of
// a header that any peer may have sent.
func (h *Header) needsVouching() bool {
	claims := h.is[present] || len(h.versions) > 0 || len(h.tlvs) > 0
	return claims && !h.is[portZero] && !h.is[local]
}
