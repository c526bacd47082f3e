package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := parse(strings.ReplaceAll(`# Title
'''console
$ not this
'''
## Quick start
'''sh
$ nor this
'''
'''console
$ curl \
  -s http://localhost:8080/
hello

...
$ true
'''
### Still quick
'''console
$ echo "# no heading"
# no heading
## neither
'''
## Tests
'''console
$ too late
'''
`, "'''", "```"))
	want := []step{
		{"curl \\\n  -s http://localhost:8080/", []string{"hello", "", "..."}},
		{"true", nil},
		{`echo "# no heading"`, []string{"# no heading", "## neither"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v", got, err)
	}

	if got, err := parse("## Quick start\n```console\noutput\n```\n"); err == nil {
		t.Errorf("a block that begins with output: %q", got)
	}
}

func TestCompare(t *testing.T) {
	for _, tt := range []struct {
		want, output string
		match        bool
	}{
		{"", "", true},
		{"", "surprise\n", false},
		{"hello", "hello\r\n", true},
		{"hello", "hello, world\n", false},
		{"hello", "one\nhello\n", false},
		{"hello", "hello\ntwo\n", false},
		{"hello", "", false},
		{"a.c", "abc\n", false},
		{"INFO server running", "\x1b[34mINFO\x1b[0m\tserver  running\n", true},
		{"hello", "go: downloading example.com/x v1.0.0\nhello\n", true},
		{"from <ip>:<port>!", "from 192.0.2.1:4711!\n", true},
		{"from <ip>:<port>!", "from :4711!\n", false},
		{"<one line>", "one\ntwo\n", false},
		{"...", "", true},
		{"one\n...\nfour", "one\ntwo\n\nthree\nfour\n", true},
		{"one\n...\nfour", "one\nfour\n", true},
		{"one\n...\nfour", "one\nfour\nfive\n", false},
		{"one\n...", "two\n", false},
		{"one\n\ntwo", "one\ntwo\n", false},
	} {
		err := step{want: strings.Split(tt.want, "\n")}.compare(tt.output)
		if (err == nil) != tt.match {
			t.Errorf("%q with %q: %v", tt.want, tt.output, err)
		}
	}
}

func TestAddress(t *testing.T) {
	for command, want := range map[string]string{
		"curl -v http://127.0.0.1:8080/x":               "127.0.0.1:8080",
		"curl 'https://[::1]:8443'":                     "[::1]:8443",
		"curl https://example.com --connect-to ::[::1]": "localhost:443",
		"curl http://localhost/":                        "localhost:80",
		"nc localhost 80":                               "",
	} {
		if got, err := address([]step{{command: "true"}, {command: command}}); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", command, got, err)
		}
	}
}

// TestMain runs the test binary as the server of the READMEs in TestRun if an environment variable
// is set, and otherwise runs the tests.
func TestMain(m *testing.M) {
	if addr := os.Getenv("QUICKSTART_TEST_SERVE"); addr != "" {
		fmt.Println("starting\nlistening on", addr)
		fmt.Println(http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/exit" {
				os.Exit(4)
			}
			fmt.Fprintln(w, "hello")
		})))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	server := "$ QUICKSTART_TEST_SERVE=" + addr + " " + os.Args[0] + " run --config Caddyfile.example\n"
	hello := "$ curl http://" + addr + "/\nhello\n" // no progress meter: it is a terminal

	for name, tt := range map[string]struct {
		readme, err string
	}{
		"good": {server + "...\nlistening on <address>\n" + hello +
			"$ curl http://127.0.0.1:1/\ncurl: (7) Failed to connect to <host> port 1 after <n> ms: <reason>\n$ pwd\n...\n", ""},
		"wrong output":      {server + "$ curl http://" + addr + "/\ngoodbye\n", "above,\ngoodbye"},
		"wrong server log":  {server + "nonsense\n" + hello, "above,\nnonsense"},
		"silent failure":    {server + hello + "$ false\n", "exit status 1"},
		"server dies early": {"$ exit 3; " + server[2:] + hello, "exit status 3"},
		"server dies late":  {server + hello + "$ curl http://" + addr + "/exit; sleep 1\n...\n", "did not live"},
		"no server":         {hello, "found 0"},
		"nothing compared":  {server + "$ curl http://" + addr + "/\n...\n", "found 0"},
	} {
		t.Run(name, func(t *testing.T) {
			readme := filepath.Join(t.TempDir(), "README.md")
			if err := os.WriteFile(readme, []byte("## Quick start\n\n```console\n"+tt.readme+"```\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			err := run(t.Context(), readme)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %v", err)
			}
			if answers(addr) {
				t.Error("the server is still there")
			}
		})
	}

	busy, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	steps, err := parse("## Quick start\n```console\n" + server + hello + "```\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := steps[0].serve(t.Context(), t.TempDir(), steps[1:]); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a port in use: %v", err)
	}
}
