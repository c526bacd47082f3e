// Command quickstart runs the commands of the README's quick start as written, and compares their
// output with the output in the README.
//
//	quickstart README.md
//
// The commands are in the fenced console blocks under the heading "## Quick start". They run in
// order, in the directory of the README, each in a bash of its own: a cd, an export or a process in
// the background ends with its command. In a console block
//
//   - a line that begins with "$ " is a command; a backslash at the end of the line continues the
//     command on the next line;
//   - the lines after a command are its output, including standard error;
//   - a line "..." stands for any number of lines, including none;
//   - <words> in angle brackets stand for any text within the line.
//
// The command that contains "run --config Caddyfile.example" is the server. It runs in the
// background until the end. The next command runs when the server answers. The server may print
// more lines than the README shows.
//
// A command may fail if its output is that of the README. Its exit status only counts if the README
// shows no output, or only "...".
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	section      = "## Quick start"
	serverMarker = "run --config Caddyfile.example"

	// The first start may have to compile all of Caddy.
	serverTimeout  = 120 * time.Second
	commandTimeout = 10 * time.Minute
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: quickstart README.md")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
	fmt.Println("quickstart: every command printed what the README says")
}

func run(ctx context.Context, readme string) (failed error) {
	text, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	steps, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	dir, err := filepath.Abs(filepath.Dir(readme))
	if err != nil {
		return err
	}

	// Without a server and an output to compare, the check would pass without checking anything.
	servers, checks := 0, 0
	for _, s := range steps {
		if s.server() {
			servers++
		} else if !s.saysNothing() {
			checks++
		}
	}
	if servers != 1 || checks == 0 {
		return fmt.Errorf("%s: under %q there must be console blocks with one command that contains %q (found %d) and at least one other with output to compare (found %d)",
			readme, section, serverMarker, servers, checks)
	}

	for i, s := range steps {
		fmt.Println("$", s.command)
		if !s.server() {
			if err := s.run(ctx, dir); err != nil {
				return err
			}
			continue
		}
		srv, err := s.serve(ctx, dir, steps[i+1:])
		if err != nil {
			return err
		}
		defer func() { failed = errors.Join(failed, s.finish(srv)) }()
	}
	return nil
}

// step is one command and the lines that the README shows below it.
type step struct {
	command string
	want    []string
}

// parse returns the commands of the console blocks in the quick start section.
func parse(readme string) ([]step, error) {
	var steps []step
	var last *step // the last step of the current block
	inSection, fence, continued, number := false, "", false, 0
	for line := range strings.Lines(readme) {
		number++
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case strings.HasPrefix(line, "```"):
			if fence == "" {
				fence = strings.TrimLeft(line, "`") + " " // never empty within a block
			} else {
				fence = ""
			}
			last, continued = nil, false
		case fence == "" && (strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "## ")):
			inSection = line == section
		case !inSection || strings.TrimSpace(fence) != "console":
			// prose, or a block of something else
		case continued:
			last.command += "\n" + line
			continued = strings.HasSuffix(line, `\`)
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{command: line[2:]})
			last = &steps[len(steps)-1]
			continued = strings.HasSuffix(line, `\`)
		case last == nil:
			return nil, fmt.Errorf("line %d: a console block begins with output instead of a command", number)
		default:
			last.want = append(last.want, line)
		}
	}
	return steps, nil
}

// server reports whether the command is that of the server.
func (s step) server() bool { return strings.Contains(s.command, serverMarker) }

// saysNothing reports whether any output matches, because the README shows none, or only "...".
func (s step) saysNothing() bool {
	for _, line := range s.want {
		if line != "" && line != "..." {
			return false
		}
	}
	return true
}

// run runs the command and compares its output.
func (s step) run(ctx context.Context, dir string) error {
	p, err := start(s.command, dir)
	if err != nil {
		return err
	}
	defer p.stop()
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(commandTimeout):
		show(p)
		return fmt.Errorf("%q has not ended in %v", s.command, commandTimeout)
	}
	show(p)
	if err := s.compare(p.output()); err != nil {
		return err
	}
	if s.saysNothing() && p.err != nil {
		return fmt.Errorf("%q: %w", s.command, p.err)
	}
	return nil
}

// show prints the output of a process.
func show(p *process) {
	if out := strings.TrimRight(p.output(), "\r\n"); out != "" {
		fmt.Println(out)
	}
}

// serve starts the server and returns when it answers at the address of the later steps.
func (s step) serve(ctx context.Context, dir string, later []step) (*process, error) {
	addr, err := address(later)
	if err != nil {
		return nil, err
	}
	// Another program at this address would answer in place of the server.
	if answers(addr) {
		return nil, fmt.Errorf("%s is in use before the server is started", addr)
	}
	p, err := start(strings.TrimSuffix(strings.TrimSpace(s.command), "&"), dir)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, addr); err != nil {
		p.stop()
		show(p)
		return nil, err
	}
	fmt.Printf("(it answers on %s)\n", addr)
	return p, nil
}

// finish stops the server and compares its output. It is an error if the server has already ended.
func (s step) finish(p *process) error {
	var err error
	select {
	case <-p.done: // by itself, or because a command stopped it
		err = p.err
	default:
	}
	p.stop()
	fmt.Println("--- the server's output")
	show(p)
	fmt.Println("---")
	if err != nil {
		return fmt.Errorf("the server did not live to the end: %w", err)
	}
	// More lines than those in the README may follow.
	return s.compare(p.output(), "...")
}

// compare matches the output with the expected lines, followed by those in more.
func (s step) compare(output string, more ...string) error {
	want := append(s.want[:len(s.want):len(s.want)], more...)
	if !pattern(want).MatchString(normalize(output)) {
		return fmt.Errorf("%q\nshould have printed, in place of what is above,\n%s", s.command, strings.Join(want, "\n"))
	}
	return nil
}

var (
	placeholder = regexp.MustCompile(`<[^<>]+>`)
	blanks      = regexp.MustCompile(`[ \t]+`)
	escape      = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)
	download    = regexp.MustCompile(`(?m)^go: downloading .*\n`)
)

// pattern turns expected lines into an expression for normalized output.
func pattern(want []string) *regexp.Regexp {
	var expr strings.Builder
	expr.WriteString(`^`)
	for line := range strings.Lines(normalize(strings.Join(want, "\n"))) {
		line = strings.TrimSuffix(line, "\n")
		if line == "..." {
			expr.WriteString(`(?:.*\n)*`)
			continue
		}
		at := 0
		for _, m := range placeholder.FindAllStringIndex(line, -1) {
			expr.WriteString(regexp.QuoteMeta(line[at:m[0]]) + `.+`)
			at = m[1]
		}
		expr.WriteString(regexp.QuoteMeta(line[at:]) + `\n`)
	}
	expr.WriteString(`$`)
	return regexp.MustCompile(expr.String())
}

// normalize removes the parts of an output that need not be equal: colours, the width of blanks,
// empty lines at either end, and Go's downloads, which only the first run has.
func normalize(text string) string {
	text = strings.ReplaceAll(text, "\r", "") + "\n"
	text = escape.ReplaceAllString(text, "")
	text = download.ReplaceAllString(text, "")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(blanks.ReplaceAllString(line, " "), " ")
	}
	text = strings.Trim(strings.Join(lines, "\n"), "\n")
	if text == "" {
		return ""
	}
	return text + "\n"
}

var urls = regexp.MustCompile(`https?://[^\s'"/]+`)

// address returns the address of the first URL in the steps, which is that of the server.
func address(steps []step) (string, error) {
	for _, s := range steps {
		for _, raw := range urls.FindAllString(s.command, -1) {
			u, err := url.Parse(raw)
			if err != nil {
				continue
			}
			port := u.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
			}
			// A name such as example.com is mapped to this host by curl's options.
			host := u.Hostname()
			if net.ParseIP(host) == nil {
				host = "localhost"
			}
			return net.JoinHostPort(host, port), nil
		}
	}
	return "", errors.New("no command after the server's has a URL to find it at")
}

// answers reports whether a server accepts connections at addr.
func answers(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// process is a running command on a pseudo-terminal, as for a reader of the README. Without a
// terminal, curl would draw its progress meter, and Caddy would log JSON.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once err is final
	err  error         // only valid after done is closed

	mu  sync.Mutex
	buf bytes.Buffer // the output so far; guarded by mu
}

// start starts a command in a directory.
func start(command, dir string) (*process, error) {
	terminal, tty, err := openPTY()
	if err != nil {
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	p := &process{cmd: exec.Command("bash", "-c", command), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = tty, tty
	// The command gets a process group of its own, which stop ends: if only `go run` were killed,
	// its child would go on.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = p.cmd.Start()
	tty.Close()
	if err != nil {
		terminal.Close()
		return nil, err
	}

	copied := make(chan struct{})
	go func() {
		defer close(copied)
		b := make([]byte, 4096)
		for {
			n, err := terminal.Read(b)
			p.mu.Lock()
			p.buf.Write(b[:n])
			p.mu.Unlock()
			if err != nil { // EIO, when the last process has closed the terminal
				return
			}
		}
	}()
	go func() {
		p.err = p.cmd.Wait()
		// Processes that the command left in the background may never close the terminal.
		select {
		case <-copied:
		case <-time.After(2 * time.Second):
		}
		terminal.Close()
		close(p.done)
	}()
	return p, nil
}

// output returns the output so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.String()
}

// wait returns when the process answers at addr.
func (p *process) wait(ctx context.Context, addr string) error {
	deadline := time.After(serverTimeout)
	for !answers(addr) {
		select {
		case <-p.done:
			return fmt.Errorf("the server has ended before it answered on %s: %v", addr, p.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("the server does not answer on %s after %v", addr, serverTimeout)
		case <-time.After(200 * time.Millisecond):
		}
	}
	// The server's other listeners start right after the first.
	time.Sleep(500 * time.Millisecond)
	return nil
}

// stop ends the whole process group: with SIGINT, and after 10 seconds with SIGKILL.
func (p *process) stop() {
	group := -p.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.done
}
