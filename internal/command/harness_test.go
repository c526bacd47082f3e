package command_test

// Helpers of the tests that run the commands.

import (
	"bytes"
	"crypto/tls"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	caddycore "github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/portzero/caddy-proxy-protocol/internal/command"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

const (
	patience = caddytest.Patience
	// impatience is the timeout of commands in tests whose server does not answer.
	impatience = "1s"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// A Caddy that happens to run on this machine has nothing to do with the tests.
func init() { caddycore.DefaultAdminListen = "localhost:9" }

// root returns the command caddy, with proxy-protocol as its only subcommand.
func root() *cobra.Command {
	registered := caddycmd.Commands()["proxy-protocol"]
	cmd := &cobra.Command{
		Use:   registered.Name + " " + registered.Usage,
		Short: registered.Short,
		Long:  registered.Long,
	}
	registered.CobraFunc(cmd)
	root := &cobra.Command{Use: "caddy", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(cmd)
	return root
}

// caddy runs a command with input as the standard input, and returns its output. With an error,
// the exit code would not be 0.
func caddy(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetIn(strings.NewReader(input))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Execute() }()
	select {
	case err := <-ended:
		return out.String(), err
	case <-time.After(2 * patience):
		require.Fail(t, "the command does not end", "%v", args)
		return "", nil
	}
}

// proxyProtocol runs 'caddy proxy-protocol' with these arguments.
func proxyProtocol(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	return caddy(t, input, append([]string{"proxy-protocol"}, args...)...)
}

// transcript returns the text that a terminal shows for a command and its output.
func transcript(output string, err error, args ...string) string {
	text := "$ caddy " + strings.Join(args, " ") + "\n" + output
	if err != nil {
		text += "error: " + err.Error() + "\n"
	}
	return text
}

var (
	loopbackPort = regexp.MustCompile(`(127\.0\.0\.1|\[::1\]|localhost):\d+`)
	tempDir      = regexp.MustCompile(regexp.QuoteMeta(filepath.Clean(os.TempDir())) + `[^\s':]*/`)
)

// requireGolden compares text with a golden file. Ports and temporary directories may differ.
func requireGolden(t testing.TB, name, text string) {
	t.Helper()
	text = loopbackPort.ReplaceAllString(text, "$1:PORT")
	text = tempDir.ReplaceAllString(text, "DIR/")
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return
	}
	golden, err := os.ReadFile(path)
	require.NoError(t, err, "run go test with -update to write it")
	assert.Equal(t, string(golden), text)
}

// requireHarmless asserts that a text has no control characters but newlines.
func requireHarmless(t testing.TB, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			require.Fail(t, "a control character", "%q in %q", r, text)
		}
	}
}

// serve accepts connections on a port until the test ends, and returns its address.
func serve(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", handle)
}

// serveAt is serve with an address to listen at.
func serveAt(t testing.TB, address string, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	var open sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			open.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return l.Addr().String()
}

// deadAddress returns an address whose port is closed.
func deadAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// certificate returns the server certificate of all tests, and the PEM text of the certificate
// and its key.
var certificate = sync.OnceValues(func() (cert tls.Certificate, pemText []byte) {
	c := caddytest.Certificate()
	pemText = slices.Concat(c.CertPEM, c.KeyPEM)
	cert, err := tls.X509KeyPair(pemText, pemText)
	caddytest.Must(err)
	return cert, pemText
})
