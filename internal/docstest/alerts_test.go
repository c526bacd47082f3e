package docstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"
)

// This file writes the test of docs/alerts.yml that promtool runs.

// alertSeries is a counter: its name and labels, as Caddy exported them, and the traffic that it
// counts.
type alertSeries struct {
	series string
	traffic
}

// total returns the value of the counter at a minute.
func (s alertSeries) total(minute int) int {
	if s.until > 0 {
		minute = min(minute, s.until)
	}
	return int(s.perMinute * float64(max(0, minute-s.since)))
}

// scraped are the labels that Prometheus adds when it scrapes.
const scraped = `instance="caddy:2019",job="caddy",`

var labelPair = regexp.MustCompile(`(\w+)="([^"]*)"`)

// alertLabels returns the labels of an alert about the counter.
func (s alertSeries) alertLabels() map[string]string {
	labels := map[string]string{"counted": "connections"}
	if s.datagrams {
		labels["counted"] = "datagrams"
	}
	for _, m := range labelPair.FindAllStringSubmatch(scraped+s.series, -1) {
		if m[1] != "outcome" && m[1] != "version" {
			labels[m[1]] = m[2]
		}
	}
	return labels
}

// alertRule is a rule of docs/alerts.yml.
type alertRule struct {
	Alert, For          string
	Labels, Annotations map[string]string
}

// alertRules returns the alerts of docs/alerts.yml by name, without the prefix that all have.
func alertRules(t *testing.T) map[string]alertRule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alertRule } }
	require.NoError(t, yaml.Unmarshal([]byte(docsRead(t, filepath.Join(docsFolder, "alerts.yml"))), &file))
	rules := make(map[string]alertRule)
	for _, rule := range file.Groups[0].Rules {
		if name, ok := strings.CutPrefix(rule.Alert, "ProxyProtocol"); ok {
			rules[name] = rule
		}
	}
	require.NotEmpty(t, rules)
	return rules
}

// The types below are the format of promtool's tests.
type (
	promtoolTest struct {
		Name        string           `json:"name"`
		Interval    string           `json:"interval"`
		InputSeries []promtoolSeries `json:"input_series"`
		ExprTests   []promtoolExpr   `json:"promql_expr_test"`
		AlertTests  []promtoolAlert  `json:"alert_rule_test,omitempty"`
	}
	promtoolSeries struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	promtoolExpr struct {
		Expr       string           `json:"expr"`
		EvalTime   string           `json:"eval_time"`
		ExpSamples []promtoolSample `json:"exp_samples"`
	}
	promtoolSample struct {
		Labels string `json:"labels"`
		Value  int    `json:"value"`
	}
	promtoolAlert struct {
		Alertname string          `json:"alertname"`
		EvalTime  string          `json:"eval_time"`
		ExpAlerts []promtoolFired `json:"exp_alerts"`
	}
	promtoolFired struct {
		ExpLabels      map[string]string `json:"exp_labels"`
		ExpAnnotations map[string]string `json:"exp_annotations"`
	}
)

// promtoolFile returns a file of tests. It is YAML, because JSON is.
func promtoolFile(t *testing.T, tests []promtoolTest) string {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("# TestSituations writes this file. The series are those that a real Caddy exported.\n")
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	require.NoError(t, encoder.Encode(map[string]any{
		"rule_files":          []string{"../../../docs/alerts.yml"},
		"evaluation_interval": "1m",
		"tests":               tests,
	}))
	return b.String()
}

// Minutes of the tests of alerts.
const (
	alertMinutes = 180
	firstLook    = 20 // alerts whose condition must hold for 10 minutes fire by then
)

// alertsTest returns a test that these alerts fire in a situation, about the counter of its last
// traffic, and that no others do at any time.
func alertsTest(t *testing.T, name string, series []alertSeries, firing []string, rules map[string]alertRule) promtoolTest {
	t.Helper()
	test := promtoolTest{Name: name, Interval: "1m"}
	samples := make(map[string][]int)
	for _, s := range series {
		if samples[s.series] == nil {
			samples[s.series] = make([]int, alertMinutes+1)
		}
		for minute := range samples[s.series] {
			samples[s.series][minute] += s.total(minute)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		test.InputSeries = append(test.InputSeries, promtoolSeries{strings.Replace(name, "{", "{"+scraped, 1), notation(samples[name])})
	}
	soon, ever := []promtoolSample{}, []promtoolSample{}
	for _, alert := range firing {
		rule, ok := rules[alert]
		require.True(t, ok, "no such alert: %s", alert)
		labels, at := series[len(series)-1].alertLabels(), alertMinutes
		sample := promtoolSample{fmt.Sprintf("{alertname=%q, counted=%q, mode=%q, server=%q}", rule.Alert, labels["counted"], labels["mode"], labels["server"]), 1}
		ever = append(ever, sample)
		if rule.For == "10m" {
			soon, at = append(soon, sample), firstLook
		}
		maps.Copy(labels, rule.Labels)
		fired := promtoolFired{labels, make(map[string]string)}
		for key, text := range rule.Annotations {
			for label, value := range labels {
				text = strings.ReplaceAll(text, "{{ $labels."+label+" }}", value)
			}
			fired.ExpAnnotations[key] = text
		}
		test.AlertTests = append(test.AlertTests, promtoolAlert{rule.Alert, minutes(at), []promtoolFired{fired}})
	}
	test.ExprTests = []promtoolExpr{
		{`max by (alertname, counted, mode, server) (ALERTS{alertstate="firing"})`, minutes(firstLook), soon},
		{`max by (alertname, counted, mode, server) (max_over_time(ALERTS{alertstate="firing"}[` + minutes(alertMinutes) + `]))`, minutes(alertMinutes), ever},
	}
	return test
}

func minutes(n int) string { return fmt.Sprintf("%dm", n) }

// notation returns the samples of a counter as promtool reads them: "6+6x30" is 6 and 30 more, each
// larger by 6. Caddy does not export a counter that is 0.
func notation(values []int) string {
	var parts []string
	for i := 0; i < len(values); {
		n := 1 // samples at the same distance
		step := 0
		if i+1 < len(values) {
			step = values[i+1] - values[i]
		}
		for i+n < len(values) && values[i+n]-values[i+n-1] == step && (values[i] > 0) == (values[i+n] > 0) {
			n++
		}
		switch {
		case values[i] == 0:
			parts = append(parts, fmt.Sprintf("_x%d", n))
		case n == 1:
			parts = append(parts, fmt.Sprint(values[i]))
		default:
			parts = append(parts, fmt.Sprintf("%d+%dx%d", values[i], step, n-1))
		}
		i += n
	}
	return strings.Join(parts, " ")
}
