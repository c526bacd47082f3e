//go:build interop

// Package peers runs other programs, such as load balancers, for tests with the tag interop.
package peers

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait. It is long, because a slow machine is no failure.
const patience = 20 * time.Second

// Need returns the path of a program. If the program is not installed, the test fails with the
// names of the Debian packages to install.
func Need(t testing.TB, name, packages string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	require.NoError(t, err, "%s is not installed: apt-get install -y %s", name, packages)
	return path
}

// Files writes files to a new directory, and returns the path of the directory. Each DIR in the
// contents is replaced by this path.
func Files(t testing.TB, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range contents {
		content = strings.ReplaceAll(content, "DIR", dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

// Start runs a server until the test ends, and waits until the server accepts connections at all
// addresses. An address is a host and a port, or "unix:" and a path.
func Start(t testing.TB, addresses []string, program string, args ...string) {
	t.Helper()
	var printed lockedBuffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	// A child of the program may hold its output open.
	cmd.WaitDelay = time.Second
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s printed:\n%s", program, &printed)
		}
	})
	deadline := time.Now().Add(patience)
	for _, address := range addresses {
		network := "tcp"
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			network, address = "unix", path
		}
		for {
			conn, err := net.DialTimeout(network, address, patience)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-ended:
				require.Fail(t, program+" ended", "%s", cmd.ProcessState)
			case <-time.After(10 * time.Millisecond):
				require.True(t, time.Now().Before(deadline), "%s does not listen at %s", program, address)
			}
		}
	}
}

// lockedBuffer is a buffer for the output of a program.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

// Write appends p.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns the output so far.
func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
