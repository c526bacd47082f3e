package proxyprotocol

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what Prometheus sees of all listeners. What they are made of outlives
// configurations, whose registries are new at every load. Counting costs next to nothing and
// is always done; the clock is read for those who ask for Caddy's own HTTP metrics.
type metrics struct{}

var (
	connectionsDesc = prometheus.NewDesc("caddy_proxy_protocol_connections_total",
		"Counter of connections, by the mode in force for the peer, the version of the PROXY protocol header (none, v1, v2) and the outcome (client, marked, local, direct, or the reason of a refusal).",
		[]string{"server", "mode", "version", "outcome"}, nil)

	datagramsDesc = prometheus.NewDesc("caddy_proxy_protocol_datagrams_total",
		"Counter of datagrams that arrived for HTTP/3, by the mode in force for the peer, the version of the PROXY protocol header (none, v2) and the outcome (client, marked, local, direct, or the reason why the datagram was dropped).",
		[]string{"server", "mode", "version", "outcome"}, nil)

	headerSecondsDesc = prometheus.NewDesc("caddy_proxy_protocol_header_duration_seconds",
		"Histogram of the time from accept to a complete PROXY protocol header.",
		[]string{"server"}, nil)
)

func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(metrics{})
	// several servers of a configuration share its registry
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil
	}
	return err
}

// wantsMetrics reports whether Caddy's HTTP metrics are turned on.
func wantsMetrics(ctx caddy.Context) bool {
	app := httpApp(ctx)
	if app == nil {
		return false
	}
	wants := app.Metrics != nil
	for _, server := range app.Servers {
		wants = wants || server.Metrics != nil
	}
	return wants
}

// Describe implements prometheus.Collector.
func (metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	ch <- datagramsDesc
	ch <- headerSecondsDesc
}

// Collect implements prometheus.Collector.
func (metrics) Collect(ch chan<- prometheus.Metric) {
	for key, tally := range listeners.tallies() {
		counted := connectionsDesc
		if key.datagrams {
			counted = datagramsDesc
		}
		collect(tally, counted, key.server, ch)
	}
}

// collect sends what a tally has counted.
func collect(t *tally, counted *prometheus.Desc, server string, ch chan<- prometheus.Metric) {
	t.each(func(mode Mode, version string, o outcome, n uint64) {
		ch <- prometheus.MustNewConstMetric(counted, prometheus.CounterValue, float64(n),
			server, mode.String(), version, o.String())
	})
	n, sum, buckets := t.headerTimes()
	if n == 0 {
		return // nobody asked for it, or there was no header yet
	}
	ch <- prometheus.MustNewConstHistogram(headerSecondsDesc, n, float64(sum)/1e9, buckets, server)
}
