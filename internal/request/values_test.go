package request

import (
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
)

func TestValues_PlaceholderIsAListIfItStandsAlone(t *testing.T) {
	repl := caddy.NewReplacer()
	repl.Set("list", []string{"a", "b"})
	repl.Set("one", "1")
	repl.Set("ips", []net.IP{net.IPv4(10, 0, 0, 1), net.IPv6loopback})
	repl.Set("texts", TextList{"c", "d"})
	for text, want := range map[string][]string{
		"{list}":     {"a", "b"},
		"{ips}":      {"10.0.0.1", "::1"},
		"{texts}":    {"c", "d"},
		"{one}":      {"1"},
		"{one}{one}": {"11"},
		"x{one}":     {"x1"},
		"{one}x":     {"1x"},
		"{one":       {"{one"},
		"one}":       {"one}"},
		"plain":      {"plain"},
	} {
		assert.Equal(t, want, Values(repl, text), text)
	}
}
