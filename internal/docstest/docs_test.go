// Package docstest tests the documentation. It has a process of its own, beside those of the
// module's tests.
package docstest

// The documentation is tested as it is written: README.md, and all Markdown in docs.
// What the first line of a code block says decides how:
//
//	```caddyfile                    a whole Caddyfile: formatted, adapts without warnings, loads
//	```caddyfile listener_wrappers  the contents of listener_wrappers: the same, once it is in a Caddyfile
//	```caddyfile error              a whole Caddyfile that does not load, with the text of the next block
//	```json                         JSON; if it has "apps", a config that loads
//	```json apps.http.servers.srv0  what the Caddyfile above it adapts to, at this path
//	```console, text, log or go     what looks like a JSON object in a line is JSON, with any value
//	                                for <words> in angle brackets
//
// "Loads" means that it provisions and validates, as `caddy validate` does; nothing is
// started. In docs, two of them are run as well:
//
//	```console                      commands and what they print, in a shell, with the last whole
//	                                Caddyfile above running, if there is one
//	```log                          lines that it has logged by then
//
// There, <words> stand for any text within a line, a line "..." for any lines, and the
// width of blanks does not matter. (The quick start's console blocks in README.md are run
// by tools/quickstart.) In docs/recipes, TestRecipes runs every whole Caddyfile, and the log
// lines behind it are those of the connections that it makes. Blocks of other languages are
// not looked at.

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"go/format"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"

	proxyprotocol "github.com/portzero/caddy-proxy-protocol"
	"github.com/portzero/caddy-proxy-protocol/internal/match"
	"github.com/portzero/caddy-proxy-protocol/internal/metrics"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/caddytest"
	"github.com/portzero/caddy-proxy-protocol/internal/testutil/headertest"
	"github.com/portzero/caddy-proxy-protocol/internal/tlv"
)

const (
	readme     = "README.md"
	docsFolder = "docs"
)

func TestDocs_Caddyfile(t *testing.T) {
	count := make(map[string]int)
	for _, block := range docsBlocks(t) {
		if block.lang != "caddyfile" {
			continue
		}
		count[block.file]++
		t.Run(block.name(), func(t *testing.T) {
			assert.Equal(t, string(caddyfile.Format([]byte(block.text))), block.text, "not formatted as 'caddy fmt' does")
			switch block.arg {
			case "":
				if !block.isRun() {
					assert.NoError(t, loadDocsCaddyfile(t, block.text))
				}
			case "listener_wrappers":
				assert.NoError(t, loadDocsCaddyfile(t, wrappersInCaddyfile(block.text)))
			case "error":
				require.NotNil(t, block.next, "no block with the error follows")
				assert.ErrorContains(t, loadDocsCaddyfile(t, block.text), strings.TrimSpace(block.next.text))
			default:
				assert.Failf(t, "unknown kind of Caddyfile", "%q", block.arg)
			}
		})
	}
	assert.NotZero(t, count[readme], "%s has no Caddyfile", readme)
}

func TestDocs_JSON(t *testing.T) {
	above := make(map[string]string) // the last whole Caddyfile, by file
	for _, block := range docsBlocks(t) {
		if block.isCaddyfile() {
			above[block.file] = block.text
		}
		if block.lang != "json" {
			continue
		}
		t.Run(block.name(), func(t *testing.T) {
			var value any
			require.NoError(t, json.Unmarshal([]byte(block.text), &value))
			if block.arg != "" {
				require.Contains(t, above, block.file, "no Caddyfile above it")
				assert.JSONEq(t, adaptedAt(t, above[block.file], block.arg), block.text)
				return
			}
			if config, ok := value.(map[string]any); ok && config["apps"] != nil {
				assert.NoError(t, loadDocsJSON(t, []byte(block.text)))
			}
		})
	}
}

func TestDocs_LogLines(t *testing.T) {
	found := 0
	for _, block := range docsBlocks(t) {
		if !slices.Contains([]string{"console", "text", "log", "go"}, block.lang) {
			continue
		}
		for i, line := range strings.Split(block.text, "\n") {
			at := strings.Index(line, `{"`)
			if at < 0 || strings.HasPrefix(line, "$ ") {
				continue
			}
			found++
			object := docsWords.ReplaceAllString(line[at:], "0")
			assert.Truef(t, json.Valid([]byte(object)), "%s:%d: no JSON: %s", block.file, block.line+1+i, object)
		}
	}
	assert.NotZero(t, found)
}

// TestMain makes the test binary the 'caddy' of the documentation's commands, and runs the
// tests in the root of the repository, so that files have the names that they have there.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "caddy" {
		caddycmd.Main()
		return
	}
	caddytest.Must(os.Chdir("../.."))
	caddytest.Must(os.Setenv("LB_KEY", lbKey))
	caddytest.Must(os.Setenv("LB_TOKEN_HEX", "5ec7e7"))
	os.Exit(m.Run())
}

// lbKey is the key of load balancers in the documentation, where it is in LB_KEY and in the files of
// /run/secrets.
const lbKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// withSecrets returns a config with files of its own in place of those of /run/secrets.
func withSecrets(t *testing.T, config []byte) []byte {
	t.Helper()
	const folder = "/run/secrets"
	if !bytes.Contains(config, []byte(folder)) {
		return config
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lb.key"), []byte(lbKey+"\n"), 0o600))
	return bytes.ReplaceAll(config, []byte(folder), []byte(dir))
}

// TestDocs_Console runs the commands of the documentation.
func TestDocs_Console(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux all of 127.0.0.0/8 are addresses of this machine")
	}
	for _, program := range []string{"bash", "curl", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			require.NoError(t, err, "install it, the documentation is run with it")
		}
	}
	blocks := docsBlocks(t)
	for _, file := range docsFiles(t) {
		if file == readme {
			continue
		}
		t.Run(file, func(t *testing.T) {
			shell := newDocsShell(t)
			name, group := "start", []*docsBlock(nil)
			run := func() {
				if slices.ContainsFunc(group, func(b *docsBlock) bool { return b.lang == "console" }) {
					t.Run(name, func(t *testing.T) { shell.run(t, group) })
				}
			}
			for _, block := range blocks {
				if block.file != file {
					continue
				}
				if block.isCaddyfile() {
					run()
					name, group = block.name(), nil
				}
				group = append(group, block)
			}
			run()
		})
	}
}

// docsShell is where the commands of a file run: with a 'caddy' of their own, in an empty
// directory, which is also that of the Caddy that runs.
type docsShell struct {
	dir    string
	env    []string
	ports  *strings.Replacer // from those of the documentation to free ones
	admin  int
	secure int
	log    string // of the running Caddy
}

func newDocsShell(t *testing.T) *docsShell {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	bin, home := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "caddy")))
	// As curl is on a terminal.
	require.NoError(t, os.WriteFile(filepath.Join(home, ".curlrc"), []byte("silent\nshow-error\n"), 0o600))
	// In the same order, because Caddy numbers its servers by address.
	given, free, replace := []string{"2019", "8080", "8081", "8082", "8443"}, []int(nil), []string(nil)
	for range given {
		free = append(free, caddytest.FreePort(t))
	}
	slices.Sort(free)
	for i, port := range given {
		replace = append(replace, port, strconv.Itoa(free[i]))
	}
	s := &docsShell{dir: t.TempDir(), ports: strings.NewReplacer(replace...), admin: free[0], secure: free[len(free)-1]}
	s.env = []string{
		"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + home,
		"TMPDIR=" + home,
		fmt.Sprintf("CADDY_ADMIN=localhost:%d", s.admin),
		"GOCOVERDIR=" + t.TempDir(), // else each 'caddy' warns when coverage is measured
		"GORACE=atexit_sleep_ms=0",  // else each 'caddy' sleeps for a second when it ends
	}
	t.Chdir(s.dir)
	return s
}

// run runs the commands of blocks, the first of which may be a Caddyfile.
func (s *docsShell) run(t *testing.T, blocks []*docsBlock) {
	for _, block := range blocks {
		text := s.ports.Replace(block.text)
		switch {
		case block.isCaddyfile():
			s.start(t, text)
		case block.lang == "console":
			for _, step := range docsSteps(t, block, text) {
				s.execute(t, block, step)
			}
		case block.lang == "log":
			for line := range strings.Lines(text) {
				s.requireLogged(t, block, line)
			}
		}
	}
}

// start runs Caddy with a Caddyfile, until the test ends.
func (s *docsShell) start(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "Caddyfile"), []byte(text), 0o600)) // for commands
	s.startConfig(t, docsConfig(t, text))
	if strings.Contains(text, "tls internal") {
		s.awaitCertificate(t)
	}
}

// startConfig is start with what a Caddyfile adapts to.
func (s *docsShell) startConfig(t *testing.T, config map[string]any) {
	t.Helper()
	s.startIn(t, caddytest.New(t).Dir, config)
}

// startIn is startConfig with a folder for the storage.
func (s *docsShell) startIn(t *testing.T, storage string, config map[string]any) {
	t.Helper()
	s.log = filepath.Join(t.TempDir(), "caddy.log")
	maps.Copy(config, map[string]any{
		"admin":   map[string]any{"listen": fmt.Sprintf("localhost:%d", s.admin), "config": map[string]any{"persist": false}},
		"storage": map[string]any{"module": "file_system", "root": storage},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{
			"writer":  map[string]any{"output": "file", "filename": s.log},
			"encoder": map[string]any{"format": "json"},
		}}},
	})
	adapted, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(withSecrets(t, adapted), true))
}

// awaitCertificate waits until TLS handshakes succeed, as they do a moment after the start.
func (s *docsShell) awaitCertificate(t *testing.T) {
	t.Helper()
	caddytest.Eventually(t, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.secure))
		if err != nil {
			return false
		}
		defer c.Close()
		_, _ = io.WriteString(c, headertest.Local())
		secure := tls.Client(c, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		return secure.SetDeadline(time.Now().Add(caddytest.Patience)) == nil && secure.Handshake() == nil
	}, "no certificate")
}

// docsStep is a command and what it prints.
type docsStep struct{ command, output string }

func docsSteps(t *testing.T, block *docsBlock, text string) (steps []docsStep) {
	t.Helper()
	continued := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case continued:
			steps[len(steps)-1].command += line
		case isCommand:
			steps = append(steps, docsStep{command: command})
		default:
			require.NotEmpty(t, steps, "%s begins with output", block.name())
			steps[len(steps)-1].output += line
		}
		continued = (isCommand || continued) && strings.HasSuffix(line, "\\\n")
	}
	return steps
}

// execute runs a command and compares what it prints. A command that only looks at the
// numbers of connections is repeated: a connection may end for its client first.
func (s *docsShell) execute(t *testing.T, block *docsBlock, step docsStep) {
	t.Helper()
	want := docsPattern(step.output)
	looks := strings.Contains(step.command, strconv.Itoa(s.admin)) || strings.Contains(step.command, "proxy-protocol status")
	for deadline := time.Now().Add(caddytest.Patience); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*caddytest.Patience)
		command := exec.CommandContext(ctx, "bash", "-c", step.command)
		command.Dir, command.Env = s.dir, s.env
		output, _ := command.CombinedOutput() // what it prints decides
		cancel()
		if want.MatchString(docsNormal(docsTerminal(string(output)))) {
			return
		}
		if !looks || time.Now().After(deadline) {
			assert.Failf(t, "prints something else", "%s: $ %s\n%s\n-- instead of\n%s", block.name(), step.command, output, step.output)
			return
		}
	}
}

// requireLogged waits for a line in the log.
func (s *docsShell) requireLogged(t *testing.T, block *docsBlock, line string) {
	t.Helper()
	want := docsPattern(line)
	for deadline := time.Now().Add(caddytest.Patience); ; time.Sleep(caddytest.Tick) {
		log, err := os.ReadFile(s.log)
		require.NoError(t, err)
		if slices.ContainsFunc(strings.SplitAfter(docsNormal(string(log)), "\n"), want.MatchString) {
			return
		}
		if time.Now().After(deadline) {
			assert.Failf(t, "not logged", "%s: %s\n-- but\n%s", block.name(), line, log)
			return
		}
	}
}

// docsTerminal makes Caddy's error lines look as they do on a terminal.
func docsTerminal(output string) string {
	line := regexp.MustCompile(`(?m)^\{"level":"error","ts":[^,]+,"msg":(".*")\}$`)
	return line.ReplaceAllStringFunc(output, func(entry string) string {
		var msg string
		if err := json.Unmarshal([]byte(line.FindStringSubmatch(entry)[1]), &msg); err != nil {
			return entry
		}
		return "now ERROR " + msg
	})
}

// docsPattern is the pattern of what the documentation says.
func docsPattern(text string) *regexp.Regexp {
	var expr strings.Builder
	for line := range strings.Lines(docsNormal(text)) {
		if line == "...\n" {
			expr.WriteString(`(?:.*\n)*`)
			continue
		}
		at := 0
		for _, word := range docsWords.FindAllStringIndex(line, -1) {
			expr.WriteString(regexp.QuoteMeta(line[at:word[0]]) + `.+`)
			at = word[1]
		}
		expr.WriteString(regexp.QuoteMeta(line[at:]))
	}
	return regexp.MustCompile(`^` + expr.String() + `$`)
}

var (
	docsWords  = regexp.MustCompile(`<[^<>]+>`)
	docsBlanks = regexp.MustCompile(`[ \t]+`)
	docsEnds   = regexp.MustCompile(` *\r?\n`)
)

// docsNormal removes what does not matter: the width of blanks, and empty lines at either
// end.
func docsNormal(text string) string {
	text = docsEnds.ReplaceAllString(docsBlanks.ReplaceAllString(text, " "), "\n")
	if text = strings.Trim(text, "\n"); text == "" {
		return ""
	}
	return text + "\n"
}

// modeNames and outcomeNames are those that users write or see.
var (
	modeNames    = namesOf[policy.Mode](policy.Modes)
	outcomeNames = namesOf[record.Outcome](int(record.Outcomes))
)

// namesOf returns the names of the first n values of a type.
func namesOf[T interface {
	~uint8
	String() string
}](n int) (names []string) {
	for i := range n {
		names = append(names, T(i).String())
	}
	return names
}

// TestDocs_NameEverything checks that nothing users can name or see is left out.
func TestDocs_NameEverything(t *testing.T) {
	page := func(name string) string { return docsRead(t, filepath.Join(docsFolder, name)) }
	has := func(page, text string, want ...string) {
		for _, line := range want {
			assert.True(t, strings.Contains(text, "\n"+line), "%s has no line that begins with: %s", page, line)
		}
	}

	reference := page("reference.md")
	for _, name := range request.PlaceholderNames() {
		has("reference.md", reference, "| `{"+request.PlaceholderRoot+name+"}` |")
	}
	for _, name := range slices.Concat(tlv.Names(), tlv.CertificateNames()) {
		has("reference.md", reference, "| `"+name+"` |")
	}
	for _, name := range slices.Concat(match.Words, match.Options, modeNames) {
		has("reference.md", reference, "- **"+name+"**")
	}

	operations := page("operations.md")
	for i, outcome := range outcomeNames {
		has("operations.md", operations, "| `"+outcome+"` | ")
		if message := record.Outcome(i).Message(false); message != "" {
			has("operations.md", operations, "| `"+outcome+"` | `"+message+"` |")
		}
	}

	troubleshooting := page("troubleshooting.md")
	for outcome := range record.Outcomes {
		if message := outcome.Message(false); message != "" && outcome != record.Silent {
			has("troubleshooting.md", troubleshooting, "| `"+message+"`")
		}
	}

	command := &cobra.Command{Use: "proxy-protocol"}
	caddycmd.Commands()["proxy-protocol"].CobraFunc(command)
	text := page("command.md")
	for _, command := range command.Commands() {
		_, section, _ := strings.Cut(text, "\n## "+command.Name()+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		has("command.md, under "+command.Name()+",", section, "caddy proxy-protocol "+command.Use+"\n")
		if command.Name() == "decode" {
			continue // its only flag is in its use
		}
		for _, flag := range regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(command.Flags().FlagUsages(), -1) {
			assert.Regexp(t, "(?m)^\\| .*`"+flag+"[ `].* \\|", section)
		}
	}
}

// countOfEach counts one connection and one datagram, so that each metric has a value. They are
// forgotten when the returned function is called.
func countOfEach() (forget func()) {
	user := new(proxyprotocol.ListenerWrapper)
	stats := record.Listeners.Acquire(record.Key{Server: "documentation", Address: "127.0.0.1:0"}, user)
	stats.Count(policy.On, 2, record.Client)
	stats.ObserveHeader(time.Millisecond)
	record.Listeners.Acquire(record.Key{Server: "documentation", Address: "udp/127.0.0.1:0"}, user).Count(policy.On, 2, record.Client)
	return func() { record.Listeners.Release(user) }
}

// TestDocs_Metrics checks that the metrics in the documentation, its alerts and its
// dashboard are those that there are, with labels and values that they can have.
func TestDocs_Metrics(t *testing.T) {
	defer countOfEach()()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.Collector{})
	families, err := registry.Gather()
	require.NoError(t, err)
	labels := make(map[string][]string) // by metric
	for _, family := range families {
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels[family.GetName()] = append(labels[family.GetName()], label.GetName())
		}
	}
	values := map[string][]string{"mode": modeNames, "version": record.VersionNames[:], "outcome": outcomeNames}

	// The rule that alerts.yml records.
	labels["caddy_proxy_protocol:outcomes:rate5m"] = []string{"server", "mode", "outcome", "counted"}

	use := regexp.MustCompile(`(caddy_proxy_protocol[\w:]+)(?:\{([^}]*)\})?`)
	match := regexp.MustCompile(`(\w+) *(?:=~|!~|!=|=) *"([^"]*)"`)
	by := regexp.MustCompile(`\b(?:by|without) \(([^)]*)\)`)
	check := func(where, text string) {
		uses := use.FindAllStringSubmatch(text, -1)
		assert.NotEmpty(t, uses, "%s has no metric", where)
		scraped := []string{"instance"}
		for _, u := range uses {
			name := u[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && labels[base] != nil {
					name = base
				}
			}
			if !assert.Contains(t, labels, name, where) {
				continue
			}
			known := slices.Concat(labels[name], scraped, []string{"le"})
			for _, m := range match.FindAllStringSubmatch(u[2], -1) {
				assert.Contains(t, known, m[1], "%s: %s", where, u[0])
				for value := range strings.SplitSeq(m[2], "|") {
					if values[m[1]] != nil {
						assert.Contains(t, values[m[1]], value, "%s: %s", where, u[0])
					}
				}
			}
			for _, grouping := range by.FindAllStringSubmatch(text, -1) {
				for label := range strings.SplitSeq(grouping[1], ", ") {
					assert.Contains(t, known, label, "%s: %s", where, text)
				}
			}
		}
	}

	check("operations.md", docsRead(t, filepath.Join(docsFolder, "operations.md")))

	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Record, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(docsRead(t, filepath.Join(docsFolder, "alerts.yml"))), &rules))
	require.Len(t, rules.Groups, 1)
	for _, rule := range rules.Groups[0].Rules {
		check(rule.Alert+rule.Record, rule.Expr)
		if rule.Record != "" {
			assert.Contains(t, labels, rule.Record)
			continue
		}
		assert.Contains(t, docsRead(t, filepath.Join(docsFolder, "operations.md")), "\n| `"+rule.Alert+"` (")
	}

	var dashboard struct {
		Templating struct{ List []struct{ Name, Type string } }
		Panels     []struct {
			Title string
			// Description says what the panel needs of Caddy.
			Description string
			Datasource  struct{ UID string }
			Targets     []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(docsRead(t, filepath.Join(docsFolder, "grafana.json"))), &dashboard))
	assert.Equal(t, struct{ Name, Type string }{"datasource", "datasource"}, dashboard.Templating.List[0])
	var shown string
	for _, panel := range dashboard.Panels {
		assert.Equal(t, "${datasource}", panel.Datasource.UID, panel.Title)
		for _, target := range panel.Targets {
			check(panel.Title, target.Expr)
			assert.Equal(t, strings.Contains(target.Expr, "_duration_"), strings.Contains(panel.Description, "global option 'metrics'"), panel.Title)
			shown += target.Expr
		}
	}
	for name := range maps.Keys(labels) {
		if !strings.Contains(name, ":") {
			assert.Contains(t, shown, name, "the dashboard")
		}
	}
}

// filesBeside are Markdown files outside of docs.
var filesBeside = []string{"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", filepath.Join("interop", "README.md")}

// TestDocs_Links checks that links within the repository lead somewhere, and that those which
// name a reference have one.
func TestDocs_Links(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	named := regexp.MustCompile(`\]\[([^\]]+)\]`)
	reference := regexp.MustCompile(`(?m)^\[([^\]^]+)\]: https://\S+$`)
	for _, file := range append(docsFiles(t), filesBeside...) {
		prose := docsProse(t, file)
		if !slices.Contains(filesBeside, file) {
			assert.ElementsMatch(t, groupOfAll(named, prose), groupOfAll(reference, prose), "references in %s", file)
		}
		for _, match := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			path, anchor, hasAnchor := strings.Cut(match[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), filepath.FromSlash(path))
			}
			if assert.FileExists(t, target, "link in %s", file) && hasAnchor {
				assert.Contains(t, anchors(docsProse(t, target)), anchor, "link from %s to %s", file, target)
			}
		}
	}
}

// groupOfAll returns what the expression's group matches, each text once.
func groupOfAll(expr *regexp.Regexp, text string) (groups []string) {
	for _, match := range expr.FindAllStringSubmatch(text, -1) {
		groups = append(groups, match[1])
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// TestDocs_Go runs the programs in the documentation. What a program prints is in the next block.
func TestDocs_Go(t *testing.T) {
	found := 0
	for _, block := range docsBlocks(t) {
		if block.lang != "go" {
			continue
		}
		found++
		t.Run(block.name(), func(t *testing.T) {
			formatted, err := format.Source([]byte(block.text))
			require.NoError(t, err)
			assert.Equal(t, string(formatted), block.text)
			program := filepath.Join(t.TempDir(), "main.go")
			require.NoError(t, os.WriteFile(program, []byte(block.text), 0o600))
			command := exec.Command("go", "run", program)
			command.Env = append(os.Environ(), "GOFLAGS=") // those of these tests measure coverage
			output, err := command.CombinedOutput()
			require.NoError(t, err, "%s", output)
			assert.Equal(t, block.next.text, string(output))
		})
	}
	assert.NotZero(t, found)
}

func TestDocs_NameAllOptions(t *testing.T) {
	page := filepath.Join(docsFolder, "configuration.md")
	text := docsRead(t, page)
	for field := range reflect.TypeFor[proxyprotocol.ListenerWrapper]().Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			assert.Contains(t, text, "| `"+name+"` |", "%s has no line for the option %s", page, name)
		}
	}
}

func TestDocs_ExampleCaddyfile(t *testing.T) {
	text := docsRead(t, "Caddyfile.example")
	assert.Equal(t, string(caddyfile.Format([]byte(text))), text, "not formatted as 'caddy fmt' does")
	assert.NoError(t, loadDocsCaddyfile(t, text))
}

// docsBlock is a code block.
type docsBlock struct {
	file string
	line int    // of the fence
	lang string // the first word behind the fence
	arg  string // what follows it
	text string
	next *docsBlock // in the same file
}

func (b *docsBlock) isCaddyfile() bool { return b.lang == "caddyfile" && b.arg == "" }

// isRun reports whether commands for this Caddyfile follow, so that TestDocs_Console loads it.
func (b *docsBlock) isRun() bool {
	if b.file == readme {
		return false
	}
	for next := b.next; next != nil && !next.isCaddyfile(); next = next.next {
		if next.lang == "console" {
			return true
		}
	}
	return false
}

func (b *docsBlock) name() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

// docsBlocks returns the code blocks of all documentation.
func docsBlocks(t *testing.T) (all []*docsBlock) {
	t.Helper()
	for _, file := range docsFiles(t) {
		var last, open *docsBlock
		for i, line := range strings.SplitAfter(docsRead(t, file), "\n") {
			fence, isFence := strings.CutPrefix(line, "```")
			switch {
			case isFence && open == nil:
				lang, arg, _ := strings.Cut(strings.TrimSpace(fence), " ")
				open = &docsBlock{file: file, line: i + 1, lang: lang, arg: arg}
			case isFence:
				if last != nil {
					last.next = open
				}
				all, last, open = append(all, open), open, nil
			case open != nil:
				open.text += line
			}
		}
		require.Nil(t, open, "%s: a code block does not end", file)
	}
	return all
}

// docsFiles returns the names of all documentation.
func docsFiles(t *testing.T) []string {
	t.Helper()
	files := []string{readme}
	if _, err := os.Stat(docsFolder); err != nil {
		require.ErrorIs(t, err, fs.ErrNotExist)
		return files
	}
	require.NoError(t, filepath.WalkDir(docsFolder, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	}))
	return files
}

func docsRead(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

// docsProse returns a file without its code blocks.
func docsProse(t *testing.T, file string) string {
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(docsRead(t, file), "")
}

// anchors returns those that GitHub makes of the headings.
func anchors(prose string) (names []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(prose, -1) {
		name := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// wrappersInCaddyfile puts listener wrappers where they belong.
func wrappersInCaddyfile(wrappers string) string {
	return string(caddyfile.Format(fmt.Appendf(nil, `{
	servers {
		listener_wrappers {
			%s
		}
	}
}

example.com {
	respond "Hello"
}
`, wrappers)))
}

// adaptDocs makes JSON of a Caddyfile. A warning is an error.
func adaptDocs(text string) ([]byte, error) {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err == nil && len(warnings) > 0 {
		err = fmt.Errorf("warnings: %v", warnings)
	}
	return config, err
}

// docsConfig is what a Caddyfile adapts to.
func docsConfig(t *testing.T, text string) (config map[string]any) {
	t.Helper()
	adapted, err := adaptDocs(text)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(adapted, &config))
	return config
}

// adaptedAt returns what a Caddyfile adapts to, at a path of keys and indexes separated by
// dots.
func adaptedAt(t *testing.T, text, path string) string {
	t.Helper()
	var value any = docsConfig(t, text)
	for key := range strings.SplitSeq(path, ".") {
		if list, ok := value.([]any); ok {
			index, err := strconv.Atoi(key)
			require.NoError(t, err, "the path %s", path)
			require.Less(t, index, len(list), "the path %s", path)
			value = list[index]
			continue
		}
		require.Contains(t, value, key, "the path %s", path)
		value = value.(map[string]any)[key]
	}
	config, err := json.Marshal(value)
	require.NoError(t, err)
	return string(config)
}

func loadDocsCaddyfile(t *testing.T, text string) error {
	config, err := adaptDocs(text)
	if err != nil {
		return err
	}
	return loadDocsJSON(t, config)
}

// loadDocsJSON validates a config. It keeps off the user's storage, and logs nothing.
func loadDocsJSON(t *testing.T, text []byte) error {
	t.Helper()
	var config map[string]any
	require.NoError(t, json.Unmarshal(text, &config))
	maps.Copy(config, map[string]any{
		"storage": map[string]any{"module": "file_system", "root": t.TempDir()},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}},
	})
	text, err := json.Marshal(config)
	require.NoError(t, err)
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(withSecrets(t, text), &parsed); err != nil {
		return err
	}
	return caddy.Validate(&parsed)
}
