package datagram

import (
	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Config says which datagrams a configuration accepts, and where it records what becomes of
// them. It does not change once it is built.
type Config struct {
	policy.Policy
	// Require is what headers must prove, or nil. It has no signature.
	Require *auth.Requirement
	// MaxHeaderSize is the size of the largest header to accept, in bytes.
	MaxHeaderSize int
	// TrustedList has the last answer of the policy's source, for which datagrams cannot wait.
	// It is nil if there is no source.
	TrustedList *TrustedList
	record.Recorder
}

// recorderOf returns the recorder of a datagram.
func (c *Config) recorderOf(d *datagram) record.Recorder {
	if d.announced {
		return c.ForCheck()
	}
	return c.Recorder
}

// Fits reports whether a connection that was accepted from this Addr, perhaps under another
// config, may be served under this one. During a reload, the configuration before still checks
// the datagrams of connections that the new one serves.
func (c *Config) Fits(a *Addr) bool {
	mode, trust := c.For(a.info.Peer, nil)
	switch {
	case !a.info.HasHeader():
		return mode != policy.On
	case a.info.Mode != mode:
		return false // the mode decides whether the client is marked
	case a.config != c && !a.info.Meets(c.Require, c.Listed(policy.PeerIP(a.info.Peer), nil)):
		return false // other datagrams of the connection are checked again
	case trust != policy.AskSource:
		return trust == policy.Trusted
	case a.config.TrustedList == c.TrustedList:
		return true // each datagram is checked against the list
	}
	ranges, err := c.TrustedList.Ranges()
	return err == nil && ranges.Contains(policy.PeerIP(a.info.Peer))
}
