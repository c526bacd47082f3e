package record

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Refusal is a refused connection or a dropped datagram. The caller of Recorder.Refuse sets the
// exported fields except for Time.
type Refusal struct {
	Time time.Time
	// Peer and Local are the addresses of the connection. Either may be nil.
	Peer, Local net.Addr
	Mode        policy.Mode
	Reason      Outcome
	// SecretTLVs says that headers may have TLVs whose values must not be shown.
	SecretTLVs bool
	// Err says more about the reason, or is nil.
	Err error
	// First is the source of the first header, if Reason is Duplicate and it has one.
	First netip.AddrPort

	// received says what arrived, as Received does. It is empty if nothing was read.
	received string
	bytes    []byte
	// sendsHeaders says that an earlier connection of the peer began with a header.
	sendsHeaders bool
}

// keep keeps what is shown of the bytes received, which the caller uses again.
func (r *Refusal) keep(received []byte) {
	if len(received) > 0 || r.Reason == Silent {
		r.received = Received(received)
	}
	r.bytes = append([]byte(nil), received[:min(len(received), r.shown(received))]...)
}

// shown returns how many of the bytes received may be shown. A malformed header is shown up to the
// byte that is wrong, at most 256 bytes. TLVs that may be secret are not shown: BytesKept ends before
// them.
func (r *Refusal) shown(received []byte) int {
	const longest = 256
	if r.Reason != Malformed {
		return BytesKept
	}
	_, version := wire.Signature(received)
	switch err, ok := r.Err.(wire.Error); {
	case version == 1 && (!ok || err.Problem == wire.ProblemNoCRLF):
		return max(BytesKept, shownV1(received))
	case !ok || version == 2 && r.SecretTLVs:
		return BytesKept
	default:
		return max(BytesKept, min(err.Offset+1, longest))
	}
}

// shownV1 returns how many bytes of a v1 header without CRLF may be shown. If the sender forgot the
// CRLF, a request follows the last port: so they end at the first byte that no address or port has.
func shownV1(received []byte) int {
	const keyword = len("PROXY TCP4 ")
	line := received[:min(len(received), wire.MaxSizeV1)]
	for i := keyword; i < len(line); i++ {
		if !strings.ContainsRune("0123456789abcdefABCDEF:. ", rune(line[i])) {
			return i + 1
		}
	}
	return len(line)
}

// isRoutine reports whether a refusal is logged at DEBUG and not remembered: the connection
// ended before its first byte, as that of a health check that only connects, or this server
// closed it when it stopped.
func (r *Refusal) isRoutine() bool {
	return r.Reason == Silent || errors.Is(r.Err, net.ErrClosed)
}

// Received says what arrived, as the function Received does. It is empty if nothing was read.
func (r *Refusal) Received() string { return r.received }

// Hex returns the first bytes of the connection in hexadecimal.
func (r *Refusal) Hex() string { return hex.EncodeToString(r.bytes) }

// Text returns the first bytes of the connection as escaped text, or nothing if they are not
// ASCII text.
func (r *Refusal) Text() string {
	for _, c := range r.bytes {
		if c != '\t' && c != '\r' && c != '\n' && (c < ' ' || c > '~') {
			return ""
		}
	}
	return escape.Text(string(r.bytes))
}

// ErrorText returns the text of Err, or nothing. Err may be another module's, and panic.
func (r *Refusal) ErrorText() (text string) {
	defer func() {
		if recover() != nil {
			text = "(the error cannot be shown)"
		}
	}()
	if r.Err == nil {
		return ""
	}
	return r.Err.Error()
}

// FirstSource returns the source of the first header of a Duplicate as text, or nothing.
func (r *Refusal) FirstSource() string { return conninfo.AddrPortString(r.First) }

// SizeError is the error of a header that is larger than max_header_size.
type SizeError struct {
	// Announced and Allowed are in bytes.
	Announced, Allowed int
}

// roomy returns a limit that leaves room for the next header, which may be a bit larger.
func (e SizeError) roomy() int {
	const step = 4096
	return min((e.Announced+step-1)/step*step, wire.MaxSize)
}

// Error implements error.
func (e SizeError) Error() string {
	return fmt.Sprintf("the header announces %d bytes, but max_header_size is %d", e.Announced, e.Allowed)
}

// Hint returns the next step for the operator, or nothing. It is true whoever the peer is: each
// step says for which peer it is meant.
func (r *Refusal) Hint() string {
	ip := ipOf(r.Peer)
	own := ip.IsLoopback() || ip.IsValid() && ip == ipOf(r.Local)
	switch r.Reason {
	case Untrusted:
		return r.hintUntrusted(ip, own)
	case Missing:
		return r.hintMissing(ip, own)
	case Forbidden:
		if !ip.IsValid() {
			return "if a load balancer connects through this socket, set the mode 'on'"
		}
		return "if this is your load balancer, add to 'proxy_protocol_mode': on " + ip.String()
	case Duplicate:
		return r.hintDuplicate(ip)
	case TooLarge:
		var size SizeError
		if errors.As(r.Err, &size) {
			return fmt.Sprintf("if this is your load balancer, set in 'proxy_protocol_mode': max_header_size %d", size.roomy())
		}
		return ""
	case Version:
		return "if this is your load balancer, set it to the other version, or remove the option 'version'"
	default:
		return ""
	}
}

// hintUntrusted returns the hint for an untrusted peer. There is none if the source of trusted peers
// failed: then the error says what to fix. It offers a range with the mode on, too, because a second
// line trusted_proxies would be an error, and the source may not be static.
func (r *Refusal) hintUntrusted(ip netip.Addr, own bool) string {
	trust := "add its address to 'trusted_proxies', " + TrustLines(ip)
	switch {
	case !ip.IsValid() || r.Err != nil:
		return ""
	case own:
		return OwnMachine(trust, ip)
	default:
		return "if this is your load balancer, " + trust
	}
}

// TrustLines returns the part of a hint that has the lines to write for a peer to be trusted.
func TrustLines(ip netip.Addr) string {
	return "such as: trusted_proxies static " + netip.PrefixFrom(ip, ip.BitLen()).String() + "; or add to 'proxy_protocol_mode': on " + ip.String()
}

// OwnMachine returns the hint for a peer that is this machine itself. balancer says what to do if it
// is a load balancer.
func OwnMachine(balancer string, ip netip.Addr) string {
	return "if your load balancer runs on this machine, " + balancer + "; if only this machine's own health checks connect from there, add to 'proxy_protocol_mode': off " + ip.String()
}

// hintDuplicate returns the hint for a second header. The peer wrote the first one. If that names
// another load balancer, the peer has not read the header of that one.
func (r *Refusal) hintDuplicate(ip netip.Addr) string {
	first, peer := r.FirstSource(), "the peer"
	if ip.IsValid() {
		peer = ip.String()
	}
	if first == "" {
		return "the load balancer sent two headers, or its client sent the second one to claim another address"
	}
	return "the first header names " + first + ": if that is another load balancer of yours, make " + peer + " read the header of that one, or send none itself; if it is a client, the client sent the second header to claim another address"
}

// hintMissing returns the hint for a peer that sent no header. It does not offer the mode off for a
// peer that sends headers on other connections, which off would refuse.
func (r *Refusal) hintMissing(ip netip.Addr, own bool) string {
	const (
		send       = "make it send a PROXY protocol header"
		sendAlways = send + ", for its health checks, too"
	)
	switch {
	case !ip.IsValid():
		return "if a load balancer connects through this socket, " + send
	case r.sendsHeaders:
		return "this peer sends headers at other times: if it is your load balancer, " + send + " every time, for its health checks, too"
	case own:
		return OwnMachine(sendAlways, ip)
	default:
		return "if this is your load balancer, " + sendAlways + "; if it is a monitor that connects directly, add to 'proxy_protocol_mode': off " + ip.String()
	}
}

// ipOf is policy.PeerIP for an address that may panic. Then it returns the zero Addr.
func ipOf(addr net.Addr) (ip netip.Addr) {
	defer func() { _ = recover() }()
	return policy.PeerIP(addr)
}
