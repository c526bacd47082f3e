// Package metrics shows the counters of all listeners to Prometheus.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

// Collector collects the metrics of all listeners. The counters outlive configurations, whose
// registries are new at every load.
type Collector struct{}

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

// Describe implements prometheus.Collector.
func (Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	ch <- datagramsDesc
	ch <- headerSecondsDesc
}

// Collect implements prometheus.Collector.
func (Collector) Collect(ch chan<- prometheus.Metric) {
	for key, counters := range record.Listeners.Totals() {
		counted := connectionsDesc
		if key.Datagrams {
			counted = datagramsDesc
		}
		collect(counters, counted, key.Server, ch)
	}
}

// collect sends the counts of a server.
func collect(c *record.Counters, counted *prometheus.Desc, server string, ch chan<- prometheus.Metric) {
	c.Each(func(mode policy.Mode, version string, o record.Outcome, n uint64) {
		ch <- prometheus.MustNewConstMetric(counted, prometheus.CounterValue, float64(n),
			server, mode.String(), version, o.String())
	})
	n, sum, buckets := c.HeaderTimes()
	if n == 0 {
		return // the times are not measured, or there was no header yet
	}
	ch <- prometheus.MustNewConstHistogram(headerSecondsDesc, n, float64(sum)/1e9, buckets, server)
}
