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
		tally.collect(counted, key.server, ch)
	}
}

func (t *tally) collect(counted *prometheus.Desc, server string, ch chan<- prometheus.Metric) {
	for mode := range t.outcomes {
		for version := range t.outcomes[mode] {
			for o := range t.outcomes[mode][version] {
				if n := t.outcomes[mode][version][o].Load(); n > 0 {
					ch <- prometheus.MustNewConstMetric(counted, prometheus.CounterValue, float64(n),
						server, Mode(mode).String(), versionNames[version], outcome(o).String())
				}
			}
		}
	}
	var n uint64
	buckets := make(map[float64]uint64)
	for i := range t.headers.counts {
		n += t.headers.counts[i].Load()
		if i < len(durationBounds) {
			buckets[durationBounds[i].Seconds()] = n
		}
	}
	if n == 0 {
		return // nobody asked for it, or there was no header yet
	}
	sum := float64(t.headers.sum.Load()) / 1e9
	ch <- prometheus.MustNewConstHistogram(headerSecondsDesc, n, sum, buckets, server)
}
