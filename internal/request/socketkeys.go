package request

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// SocketKeys are the keys by which Caddy opens sockets: a network for datagrams, and host
// and port as they are written in the configuration, like "udp4/0.0.0.0:443". Caddy passes a
// socket to the next configuration by its key. Sockets with different keys are different, even if
// they have the same address.
type SocketKeys map[string]bool

// SocketKeysOf returns the keys of the sockets for HTTP/3 of a server. Without TLS Caddy opens
// none, and the sockets with these keys are another server's.
func SocketKeysOf(server *caddyhttp.Server) (SocketKeys, error) {
	keys := make(SocketKeys)
	if len(server.TLSConnPolicies) == 0 {
		return keys, nil
	}
	for i, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil {
			return nil, err
		}
		protocols := ProtocolsOf(server, i)
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

// datagramNetworks are the networks of HTTP/3 for networks of TCP. Other networks stay as they are.
var datagramNetworks = map[string]string{"tcp": "udp", "tcp4": "udp4", "tcp6": "udp6"}
