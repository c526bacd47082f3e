package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// process is a running server with its child processes. It ends when its standard input ends, so
// that no server is left, however bench itself ends.
type process struct {
	cmd     *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	started []int // process IDs of the process and its children
}

// startProcess starts a process. log is the file for its standard error; if log is empty, the
// process writes to that of bench.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	p := &process{cmd: cmd}
	var err error
	cmd.Stderr = os.Stderr
	if log != "" {
		file, err := os.Create(log)
		if err != nil {
			return nil, err
		}
		defer file.Close() // the process has its own descriptor by then
		cmd.Stderr = file
	}
	if p.input, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.output = bufio.NewReader(output)
	return p, cmd.Start()
}

// stop ends the process and waits for it.
func (p *process) stop() {
	_ = p.input.Close()
	_ = p.cmd.Wait()
}

// collect makes a Caddy return unused memory to the system, and waits until it has. Other servers
// do nothing.
func (p *process) collect() error {
	if _, err := p.input.Write([]byte("\n")); err != nil {
		return err
	}
	_, err := p.output.ReadByte()
	return err
}

// findProcesses finds the children of the process, and theirs. This and the methods below read
// /proc of Linux. On other systems their numbers are 0.
func (p *process) findProcesses() {
	p.started = []int{p.cmd.Process.Pid}
	for i := 0; i < len(p.started); i++ {
		for _, text := range p.read("task/*/children", p.started[i]) {
			for _, field := range strings.Fields(text) {
				var child int
				if _, err := fmt.Sscan(field, &child); err == nil {
					p.started = append(p.started, child)
				}
			}
		}
	}
}

// read returns the contents of the files in /proc of one process that match a pattern.
func (p *process) read(pattern string, pid int) (texts []string) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/%s", pid, pattern))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}

// cpu returns the processor time of all processes so far.
func (p *process) cpu() (total time.Duration) {
	for _, pid := range p.started {
		for _, text := range p.read("task/*/schedstat", pid) {
			var ns time.Duration
			_, _ = fmt.Sscan(text, (*int64)(&ns))
			total += ns
		}
	}
	return total
}

// resident returns the resident memory of all processes in bytes.
func (p *process) resident() (total int) {
	for _, pid := range p.started {
		for _, text := range p.read("smaps_rollup", pid) {
			var kB int
			if _, after, found := strings.Cut(text, "\nRss:"); found {
				_, _ = fmt.Sscan(after, &kB)
			}
			total += kB << 10
		}
	}
	return total
}

// files returns the number of open files of all processes.
func (p *process) files() (total int) {
	for _, pid := range p.started {
		files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		total += len(files)
	}
	return total
}
