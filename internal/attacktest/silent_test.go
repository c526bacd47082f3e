//go:build linux

package attacktest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
)

// silentEnv names the listener wrapper of a Caddy in a process of its own.
const silentEnv = "PROXY_PROTOCOL_TEST_SILENT"

// silentWrappers are those to be compared. None of them may end the connections.
var silentWrappers = map[string]string{
	"unwrapped": "",
	"built-in":  caddytest.Wrappers("proxy_protocol {\ntimeout 1h\nfallback_policy require\n}"),
	"on":        caddytest.Wrappers("proxy_protocol_mode on {\ntimeout 1h\n}"),
	"trusted":   caddytest.Wrappers("proxy_protocol_mode on {\ntimeout 1h\ntrusted_proxies static private_ranges\n}"),
	"tests":     caddytest.Wrappers("proxy_protocol_mode unspecified {\ntimeout 1h\n}"),
}

// silentConnections are measured, from what firstConnections have needed.
const (
	firstConnections  = 1000
	silentConnections = 5000
)

// memory is what a process holds, in bytes: as the system sees it, and as Go does. They are
// not the same. Memory that Go allocated and nobody has written to is not resident yet,
// like the buffers that net/http and Caddy's own wrapper have ready for each connection.
type memory struct{ resident, allocated int }

// A connection that says nothing costs less memory of a whole Caddy than with Caddy's own
// wrapper, and than with none.
func TestSilentConnections_AreCheap(t *testing.T) {
	if wrapper := os.Getenv(silentEnv); wrapper != "" {
		serveSilently(t, silentWrappers[wrapper])
		return
	}
	needFiles(t, firstConnections+silentConnections)
	cost := make(map[string]memory)
	for wrapper := range silentWrappers {
		cost[wrapper] = silentCost(t, wrapper)
	}
	t.Logf("bytes for each silent connection: %+v", cost)
	for _, this := range []string{"on", "trusted", "tests"} {
		assert.Less(t, cost[this].allocated, cost["unwrapped"].allocated, this)
		assert.Less(t, cost[this].allocated, cost["built-in"].allocated, this)
		assert.Less(t, cost[this].resident, cost["unwrapped"].resident, this)
		if underRaceDetector() {
			continue // its own memory is resident as well, and differs by a sixth from run to run
		}
		// Of Caddy's own wrapper a buffer of 256 bytes is not resident while it is new.
		assert.Less(t, cost[this].resident, cost["built-in"].resident*103/100, this)
	}
}

// silentCost is what a Caddy in a process of its own grows by for each silent connection.
// The clients' ends are here.
func silentCost(t *testing.T, wrapper string) memory {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSilentConnections_AreCheap$", "-test.timeout=2m")
	// Under the race detector a process sleeps for a second when it ends, unless told otherwise.
	cmd.Env = append(os.Environ(), silentEnv+"="+wrapper, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer in.Close() // which ends it
	lines := bufio.NewReader(out)

	var port int
	_, err = fmt.Fscanf(lines, "port %d\n", &port)
	require.NoError(t, err)
	var held []memory
	for _, n := range []int{firstConnections, silentConnections} {
		for range n {
			conn, err := net.DialTimeout("tcp", caddytest.TCP4(port).Address, caddytest.Patience)
			require.NoError(t, err)
			defer conn.Close()
		}
		_, err = fmt.Fprintln(in, n)
		require.NoError(t, err)
		var m memory
		_, err = fmt.Fscanf(lines, "holds %d %d\n", &m.resident, &m.allocated)
		require.NoError(t, err)
		held = append(held, m)
	}
	return memory{
		(held[1].resident - held[0].resident) / silentConnections,
		(held[1].allocated - held[0].allocated) / silentConnections,
	}
}

// serveSilently says how much memory this process holds each time that so many connections
// more have come.
func serveSilently(t *testing.T, options string) {
	port := caddytest.FreePort(t)
	caddytest.Start(t, options, fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nrespond {remote}\n}\n", port))
	goroutines := runtime.NumGoroutine()
	fmt.Printf("port %d\n", port)
	for { // until the other end closes it
		var more int
		if _, err := fmt.Scanln(&more); err != nil {
			return
		}
		goroutines += more
		caddytest.Eventually(t, func() bool { return runtime.NumGoroutine() >= goroutines }, "not all are waiting")
		m := memoryHeld(t)
		fmt.Printf("holds %d %d\n", m.resident, m.allocated)
	}
}

// memoryHeld is what this process holds, without garbage.
func memoryHeld(t *testing.T) memory {
	for range 3 { // what is pooled survives two
		debug.FreeOSMemory()
	}
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size, pages int
	_, err = fmt.Sscan(string(statm), &size, &pages)
	require.NoError(t, err)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{pages * os.Getpagesize(), int(m.HeapAlloc + m.StackInuse)}
}

func underRaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
