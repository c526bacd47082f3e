package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func sendCommand() *cobra.Command {
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use: "send [--v1 | --v2] [--source <ip:port>] [--destination <ip:port>] [--local] [--tlv <name>=<value>] [--sign-key <key> [--sign-tlv <0xNN>]] [--checksum] " +
			`[--connect <host:port>|unix//<path>] [--sni <name>] [--bind <ip>] [--method <method>] [--header "Field: value"] [--insecure] [--timeout <duration>] <url>`,
		Short: "Sends a request behind a PROXY protocol header",
		Long: `
Sends one HTTP or HTTPS request on a connection that begins with a PROXY
protocol header, and prints the response.

The header is of version 2 unless --v1 is given, and has the connection's own
addresses unless you give others. If you give one address, and the connection's
other address is of another family, the header has 0.0.0.0 or :: in its place.

--local sends a LOCAL header, which has no addresses, as health checks do.

--connect connects to another address than that of the URL, or to a Unix socket
as Caddy writes it: unix//run/caddy.sock or, on Linux, unix/@name. A Unix socket
has no IP addresses to put into the header, so that you must give one.

--tlv adds a TLV by name. It can be repeated. The names are:

    ` + tlvNames() + `,
    and 0xNN for the value of any type in hexadecimal.

--sign-key adds a signature behind the TLVs, for listeners with the option
'require signature'.

` + keyHelp + `

Unprintable bytes in the response are shown as \xNN, except for the ends of
lines, and a backslash is shown as \\. Redirects are not followed. Proxies in
the environment are not used.

The exit code is 0 if there was a response, whatever its status.
`,
		Example: `  $ caddy proxy-protocol send http://localhost:8080
  $ caddy proxy-protocol send --v1 --source 203.0.113.7:51234 https://example.com
  $ caddy proxy-protocol send --source "[2001:db8::7]:51234" --tlv authority=example.com --checksum http://localhost:8080
  $ caddy proxy-protocol send --local http://localhost:8080
  $ caddy proxy-protocol send --connect 10.0.0.20:443 https://example.com`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().Bool("v1", false, "Send a header of version 1")
	cmd.Flags().Bool("v2", false, "Send a header of version 2 (the default)")
	cmd.Flags().String("source", "", "Address of the client that the header names")
	cmd.Flags().String("destination", "", "Address that the client connected to")
	cmd.Flags().Bool("local", false, "Send a LOCAL header")
	tlvFlag(cmd)
	signFlags(cmd)
	cmd.Flags().Bool("checksum", false, "Add a checksum")
	cmd.Flags().String("connect", "", "Address to connect to (default: that of the URL)")
	cmd.Flags().String("sni", "", "Server name to ask for in TLS, and to verify (default: the URL's host)")
	bindFlag(cmd)
	cmd.Flags().StringP("method", "X", http.MethodGet, "Method of the request")
	cmd.Flags().StringArrayP("header", "H", nil, `Field of the request (format: "Field: value")`)
	cmd.Flags().BoolP("insecure", "k", false, "Do not verify the server's certificate")
	timeoutFlag(cmd, 10*time.Second, "How long to wait for the whole response")
	cmd.MarkFlagsMutuallyExclusive("v1", "v2")
	for _, other := range []string{"v1", "source", "destination", "tlv", "sign-key", "checksum"} {
		cmd.MarkFlagsMutuallyExclusive("local", other)
	}
	for _, other := range []string{"tlv", "sign-key", "checksum"} {
		cmd.MarkFlagsMutuallyExclusive("v1", other)
	}
	complete(cmd, "source", cobra.NoFileCompletions)
	complete(cmd, "destination", cobra.NoFileCompletions)
	complete(cmd, "connect", cobra.NoFileCompletions)
	complete(cmd, "sni", cobra.NoFileCompletions)
	complete(cmd, "header", cobra.NoFileCompletions)
	complete(cmd, "method", offer(http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
		http.MethodPatch, http.MethodDelete, http.MethodOptions))
	run(cmd, runSend)
	return cmd
}

// tlvNames returns the names of TLVs for the help text, wrapped into lines.
func tlvNames() string {
	var out output
	out.paragraph("    ", "    ", strings.Join(tlv.Names(), ", "))
	return strings.TrimSpace(out.String())
}

// offerTLVs is the completion function of --tlv.
func offerTLVs(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	for _, name := range tlv.Names() {
		names = append(names, name+"=")
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func runSend(out *output, _ io.Reader, flags caddycmd.Flags) error {
	header, err := parseHeader(flags)
	if err != nil {
		return err
	}
	request, err := parseRequest(flags)
	if err != nil {
		return err
	}
	s := sender{header: header}
	if s.to, err = parseConnect(flags); err != nil {
		return err
	}
	if s.to.network == "unix" && header.needsAddresses() {
		return errUnixAddresses
	}
	if s.tls, err = parseTLS(flags, request.URL); err != nil {
		return err
	}
	timeout, err := timeoutOf(flags)
	if err != nil {
		return err
	}
	response, err := s.send(request, timeout)
	if err != nil {
		return sendProblem(err, timeout)
	}
	defer response.Body.Close()
	return printResponse(out, response)
}

// parseRequest returns the request that the flags and the argument describe.
func parseRequest(flags caddycmd.Flags) (*http.Request, error) {
	if flags.NArg() != 1 {
		return nil, fmt.Errorf("send needs one URL, such as http://localhost:8080, not %d", flags.NArg())
	}
	target, err := url.Parse(flags.Arg(0))
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Hostname() == "" {
		return nil, fmt.Errorf("send needs a URL such as http://localhost:8080, not '%s'", flags.Arg(0))
	}
	request, err := http.NewRequest(strings.ToUpper(flags.String("method")), target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("--method must be a method such as GET, not '%s'", flags.String("method"))
	}
	fields, err := flags.GetStringArray("header")
	if err != nil {
		return nil, err
	}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header must be like 'Field: value', not '%s'", field)
		}
		value = strings.TrimSpace(value)
		if strings.EqualFold(name, "Host") {
			request.Host = value
		} else {
			request.Header.Add(name, value)
		}
	}
	if request.UserAgent() == "" {
		request.Header.Set("User-Agent", userAgent)
	}
	return request, nil
}

// parseConnect returns where to connect to, and from where. Its address is empty if it is that of
// the URL.
func parseConnect(flags caddycmd.Flags) (target, error) {
	t, ok := target{network: "tcp"}, true
	if address := flags.String("connect"); address != "" {
		if t, ok = parseTarget(address); !ok {
			return t, fmt.Errorf("--connect must be a host:port, such as 10.0.0.20:443, or unix//<path>, not '%s'", address)
		}
	}
	return t, t.bindTo(flags)
}

// parseTLS returns the TLS configuration that the flags describe.
func parseTLS(flags caddycmd.Flags, to *url.URL) (*tls.Config, error) {
	sni := flags.String("sni")
	if sni != "" && to.Scheme != "https" {
		return nil, errors.New("--sni needs a URL that begins with https")
	}
	return &tls.Config{ServerName: sni, InsecureSkipVerify: flags.Bool("insecure")}, checkServerName("sni", sni) //nolint:gosec // the user asked for it
}

// headerFlags is the header that the flags describe.
type headerFlags struct {
	version             uint8
	local, checksum     bool
	source, destination netip.AddrPort // invalid if not given
	tlvs                []wire.TLV
	signer              *signer
}

// parseHeader returns the header that the flags describe. It finds all errors that do not depend
// on the connection's addresses.
func parseHeader(flags caddycmd.Flags) (*headerFlags, error) {
	h := &headerFlags{version: 2, local: flags.Bool("local"), checksum: flags.Bool("checksum")}
	if flags.Bool("v1") {
		h.version = 1
	}
	var err error
	if h.source, err = parseAddress(flags, "source"); err != nil {
		return nil, err
	}
	if h.destination, err = parseAddress(flags, "destination"); err != nil {
		return nil, err
	}
	if h.source.IsValid() && h.destination.IsValid() && h.source.Addr().Is4() != h.destination.Addr().Is4() {
		return nil, errors.New("--source and --destination must be both IPv4 or both IPv6")
	}
	if h.tlvs, err = parseTLVs(flags); err != nil {
		return nil, err
	}
	if h.signer, err = parseSigner(flags); err != nil {
		return nil, err
	}
	// Any addresses do: the remaining errors do not depend on the connection's.
	_, err = h.encode(claimed4, claimedDest4)
	return h, err
}

// tlvFlag adds the flag --tlv.
func tlvFlag(cmd *cobra.Command) {
	cmd.Flags().StringArray("tlv", nil, "TLV to add, by name")
	complete(cmd, "tlv", offerTLVs)
}

// parseTLVs returns the TLVs of the flag --tlv.
func parseTLVs(flags caddycmd.Flags) ([]wire.TLV, error) {
	given, err := flags.GetStringArray("tlv")
	if err != nil {
		return nil, err
	}
	var values []tlv.Value
	for _, text := range given {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("--tlv must be like 'authority=example.com', not '%s'", text)
		}
		values = append(values, tlv.Value{Name: name, Text: value})
	}
	tlvs, err := tlv.Encode(values)
	if err != nil {
		return nil, fmt.Errorf("--tlv: %w", err)
	}
	return tlvs, nil
}

// parseAddress returns the address and port in a flag, or the zero AddrPort if it was not given.
func parseAddress(flags caddycmd.Flags, flag string) (netip.AddrPort, error) {
	text := flags.String(flag)
	if text == "" {
		return netip.AddrPort{}, nil
	}
	address, err := netip.ParseAddrPort(text)
	if err != nil || address.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("--%s must be like 203.0.113.7:51234 or [2001:db8::7]:51234, not '%s'", flag, text)
	}
	return address, nil
}

// encode returns the bytes of the header for a connection between these addresses. Addresses that
// the flags do not give are those of the connection.
func (h *headerFlags) encode(local, remote netip.AddrPort) ([]byte, error) {
	if h.local {
		return wire.Append(nil, wire.NewLocal(), nil, false)
	}
	source, destination := h.source, h.destination
	switch {
	case source.IsValid() && !destination.IsValid():
		destination = ofFamily(remote, source)
	case !source.IsValid() && destination.IsValid():
		source = ofFamily(local, destination)
	case !source.IsValid():
		source, destination = local, remote
	}
	header, err := wire.NewProxy(h.version, wire.Stream, source, destination)
	if err != nil {
		return nil, err
	}
	tlvs, err := h.signer.sign(&header, h.tlvs)
	if err != nil {
		return nil, err
	}
	return wire.Append(nil, header, tlvs, h.checksum)
}

// needsAddresses reports whether the header needs the addresses of the connection.
func (h *headerFlags) needsAddresses() bool {
	return !h.local && !h.source.IsValid() && !h.destination.IsValid()
}

var errUnixAddresses = errors.New("a Unix socket has no IP addresses for the header: give --source, or --local for a header without addresses")

// ofFamily returns address if its family is that of other. Otherwise it returns the unspecified
// address of other's family, with the port of address.
func ofFamily(address, other netip.AddrPort) netip.AddrPort {
	if address.IsValid() && address.Addr().Is4() == other.Addr().Is4() {
		return address
	}
	if other.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), address.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), address.Port())
}

// sender sends a request on a connection that begins with a header.
type sender struct {
	header *headerFlags
	to     target
	tls    *tls.Config
}

// send sends a request.
func (s *sender) send(request *http.Request, timeout time.Duration) (*http.Response, error) {
	client := &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig:        s.tls,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxResponse,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				to := s.to
				to.address = cmp.Or(to.address, address)
				conn, err := to.dial(ctx, timeout)
				if err != nil {
					return nil, err
				}
				header, err := s.header.encode(addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr()))
				if err != nil {
					conn.Close()
					return nil, err
				}
				return &prefixedConn{Conn: conn, prefix: header}, nil
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return client.Do(request)
}

// addrPort returns an end of a TCP connection, with its IP address unmapped and without a zone.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// sendProblem returns an error that explains why there is no response.
func sendProblem(err error, timeout time.Duration) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	var opErr *net.OpError
	var certErr *tls.CertificateVerificationError
	dialing := errors.As(err, &opErr) && opErr.Op == "dial"
	switch {
	case isTimeout(err):
		return fmt.Errorf("no response within %v", timeout)
	case dialing:
		return fmt.Errorf("no connection: %w", err)
	case errors.As(err, &certErr):
		return fmt.Errorf("%w: use --insecure to skip this check", err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("the server closed the connection without a response: it may refuse the header, or this peer")
	default:
		return fmt.Errorf("no response: %w", err)
	}
}

// maxResponse is the number of bytes that are read of the head, and of the body, of a response.
const maxResponse = 1 << 20

func printResponse(out *output, response *http.Response) error {
	out.line("%s %s", escape.Text(response.Proto), escape.Text(response.Status))
	type field struct{ name, value string }
	var fields []field
	for name, values := range response.Header {
		for _, value := range values {
			fields = append(fields, field{name, value})
		}
	}
	// Sorted, because the order of the fields got lost in the map.
	slices.SortStableFunc(fields, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	for _, field := range fields {
		out.line("%s: %s", escape.Text(field.name), escape.Text(field.value))
	}
	out.line("")

	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	cut := len(body) > maxResponse
	text := escape.Lines(string(body[:min(len(body), maxResponse)]))
	out.WriteString(text)
	if text != "" && !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
		out.line("")
	}
	switch {
	case err != nil:
		return fmt.Errorf("the response ends too early: %w", err)
	case cut:
		return fmt.Errorf("the response is longer than %d bytes: the rest is not shown", maxResponse)
	default:
		return nil
	}
}
