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

// process is one that ends when its standard input does, so that none is left however this
// process ends, and its children.
type process struct {
	cmd     *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	started []int // it and its children
}

// startProcess starts a process. What it prints as errors goes to the file log, if there is
// one.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	p := &process{cmd: cmd}
	var err error
	cmd.Stderr = os.Stderr
	if log != "" {
		file, err := os.Create(log)
		if err != nil {
			return nil, err
		}
		defer file.Close() // the process has it then
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

func (p *process) stop() {
	_ = p.input.Close()
	_ = p.cmd.Wait()
}

// collect has a Caddy give back memory that is not in use.
func (p *process) collect() error {
	if _, err := p.input.Write([]byte("\n")); err != nil {
		return err
	}
	_, err := p.output.ReadByte()
	return err
}

// findProcesses remembers the process and its children. What follows is what Linux tells
// of them; it is 0 where another system does not.
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

// read returns the contents of files that the system has for a process.
func (p *process) read(pattern string, pid int) (texts []string) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/%s", pid, pattern))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}

// cpu returns the time spent on processors.
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

// resident returns the memory in use, in bytes.
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

// files returns how many files are open.
func (p *process) files() (total int) {
	for _, pid := range p.started {
		files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		total += len(files)
	}
	return total
}
