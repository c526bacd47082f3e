package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The lines of a document between which the results are replaced.
const (
	resultsBegin = "<!-- results of go run ./bench -->\n"
	resultsEnd   = "<!-- end of the results -->\n"
)

// replaceResults replaces the results in a document. If results is nil, it only checks that the
// document has a place for them.
func replaceResults(document string, results *string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, began := strings.Cut(string(text), resultsBegin)
	_, after, ended := strings.Cut(rest, resultsEnd)
	if !began || !ended {
		return fmt.Errorf("%s has no place for the results: the lines\n%s%s", document, resultsBegin, resultsEnd)
	}
	if results == nil {
		return nil
	}
	return os.WriteFile(document, []byte(before+resultsBegin+"\n"+*results+"\n"+resultsEnd+after), 0o644)
}

// drawPictures draws the pictures of a document's tables. The command that draws has its library in
// the module tools, so that the go.mod of users does not have it.
func drawPictures(document string) error {
	path, err := filepath.Abs(document)
	if err != nil {
		return err
	}
	root, err := output(time.Minute, "go", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return err
	}
	_, err = output(10*time.Minute, "go", "-C", filepath.Join(strings.TrimSpace(string(root)), "tools"), "run", "./benchplot", path)
	return err
}
