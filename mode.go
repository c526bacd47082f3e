package proxyprotocol

import "github.com/portzero/caddy-proxy-protocol/internal/policy"

// Mode says whether connections must, must not, or may begin with a PROXY protocol
// header. The zero Mode is Unspecified.
type Mode = policy.Mode

const (
	// Unspecified ("unspecified"): a header is parsed if there is one, and a
	// connection whose client address came from it is marked by source port 0. For
	// tests only: any peer that may send a header can claim any address.
	Unspecified = policy.Unspecified
	// On ("on"): a header is mandatory. A connection without one is refused.
	On = policy.On
	// Off ("off"): a header is forbidden. A connection with one is refused.
	Off = policy.Off
)

// ParseMode returns the mode of this name. Names are lower-case.
func ParseMode(name string) (Mode, error) { return policy.ParseMode(name) }
