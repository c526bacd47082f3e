package proxyprotocol

import (
	"net"
	"reflect"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// packetConns are the wrapped sockets that are open. Caddy keeps a socket of QUIC and what
// wraps it across reloads, and never says when it closes it: a socket is removed when a read
// says that it is closed, or when Caddy opens another one by the same key.
var packetConns = packetConnPool{conns: make(map[*packetConn]struct{})}

type packetConnPool struct {
	mu    sync.Mutex
	conns map[*packetConn]struct{}
}

// adoption is a configuration's claim to a socket.
type adoption struct {
	by    *PacketConnWrapper
	rules *rules
}

// add adds a new socket of a configuration.
func (p *packetConnPool) add(c *packetConn, by *PacketConnWrapper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other := range p.conns {
		if c.key != "" && other.key == c.key {
			delete(p.conns, other) // Caddy has one socket of a key at a time
		}
	}
	p.conns[c] = struct{}{}
	c.adopt(by)
}

// forget removes a socket that is closed.
func (p *packetConnPool) forget(c *packetConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// adopt puts the sockets that a configuration took over under its rules: those that Caddy
// opened by a key of its server. Other sockets may have the same address.
func (p *packetConnPool) adopt(by *PacketConnWrapper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if by.keys[c.key] {
			c.adopt(by)
		}
	}
}

// release gives up all sockets of a configuration.
func (p *packetConnPool) release(by *PacketConnWrapper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.release(by)
		if c.key == "" && len(c.adopted) == 0 {
			delete(p.conns, c) // no configuration can find it again
		}
	}
}

// adopt puts the socket under the rules of a configuration.
func (c *packetConn) adopt(by *PacketConnWrapper) {
	if n := len(c.adopted); n > 0 && c.adopted[n-1].by == by {
		return
	}
	adopted := adoption{by, by.rulesOf(c.addr)}
	c.adopted = append(c.adopted, adopted)
	c.rules.Store(adopted.rules)
}

// release takes the rules of a configuration from the socket. Those of the one before
// remain if it is there, as when a reload fails.
func (c *packetConn) release(by *PacketConnWrapper) {
	c.adopted = slices.DeleteFunc(c.adopted, func(a adoption) bool { return a.by == by })
	if len(c.adopted) == 0 {
		// Without a key no other configuration can take over, and perhaps nothing stands behind
		// the socket that would refuse what passes.
		if last := c.rules.Load(); c.key != "" || last == nil || !last.uses(On) {
			c.rules.Store(nil)
		}
		return
	}
	c.rules.Store(c.adopted[len(c.adopted)-1].rules)
}

// socketKeys are the keys by which Caddy opens sockets: a network for datagrams, and host
// and port as they are written in the configuration, like "udp4/0.0.0.0:443". Caddy hands a
// socket over to the next configuration by its key alone. Sockets with the same key are the
// same, those with another key are not, even if they have the same address.
type socketKeys map[string]bool

// socketKeysOf returns the keys of the sockets for HTTP/3 of a server. Without TLS Caddy opens
// none, and the sockets with these keys are another server's.
func socketKeysOf(server *caddyhttp.Server) (socketKeys, error) {
	keys := make(socketKeys)
	if len(server.TLSConnPolicies) == 0 {
		return keys, nil
	}
	for i, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil {
			return nil, err
		}
		protocols := server.Protocols
		if i < len(server.ListenProtocols) && server.ListenProtocols[i] != nil {
			protocols = server.ListenProtocols[i]
		}
		if addr.IsUnixNetwork() || len(protocols) > 0 && !slices.Contains(protocols, "h3") {
			continue
		}
		network := addr.Network
		if datagrams, ok := datagramNetworks[network]; ok {
			network = datagrams
		}
		for offset := range addr.PortRangeSize() {
			keys[network+"/"+addr.JoinHostPort(offset)] = true
		}
	}
	return keys, nil
}

// datagramNetworks are the networks of HTTP/3 on addresses of TCP. Others are the same.
var datagramNetworks = map[string]string{"tcp": "udp", "tcp4": "udp4", "tcp6": "udp6"}

// of returns the key of a socket that Caddy opened for the server of these keys, or an empty
// one if it cannot be told.
func (k socketKeys) of(socket net.PacketConn) string {
	// Caddy does not tell the key, but writes it into an unexported field of the socket, to
	// count its uses by it.
	for below := socket; below != nil; {
		for _, field := range [...]string{"lnKey", "key"} {
			if key := stringField(below, field); k[key] {
				return key
			}
		}
		wrapped, ok := below.(interface{ Unwrap() net.PacketConn })
		if !ok {
			break
		}
		below = wrapped.Unwrap()
	}
	if len(k) == 1 {
		for only := range k {
			return only
		}
	}
	return ""
}

// stringField returns the value of a string field, unexported ones too, or an empty string
// if there is none.
func stringField(of any, name string) (value string) {
	defer func() { _ = recover() }() // an embedded pointer on the way may be nil
	v := reflect.Indirect(reflect.ValueOf(of))
	if v.Kind() != reflect.Struct {
		return ""
	}
	if field := v.FieldByName(name); field.IsValid() && field.Kind() == reflect.String {
		return field.String()
	}
	return ""
}
