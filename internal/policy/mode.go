package policy

import (
	"encoding/json"
	"fmt"
)

// Mode says whether connections must, must not, or may begin with a PROXY protocol
// header. The zero Mode is Unspecified.
type Mode uint8

const (
	// Unspecified ("unspecified"): a header is parsed if there is one, and a
	// connection whose client address came from it is marked by source port 0. For
	// tests only: any peer that may send a header can claim any address.
	Unspecified Mode = iota
	// On ("on"): a header is mandatory. A connection without one is refused.
	On
	// Off ("off"): a header is forbidden. A connection with one is refused.
	Off
)

// AcceptedModes lists the names of the modes, for error texts.
const AcceptedModes = "on, off or unspecified"

var modeNames = [...]string{Unspecified: "unspecified", On: "on", Off: "off"}

// Modes is the number of modes.
const Modes = len(modeNames)

// ParseMode returns the mode of this name. Names are lower-case.
func ParseMode(name string) (Mode, error) {
	for mode, n := range modeNames {
		if n == name {
			return Mode(mode), nil
		}
	}
	return 0, fmt.Errorf("unknown mode '%s': use %s", name, AcceptedModes)
}

// String returns the mode's name.
func (m Mode) String() string { return modeNames[m] }

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalJSON implements json.Unmarshaler. Its errors name the JSON field, which encoding/json
// does not, and say what to write in place of true, which YAML makes of on.
func (m *Mode) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var name string
	if json.Unmarshal(data, &name) != nil {
		return fmt.Errorf(`mode: %s is not a mode: write "on", "off" or "unspecified", with the quotes; YAML reads on and off without quotes as true and false`, data)
	}
	return m.UnmarshalText([]byte(name))
}

// UnmarshalText implements encoding.TextUnmarshaler. Its errors name the JSON field,
// which encoding/json does not.
func (m *Mode) UnmarshalText(text []byte) error {
	mode, err := ParseMode(string(text))
	if err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	*m = mode
	return nil
}
