package record

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestRefusal_Hint(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	const (
		trust = "if this is your load balancer, add its address to 'trusted_proxies', such as: trusted_proxies static "
		own   = "if your load balancer runs on this machine, add its address to 'trusted_proxies', such as: trusted_proxies static "
		on    = "; or add to 'proxy_protocol_mode': on "
		off   = "if only this machine's own health checks connect from there, add to 'proxy_protocol_mode': off "
		send  = "make it send a PROXY protocol header"
	)
	unix := &net.UnixAddr{Name: "@", Net: "unix"}
	for _, tt := range []struct {
		name    string
		refusal Refusal
		want    string
	}{
		{"untrusted", Refusal{Reason: Untrusted, Peer: tcp("10.0.0.9:4711")}, trust + "10.0.0.9/32" + on + "10.0.0.9"},
		{"untrusted over IPv6", Refusal{Reason: Untrusted, Peer: tcp("[2001:db8::9]:4711")}, trust + "2001:db8::9/128" + on + "2001:db8::9"},
		{"untrusted, a mapped address", Refusal{Reason: Untrusted, Peer: tcp("[::ffff:10.0.0.9]:4711")}, trust + "10.0.0.9/32" + on + "10.0.0.9"},
		{"untrusted, a UDP peer", Refusal{Reason: Untrusted, Peer: &net.UDPAddr{IP: net.IPv4(10, 0, 0, 9)}}, trust + "10.0.0.9/32" + on + "10.0.0.9"},
		{"untrusted loopback", Refusal{Reason: Untrusted, Peer: tcp("127.0.0.1:4711")}, own + "127.0.0.1/32" + on + "127.0.0.1; " + off + "127.0.0.1"},
		{"untrusted loopback over IPv6", Refusal{Reason: Untrusted, Peer: tcp("[::1]:4711")}, own + "::1/128" + on + "::1; " + off + "::1"},
		{"untrusted, this machine's other address", Refusal{Reason: Untrusted, Peer: tcp("192.0.2.2:4711")}, own + "192.0.2.2/32" + on + "192.0.2.2; " + off + "192.0.2.2"},
		{"untrusted, a Unix socket", Refusal{Reason: Untrusted, Peer: unix}, ""},
		{"untrusted, no address", Refusal{Reason: Untrusted}, ""},
		{"untrusted, an address that panics", Refusal{Reason: Untrusted, Peer: badAddr{}}, ""},
		{"untrusted, because the source failed", Refusal{Reason: Untrusted, Peer: tcp("10.0.0.9:4711"), Err: policy.ErrSourceEmpty}, ""},

		{"missing", Refusal{Reason: Missing, Peer: tcp("10.0.0.9:4711")},
			"if this is your load balancer, " + send + ", for its health checks, too; if it is a monitor that connects directly, add to 'proxy_protocol_mode': off 10.0.0.9"},
		{"missing, a peer that sends headers", Refusal{Reason: Missing, Peer: tcp("10.0.0.9:4711"), sendsHeaders: true},
			"this peer sends headers at other times: if it is your load balancer, " + send + " every time, for its health checks, too"},
		{"missing, this machine", Refusal{Reason: Missing, Peer: tcp("[::1]:4711")},
			"if your load balancer runs on this machine, " + send + ", for its health checks, too; " + off + "::1"},
		{"missing, a Unix socket", Refusal{Reason: Missing, Peer: unix}, "if a load balancer connects through this socket, " + send},

		{"forbidden", Refusal{Reason: Forbidden, Peer: tcp("10.0.0.9:4711")}, "if this is your load balancer, add to 'proxy_protocol_mode': on 10.0.0.9"},
		{"forbidden, a Unix socket", Refusal{Reason: Forbidden, Peer: unix}, "if a load balancer connects through this socket, set the mode 'on'"},

		{"duplicate", Refusal{Reason: Duplicate, Peer: tcp("10.0.0.9:4711"), First: netip.MustParseAddrPort("203.0.113.7:1")},
			"the first header names 203.0.113.7:1: if that is another load balancer of yours, make 10.0.0.9 read the header of that one, or send none itself; if it is a client, the client sent the second header to claim another address"},
		{"duplicate, a Unix socket", Refusal{Reason: Duplicate, Peer: unix, First: netip.MustParseAddrPort("203.0.113.7:1")},
			"the first header names 203.0.113.7:1: if that is another load balancer of yours, make the peer read the header of that one, or send none itself; if it is a client, the client sent the second header to claim another address"},
		{"duplicate, behind LOCAL", Refusal{Reason: Duplicate}, "the load balancer sent two headers, or its client sent the second one to claim another address"},

		{"too large", Refusal{Reason: TooLarge, Err: SizeError{9000, 4096}}, "if this is your load balancer, set in 'proxy_protocol_mode': max_header_size 12288"},
		{"too large by one", Refusal{Reason: TooLarge, Err: SizeError{4097, 4096}}, "if this is your load balancer, set in 'proxy_protocol_mode': max_header_size 8192"},
		{"too large, a multiple", Refusal{Reason: TooLarge, Err: SizeError{8192, 4096}}, "if this is your load balancer, set in 'proxy_protocol_mode': max_header_size 8192"},
		{"as large as can be", Refusal{Reason: TooLarge, Err: SizeError{65551, 4096}}, "if this is your load balancer, set in 'proxy_protocol_mode': max_header_size 65551"},
		{"too large, size unknown", Refusal{Reason: TooLarge}, ""},
		{"version", Refusal{Reason: Version}, "if this is your load balancer, set it to the other version, or remove the option 'version'"},
		{"malformed", Refusal{Reason: Malformed, Peer: tcp("10.0.0.9:4711")}, ""},
		{"timeout", Refusal{Reason: Timeout, Peer: tcp("10.0.0.9:4711")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.refusal.Local = testLocal
			assert.Equal(t, tt.want, tt.refusal.Hint())
		})
	}
}

func TestReceived(t *testing.T) {
	for _, tt := range []struct{ bytes, want string }{
		{"", "nothing"},
		{"GET / HTTP/1.1\r\n", "http"},
		{"PRI * HTTP/2.0\r\n", "http"},
		{"POST /", "http"},
		{"M-SEARCH * HTTP/1.1", "http"},
		{"VERSION-CONTROL /", "http"},
		{"GET", "GET"},
		{" GET", " GET"},
		{"get /", "get /"},
		{"AVERYLONGWORDTHATISNOMETHOD /", "AVERYLONGWORDTHA"},
		{"SSH-2.0-OpenSSH_9.2 ", "SSH-2.0-OpenSSH_"},
		{"EHLO\tx", `EHLO\x09x`},
		{"\x16\x03\x01\x02\x00\x01", "tls"},
		{"\x16\x03", "tls"},
		{"\x16", "tls"},
		{"\x16\x02\x01", `\x16\x02\x01`},
		{"\x17\x03\x03", `\x17\x03\x03`},
		{"\xc3\x00\x00\x00\x01\x08", "quic"},
		{"\xd3\x6b\x33\x43\xcf", "quic"},
		{"\xc3\x00\x00\x00\x02", `\xc3\x00\x00\x00\x02`},
		{"\x43\x00\x00\x00\x01", `C\x00\x00\x00\x01`},
		{"\xc3\x00\x00\x00", `\xc3\x00\x00\x00`},
		{"PROXY TCP4 ", "v1"},
		{"PROXY", "v1"},
		{"PROX", "PROX"},
		{wire.SignatureV2, "v2"},
		{wire.SignatureV2[:11], `\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT`},
		{"\x1b[31mred", `\x1b[31mred`},
		{strings.Repeat("x", 100), strings.Repeat("x", BytesKept)},
	} {
		assert.Equal(t, tt.want, Received([]byte(tt.bytes)), "%q", tt.bytes)
	}
}

// What follows a header, or is none, may be a request with secrets.
func TestRefusal_KeepsAHeaderUpToTheByteThatIsWrong(t *testing.T) {
	const request = "GET /?secret=1 HTTP/1.1\r\nCookie: secret\r\n\r\n"
	line := "PROXY TCP4 203.0.113.7 192.0.2.1 056324 80\r\n"
	noCRLF := wire.Error{Problem: wire.ProblemNoCRLF, Offset: 105}
	v2 := wire.SignatureV2 + "\x21\x11\x01\x00" + strings.Repeat("a", 256)
	for _, tt := range []struct {
		name     string
		reason   Outcome
		err      error
		received string
		want     int
	}{
		{"no header", Missing, nil, request, BytesKept},
		{"a short one", Missing, nil, "GET", 3},
		{"nothing", Missing, nil, "", 0},
		{"a wrong byte", Malformed, wire.Error{Offset: 33}, line + request, 34},
		{"a wrong byte at the beginning", Malformed, wire.Error{Offset: 6}, line + request, BytesKept},
		{"a wrong byte far behind", Malformed, wire.Error{Offset: 260}, v2 + request, 256},
		{"a wrong byte that has not come", Malformed, wire.Error{Offset: 107}, line, len(line)},
		{"a line that is cut off", Malformed, errors.New("cut off"), line[:40], 40},
		{"a line that is cut off in the CRLF", Malformed, errors.New("cut off"), line[:len(line)-1], len(line) - 1},
		{"a line that is cut off early", Malformed, errors.New("cut off"), line[:5], 5},
		{"no CRLF before the request", Malformed, noCRLF, line[:len(line)-2] + request, len(line) - 1},
		{"no CRLF before a request that is cut off", Malformed, errors.New("cut off"), line[:len(line)-2] + request[:14], len(line) - 1},
		{"no CRLF behind UNKNOWN", Malformed, noCRLF, "PROXY UNKNOWN \n" + request, BytesKept},
		{"no CRLF, and no other wrong byte", Malformed, noCRLF, "PROXY TCP4 " + strings.Repeat("1", 200), wire.MaxSizeV1},
		{"a v2 header that is cut off, and may have the wrong length", Malformed, errors.New("cut off"), v2[:30] + request, BytesKept},
		{"another header", Forbidden, nil, line, BytesKept},
		{"another error", Missing, wire.Error{Offset: 100}, request, BytesKept},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, secretTLVs := range []bool{false, true} {
				r := Refusal{Reason: tt.reason, Err: tt.err, SecretTLVs: secretTLVs}
				received := []byte(tt.received)
				r.keep(received)
				clear(received) // the caller uses it again
				want := tt.want
				if secretTLVs && strings.HasPrefix(tt.received, wire.SignatureV2) {
					want = min(want, BytesKept)
				}
				assert.Equal(t, fmt.Sprintf("%x", tt.received[:want]), r.Hex())
			}
		})
	}
}

func TestRefusal_ReceivedIsEmptyIfNothingWasRead(t *testing.T) {
	for reason := Missing; reason < Outcomes; reason++ {
		r := Refusal{Reason: reason}
		r.keep(nil)
		assert.Equal(t, map[bool]string{true: "nothing"}[reason == Silent], r.Received(), reason)
	}
}

func TestRefusal_TextOfTextOnly(t *testing.T) {
	for bytes, want := range map[string]string{
		"":                "",
		"GET / \r\n":      `GET / \x0d\x0a`,
		"a\tb~":           `a\x09b~`,
		`a\b`:             `a\\b`,
		"\x16\x03\x01":    "",
		"GET \x00":        "",
		"\x7f":            "",
		"M\xc3\xbcller /": "",
	} {
		r := Refusal{bytes: []byte(bytes)}
		assert.Equal(t, want, r.Text(), "%q", bytes)
	}
}

// badError is an error whose text cannot be shown.
type badError struct{}

func (badError) Error() string { panic("no text") }

func TestRefusal_ErrorText(t *testing.T) {
	assert.Empty(t, (&Refusal{}).ErrorText())
	assert.Equal(t, "what is wrong", (&Refusal{Err: errors.New("what is wrong")}).ErrorText())
	assert.Equal(t, "(the error cannot be shown)", (&Refusal{Err: badError{}}).ErrorText())
	assert.Equal(t, "the header announces 9000 bytes, but max_header_size is 4096", (&Refusal{Err: SizeError{9000, 4096}}).ErrorText())
}

func TestDetailOf_TooLargeHasTheSizes(t *testing.T) {
	header := []byte(wire.SignatureV2 + "\x21\x11\x20\x00")
	assert.Equal(t, SizeError{16 + 0x2000, 4096}, DetailOf(wire.Error{Problem: wire.ProblemTooLarge}, header, 4096))
	other := wire.Error{Problem: wire.ProblemPort, Offset: 3}
	assert.Equal(t, other, DetailOf(other, header, 4096))
}
