package main

import (
	"fmt"
	"os"
	"strings"
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
