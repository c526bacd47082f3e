package datagram

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
)

// openedBy is a socket as Caddy opens it by a key on Unix systems.
type openedBy struct {
	net.PacketConn
	lnKey string
}

func (c openedBy) Unwrap() net.PacketConn { return c.PacketConn }

// unwrapper is a socket in the wrapper of another module.
type unwrapper struct{ net.PacketConn }

func (s unwrapper) Unwrap() net.PacketConn { return s.PacketConn }

// opaque hides a socket.
type opaque struct{ net.PacketConn }

// sharedSocket is a socket as Caddy opens it by a key on other systems.
type sharedSocket struct {
	net.PacketConn
	key string
}

type fakeClose struct{ *sharedSocket }

func TestKeyOf_FindsAKeyAndDoesNotGuess(t *testing.T) {
	udp := listenUDP(t, "127.0.0.1")
	keys := map[string]bool{"udp/:1": true, "udp/:2": true}
	for _, test := range []struct {
		name   string
		socket net.PacketConn
		want   string
	}{
		{"Caddy's", openedBy{udp, "udp/:2"}, "udp/:2"},
		{"Caddy's on Windows", &fakeClose{&sharedSocket{udp, "udp/:2"}}, "udp/:2"},
		{"below another", unwrapper{openedBy{udp, "udp/:1"}}, "udp/:1"},
		{"below one with a field of its own", openedBy{openedBy{udp, "udp/:1"}, "something"}, "udp/:1"},
		{"another server's", openedBy{udp, "udp/:3"}, ""},
		{"hidden", opaque{openedBy{udp, "udp/:1"}}, ""},
		{"none", udp, ""},
		{"nil inside", &fakeClose{}, ""},
	} {
		assert.Equal(t, test.want, KeyOf(test.socket, keys), test.name)
	}
	assert.Equal(t, "udp/:1", KeyOf(opaque{udp}, map[string]bool{"udp/:1": true}), "the only one")
	assert.Empty(t, KeyOf(openedBy{udp, "udp/:1"}, nil))
}
