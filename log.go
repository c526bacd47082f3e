package proxyprotocol

import (
	"net"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Log lines that a peer can cause are limited: so many of each message an interval.
const (
	refusalInterval = 10 * time.Second
	refusalsLogged  = 100
	markedInterval  = time.Minute
	markedLogged    = 1
)

// connLog logs what happens to connections.
type connLog struct {
	debug    *zap.Logger
	refusals *zap.Logger
	marked   *zap.Logger
}

func newConnLog(logger *zap.Logger) *connLog {
	return &connLog{
		debug:    logger,
		refusals: limited(logger, refusalInterval, refusalsLogged),
		marked:   limited(logger, markedInterval, markedLogged),
	}
}

func limited(logger *zap.Logger, interval time.Duration, first int) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, interval, first, 0)
	}))
}

// refused logs a refusal. That a connection ended before it said anything is everyday
// life: health checks that only connect do it.
func (l *connLog) refused(peer, local net.Addr, mode Mode, why reason, err error) {
	level := zapcore.WarnLevel
	if why == reasonIO && isEOF(err) {
		level = zapcore.DebugLevel
	}
	entry := l.refusals.Check(level, why.message())
	if entry == nil {
		return
	}
	fields := []zap.Field{
		zap.String("peer", addrString(peer)),
		zap.String("local", addrString(local)),
		zap.Stringer("mode", mode),
		zap.Stringer("reason", why),
	}
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	entry.Write(fields...)
}

// accepted logs an accepted header.
func (l *connLog) accepted(c *conn) {
	if c.marked {
		if entry := l.marked.Check(zapcore.WarnLevel, "a client address is not trustworthy: its PROXY protocol header was accepted under mode 'unspecified', and its source port is set to 0"); entry != nil {
			entry.Write(
				zap.String("peer", addrString(c.peer)),
				zap.String("local", addrString(c.local.Addr)),
				zap.Stringer("claimed", c.header.Source()),
			)
		}
	}
	if entry := l.debug.Check(zapcore.DebugLevel, "accepted PROXY protocol header"); entry != nil {
		entry.Write(
			zap.String("peer", addrString(c.peer)),
			zap.Stringer("mode", c.mode),
			zap.Uint8("version", c.header.Version()),
			zap.Stringer("source", c.header.Source()),
			zap.Stringer("destination", c.header.Destination()),
		)
	}
}

// addrString is the text of an address that may not be there.
func addrString(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	return addr.String()
}
