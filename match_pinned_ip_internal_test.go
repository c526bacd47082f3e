package proxyprotocol

import (
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"
)

func TestMatchPinnedIP_BadPlaceholderNeedsNoLog(t *testing.T) {
	m := &MatchPinnedIP{logger: zap.NewNop()}
	assert.False(t, m.pins(netip.MustParseAddr("192.0.2.1"), "{x}", []string{"nonsense"}))
	assert.False(t, m.pins(netip.MustParseAddr("192.0.2.1"), "{x}", nil))
}

func TestMatchPinnedIP_PlaceholderIsAListIfItStandsAlone(t *testing.T) {
	repl := caddy.NewReplacer()
	repl.Set("list", []string{"a", "b"})
	repl.Set("one", "1")
	for text, want := range map[string][]string{
		"{list}":     {"a", "b"},
		"{one}":      {"1"},
		"{one}{one}": {"11"},
		"x{one}":     {"x1"},
		"{one}x":     {"1x"},
		"{one":       {"{one"},
		"one}":       {"one}"},
		"plain":      {"plain"},
	} {
		assert.Equal(t, want, placeholderValues(repl, text), text)
	}
}
