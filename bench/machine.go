package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// machine returns a list of the machine, the versions and the settings of the results.
func machine(s settings) (string, error) {
	var b strings.Builder
	line := func(what, value string) { fmt.Fprintf(&b, "- %s: %s\n", what, value) }
	line("Measured", fmt.Sprintf("%s; %d rounds", time.Now().Format(time.DateOnly), s.rounds))
	line("Requests", fmt.Sprintf("in a round, %d turns of %v for each server and kind; %d connections at a time", s.turns, s.turn, s.workers))
	line("Memory", fmt.Sprintf("%d connections", s.connections))
	line("Processors", fmt.Sprintf("%d × %s", runtime.NumCPU(), firstMatch(`(?m)^model name\s*:\s*(.*)$`, fileText("/proc/cpuinfo"))))
	line("Load", fmt.Sprintf("%s (average of the minute before)", firstMatch(`^(\S+)`, fileText("/proc/loadavg"))))
	line("System", fmt.Sprintf("%s %s, %s", runtime.GOOS, firstMatch(`^(\S+)`, fileText("/proc/sys/kernel/osrelease")), runtime.GOARCH))
	line("Go", strings.TrimPrefix(runtime.Version(), "go"))
	for _, m := range []struct{ name, path string }{
		{"Caddy", "github.com/caddyserver/caddy/v2"},
		{"pires", "github.com/pires/go-proxyproto"},
		{"mastercactapus", "github.com/mastercactapus/proxyprotocol"},
	} {
		version, err := output(time.Minute, "go", "list", "-m", "-f", "{{.Path}} {{.Version}}", m.path)
		if err != nil {
			return "", err
		}
		line(m.name, strings.TrimSpace(string(version)))
	}
	if s.caddyOnly {
		return b.String(), nil
	}
	for _, program := range []struct{ name, file string }{{"nginx", "nginx"}, {"HAProxy", "haproxy"}} {
		path, err := find(program.file)
		if err != nil {
			return "", err
		}
		version, err := output(time.Minute, path, "-v")
		if err != nil {
			return "", err
		}
		line(program.name, firstMatch(`version:? (?:nginx/)?(\S+)`, string(version)))
	}
	return b.String(), nil
}

// fileText returns the contents of a file, or nothing if it cannot be read.
func fileText(name string) string {
	text, _ := os.ReadFile(name)
	return string(text)
}

// firstMatch returns the first group of the first match of a pattern, or "unknown".
func firstMatch(pattern, text string) string {
	if match := regexp.MustCompile(pattern).FindStringSubmatch(text); match != nil {
		return match[1]
	}
	return "unknown"
}
