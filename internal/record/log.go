package proxyprotocol

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Log lines that a peer can cause are limited: so many of each message an interval.
const (
	refusalInterval = 10 * time.Second
	refusalsLogged  = 100
	markedInterval  = time.Minute
	// linesWaiting bounds the lines that wait to be written: more than one message may have
	// in an interval.
	linesWaiting = 256
)

// connLog logs what happens to connections. Warnings that a peer can cause are written by a
// goroutine of their own: the log's writer is another module's code, which may block or
// panic, and refusals happen in the accept loop and in deferred functions that recover. The
// line of an accepted header, at level DEBUG, is written by the connection's own goroutine.
type connLog struct {
	logger    *zap.Logger
	datagrams bool // datagrams are refused, not connections
	debug     bool // accepted headers are logged

	// nextMarked is the monotime.Time when the next marked connection is logged.
	nextMarked atomic.Int64

	mu      sync.Mutex
	limits  [outcomes]lineLimit // guarded by mu
	waiting []func()            // guarded by mu; at most linesWaiting, the oldest first
	writing bool                // guarded by mu; write runs
}

// lineLimit is how many more lines of a message may be logged.
type lineLimit struct {
	until   time.Time // end of the interval
	left    int       // lines that may still be logged before until
	omitted uint64    // lines not logged since the last summary
}

// newConnLog returns a log of connections or of datagrams.
func newConnLog(logger *zap.Logger, datagrams bool) *connLog {
	return &connLog{logger: logger, datagrams: datagrams, debug: logger.Core().Enabled(zapcore.DebugLevel)}
}

// limited returns a logger that writes so many of each message an interval.
func limited(logger *zap.Logger, interval time.Duration, first int) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, interval, first, 0)
	}))
}

func (l *connLog) message(why outcome) string {
	if l.datagrams {
		return dropMessages[why]
	}
	return refusalMessages[why]
}

// refused logs a refusal. It asks nothing of the logger before the limit allows the line:
// that would cost a flood of refused connections a tenth of their time.
func (l *connLog) refused(peer, local net.Addr, mode Mode, why outcome, err error) {
	level := zapcore.WarnLevel
	if isNoNews(why, err) {
		if level = zapcore.DebugLevel; !l.debug {
			return
		}
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := &l.limits[why]
	if !now.Before(limit.until) {
		limit.until, limit.left = now.Add(refusalInterval), refusalsLogged
	}
	if limit.left > 0 && l.enqueue(func() { l.writeRefusal(level, now, peer, local, mode, why, err) }) {
		limit.left--
		return
	}
	if limit.omitted == 0 {
		time.AfterFunc(refusalInterval, func() { l.sumUp(level, why) })
	}
	limit.omitted++
}

func (l *connLog) writeRefusal(level zapcore.Level, at time.Time, peer, local net.Addr, mode Mode, why outcome, err error) {
	entry := l.logger.Check(level, l.message(why))
	if entry == nil {
		return
	}
	entry.Time = at
	entry.Write(
		zap.String("peer", addrString(peer)),
		zap.String("local", addrString(local)),
		zap.Stringer("mode", mode),
		zap.Stringer("reason", why),
		zap.Error(err), // no field if there is none
	)
}

// sumUp logs how many lines of a message were omitted.
func (l *connLog) sumUp(level zapcore.Level, why outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := &l.limits[why]
	n := limit.omitted
	if !l.enqueue(func() {
		l.logger.Log(level, "further lines with this message were not logged", zap.String("message", l.message(why)), zap.Uint64("count", n))
	}) {
		time.AfterFunc(refusalInterval, func() { l.sumUp(level, why) })
		return
	}
	limit.omitted = 0
}

// warn logs a warning, unless too many lines wait.
func (l *connLog) warn(message string, fields ...zap.Field) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueue(func() { l.logger.Warn(message, fields...) })
}

// enqueue has a line written soon, unless too many wait. The caller holds mu.
func (l *connLog) enqueue(line func()) bool {
	if len(l.waiting) == linesWaiting {
		return false
	}
	l.waiting = append(l.waiting, line)
	if !l.writing {
		l.writing = true
		go l.write()
	}
	return true
}

// write writes the lines that wait, and ends when there are none.
func (l *connLog) write() {
	ended := false
	defer func() {
		if !ended { // the log's writer has ended this goroutine
			go l.write()
		}
	}()
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.writing, ended = false, true
			l.mu.Unlock()
			return
		}
		line := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		l.mu.Unlock()
		writeLine(line)
	}
}

// writeLine writes a line, or none if the log's writer panics.
func writeLine(line func()) {
	defer func() { _ = recover() }()
	line()
}

// localAddresser is a socket. Its address is asked for only if a line is logged: the socket may
// be another module's.
type localAddresser interface{ LocalAddr() net.Addr }

// accepted logs an accepted header. The fields are made in separate functions, because they
// would enlarge the stack of every connection.
func (l *connLog) accepted(peer net.Addr, socket localAddresser, mode Mode, h *wire.Header, marked bool) {
	if marked {
		l.marked(peer, socket, h, monotime.Now())
	}
	if l.debug {
		l.debugAccepted(peer, mode, h)
	}
}

// marked logs that the address of a client is not trustworthy.
func (l *connLog) marked(peer net.Addr, socket localAddresser, h *wire.Header, now monotime.Time) {
	next := l.nextMarked.Load()
	if int64(now) < next || !l.nextMarked.CompareAndSwap(next, int64(now.Add(markedInterval))) {
		return
	}
	local, claimed := socket.LocalAddr(), h.Source()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.enqueue(func() {
		l.logger.Warn("a client address is unverified: it comes from a PROXY protocol header accepted under mode 'unspecified'; its source port is set to 0",
			zap.String("peer", addrString(peer)),
			zap.String("local", addrString(local)),
			zap.Stringer("claimed", claimed),
		)
	}) {
		l.nextMarked.Store(next) // too many wait: the next marked connection is logged
	}
}

func (l *connLog) debugAccepted(peer net.Addr, mode Mode, h *wire.Header) {
	l.logger.Debug("accepted PROXY protocol header",
		zap.String("peer", addrString(peer)),
		zap.Stringer("mode", mode),
		zap.Uint8("version", h.Version()),
		zap.String("source", textOf(h.Source())),
		zap.String("destination", textOf(h.Destination())),
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

// textOf is the text of an address, and empty if there is none.
func textOf(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
