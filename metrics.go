package proxyprotocol

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/portzero/caddy-proxy-protocol/internal/metrics"
	"github.com/portzero/caddy-proxy-protocol/internal/request"
)

// registerMetrics adds the metrics of all listeners to the registry of a configuration.
func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(metrics.Collector{})
	// several servers of a configuration share its registry
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil
	}
	return err
}

// wantsMetrics reports whether Caddy's HTTP metrics are turned on.
func wantsMetrics(ctx caddy.Context) bool {
	app := request.HTTPApp(ctx)
	if app == nil {
		return false
	}
	wants := app.Metrics != nil
	for _, server := range app.Servers {
		wants = wants || server.Metrics != nil
	}
	return wants
}
