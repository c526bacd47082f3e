// Command mutate changes one check or statement of the code at a time and reports the changes that
// no test notices. Such a change is called a mutant.
//
//	go -C tools run ./mutate ../internal/wire
//	go -C tools run ./mutate .. header.go policy.go
//
// All mutants of a package are compiled into one test binary; an environment variable chooses one.
// First every test runs once by itself, to find the mutants that it reaches. Then every mutant runs
// with the tests that reach it, the quickest first, until one fails. A mutant survives if none
// fails. Survivors are printed, and make the command fail unless equivalent.txt has a reason for
// them.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	jobs  = flag.Int("j", 2, "how many mutants to run at once")
	skip  = flag.String("skip", "", "tests not to run, as a regular expression")
	limit = flag.Duration("limit", 30*time.Second, "leave out tests that take longer")
	only  = flag.String("only", "", "mutants to run, as a regular expression of what -list prints")
	list  = flag.Bool("list", false, "print the mutants and run nothing")
)

func main() {
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: mutate [flags] <directory of a package> [<file> ...]")
		os.Exit(2)
	}
	unexplained, err := run(flag.Arg(0), flag.Args()[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	if unexplained > 0 {
		os.Exit(1)
	}
}

// run runs the mutants of some files of a package, or of all if files is empty. It returns the
// number of mutants that survive without a reason in equivalent.txt.
func run(dir string, files []string) (unexplained int, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	mutants, sources, err := mutate(dir, files)
	if err != nil {
		return 0, err
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return 0, err
	}
	mutants = slices.DeleteFunc(mutants, func(m *mutant) bool { return !chosen.MatchString(m.String()) })
	if *list {
		for _, m := range mutants {
			fmt.Println(m)
		}
		return 0, nil
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	p := &program{dir: dir, binary: filepath.Join(tmp, "mutants.test"), trace: filepath.Join(tmp, "trace")}
	if err := p.build(tmp, sources); err != nil {
		return 0, err
	}
	tests, err := p.measure()
	if err != nil {
		return 0, err
	}
	return p.report(mutants, tests), nil
}

// program is the test binary with all mutants. dir is the package's directory, and trace the file
// to which a test without a mutant writes the mutants that it reaches.
type program struct{ dir, binary, trace string }

// build compiles the test binary. sources are the texts of files, by path, that replace those on
// disk.
func (p *program) build(tmp string, sources map[string]string) error {
	replace := make(map[string]string)
	for path, text := range sources {
		file := filepath.Join(tmp, strconv.Itoa(len(replace))+".go")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		replace[path] = file
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	file := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", file, "-o", p.binary, ".")
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the mutants do not compile: %w\n%s", err, out)
	}
	return nil
}

// test is a test that passes without mutants.
type test struct {
	name    string
	took    time.Duration
	reaches map[int]bool // IDs of the mutants that it reaches
}

// measure runs each test by itself without a mutant, and returns those that pass, the quickest
// first.
func (p *program) measure() ([]*test, error) {
	out, err := p.command(context.Background(), "-test.list", "^(Test|Fuzz)").Output()
	if err != nil {
		return nil, err
	}
	var skipped *regexp.Regexp
	if *skip != "" {
		if skipped, err = regexp.Compile(*skip); err != nil {
			return nil, err
		}
	}
	var tests []*test
	for _, name := range strings.Fields(string(out)) {
		if skipped != nil && skipped.MatchString(name) {
			continue
		}
		began := time.Now()
		if !p.passes(0, []*test{{name: name, took: *limit}}) {
			fmt.Printf("left out, because it fails or takes longer than %s: %s\n", *limit, name)
			continue
		}
		t := &test{name: name, took: time.Since(began), reaches: make(map[int]bool)}
		trace, err := os.ReadFile(p.trace)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, id := range strings.Fields(string(trace)) {
			n, err := strconv.Atoi(id)
			if err != nil {
				return nil, err
			}
			t.reaches[n] = true
		}
		tests = append(tests, t)
	}
	slices.SortFunc(tests, func(a, b *test) int { return int(a.took - b.took) })
	return tests, nil
}

// command returns a command that runs the test binary.
func (p *program) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Dir = p.dir
	cmd.WaitDelay = time.Second // children of a test that was killed may hold its output
	return cmd
}

// passes reports whether the tests pass in one process with a mutant. If mutant is 0, they run
// without one, and the mutants that they reach are written to p.trace.
func (p *program) passes(mutant int, tests []*test) bool {
	var names []string
	timeout := time.Duration(0)
	for _, t := range tests {
		names = append(names, t.name)
		timeout += t.took
	}
	if mutant != 0 {
		timeout = 5*time.Second + 2*timeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout+5*time.Second)
	defer cancel()
	cmd := p.command(ctx, "-test.run", "^("+strings.Join(names, "|")+")$", "-test.failfast", "-test.timeout", timeout.String())
	cmd.Env = append(os.Environ(), "MUTANT="+strconv.Itoa(mutant))
	if mutant == 0 {
		_ = os.Remove(p.trace)
		cmd.Env = append(cmd.Env, "MUTANT_TRACE="+p.trace)
	}
	return cmd.Run() == nil
}

// quick is the time below which a test runs in one process with others.
const quick = 500 * time.Millisecond

// survives reports whether all tests that reach a mutant pass.
func (p *program) survives(m *mutant, tests []*test) bool {
	var together []*test
	for _, t := range tests {
		if t.reaches[m.id] && t.took < quick {
			together = append(together, t)
		}
	}
	if len(together) > 0 && !p.passes(m.id, together) {
		return false
	}
	for _, t := range tests {
		if t.reaches[m.id] && t.took >= quick && !p.passes(m.id, []*test{t}) {
			return false
		}
	}
	return true
}

//go:embed equivalent.txt
var equivalent string

// explanations returns the reasons in equivalent.txt, by the name of the mutant.
func explanations() map[string]string {
	why := make(map[string]string)
	for line := range strings.Lines(equivalent) {
		if name, reason, ok := strings.Cut(strings.TrimSpace(line), " # "); ok {
			why[strings.TrimSpace(name)] = reason
		}
	}
	return why
}

// report runs all mutants, prints the survivors and a summary, and returns the number of survivors
// without a reason.
func (p *program) report(mutants []*mutant, tests []*test) (unexplained int) {
	why := explanations()
	var survivors []*mutant
	var mu sync.Mutex
	var wait sync.WaitGroup
	next := make(chan *mutant)
	for range *jobs {
		wait.Go(func() {
			for m := range next {
				if !p.survives(m, tests) {
					continue
				}
				mu.Lock()
				survivors = append(survivors, m)
				if reason, ok := why[m.name()]; ok {
					fmt.Printf("%s\n\tsurvives: %s\n", m, reason)
				} else {
					unexplained++
					fmt.Printf("%s\n\tSURVIVES\n", m)
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range mutants {
		next <- m
	}
	close(next)
	wait.Wait()

	reached := make(map[int]bool)
	for _, t := range tests {
		maps.Copy(reached, t.reaches)
	}
	missed := 0
	for _, m := range mutants {
		if !reached[m.id] {
			missed++
		}
	}
	fmt.Printf("%d mutants, %d killed, %d survive and are explained, %d survive unexplained (%d of all survivors are reached by no test)\n",
		len(mutants), len(mutants)-len(survivors), len(survivors)-unexplained, unexplained, missed)
	return unexplained
}
