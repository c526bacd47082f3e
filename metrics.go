package proxyprotocol

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// The metrics outlive configurations, whose registries are new at every load.
var (
	connections = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "proxy_protocol",
		Name:      "connections_total",
		Help:      "Counter of connections whose beginning was judged, by the mode in force for the peer, the version of the PROXY protocol header (none, v1, v2) and what became of them (client, marked, local, direct, or the reason of a refusal).",
	}, []string{"server", "mode", "version", "outcome"})

	datagrams = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "proxy_protocol",
		Name:      "datagrams_total",
		Help:      "Counter of datagrams that arrived for HTTP/3, by the mode in force for the peer, the version of the PROXY protocol header (none, v2) and what became of them (client, marked, local, direct, or the reason why they were dropped).",
	}, []string{"server", "mode", "version", "outcome"})

	headerSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy",
		Subsystem: "proxy_protocol",
		Name:      "header_duration_seconds",
		Help:      "Histogram of the time from accept to a complete PROXY protocol header.",
		Buckets:   []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 3, 5},
	}, []string{"server"})
)

func registerMetrics(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	for _, collector := range []prometheus.Collector{connections, datagrams, headerSeconds} {
		// several servers of a configuration share its registry
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// forgetMetrics drops the series of a server that is gone.
func forgetMetrics(server string) {
	labels := prometheus.Labels{"server": server}
	connections.DeletePartialMatch(labels)
	datagrams.DeletePartialMatch(labels)
	headerSeconds.DeletePartialMatch(labels)
}
