package record

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

func TestOutcome_OfAcceptedConnections(t *testing.T) {
	local := wire.NewLocal()
	unknown := wire.NewUnknown(1)
	assert.Equal(t, Client, AcceptedAs(testHeader(), false))
	assert.Equal(t, Marked, AcceptedAs(testHeader(), true))
	assert.Equal(t, Local, AcceptedAs(&local, false))
	assert.Equal(t, Local, AcceptedAs(&unknown, false))
	assert.Equal(t, Direct, AcceptedAs(new(wire.Header), false))
}

func TestOutcome_RefusalsHaveAMessage(t *testing.T) {
	for o := range Outcomes {
		assert.Equal(t, o.Message(false) != "", o.IsRefusal(), o)
	}
}
