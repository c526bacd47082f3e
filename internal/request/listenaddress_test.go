package request

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestListenAddress_IsWrittenAsCaddyWritesIt(t *testing.T) {
	assert.Empty(t, ListenAddress(nil))
	assert.Equal(t, "127.0.0.1:80", ListenAddress(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}))
	assert.Equal(t, "unix//run/socket", ListenAddress(&net.UnixAddr{Name: "/run/socket", Net: "unix"}))
}
