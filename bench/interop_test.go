//go:build interop

package main

import "testing"

// TestEveryTableHasEveryRowWithOtherServers needs nginx and HAProxy: go test -tags interop ./bench
func TestEveryTableHasEveryRowWithOtherServers(t *testing.T) {
	s := smoke
	s.caddyOnly = false
	requireTables(t, s)
}
