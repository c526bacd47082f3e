package metrics

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/policy"
	"github.com/portzero/caddy-proxy-protocol/internal/record"
)

func TestCollector_TellsConnectionsFromDatagrams(t *testing.T) {
	const user = "user"
	t.Cleanup(func() { record.Listeners.Release(user) })
	connections := record.Listeners.Acquire(record.Key{Server: "timed", Address: ":443"}, user)
	connections.Count(policy.On, 1, record.Client)
	connections.Count(policy.On, 1, record.Client)
	connections.ObserveHeader(2 * time.Second)
	record.Listeners.Acquire(record.Key{Server: "timed", Address: record.DatagramPrefix + ":443"}, user).Count(policy.Off, 0, record.Direct)
	record.Listeners.Acquire(record.Key{Server: "untimed", Address: ":80"}, user).Count(policy.Unspecified, 2, record.Marked)

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Collector{})
	families, err := registry.Gather()
	require.NoError(t, err)
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := family.GetName()
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue() // in order of their names: mode, outcome, server, version
			}
			if h := m.GetHistogram(); h != nil {
				got[key+" count"], got[key+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
			} else {
				got[key] = m.GetCounter().GetValue()
			}
		}
	}
	assert.Equal(t, map[string]float64{
		"caddy_proxy_protocol_connections_total on client timed v1":            2,
		"caddy_proxy_protocol_connections_total unspecified marked untimed v2": 1,
		"caddy_proxy_protocol_datagrams_total off direct timed none":           1,
		"caddy_proxy_protocol_header_duration_seconds timed count":             1,
		"caddy_proxy_protocol_header_duration_seconds timed sum":               2,
	}, got)
}
