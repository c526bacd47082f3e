package command_test

// What tests that run the commands have in common.

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

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/portzero/caddy-proxy-protocol/internal/command"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

const (
	patience = caddytest.Patience
	// impatience is how long a command waits for what must not happen.
	impatience = "1s"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// root is a caddy that has only this command.
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

// caddy runs a command with this standard input, and returns what it prints. An error is
// what makes it exit with a code other than 0.
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

// proxyProtocol is caddy proxy-protocol.
func proxyProtocol(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	return caddy(t, input, append([]string{"proxy-protocol"}, args...)...)
}

// transcript is what a terminal shows of a command.
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

// requireGolden compares text with that of a golden file.
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

// requireHarmless asserts that no terminal is steered by this text.
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

// serveAt is serve at some address.
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

// deadAddress is one that nobody listens at.
func deadAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// certificate returns the server certificate of all tests, and it with its key as PEM.
var certificate = sync.OnceValues(func() (cert tls.Certificate, pemText []byte) {
	c := caddytest.Certificate()
	pemText = slices.Concat(c.CertPEM, c.KeyPEM)
	cert, err := tls.X509KeyPair(pemText, pemText)
	caddytest.Must(err)
	return cert, pemText
})
