// Package listenertest has doubles that the tests of streams and of datagrams share. It links no
// Caddy.
package listenertest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Logs are the lines that a record.Log has logged, including those that are queued.
type Logs struct {
	observed *observer.ObservedLogs
	log      *record.Log
}

// NewLog returns a log of connections or of datagrams that logs everything, and its lines.
func NewLog(datagrams bool) (*record.Log, *Logs) {
	core, observed := observer.New(zap.DebugLevel)
	log := record.NewLog(zap.New(core), datagrams)
	return log, &Logs{observed, log}
}

// QuietLog returns a log as in production, where accepted headers are not logged.
func QuietLog(datagrams bool) *record.Log {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return record.NewLog(zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel)), datagrams)
}

// All returns the lines so far.
func (l *Logs) All() []observer.LoggedEntry {
	l.log.Flush()
	return l.observed.All()
}

// TakeAll returns the lines so far, and forgets them.
func (l *Logs) TakeAll() []observer.LoggedEntry {
	l.log.Flush()
	return l.observed.TakeAll()
}

// Len returns the number of lines so far.
func (l *Logs) Len() int {
	l.log.Flush()
	return l.observed.Len()
}

// FilterMessage returns the lines so far that have this message.
func (l *Logs) FilterMessage(message string) *observer.ObservedLogs {
	l.log.Flush()
	return l.observed.FilterMessage(message)
}

// FilterMessageSnippet returns the lines so far whose message contains a text.
func (l *Logs) FilterMessageSnippet(snippet string) *observer.ObservedLogs {
	l.log.Flush()
	return l.observed.FilterMessageSnippet(snippet)
}

// Reasons returns the reasons of the refusals so far.
func (l *Logs) Reasons() []string {
	reasons := []string{}
	for _, entry := range l.All() {
		if reason, ok := entry.ContextMap()["reason"].(string); ok {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// Source returns a source that trusts these ranges. asked counts its calls.
func Source(asked *atomic.Int32, ranges ...string) policy.Source {
	return func(context.Context, net.Addr) []netip.Prefix {
		asked.Add(1)
		var prefixes []netip.Prefix
		for _, s := range ranges {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		return prefixes
	}
}

// OneDatagram is a socket that has one datagram and is then closed.
type OneDatagram struct {
	net.PacketConn
	// From is the address of the datagram's sender, or nil once the datagram has been read.
	From net.Addr
	// Data is the datagram.
	Data string
}

// LocalAddr implements net.PacketConn.
func (*OneDatagram) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// ReadFrom implements net.PacketConn.
func (c *OneDatagram) ReadFrom(p []byte) (int, net.Addr, error) {
	if c.From == nil {
		return 0, nil, net.ErrClosed
	}
	from := c.From
	c.From = nil
	return copy(p, c.Data), from, nil
}
