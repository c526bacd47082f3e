package proxyprotocol

import "github.com/portzero/caddy-proxy-protocol/internal/policy"

// Mode says whether connections must, must not, or may begin with a PROXY protocol
// header. In JSON it is `on`, `off` or `unspecified`. The zero Mode is Unspecified.
//
// It is a string, as the documentation and the schemas that are made of Go types have it.
type Mode string

const (
	// Unspecified ("unspecified"): a header is parsed if there is one, and a
	// connection whose client address came from it is marked by source port 0. For
	// tests only: any peer that may send a header can claim any address.
	Unspecified Mode = ""
	// On ("on"): a header is mandatory. A connection without one is refused.
	On Mode = "on"
	// Off ("off"): a header is forbidden. A connection with one is refused.
	Off Mode = "off"
)

// modes are the modes as the policy has them.
var modes = map[Mode]policy.Mode{Unspecified: policy.Unspecified, On: policy.On, Off: policy.Off}

// ParseMode returns the mode of this name. Names are lower-case.
func ParseMode(name string) (Mode, error) {
	parsed, err := policy.ParseMode(name)
	if err != nil {
		return Unspecified, err
	}
	return modeOf(parsed), nil
}

// modeOf returns a mode of the policy.
func modeOf(m policy.Mode) Mode {
	if m == policy.Unspecified {
		return Unspecified
	}
	return Mode(m.String())
}

// policy returns the mode as the policy has it. A mode that Go code made of another text is
// unknown.
func (m Mode) policy() (policy.Mode, error) {
	if mode, ok := modes[m]; ok {
		return mode, nil
	}
	return policy.ParseMode(string(m))
}

// String returns the mode's name.
func (m Mode) String() string {
	if m == Unspecified {
		return policy.Unspecified.String()
	}
	return string(m)
}

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalJSON implements json.Unmarshaler. Its errors name the JSON field.
func (m *Mode) UnmarshalJSON(data []byte) error {
	mode, _ := m.policy() // null leaves it as it is
	if err := mode.UnmarshalJSON(data); err != nil {
		return err
	}
	*m = modeOf(mode)
	return nil
}
