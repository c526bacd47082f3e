package caddytest

import (
	"fmt"
	"strings"
	"testing"
)

// Wrappers returns the global options for all servers with these listener wrappers.
func Wrappers(lines string) string { return "servers {\nlistener_wrappers {\n" + lines + "\n}\n}\n" }

// PlainSite returns an HTTP site on loopback that answers with the remote address of the request.
func PlainSite(port int) string {
	return fmt.Sprintf("http://:%d {\nbind %s\nlog\nrespond {remote}\n}\n", port, strings.Join(Loopbacks(), " "))
}

// SecureSite returns an HTTPS site on loopback that answers with the remote address of the request.
func SecureSite(t testing.TB, port int) string {
	return fmt.Sprintf("https://localhost:%d {\nbind %s\ntls %s\nlog\nrespond {remote}\n}\n", port, strings.Join(Loopbacks(), " "), CertificateFiles(t))
}

// ServerOptions returns the global options of the server on a port, with its listener wrappers and
// more lines. wrappers may be empty.
func ServerOptions(port int, wrappers string, more ...string) string {
	if wrappers != "" {
		wrappers = "listener_wrappers {\n" + wrappers + "\n}\n"
	}
	return fmt.Sprintf("\nservers :%d {\n%s%s\n}\n", port, wrappers, strings.Join(more, "\n"))
}

// HTTP3Answer is the text, with placeholders, that an HTTP3Site answers with.
const HTTP3Answer = "{remote} marked={http.proxy_protocol.port_zero} present={http.proxy_protocol.present} mode={http.proxy_protocol.mode} peer={http.proxy_protocol.peer_ip}"

// HTTP3Site returns an HTTPS site on loopback that answers with HTTP3Answer, and has more lines.
func HTTP3Site(t testing.TB, port int, more string) string {
	return fmt.Sprintf("https://localhost:%d {\nbind %s\ntls %s\nlog\n%s\nrespond `%s`\n}\n",
		port, strings.Join(Loopbacks(), " "), CertificateFiles(t), more, HTTP3Answer)
}

// Packets returns the global options that put the listener wrapper and the packet wrapper on all
// servers. The arguments are the mode and options of each; an empty one leaves the wrapper out. A
// packet wrapper in mode on without trusted_proxies gets some that trust all peers on loopback.
func Packets(listener, packet string) string {
	if strings.HasPrefix(packet, "on") && !strings.Contains(packet, "trusted_proxies") {
		options, _ := strings.CutPrefix(packet, "on")
		options = strings.Trim(options, " {}\n")
		packet = "on {\ntrusted_proxies static 127.0.0.0/8 ::1\n" + options + "\n}"
	}
	options := "auto_https disable_redirects\nservers {\n"
	if listener != "" {
		options += "listener_wrappers {\nproxy_protocol_mode " + listener + "\ntls\n}\n"
	}
	if packet != "" {
		options += "packet_conn_wrappers {\nproxy_protocol_mode " + packet + "\n}\n"
	}
	return options + "}\n"
}

// SoonIdle returns global options with an idle timeout of one second. quic-go keeps a stream that
// outlives its connection, and the connection, until this timeout.
func SoonIdle(options string) string {
	return strings.Replace(options, "servers {", "servers {\ntimeouts {\nidle 1s\n}", 1)
}
