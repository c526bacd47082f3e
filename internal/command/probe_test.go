package command

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestProbesOfAListenerThatWentAway asserts the results if the listener is closed between the
// first connection and the others.
func TestProbesOfAListenerThatWentAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	p := &prober{target: target{network: "tcp", address: l.Addr().String()}, host: l.Addr().String(), timeout: 20 * time.Second}
	for _, overTLS := range []bool{false, true} {
		for i, got := range p.probe(overTLS, nil) {
			assert.Equal(t, probeResult{unreachable, "connection refused"}, got, "%s", probe(i))
		}
	}
	bare, behind := p.probesHTTP3()
	assert.Equal(t, unreachable, bare.reaction)
	require.NotNil(t, behind)
	assert.Equal(t, unreachable, behind.reaction)
	assert.Equal(t, verdictUnreachable, verdictOf(observation{probes: *p.probe(false, nil)}).Verdict, "this is never a pass")
}

func TestProbeOfNoAddress(t *testing.T) {
	p := &prober{target: target{network: "tcp", address: "127.0.0.1:65536"}, host: "localhost", timeout: time.Second}
	assert.Equal(t, probeResult{unreachable, "address 65536: invalid port"}, p.probeHTTP3(t.Context(), nil))
}

func TestProblemLeavesOutWhatIsKnownAnyway(t *testing.T) {
	for want, err := range map[string]error{
		"timed out":      context.DeadlineExceeded,
		"no such host":   &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "a"}},
		"broken":         &net.OpError{Op: "read", Net: "tcp", Err: errors.New("broken")},
		`steers \x1b[2J`: errors.New("steers \x1b[2J"),
	} {
		assert.Equal(t, want, problem(err))
	}
}
