package proxyprotocol

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRequestHasNoFactsBeforeItsConnectionIsJudged(t *testing.T) {
	rules, _ := connRules(Unspecified)
	c := connOf(connSays("GET"), rules)
	r := new(http.Request).WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, (*localAddr)(c)))
	require.True(t, c.state.Load() == statePending)
	assert.Nil(t, factsOf(r))
	c.RemoteAddr()
	assert.NotNil(t, factsOf(r))
}
