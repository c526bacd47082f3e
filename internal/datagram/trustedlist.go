package proxyprotocol

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
)

// trustedList has the ranges that a source of trusted peers answered last, compiled. A
// connection asks the source itself; datagrams are too many for that, and all others would
// wait meanwhile.
//
// The source is asked when a datagram needs its answer and the last one is old, at most once
// every trustedFor, and in a goroutine of its own, of which there is one at a time. While the
// source fails or hangs, its last answer holds until it is trustedAtMost old. From then on,
// and before the first answer, no peer is trusted.
type trustedList struct {
	ctx    context.Context // ends with the configuration
	source source
	log    *connLog // writes beside the list: it may block or panic

	last atomic.Pointer[trustedAnswer]

	// mu guards the fields below.
	mu sync.Mutex
	// asking says that the source is being asked.
	asking bool
	// next is when the source may be asked again.
	next monotime.Time
	// slow says that the last answer took longer than promptly.
	slow bool
	// err says why there is no newer answer.
	err error
}

// trustedAnswer is what a source answered.
type trustedAnswer struct {
	prefixes []netip.Prefix // as the source gave them
	table    *bart.Lite     // the same, compiled
	asked    monotime.Time
}

const (
	// trustedFor is for how long an answer is new.
	trustedFor = time.Second
	// trustedAtMost is for how long an answer holds if no newer one comes.
	trustedAtMost = 10 * time.Second
	// promptly is for how long the datagram that caused a question waits for the answer, and
	// all others with it. A source that answers at once costs no client its first datagram. A
	// slow one is waited for only while there is no answer that holds.
	promptly = 10 * time.Millisecond
	// answerWithin is when the context of a question ends. What is answered later does not
	// count: it may be what a source answers whose context has ended.
	answerWithin = 5 * time.Second
)

var (
	errNotAnswered = errors.New("trusted_proxies: the source has not answered yet")
	errAnswerLate  = fmt.Errorf("trusted_proxies: the source did not answer within %s", answerWithin)
	errAnswerEmpty = errors.New("trusted_proxies: the source returned no ranges, so no peer may send a header")
)

func newTrustedList(ctx context.Context, source source, logger *zap.Logger) *trustedList {
	return &trustedList{ctx: ctx, source: source, log: newConnLog(limited(logger, refusalInterval, 1), true)}
}

// ranges returns the ranges of the trusted peers. It is the same table as long as the source
// answers the same. If there is no answer that holds, it returns an error that says why.
func (l *trustedList) ranges() (*bart.Lite, error) {
	now := monotime.Now()
	answer := l.last.Load()
	if answer == nil || now.Sub(answer.asked) >= trustedFor {
		l.refresh(now, answer.holds(now))
		answer = l.last.Load()
	}
	if !answer.holds(monotime.Now()) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, cmp.Or(l.err, errNotAnswered)
	}
	return answer.table, nil
}

func (a *trustedAnswer) holds(now monotime.Time) bool {
	return a != nil && now.Sub(a.asked) < trustedAtMost
}

// refresh asks the source, unless it is being asked or was lately.
func (l *trustedList) refresh(now monotime.Time, holds bool) {
	l.mu.Lock()
	if l.asking || now < l.next || l.ctx.Err() != nil {
		l.mu.Unlock()
		return
	}
	l.asking, l.next = true, now.Add(trustedFor)
	if !holds {
		l.err = errNotAnswered
	}
	wait := !holds || !l.slow
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

// ask asks the source and keeps its answer.
func (l *trustedList) ask(now monotime.Time, answered chan<- struct{}) {
	err := errNotAnswered // if the source ends this goroutine
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asking, l.err = false, err
		l.slow = monotime.Now().Sub(now) > promptly
		close(answered)
	}()
	ctx, cancel := context.WithTimeout(l.ctx, answerWithin)
	defer cancel()
	answer, failed := l.question(ctx, now)
	if failed == nil && ctx.Err() != nil {
		failed = errAnswerLate
	}
	if err = failed; err == nil {
		l.last.Store(answer)
	} else if l.ctx.Err() == nil {
		l.log.warn("the source of 'trusted_proxies' failed: its last answer stays in use for up to 10 seconds, then HTTP/3 trusts no peer", zap.Error(err))
	}
}

// question asks the source and compiles its answer. The source is code of another module: it
// may panic.
func (l *trustedList) question(ctx context.Context, now monotime.Time) (answer *trustedAnswer, err error) {
	defer func() {
		if r := recover(); r != nil {
			answer, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	// One answer serves all peers, so that none of them may influence it.
	nobody := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	prefixes := l.source(ctx, nobody)
	if last := l.last.Load(); last != nil && slices.Equal(last.prefixes, prefixes) {
		return &trustedAnswer{last.prefixes, last.table, now}, nil
	}
	table := new(bart.Lite)
	for _, prefix := range prefixes {
		table.Insert(normalize(prefix))
	}
	return &trustedAnswer{slices.Clone(prefixes), table, now}, nil
}
