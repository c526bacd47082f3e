package record

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/portzero/caddy-proxy-protocol/internal/conninfo"
	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// Limits of the log lines that a peer can cause.
const (
	// RefusalInterval is the time in which RefusalsLogged lines of each message are logged.
	RefusalInterval = 10 * time.Second
	RefusalsLogged  = 100
	// markedInterval is the time between two lines about marked connections.
	markedInterval = time.Minute
	// linesWaiting bounds the queue of lines. It is larger than the limit of one message.
	linesWaiting = 256
)

// Log logs what happens to connections. Warnings that a peer can cause are written by a
// goroutine of their own: the log's writer is another module's code, which may block or
// panic, and refusals happen in the accept loop and in deferred functions that recover. The
// line of an accepted header, at level DEBUG, is written by the connection's own goroutine.
type Log struct {
	logger    *zap.Logger
	datagrams bool // datagrams are refused, not connections
	debug     bool // accepted headers are logged
	// level is the level of refusals and of marked connections.
	level zapcore.Level
	// checks is the log of announced peers, with limits of its own: their lines displace no
	// other. It is nil in checks itself.
	checks *Log

	// nextMarked is the monotime.Time from which on the next marked connection is logged.
	nextMarked atomic.Int64

	mu      sync.Mutex
	limits  [Outcomes]lineLimit // guarded by mu
	waiting []func()            // guarded by mu; at most linesWaiting, the oldest first
	writing bool                // guarded by mu; write runs
}

// lineLimit is how many more lines of a message may be logged.
type lineLimit struct {
	until   time.Time // end of the interval
	left    int       // lines that may still be logged before until
	omitted uint64    // lines not logged since the last summary
}

// NewLog returns a log of connections or of datagrams.
func NewLog(logger *zap.Logger, datagrams bool) *Log {
	debug := logger.Core().Enabled(zapcore.DebugLevel)
	checks := &Log{logger: logger.With(zap.Bool("check", true)), datagrams: datagrams, debug: debug, level: zapcore.InfoLevel}
	return &Log{logger: logger, datagrams: datagrams, debug: debug, level: zapcore.WarnLevel, checks: checks}
}

// Limit returns a logger that writes so many of each message an interval.
func Limit(logger *zap.Logger, interval time.Duration, first int) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, interval, first, 0)
	}))
}

// refusal logs a refusal. It calls the logger only if the limit allows the line: in a flood of
// refused connections that saves a tenth of the time.
func (l *Log) refusal(r *Refusal) {
	level := l.level
	if r.isRoutine() {
		if level = zapcore.DebugLevel; !l.debug {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := &l.limits[r.Reason]
	if !r.Time.Before(limit.until) {
		limit.until, limit.left = r.Time.Add(RefusalInterval), RefusalsLogged
	}
	if limit.left > 0 && l.enqueue(func() { l.writeRefusal(level, r) }) {
		limit.left--
		return
	}
	if limit.omitted == 0 {
		reason := r.Reason
		time.AfterFunc(RefusalInterval, func() { l.sumUp(level, reason) })
	}
	limit.omitted++
}

func (l *Log) writeRefusal(level zapcore.Level, r *Refusal) {
	entry := l.logger.Check(level, r.Reason.Message(l.datagrams))
	if entry == nil {
		return
	}
	entry.Time = r.Time
	fields := []zap.Field{
		zap.String("peer", conninfo.AddrString(r.Peer)),
		zap.String("local", conninfo.AddrString(r.Local)),
		zap.Stringer("mode", r.Mode),
		zap.Stringer("reason", r.Reason),
	}
	for _, field := range []struct{ key, value string }{
		{"received", r.received},
		{"source", r.FirstSource()},
		{"error", r.ErrorText()},
		{"hint", r.Hint()},
	} {
		if field.value != "" {
			fields = append(fields, zap.String(field.key, field.value))
		}
	}
	entry.Write(fields...)
}

// sumUp logs the number of lines of a message that were omitted.
func (l *Log) sumUp(level zapcore.Level, reason Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := &l.limits[reason]
	n := limit.omitted
	if !l.enqueue(func() {
		l.logger.Log(level, "further lines with this message were not logged", zap.String("message", reason.Message(l.datagrams)), zap.Uint64("count", n))
	}) {
		time.AfterFunc(RefusalInterval, func() { l.sumUp(level, reason) })
		return
	}
	limit.omitted = 0
}

// Warn logs a warning, unless the queue is full.
func (l *Log) Warn(message string, fields ...zap.Field) {
	l.log(zapcore.WarnLevel, message, fields)
}

// Info logs a line at level INFO, unless the queue is full.
func (l *Log) Info(message string, fields ...zap.Field) {
	l.log(zapcore.InfoLevel, message, fields)
}

func (l *Log) log(level zapcore.Level, message string, fields []zap.Field) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueue(func() { l.logger.Log(level, message, fields...) })
}

// enqueue adds a line to the queue, unless it is full. The caller holds mu.
func (l *Log) enqueue(line func()) bool {
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

// Flush returns when all queued lines have been written.
func (l *Log) Flush() {
	for writing := true; writing; runtime.Gosched() {
		l.mu.Lock()
		writing = l.writing
		l.mu.Unlock()
	}
	if l.checks != nil {
		l.checks.Flush()
	}
}

// write writes the queued lines, and returns when there are none.
func (l *Log) write() {
	ended := false
	defer func() {
		if !ended { // the log's writer called runtime.Goexit
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

// localAddresser is a socket. Its method is called only if a line is logged, because it may be
// another module's.
type localAddresser interface{ LocalAddr() net.Addr }

// accepted logs an accepted header. The fields are made in separate functions, because they
// would enlarge the stack of every connection.
func (l *Log) accepted(a *Accepted, socket localAddresser, mode policy.Mode) {
	if a.Marked {
		l.marked(a.Peer, socket, &a.Header, monotime.Now())
	}
	if l.debug && !l.datagrams {
		l.debugAccepted(a.Peer, mode, &a.Header)
	}
}

// marked logs that a client's address is unverified.
func (l *Log) marked(peer net.Addr, socket localAddresser, h *wire.Header, now monotime.Time) {
	next := l.nextMarked.Load()
	if int64(now) < next || !l.nextMarked.CompareAndSwap(next, int64(now.Add(markedInterval))) {
		return
	}
	local, claimed := socket.LocalAddr(), h.Source()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.enqueue(func() {
		l.logger.Log(l.level, "a client address is unverified: it comes from a PROXY protocol header accepted under mode 'unspecified'; its source port is set to 0",
			zap.String("peer", conninfo.AddrString(peer)),
			zap.String("local", conninfo.AddrString(local)),
			zap.Stringer("claimed", claimed),
		)
	}) {
		l.nextMarked.Store(next) // too many wait: the next marked connection is logged
	}
}

func (l *Log) debugAccepted(peer net.Addr, mode policy.Mode, h *wire.Header) {
	l.logger.Debug("accepted PROXY protocol header",
		zap.String("peer", conninfo.AddrString(peer)),
		zap.Stringer("mode", mode),
		zap.Uint8("version", h.Version()),
		zap.String("source", conninfo.AddrPortString(h.Source())),
		zap.String("destination", conninfo.AddrPortString(h.Destination())),
	)
}

// localOf returns the local address of a socket, or nil if the socket panics.
func localOf(socket localAddresser) (local net.Addr) {
	defer func() { _ = recover() }()
	return socket.LocalAddr()
}

// payload logs that a header is followed by something else than the listener expects.
func (l *Log) payload(expected Payload, peer net.Addr, socket localAddresser, h *wire.Header) {
	message := "received TLS behind a PROXY protocol header, but this port is for plain HTTP"
	hint := "if all clients fail, make the load balancer send TLS to a port for HTTPS, or end TLS itself"
	if expected == TLSPayload {
		message = "received plain HTTP behind a PROXY protocol header, but this port is for TLS"
		hint = "if all clients fail, make the load balancer pass TLS through, or send plain HTTP to a port for HTTP, such as that of a site 'http://'"
	}
	l.Info(message,
		zap.String("peer", conninfo.AddrString(peer)),
		zap.String("local", conninfo.AddrString(localOf(socket))),
		zap.String("source", conninfo.AddrPortString(h.Source())),
		zap.String("hint", hint),
	)
}
