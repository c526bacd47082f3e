package request

import (
	"go.uber.org/zap"

	"github.com/portzero/caddy-proxy-protocol/internal/auth"
	"github.com/portzero/caddy-proxy-protocol/internal/policy"
)

// WarnOfPolicy logs warnings about a policy that is valid but may not be what the operator wants.
// require is what headers must prove, or nil: no peer can make a signature that has no key.
func WarnOfPolicy(p *policy.Policy, require *auth.Requirement, logger *zap.Logger) {
	if p.Uses(policy.Unspecified) {
		logger.Warn("mode 'unspecified' is for tests only: any peer that may send a header can claim any client address; set 'proxy_protocol_mode on' if a load balancer sends headers, else 'proxy_protocol_mode off'")
	}
	if p.Mode == policy.On && p.TrustsAnyone() && !require.HasSignature() {
		logger.Warn("mode 'on' without 'trusted_proxies' accepts headers from any peer that can reach the port; add the addresses of your load balancers to 'proxy_protocol_mode', for example: trusted_proxies static 10.0.0.0/8")
	}
	if p.Trusted != nil && p.Trusted.Size() == 0 {
		logger.Warn("'trusted_proxies' has no ranges: no peer may send a header")
	}
	if names := require.AnyValue(); len(names) > 0 {
		logger.Warn("'require tlv' without values accepts any value, which any host can send; if you wrote the value as {$NAME}, that environment variable is not set: write {env.NAME}, which is then an error",
			zap.Strings("tlvs", names))
	}
}
