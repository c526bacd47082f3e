package proxyprotocol

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRequestHasNoFactsBeforeItsConnectionIsJudged(t *testing.T) {
	rules, _ := connRules(Unspecified)
	socket := new(connScript)
	for range 10 {
		socket.events = append(socket.events, connEvent{err: errConnTimeout})
	}
	c := connOf(socket, rules)
	r := requestOn(c)
	require.True(t, c.isPending())
	assert.Nil(t, factsOf(r))
	socket.events = []connEvent{{data: "GET"}}
	c.RemoteAddr()
	assert.NotNil(t, factsOf(r))
}
