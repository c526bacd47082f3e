package caddytest

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Relay is a load balancer for UDP: each client has a socket towards Caddy, and a header
// that goes before each of its datagrams.
type Relay struct {
	t testing.TB
	// Front is the socket towards the clients.
	Front *net.UDPConn
	from  string // IP address towards Caddy
	to    *net.UDPAddr

	mu     sync.Mutex
	header string // of clients that have none of their own
	flows  map[netip.AddrPort]*relayFlow
}

// relayFlow is one client's way through a relay.
type relayFlow struct {
	client netip.AddrPort
	back   *net.UDPConn
	header *string
}

// StartRelay runs a relay until the test ends. Caddy sees it as the peer with the address from.
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

// Address returns the address for clients.
func (r *Relay) Address() string { return r.Front.LocalAddr().String() }

// Speak makes the relay send this header for all clients that have none of their own.
func (r *Relay) Speak(header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.header = header
}

// MoveTo makes the relay a peer with another address, which sends this header.
func (r *Relay) MoveTo(from, header string) {
	r.mu.Lock()
	r.from, r.header = from, header
	r.mu.Unlock()
	r.Forget()
}

// SpeakFor gives the client a header of its own.
func (r *Relay) SpeakFor(c *HTTP3Client, header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	flow, err := r.flow(c.udp.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(r.t, err)
	flow.header = &header
}

// Forget closes the sockets towards Caddy. The next datagram of a client opens a new one.
func (r *Relay) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for client, flow := range r.flows {
		flow.back.Close()
		delete(r.flows, client)
	}
}

// BackPort returns the port towards Caddy of a client.
func (r *Relay) BackPort(c *HTTP3Client) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	flow, err := r.flow(c.udp.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(r.t, err)
	return flow.back.LocalAddr().(*net.UDPAddr).Port
}

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
