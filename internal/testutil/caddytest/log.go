package caddytest

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Fields are the fields of a log entry, or the fields that an entry must have. In Get and in wanted
// fields, a name with dots is that of a nested field: "request.remote_ip".
type Fields map[string]any

// Get returns the value of a field, or nil if there is none.
func (f Fields) Get(name string) any {
	var value any = map[string]any(f)
	for part := range strings.SplitSeq(name, ".") {
		nested, _ := value.(map[string]any)
		value = nested[part]
	}
	return value
}

// Str returns the value of a field, or an empty string if there is none, or none that is a string.
func (f Fields) Str(name string) string { s, _ := f.Get(name).(string); return s }

// has reports whether f has all these fields.
func (f Fields) has(want Fields) bool {
	for name, value := range want {
		if f.Get(name) != value {
			return false
		}
	}
	return true
}

// The fields of kinds of entries.
var (
	// OfModule matches entries of the listener wrapper, without those of sub-loggers.
	OfModule = Fields{"logger": "caddy.listeners.proxy_protocol_mode"}
	// OfPackets matches entries of the packet wrapper, without those of sub-loggers.
	OfPackets = Fields{"logger": "caddy.packetconns.proxy_protocol_mode"}
	// OfAccess matches entries of the access log.
	OfAccess = Fields{"msg": "handled request"}
	// OfAccept matches entries of the listener wrapper AcceptWrapper.
	OfAccept = Fields{"logger": "caddy.listeners." + AcceptWrapper}
)

// With returns the fields of f and more.
func (f Fields) With(more Fields) Fields {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

// Logs are the log entries of one test in order, all of them or those from an entry on.
type Logs struct {
	all  *logEntries
	from int
}

// logEntries are all log entries of one test. An entry does not change after it is added.
type logEntries struct {
	mu      sync.Mutex
	entries []Fields // guarded by mu
}

// Write adds an entry, which must be one line of JSON.
func (l *logEntries) Write(line []byte) (int, error) {
	var entry Fields
	if err := json.Unmarshal(line, &entry); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return len(line), nil
}

// Tail returns the entries that are logged from now on.
func (l Logs) Tail() Logs {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	return Logs{l.all, len(l.all.entries)}
}

// Forget drops all entries. Call it before a test measures memory.
func (l Logs) Forget() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.all.entries = nil
}

// Find returns the entries so far that have all wanted fields.
func (l Logs) Find(want Fields) []Fields {
	l.all.mu.Lock()
	entries := l.all.entries[l.from:]
	l.all.mu.Unlock() // entries do not change
	var found []Fields
	for _, entry := range entries {
		if entry.has(want) {
			found = append(found, entry)
		}
	}
	return found
}

// WaitFor waits until there is an entry with all wanted fields, and returns the first.
func (l Logs) WaitFor(t testing.TB, want Fields) Fields {
	t.Helper()
	return waitForEntries(t, l.Find, want)[0]
}

// waitForEntries waits until find returns entries for these wanted fields.
func waitForEntries(t testing.TB, find func(want Fields) []Fields, want Fields) (found []Fields) {
	t.Helper()
	Eventually(t, func() bool {
		found = find(want)
		return len(found) > 0
	}, "no log entry with %v", want)
	return found
}

// Refusals returns the entries of the listener wrapper about refusals so far that have all wanted
// fields.
func (l Logs) Refusals(want Fields) []Fields {
	var found []Fields
	for _, entry := range l.Find(OfModule.With(want)) {
		if entry.Get("reason") != nil {
			found = append(found, entry)
		}
	}
	return found
}

// WaitForRefusal waits until there is a refusal with all wanted fields, and returns its entry. There
// must be only one.
func (l Logs) WaitForRefusal(t testing.TB, want Fields) Fields {
	t.Helper()
	found := waitForEntries(t, l.Refusals, want)
	require.Len(t, found, 1)
	return found[0]
}

// Warnings returns the listener wrapper's warnings about the configuration so far.
func (l Logs) Warnings() []string {
	var messages []string
	for _, entry := range l.Find(OfModule.With(Fields{"level": "warn"})) {
		if entry.Get("peer") == nil {
			messages = append(messages, entry.Str("msg"))
		}
	}
	return messages
}
