package request

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestWarnOfPlainPort_NeedsAnHTTPApp(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	assert.NotPanics(t, func() { WarnOfPlainPort(caddy.Context{Context: t.Context()}, zap.New(core)) })
	assert.Zero(t, logs.Len())
}
