package proxyprotocol

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Log lines that a peer can cause are limited: so many of each message an interval.
const (
	refusalInterval = 10 * time.Second
	refusalsLogged  = 100
	markedInterval  = time.Minute
)

// connLog logs what happens to connections.
type connLog struct {
	logger    *zap.Logger
	refusals  *zap.Logger
	datagrams bool // are what is refused, not connections

	// nextMarked is when the next marked connection is logged, since start. zap's sampler
	// would cost more than all else that a header costs.
	nextMarked atomic.Int64

	debug bool // whether accepted headers are logged
}

func newConnLog(logger *zap.Logger) *connLog {
	omitted := &omittedLog{logger: logger, counts: make(map[string]uint64)}
	return &connLog{
		logger:   logger,
		debug:    logger.Core().Enabled(zapcore.DebugLevel),
		refusals: limited(logger, refusalInterval, refusalsLogged, zapcore.SamplerHook(omitted.hook)),
	}
}

func limited(logger *zap.Logger, interval time.Duration, first int, opts ...zapcore.SamplerOption) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, interval, first, 0, opts...)
	}))
}

// omittedLog sums up what the limit left out of the log.
type omittedLog struct {
	logger *zap.Logger

	mu     sync.Mutex
	counts map[string]uint64 // by message
}

// hook counts an entry that is left out. The first one starts the wait for the sum.
func (l *omittedLog) hook(entry zapcore.Entry, decision zapcore.SamplingDecision) {
	if decision&zapcore.LogDropped == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.counts) == 0 {
		time.AfterFunc(refusalInterval, l.sumUp)
	}
	l.counts[entry.Message]++
}

func (l *omittedLog) sumUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for message, n := range l.counts {
		l.logger.Warn("more of the same was left out of the log", zap.String("message", message), zap.Uint64("count", n))
	}
	clear(l.counts)
}

// refused logs a refusal. That a connection ended before it said anything is everyday
// life: health checks that only connect do it.
func (l *connLog) refused(peer, local net.Addr, mode Mode, why outcome, err error) {
	level := zapcore.WarnLevel
	if why == reasonIO && isEOF(err) {
		level = zapcore.DebugLevel
	}
	message := refusalMessages[why]
	if l.datagrams {
		message = dropMessages[why]
	}
	entry := l.refusals.Check(level, message)
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

// accepted logs an accepted header. What it writes is written elsewhere: the fields would
// take room on the stack of every connection.
func (l *connLog) accepted(c *conn) {
	if c.marked {
		l.marked(&c.facts, c.Conn, time.Since(start))
	}
	if l.debug {
		l.debugAccepted(c)
	}
}

// marked logs that the address of a client is not trustworthy.
func (l *connLog) marked(f *facts, socket interface{ LocalAddr() net.Addr }, now time.Duration) {
	next := l.nextMarked.Load()
	if int64(now) < next || !l.nextMarked.CompareAndSwap(next, int64(now+markedInterval)) {
		return
	}
	l.logger.Warn("a client address is not trustworthy: its PROXY protocol header was accepted under mode 'unspecified', and its source port is set to 0",
		zap.String("peer", addrString(f.peer)),
		zap.String("local", addrString(socket.LocalAddr())),
		zap.Stringer("claimed", f.header.Source()),
	)
}

func (l *connLog) debugAccepted(c *conn) {
	l.logger.Debug("accepted PROXY protocol header",
		zap.String("peer", addrString(c.peer)),
		zap.Stringer("mode", c.mode),
		zap.Uint8("version", c.header.Version()),
		zap.String("source", textOf(c.header.Source())),
		zap.String("destination", textOf(c.header.Destination())),
	)
}

// addrString is the text of an address that may not be there. Other modules' addresses may
// panic, and where they are logged, nobody would recover that.
func addrString(addr net.Addr) (text string) {
	defer func() { _ = recover() }()
	if addr == nil {
		return ""
	}
	return addr.String()
}
