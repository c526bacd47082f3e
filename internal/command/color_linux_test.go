package command_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// onTerminal runs 'caddy proxy-protocol' on a terminal, and returns what it writes there.
func onTerminal(t testing.TB, input string, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here")
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	defer terminal.Close()

	cmd := root()
	cmd.SetIn(strings.NewReader(input))
	cmd.SetOut(terminal)
	cmd.SetArgs(append([]string{"proxy-protocol"}, args...))
	_ = cmd.Execute()
	const end = "\x04 end"
	_, err = terminal.WriteString(end)
	require.NoError(t, err)
	var all []byte
	for !strings.HasSuffix(string(all), end) {
		b := make([]byte, 4096)
		n, err := master.Read(b)
		require.NoError(t, err)
		all = append(all, b[:n]...)
	}
	return strings.ReplaceAll(strings.TrimSuffix(string(all), end), "\r\n", "\n")
}

func TestColors(t *testing.T) {
	const red, yellow, blue, plain = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[0m"
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(statusAnswer)) }))
	defer admin.Close()
	status := []string{"status", "--address", admin.Listener.Addr().String()}
	on := likeOn.serve(t)
	unspecified := likeUnspecified.serve(t)
	for _, test := range []struct {
		input string
		args  []string
		wants []string
	}{
		{"", status, []string{
			"  " + yellow + "hint:" + plain + " every connection comes from one private address without a header: if it\n        is a load",
			"192.0.2.1:51234      " + yellow + "missing" + plain + "    http      GET /",
			"  10.0.0.1:3           " + yellow + "duplicate" + plain + "  v1        50524f5859\n",
		}},
		{"PROXY TCP5 ", []string{"decode"}, []string{red + "Wrong" + plain + " at byte 6"}},
		{"PROXY TCP4 ", []string{"decode"}, []string{yellow + "Cut off in the evidence" + plain + ": only 11"}},
		{"PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n", []string{"decode"}, []string{yellow + "A second header"}},
		{"", []string{"check", "--expect", "on", on}, []string{"Verdict: " + blue + "on, as expected" + plain + "\n"}},
		{"", []string{"check", "--expect", "off", on}, []string{"Verdict: " + red + "on" + plain + "\n"}},
		{"", []string{"check", on}, []string{"Verdict: on\n"}},
		{"", []string{"check", unspecified}, []string{"Verdict: " + yellow + "unspecified" + plain + "\n"}},
	} {
		t.Setenv("TERM", "xterm")
		t.Setenv("NO_COLOR", "")
		colored := onTerminal(t, test.input, test.args...)
		for _, want := range test.wants {
			assert.Contains(t, colored, want)
		}
		uncolored, _ := proxyProtocol(t, test.input, test.args...)
		requireHarmless(t, uncolored)
		if test.args[0] != "check" {
			assert.Equal(t, uncolored, strings.NewReplacer(red, "", yellow, "", blue, "", plain, "").Replace(colored), "columns stay where they are")
		}
		t.Setenv("NO_COLOR", "1")
		requireHarmless(t, onTerminal(t, test.input, test.args...))
		t.Setenv("NO_COLOR", "")
		t.Setenv("TERM", "xterm-mono")
		requireHarmless(t, onTerminal(t, test.input, test.args...))
	}
}
