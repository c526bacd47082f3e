package proxyprotocol

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"
)

func TestMatchPinnedIP_BadPlaceholderNeedsNoLog(t *testing.T) {
	m := &MatchPinnedIP{logger: zap.NewNop()}
	assert.False(t, m.pins(netip.MustParseAddr("192.0.2.1"), "{x}", []string{"nonsense"}))
	assert.False(t, m.pins(netip.MustParseAddr("192.0.2.1"), "{x}", nil))
}
