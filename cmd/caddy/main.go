// Command caddy is Caddy with its standard modules and the modules of this repository.
package main

import (
	_ "time/tzdata"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/portzero/caddy-proxy-protocol"
)

func main() {
	caddycmd.Main()
}
