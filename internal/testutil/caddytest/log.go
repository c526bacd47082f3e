package caddytest

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Fields are the fields of a log entry, or those that an entry must have. The name of a nested
// field has dots: "request.remote_ip".
type Fields map[string]any

// Get returns the value of a field, or nil.
func (f Fields) Get(name string) any {
	var value any = map[string]any(f)
	for part := range strings.SplitSeq(name, ".") {
		nested, _ := value.(map[string]any)
		value = nested[part]
	}
	return value
}

// Str returns the value of a field if it is a string, or an empty one.
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

// The fields that tell one kind of entry from others.
var (
	// OfModule are those of the listener wrapper. A sub-logger would have another name.
	OfModule = Fields{"logger": "caddy.listeners.proxy_protocol_mode"}
	// OfPackets are those of the packet wrapper.
	OfPackets = Fields{"logger": "caddy.packetconns.proxy_protocol_mode"}
	// OfAccess are those of the access log.
	OfAccess = Fields{"msg": "handled request"}
	// OfAccept are those of the listener wrapper AcceptWrapper.
	OfAccept = Fields{"logger": "caddy.listeners." + AcceptWrapper}
)

// With returns the fields of f and these.
func (f Fields) With(more Fields) Fields {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

// Logs are the log entries of one test, in order, or those from a point on.
type Logs struct {
	all  *logEntries
	from int
}

// logEntries are all log entries of one test.
type logEntries struct {
	mu      sync.Mutex
	entries []Fields
}

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

// Tail returns the entries from now on.
func (l Logs) Tail() Logs {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	return Logs{l.all, len(l.all.entries)}
}

// Forget gives up all entries, before a test that measures memory.
func (l Logs) Forget() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.all.entries = nil
}

// Find returns the entries so far that have all these fields.
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

// WaitFor waits for an entry, and returns the first that has all these fields.
func (l Logs) WaitFor(t testing.TB, want Fields) Fields {
	t.Helper()
	var found []Fields
	Eventually(t, func() bool {
		found = l.Find(want)
		return len(found) > 0
	}, "no log entry with %v", want)
	return found[0]
}

// Refusals returns the refusals of the listener wrapper so far that have all these fields.
func (l Logs) Refusals(want Fields) []Fields {
	var found []Fields
	for _, entry := range l.Find(OfModule.With(want)) {
		if entry.Get("reason") != nil {
			found = append(found, entry)
		}
	}
	return found
}

// WaitForRefusal waits for a refusal, and returns the only one that has all these fields.
func (l Logs) WaitForRefusal(t testing.TB, want Fields) Fields {
	t.Helper()
	var found []Fields
	Eventually(t, func() bool {
		found = l.Refusals(want)
		return len(found) > 0
	}, "no refusal with %v", want)
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
