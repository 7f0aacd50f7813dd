package otlp

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// gatherer makes of metrics for Prometheus what OpenTelemetry expects.
type gatherer struct {
	prometheus.Gatherer
	classic bool // of histograms only the classic buckets
}

// Gather implements [prometheus.Gatherer].
func (g gatherer) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.Gatherer.Gather()
	for _, family := range families {
		for _, m := range family.GetMetric() {
			m.Label = known(m.GetLabel())
			if h := m.GetHistogram(); g.classic && len(h.GetBucket()) > 0 {
				m.Histogram = &dto.Histogram{
					SampleCount: h.SampleCount, SampleSum: h.SampleSum, Bucket: h.GetBucket(), CreatedTimestamp: h.GetCreatedTimestamp(),
				}
			}
		}
	}
	return families, err
}

// known leaves out the labels that are empty: to Prometheus they are absent, but
// OpenTelemetry would take that for a value. The list may be the collector's own.
func known(labels []*dto.LabelPair) []*dto.LabelPair {
	list := make([]*dto.LabelPair, 0, len(labels))
	for _, l := range labels {
		if l.GetValue() != "" {
			list = append(list, l)
		}
	}
	return list
}
