package caddytest

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Relay is a load balancer for UDP. For each client it has a socket towards Caddy, and it writes a
// header before each of the client's datagrams.
type Relay struct {
	t testing.TB
	// Front is the socket towards the clients.
	Front *net.UDPConn
	from  string // IP address towards Caddy
	to    *net.UDPAddr

	// mu guards from, header, flows and the headers of the flows.
	mu     sync.Mutex
	header string                        // header of clients that have none of their own
	flows  map[netip.AddrPort]*relayFlow // by the client's address
}

// relayFlow is the flow of one client through a relay.
type relayFlow struct {
	client netip.AddrPort
	back   *net.UDPConn
	header *string // the client's own header, or nil for that of the relay
}

// StartRelay runs a relay until the test ends. from is the IP address that Caddy sees as the peer.
func StartRelay(t testing.TB, from string, to Endpoint, header string) *Relay {
	t.Helper()
	address, err := net.ResolveUDPAddr("udp", to.Address)
	require.NoError(t, err)
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r := &Relay{t: t, Front: front, from: from, to: address, header: header, flows: make(map[netip.AddrPort]*relayFlow)}
	var wait sync.WaitGroup
	wait.Go(r.forth)
	t.Cleanup(func() {
		front.Close()
		wait.Wait()
		r.Forget()
	})
	return r
}

// Address returns the address that clients connect to.
func (r *Relay) Address() string { return r.Front.LocalAddr().String() }

// Speak sets the header of all clients that have none of their own.
func (r *Relay) Speak(header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.header = header
}

// MoveTo gives the relay another address towards Caddy, and another header.
func (r *Relay) MoveTo(from, header string) {
	r.mu.Lock()
	r.from, r.header = from, header
	r.mu.Unlock()
	r.Forget()
}

// SpeakFor gives a client a header of its own, until Forget.
func (r *Relay) SpeakFor(c *HTTP3Client, header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	flow, err := r.flow(c.udp.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(r.t, err)
	flow.header = &header
}

// Forget closes the sockets towards Caddy, and forgets the clients' own headers. The next datagram
// of a client opens a new socket.
func (r *Relay) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for client, flow := range r.flows {
		flow.back.Close()
		delete(r.flows, client)
	}
}

// BackPort returns the port of a client's socket towards Caddy.
func (r *Relay) BackPort(c *HTTP3Client) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	flow, err := r.flow(c.udp.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(r.t, err)
	return flow.back.LocalAddr().(*net.UDPAddr).Port
}

// flow returns the flow of a client, and opens it if there is none. mu must be held.
func (r *Relay) flow(client netip.AddrPort) (*relayFlow, error) {
	flow := r.flows[client]
	if flow == nil {
		back, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(r.from)}, r.to)
		if err != nil {
			return nil, err
		}
		back.SetReadBuffer(1 << 22)
		flow = &relayFlow{client: client, back: back}
		r.flows[client] = flow
		go r.back(flow)
	}
	return flow, nil
}

// forth forwards datagrams to Caddy, each behind a header, until Front is closed.
func (r *Relay) forth() {
	r.Front.SetReadBuffer(1 << 22)
	buffer := make([]byte, 1<<16)
	for {
		n, client, err := r.Front.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		flow, err := r.flow(client)
		header := r.header
		if err == nil && flow.header != nil {
			header = *flow.header
		}
		r.mu.Unlock()
		if err == nil {
			_, _ = flow.back.Write(append([]byte(header), buffer[:n]...)) // UDP may lose it
		}
	}
}

// back forwards Caddy's datagrams to a client until the socket of the flow is closed.
func (r *Relay) back(flow *relayFlow) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := flow.back.Read(buffer)
		if n > 0 {
			_, _ = r.Front.WriteToUDPAddrPort(buffer[:n], flow.client)
		}
		if err != nil && strings.Contains(err.Error(), net.ErrClosed.Error()) {
			return
		}
	}
}
