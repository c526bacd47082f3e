package caddytest

import (
	"io"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// captured points to the log entries of the running test, to which the log writer adds.
var captured atomic.Pointer[logEntries]

func init() { caddy.RegisterModule(logWriter{}) }

// logWriter is a Caddy log writer that adds entries to captured.
type logWriter struct{}

// CaddyModule returns the module information of the log writer.
func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.proxy_protocol_test",
		New: func() caddy.Module { return new(logWriter) },
	}
}

// The methods of caddy.WriterOpener, io.Closer and caddyfile.Unmarshaler. There is nothing to open or
// to close.

func (logWriter) String() string                                  { return "proxy_protocol_test" }
func (logWriter) WriterKey() string                               { return "proxy_protocol_test" }
func (logWriter) OpenWriter() (io.WriteCloser, error)             { return logWriter{}, nil }
func (logWriter) Close() error                                    { return nil }
func (logWriter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

// BeforeWrite points to a function that the log writer calls with each line before it is captured,
// or is nil. With it a test makes the log writer slow, or makes it panic.
var BeforeWrite atomic.Pointer[func(line []byte)]

// Write calls BeforeWrite and adds the line to captured.
func (logWriter) Write(p []byte) (int, error) {
	if before := BeforeWrite.Load(); before != nil {
		(*before)(p)
	}
	return captured.Load().Write(p)
}
