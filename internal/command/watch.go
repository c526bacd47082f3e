package command

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/escape"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// watchInterval is the time between two questions for the status.
const watchInterval = time.Second

// watch asks for the status until the context ends, and prints what has changed since last: one line
// for each refusal that the status remembers, and one for each listener whose numbers have changed.
func watch(ctx context.Context, out *output, last *statusapi.Status, ask func() (*statusapi.Status, error)) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	problem := "" // of the last question
	for {
		if err := out.flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := time.Now().Format(time.RFC3339)
		s, err := ask()
		if err != nil {
			if err.Error() != problem {
				out.line("%s %s %s", now, out.paint(red, "no status:"), escape.Text(err.Error()))
			}
			problem = err.Error()
			continue
		}
		problem = ""
		for _, l := range s.Listeners {
			i := slices.IndexFunc(last.Listeners, func(before statusapi.Listener) bool {
				return before.Server == l.Server && before.Address == l.Address
			})
			var before statusapi.Listener
			if i >= 0 {
				before = last.Listeners[i]
			} else {
				out.line("%s %s %s: mode %s", now, escape.Text(l.Server), escape.Text(l.Address), escape.Text(l.Mode))
			}
			printChanges(out, now, &before, &l)
		}
		last = s
	}
}

// printChanges prints what has changed at a listener.
func printChanges(out *output, now string, before, l *statusapi.Listener) {
	name := escape.Text(l.Server) + " " + escape.Text(l.Address)
	news := l.Refusals
	if len(before.Refusals) > 0 {
		// The latest is first. Refusals within a second may be equal: then fewer are new.
		if seen := slices.Index(news, before.Refusals[0]); seen >= 0 {
			news = news[:seen]
		}
	}
	for _, r := range slices.Backward(news) {
		received, first := arrived(&r)
		line := []string{escape.Text(r.Time), name + ":", out.paint(yellow, escape.Text(r.Reason)), escape.Text(r.Peer), received, first}
		out.line("%s", strings.Join(slices.DeleteFunc(line, func(s string) bool { return s == "" }), " "))
	}
	if !maps.Equal(before.Outcomes, l.Outcomes) {
		out.line("%s %s: %s", now, name, outcomesText(l.Outcomes))
	}
	if !maps.Equal(before.Checks, l.Checks) {
		out.line("%s %s: checks: %s", now, name, outcomesText(l.Checks))
	}
}
