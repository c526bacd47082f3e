//go:build unix

package command

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAnnouncerThatWasSlow asserts that a check does not claim that its connections were told apart
// after its announcements have expired.
func TestAnnouncerThatWasSlow(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"connections":[]}`)
	}))
	defer admin.Close()
	a := newAnnouncer(admin.Listener.Addr().String(), 20*time.Second)
	require.True(t, a.active())
	p := &target{network: "tcp", address: admin.Listener.Addr().String(), announcer: a}
	conn, err := p.dial(t.Context(), 20*time.Second)
	require.NoError(t, err)
	defer conn.Close()
	assert.Equal(t, a.announced.Connections[0].String(), conn.LocalAddr().String())
	assert.Empty(t, a.end())
	a.started = a.started.Add(-time.Minute)
	assert.Equal(t, "the check took longer than the 10s of an announcement", a.end())
}

func TestSourceForNoAddress(t *testing.T) {
	assert.False(t, sourceFor("127.0.0.1:65536").IsValid())
	assert.Equal(t, "127.0.0.1", sourceFor("127.0.0.1:1").String())
}

func TestZoneID(t *testing.T) {
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range interfaces {
		assert.EqualValues(t, i.Index, zoneID(i.Name))
	}
	assert.EqualValues(t, 7, zoneID("7"))
	assert.Zero(t, zoneID(""))
	assert.Zero(t, zoneID("no such interface"))
}
