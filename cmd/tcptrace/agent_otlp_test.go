package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"tcptrace/output/otlp/otlptest"
)

// What is sent by OTLP is what is served and written: the metrics have the same values,
// the log records are the findings.
func TestAgentOTLP(t *testing.T) {
	for _, c := range []struct {
		recording string
		args      []string
	}{
		{"scenarios.tct", nil},
		{"scenarios.tct", []string{"--by", "comm,lport", "--max-series", "20"}},
		{"scenarios.tct", []string{"--max-findings", "1"}},
		{"scenarios.tct", []string{"--max-findings", "0"}},
		{"lifecycles.tct", nil},
		{"containers.tct", []string{"--by", "container,unit"}},
		{"stuck.tct", nil},
	} {
		t.Run(fmt.Sprint(c.recording, c.args), func(t *testing.T) {
			receiver := &otlptest.Receiver{}
			server := httptest.NewServer(receiver)
			defer server.Close()
			served, found := agentOver(t, c.recording, append(c.args, "--otlp-endpoint", server.URL)...)

			want, got := samples(t, served), sent(receiver)
			for _, name := range slices.Sorted(maps.Keys(want)) {
				if got[name] != want[name] {
					t.Errorf("%s is %v, served %v", name, got[name], want[name])
				}
			}
			for name, value := range got {
				if _, ok := want[name]; !ok && value != 0 && !strings.HasPrefix(name, "tcptrace_build_info") {
					t.Errorf("%s is %v, not served", name, value)
				}
			}
			if len(want) < 10 {
				t.Errorf("only %d values are served: the test shows too little", len(want))
			}
			sameFindings(t, found, receiver)
		})
	}
}

// samples are the values of an exposition, by name and labels.
func samples(t *testing.T, text string) map[string]float64 {
	t.Helper()
	list := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		check(t, err)
		name, labels, _ := strings.Cut(strings.TrimSuffix(line[:i], "}"), "{")
		parts := slices.DeleteFunc(strings.Split(labels, ","), func(l string) bool { return strings.HasSuffix(l, `=""`) })
		slices.Sort(parts)
		list[name+"{"+strings.Join(parts, ",")+"}"] = value
	}
	return list
}

// sent are the same of what was received.
func sent(r *otlptest.Receiver) map[string]float64 {
	list := map[string]float64{}
	sample := func(name string, value float64, attributes []*common.KeyValue, more ...string) {
		labels := more
		for _, a := range attributes {
			labels = append(labels, fmt.Sprintf("%s=%q", a.GetKey(), a.GetValue().GetStringValue()))
		}
		slices.Sort(labels)
		list[name+"{"+strings.Join(labels, ",")+"}"] = value
	}
	points := func(name string, list []*metrics.NumberDataPoint) {
		for _, p := range list {
			sample(name, p.GetAsDouble(), p.GetAttributes())
		}
	}
	for _, m := range r.Metrics() {
		name := m.GetName()
		points(name, m.GetGauge().GetDataPoints())
		if m.GetSum().GetIsMonotonic() && m.GetSum().GetAggregationTemporality() == metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
			points(name, m.GetSum().GetDataPoints())
		}
		for _, h := range m.GetHistogram().GetDataPoints() {
			sample(name+"_sum", h.GetSum(), h.GetAttributes())
			sample(name+"_count", float64(h.GetCount()), h.GetAttributes())
			sum := uint64(0)
			for i, n := range h.GetBucketCounts() {
				bound := "+Inf"
				if i < len(h.GetExplicitBounds()) {
					bound = strconv.FormatFloat(h.GetExplicitBounds()[i], 'g', -1, 64)
				}
				sum += n
				sample(name+"_bucket", float64(sum), h.GetAttributes(), fmt.Sprintf("le=%q", bound))
			}
		}
	}
	return list
}

// sameFindings holds log records against the lines of JSON.
func sameFindings(t *testing.T, lines string, r *otlptest.Receiver) {
	t.Helper()
	var found []string
	for line := range strings.Lines(lines) {
		if !strings.HasPrefix(line, `{"type":"summary"`) {
			found = append(found, line)
		}
	}
	var got []string
	for _, l := range r.Logs() {
		object := map[string]any{}
		for _, a := range l.GetAttributes() {
			in, name := object, a.GetKey()
			if outer, inner, nested := strings.Cut(name, "."); nested {
				if object[outer] == nil {
					object[outer] = map[string]any{}
				}
				in, name = object[outer].(map[string]any), inner
			}
			switch v := a.GetValue().GetValue().(type) {
			case *common.AnyValue_StringValue:
				in[name] = v.StringValue
			case *common.AnyValue_IntValue:
				in[name] = json.Number(strconv.FormatInt(v.IntValue, 10))
			case *common.AnyValue_BoolValue:
				in[name] = v.BoolValue
			}
		}
		if l.GetTimeUnixNano() != 0 {
			object["time"] = time.Unix(0, int64(l.GetTimeUnixNano())).UTC().Format("2006-01-02T15:04:05.000000000Z")
		}
		if l.GetObservedTimeUnixNano() == 0 || l.GetBody().GetStringValue() == "" {
			t.Errorf("no time of export, or no body: %v", l)
		}
		got = append(got, fmt.Sprint(object))
	}
	// With --max-findings 0 the notices are not on standard output, and nothing is
	// suppressed.
	if len(found) == 0 {
		got = slices.DeleteFunc(got, func(l string) bool {
			return strings.Contains(l, "type:notice") && !strings.Contains(l, "suppressed")
		})
	}
	if len(got) != len(found) {
		t.Fatalf("%d log records, %d findings:\n%s\n%s", len(got), len(found), strings.Join(got, "\n"), lines)
	}
	for i, line := range found {
		var object map[string]any
		decoder := json.NewDecoder(bytes.NewReader([]byte(line)))
		decoder.UseNumber()
		check(t, decoder.Decode(&object))
		if want := fmt.Sprint(object); got[i] != want {
			t.Errorf("record %d is\n%s\nwant\n%s", i, got[i], want)
		}
	}
}
