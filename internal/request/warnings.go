package request

import (
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// WarnOfPolicy logs warnings about a policy that is valid but may not be what the operator wants.
// signed says that a signature is required, which no peer can make that has no key.
func WarnOfPolicy(p *policy.Policy, signed bool, logger *zap.Logger) {
	if p.Uses(policy.Unspecified) {
		logger.Warn("mode 'unspecified' is for tests only: any peer that may send a header can claim any client address; set 'proxy_protocol_mode on' if a load balancer sends headers, else 'proxy_protocol_mode off'")
	}
	if p.Mode == policy.On && p.TrustsAnyone() && !signed {
		logger.Warn("mode 'on' without 'trusted_proxies' accepts headers from any peer that can reach the port; add the addresses of your load balancers to 'proxy_protocol_mode', for example: trusted_proxies static 10.0.0.0/8")
	}
	if p.Trusted != nil && p.Trusted.Size() == 0 {
		logger.Warn("'trusted_proxies' has no ranges: no peer may send a header")
	}
}
