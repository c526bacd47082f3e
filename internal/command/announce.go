package command

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/portzero/caddy-proxy-protocol/internal/record"
	"github.com/portzero/caddy-proxy-protocol/internal/statusapi"
)

// checksPath is the path of announcements in Caddy's admin API.
const checksPath = "/proxy_protocol/checks"

// announcer announces the connections of a check to a running Caddy before they are made, so that
// Caddy records them apart. It binds sockets first, because only then their addresses are known.
// The admin API vouches for them, and nothing on the wire does: so no client can pass for a check.
type announcer struct {
	admin   string // the address of the admin API
	timeout time.Duration
	started time.Time

	mu sync.Mutex
	// announced are the connections and datagrams that were announced; guarded by mu.
	announced statusapi.Checks
	// err is the first error of an announcement; guarded by mu.
	err error
}

// newAnnouncer returns an announcer at an admin API. It asks the admin API whether it takes
// announcements.
func newAnnouncer(admin string, timeout time.Duration) *announcer {
	a := &announcer{admin: admin, timeout: timeout, started: time.Now()}
	_, a.err = a.tell(http.MethodPost, statusapi.Checks{})
	return a
}

// active reports whether connections are announced. It is false for nil.
func (a *announcer) active() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err == nil
}

// bindAndAnnounce binds a socket that will connect to an address, and announces it. source is the
// IP address to bind it to; if it is the zero Addr, it is the one that the system would choose. An
// announcement that fails is no error: then the connection is one like any other.
func (a *announcer) bindAndAnnounce(network string, source netip.Addr, address string, socket syscall.RawConn) error {
	ip := source
	if !ip.IsValid() {
		ip = sourceFor(address)
	}
	local, err := bind(socket, ip)
	if err != nil && source.IsValid() {
		return err
	}
	if err == nil {
		err = a.announce(local, strings.HasPrefix(network, "udp"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
	}
	return nil
}

// sourceFor returns the IP address from which the system would connect to an address, or the zero
// Addr.
func sourceFor(address string) netip.Addr {
	socket, err := net.Dial("udp", address) // sends nothing
	if err != nil {
		return netip.Addr{}
	}
	defer socket.Close()
	return socket.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

func (a *announcer) announce(local netip.AddrPort, datagrams bool) error {
	var peer statusapi.Checks
	a.mu.Lock()
	if datagrams {
		peer.Datagrams = []netip.AddrPort{local}
		a.announced.Datagrams = append(a.announced.Datagrams, local)
	} else {
		peer.Connections = []netip.AddrPort{local}
		a.announced.Connections = append(a.announced.Connections, local)
	}
	a.mu.Unlock()
	_, err := a.tell(http.MethodPost, peer)
	return err
}

// tell makes a request for announcements.
func (a *announcer) tell(method string, peers statusapi.Checks) (answer statusapi.Checks, err error) {
	request, err := json.Marshal(peers)
	if err != nil {
		return answer, err
	}
	body, err := askAdmin(a.admin, method, checksPath, request, a.timeout)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("the admin API at %s did not answer as this module does: %w", a.admin, err)
	}
	return answer, nil
}

// end withdraws the announcements, and returns why the connections were perhaps recorded like any
// other. It returns an empty text if they were recorded apart.
func (a *announcer) end() (problem string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.problem()
	}
	answer, err := a.tell(http.MethodDelete, a.announced)
	switch {
	case err != nil:
		a.err = err
		return a.problem()
	case len(answer.Connections) == len(a.announced.Connections):
		return fmt.Sprintf("the Caddy whose admin API is at %s saw none of them: it does not have this listener, or a NAT or a load balancer stands between", a.admin)
	case time.Since(a.started) > record.AnnouncedFor:
		return fmt.Sprintf("the check took longer than the %v of an announcement", record.AnnouncedFor)
	default:
		return ""
	}
}

// problem returns a text for err. The caller holds mu.
func (a *announcer) problem() string {
	if strings.Contains(a.err.Error(), syscall.ECONNREFUSED.Error()) {
		return "there is no admin API at " + a.admin
	}
	return "they could not be announced: " + a.err.Error()
}
