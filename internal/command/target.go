package command

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// target is where a command connects to, and from where.
type target struct {
	network string // "tcp", or "unix" for a Unix socket
	address string // host:port, or the socket's path
	// bind is the source address, or the zero Addr if the system chooses one.
	bind netip.Addr
	// announcer announces connections before they are made, or is nil.
	announcer *announcer
}

// parseTarget returns the target in a text: host:port, or unix//path as Caddy writes it. It
// reports whether the text is one.
func parseTarget(text string) (target, bool) {
	if path, ok := strings.CutPrefix(text, "unix/"); ok {
		path, _, _ = strings.Cut(path, "|") // the permissions of the socket, in a configuration
		return target{network: "unix", address: path}, path != ""
	}
	_, port, err := net.SplitHostPort(text)
	return target{network: "tcp", address: text}, err == nil && port != "" && !strings.ContainsAny(text, "/@ ")
}

// bindFlag adds the flag --bind.
func bindFlag(cmd *cobra.Command) {
	cmd.Flags().String("bind", "", "IP address of this machine to connect from")
	complete(cmd, "bind", cobra.NoFileCompletions)
}

// bindTo sets the source address of the flag --bind.
func (t *target) bindTo(flags caddycmd.Flags) error {
	text := flags.String("bind")
	if text == "" {
		return nil
	}
	if t.network == "unix" {
		return fmt.Errorf("--bind: connections to a Unix socket have no source address: remove it")
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("--bind must be an IP address such as 192.0.2.1 or 2001:db8::1, not '%s'", text)
	}
	t.bind = ip
	return nil
}

// checkServerName checks the value of a flag that is the name of a server.
func checkServerName(flag, name string) error {
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:@", r) }) {
		return fmt.Errorf("--%s must be a name such as example.com, not '%s'", flag, name)
	}
	return nil
}

// dial connects to the target. It waits as long as the context and timeout allow.
func (t *target) dial(ctx context.Context, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	if t.bind.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.bind, 0))
	}
	return t.dialWith(ctx, &dialer, t.network)
}

// dialUDP returns a UDP socket that is connected to the target.
func (t *target) dialUDP(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	if t.bind.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.bind, 0))
	}
	return t.dialWith(ctx, &dialer, "udp")
}

func (t *target) dialWith(ctx context.Context, dialer *net.Dialer, network string) (net.Conn, error) {
	if t.announcer.active() && network != "unix" {
		dialer.LocalAddr = nil // the socket is bound below
		dialer.Control = func(network, address string, socket syscall.RawConn) error {
			return t.announcer.bindAndAnnounce(network, t.bind, address, socket)
		}
	}
	return dialer.DialContext(ctx, network, t.address)
}
