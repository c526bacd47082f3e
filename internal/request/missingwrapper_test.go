package request

import (
	"context"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
)

func TestServersWithoutWrapper_KnowTheirOwn(t *testing.T) {
	server := new(caddyhttp.Server)
	ctx := caddy.Context{Context: context.WithValue(t.Context(), caddyhttp.ServerCtxKey, server)}
	assert.Equal(t, []*caddyhttp.Server{server}, serversWithoutWrapper(ctx))
	Install(server, true)
	assert.Empty(t, serversWithoutWrapper(ctx))
}

func TestNoWrapperError_NamesTheAddresses(t *testing.T) {
	assert.ErrorContains(t, NoWrapperError(&caddyhttp.Server{Listen: []string{":80", ":443"}}), "exactly one that the server listens on: :80 or :443")
}
