package datagram

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/monotime"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// TrustedList has the ranges of trusted peers that a source returned last, compiled. A connection
// asks the source itself. Datagrams are too many for that, and each one would delay all others.
//
// The source is called when a datagram needs an answer and the last one is old, at most once
// every trustedFor, and in a goroutine of its own, of which there is one at a time. While the
// source fails or hangs, its last answer stays valid until it is trustedAtMost old. From then on,
// and before the first answer, no peer is trusted.
type TrustedList struct {
	ctx    context.Context // ends with the configuration
	source policy.Source
	log    *record.Log // which writes in another goroutine: a log's writer may block or panic

	last atomic.Pointer[trustedAnswer]

	// mu guards the fields below.
	mu sync.Mutex
	// asking reports whether the source is being called.
	asking bool
	// next is the time from which on the source may be called again.
	next monotime.Time
	// slow reports whether the last answer took longer than promptly.
	slow bool
	// err is the reason why there is no newer answer.
	err error
}

// trustedAnswer is an answer of the source.
type trustedAnswer struct {
	prefixes []netip.Prefix // as the source returned them
	table    *bart.Lite     // the same ranges, compiled
	asked    monotime.Time  // when the source was called
}

const (
	// trustedFor is the time for which an answer is new.
	trustedFor = time.Second
	// trustedAtMost is the time for which an answer is valid if there is no newer one.
	trustedAtMost = 10 * time.Second
	// promptly is how long the datagram that caused a call waits for the answer, and all others
	// with it. With a source that answers at once, no client loses its first datagram. For a slow
	// source, datagrams wait only while there is no valid answer.
	promptly = 10 * time.Millisecond
	// answerWithin is the timeout of a call. A later answer does not count: a source may return
	// anything once its context has ended.
	answerWithin = 5 * time.Second
)

var (
	errNotAnswered = errors.New("trusted_proxies: the source has not answered yet")
	errAnswerLate  = fmt.Errorf("trusted_proxies: the source did not answer within %s", answerWithin)
)

// NewTrustedList returns a list of the peers that a source trusts. ctx ends with the
// configuration.
func NewTrustedList(ctx context.Context, source policy.Source, logger *zap.Logger) *TrustedList {
	return &TrustedList{ctx: ctx, source: source, log: record.NewLog(record.Limit(logger, record.RefusalInterval, 1), true)}
}

// Ranges returns the ranges of the trusted peers. The table is the same one as long as the answer
// is the same. If there is no valid answer, Ranges returns an error that says why.
func (l *TrustedList) Ranges() (*bart.Lite, error) {
	now := monotime.Now()
	answer := l.last.Load()
	if answer == nil || now.Sub(answer.asked) >= trustedFor {
		l.refresh(now, answer.valid(now))
		answer = l.last.Load()
	}
	if !answer.valid(monotime.Now()) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, cmp.Or(l.err, errNotAnswered)
	}
	return answer.table, nil
}

// valid reports whether there is an answer and it is not too old.
func (a *trustedAnswer) valid(now monotime.Time) bool {
	return a != nil && now.Sub(a.asked) < trustedAtMost
}

// refresh starts a call of the source, unless there is one or the last one was lately. It may
// wait for the answer. valid reports whether the last answer is.
func (l *TrustedList) refresh(now monotime.Time, valid bool) {
	l.mu.Lock()
	if l.asking || now < l.next || l.ctx.Err() != nil {
		l.mu.Unlock()
		return
	}
	l.asking, l.next = true, now.Add(trustedFor)
	if !valid {
		l.err = errNotAnswered
	}
	wait := !valid || !l.slow
	l.mu.Unlock()

	answered := make(chan struct{})
	go l.ask(now, answered)
	if !wait {
		return
	}
	timer := time.NewTimer(promptly)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	}
}

// ask calls the source, stores its answer, and closes answered.
func (l *TrustedList) ask(now monotime.Time, answered chan<- struct{}) {
	err := errNotAnswered // in case the source calls runtime.Goexit
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asking, l.err = false, err
		l.slow = monotime.Now().Sub(now) > promptly
		close(answered)
	}()
	ctx, cancel := context.WithTimeout(l.ctx, answerWithin)
	defer cancel()
	answer, failed := l.callSource(ctx, now)
	if failed == nil && ctx.Err() != nil {
		failed = errAnswerLate
	}
	if err = failed; err == nil {
		l.last.Store(answer)
	} else if l.ctx.Err() == nil {
		l.log.Warn("the source of 'trusted_proxies' failed: its last answer stays in use for up to 10 seconds, then HTTP/3 trusts no peer", zap.Error(err))
	}
}

// callSource calls the source and compiles its answer. The source is code of another module: a
// panic of it becomes an error.
func (l *TrustedList) callSource(ctx context.Context, now monotime.Time) (answer *trustedAnswer, err error) {
	defer func() {
		if r := recover(); r != nil {
			answer, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	// All peers share one answer, so it must not depend on the address of any.
	anyPeer := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	prefixes := l.source(ctx, anyPeer)
	if last := l.last.Load(); last != nil && slices.Equal(last.prefixes, prefixes) {
		return &trustedAnswer{last.prefixes, last.table, now}, nil
	}
	table := new(bart.Lite)
	for _, prefix := range prefixes {
		table.Insert(policy.Normalize(prefix))
	}
	return &trustedAnswer{slices.Clone(prefixes), table, now}, nil
}
