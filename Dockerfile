# Caddy with this module, built as Caddy's own image documents it:
# https://hub.docker.com/_/caddy (Adding custom Caddy modules)
#
#	docker build -t caddy-proxy-protocol .
#	docker run -p 80:80 -p 443:443 -v $PWD/Caddyfile:/etc/caddy/Caddyfile -v caddy_data:/data caddy-proxy-protocol
#
# With -p, the engine may connect in place of the client: see docs/recipes/containers.md.
FROM caddy:2.11.9-builder AS builder

RUN xcaddy build v2.11.9 --with github.com/portzero/caddy-proxy-protocol

FROM caddy:2.11.9

COPY --from=builder /usr/bin/caddy /usr/bin/caddy
