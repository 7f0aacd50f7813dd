package otlp_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"tcptrace/events"
	"tcptrace/output"
	"tcptrace/output/otlp"
	"tcptrace/output/otlp/otlptest"
	"tcptrace/output/outputtest"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exporter is one with what it complained of.
type exporter struct {
	*otlp.Exporter
	mu         sync.Mutex
	complaints []string
}

func (e *exporter) told() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.complaints, "\n")
}

func open(t *testing.T, url string, metrics ...prometheus.Collector) *exporter {
	t.Helper()
	endpoint, err := otlp.ParseEndpoint(url)
	check(t, err)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics...)
	e := &exporter{}
	e.Exporter, err = otlp.New(&otlp.Options{
		Endpoint: endpoint, Interval: time.Hour, Version: "test", Metrics: registry,
		Complain: func(text string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.complaints = append(e.complaints, text)
		},
	})
	check(t, err)
	return e
}

func serve(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// dropped holds what the exporter says of itself against what is so.
func dropped(t *testing.T, e *exporter, logs, metrics int) {
	t.Helper()
	want := fmt.Sprintf(`# HELP tcptrace_otlp_dropped_total What the OTLP endpoint did not take: log records, or rounds of metrics.
# TYPE tcptrace_otlp_dropped_total counter
tcptrace_otlp_dropped_total{signal="logs"} %d
tcptrace_otlp_dropped_total{signal="metrics"} %d
`, logs, metrics)
	if err := testutil.CollectAndCompare(e, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"http://127.0.0.1:4318":          "",
		"https://[::1]:4318/otlp/":       "",
		"https://collector.example":      "",
		"127.0.0.1:4318":                 "first path segment",
		"localhost:4318":                 "want http://",
		"":                               "want http://",
		"unix:///run/otlp":               "want http://",
		"http://":                        "want http://",
		"http://:4318":                   "want http://",
		"http://host:port":               "invalid port",
		"http://host:99999":              `"99999" is no port`,
		"http://host:0":                  `"0" is no port`,
		"http://me:secret@host":          "OTEL_EXPORTER_OTLP_HEADERS",
		"http://host?token=x":            "query",
		"http://host#x":                  "fragment",
		"grpc://me:secret@host:4317/%00": "want http://",
	} {
		_, err := otlp.ParseEndpoint(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the password is told: %v", text, err)
		}
	}
}

// Also with the worst names and numbers that there are, nothing is lost.
func TestFindings(t *testing.T) {
	receiver := &otlptest.Receiver{}
	e := open(t, serve(t, receiver))
	at := time.Date(2026, 11, 24, 1, 2, 3, 4, time.UTC)
	s := e.Start(events.Clock{})
	lost := output.Notice{Time: at, Kind: output.NoticeLost, Reason: "ringbuf_full", Count: 7}
	for _, err := range []error{
		s.Transition(outputtest.Transition()), s.Transition(outputtest.Unknown()), s.Transition(outputtest.Extreme()),
		s.Stuck(outputtest.Stuck()), s.Stuck(outputtest.UnknownStuck()), s.Stuck(outputtest.ExtremeStuck()),
		s.Notice(&lost), s.Lifecycle(outputtest.Lifecycle()), s.Summary(&output.Summary{}), s.Flush(), s.Close(),
	} {
		check(t, err)
	}
	dropped(t, e, 0, 0)
	got := receiver.Logs()
	if len(got) != 7 {
		t.Fatalf("%d records, want 7; %s", len(got), e.told())
	}
	for i, want := range []struct {
		severity logs.SeverityNumber
		event    string
		body     string
	}{
		{logs.SeverityNumber_SEVERITY_NUMBER_INFO, "tcptrace.transition", "legal: ESTABLISHED -> FIN_WAIT_1, between 10.0.0.1:63446 and 10.0.0.2:80, of curl (22384)"},
		{logs.SeverityNumber_SEVERITY_NUMBER_INFO, "tcptrace.transition", "legal: CLOSED -> SYN_SENT"},
		{logs.SeverityNumber_SEVERITY_NUMBER_ERROR, "tcptrace.transition", "illegal: STATE_13 -> STATE_255, between [2001:db8:1111:2222:3333:4444:5555:6666]:65535 and "},
		{logs.SeverityNumber_SEVERITY_NUMBER_WARN, "tcptrace.stuck", "stuck in CLOSE_WAIT for 1m34.28s, between 10.0.0.1:63446 and 10.0.0.2:80, of curl (22384): the peer has closed"},
		{logs.SeverityNumber_SEVERITY_NUMBER_WARN, "tcptrace.stuck", "stuck in SYN_RCVD for at least 11s: "},
		{logs.SeverityNumber_SEVERITY_NUMBER_WARN, "tcptrace.stuck", "stuck in CLOSE_WAIT for "},
		{logs.SeverityNumber_SEVERITY_NUMBER_WARN, "tcptrace.notice", "lost 7: ringbuf_full"},
	} {
		body := got[i].GetBody().GetStringValue()
		if got[i].GetSeverityNumber() != want.severity || got[i].GetEventName() != want.event || !strings.HasPrefix(body, want.body) {
			t.Errorf("%v %s %s\nwant %+v", got[i].GetSeverityNumber(), got[i].GetEventName(), body, want)
		}
		if strings.ContainsFunc(body, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q is not fit for a terminal", body)
		}
	}
	if n := int64(got[6].GetTimeUnixNano()); n != at.UnixNano() {
		t.Errorf("at %v, want %v", time.Unix(0, n), at)
	}
}

// standing serves nobody until the test ends.
func standing(t *testing.T) (url string) {
	end := make(chan struct{})
	url = serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	t.Cleanup(func() { close(end) })
	return url
}

// Whatever the receiver does, nobody waits, the end is soon, and all that it did not take
// is counted and told once.
func TestReceiverInTrouble(t *testing.T) {
	absent := httptest.NewServer(http.NotFoundHandler())
	absent.Close()
	failing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too\x1b busy", http.StatusServiceUnavailable)
	})
	for _, c := range []struct {
		name    string
		url     func(*testing.T) string
		findout string
	}{
		{"hangs", standing, "deadline"},
		{"fails", func(t *testing.T) string { return serve(t, failing) }, `too\x1b busy`},
		{"refuses", func(t *testing.T) string { return serve(t, http.NotFoundHandler()) }, "404"},
		{"is absent", func(*testing.T) string { return absent.URL }, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := c.url(t)
			t.Parallel()
			e := open(t, url)
			s := e.Start(events.Clock{})
			// Who waited for the receiver would do so 3000 times, for seconds each.
			const most, tooLong = 3000, time.Minute
			begun, found := time.Now(), outputtest.Stuck()
			for range most {
				check(t, s.Stuck(found))
			}
			check(t, s.Close())
			if took := time.Since(begun); took > tooLong {
				t.Errorf("%d findings and the end took %v", most, took)
			}
			dropped(t, e, most, 1)
			if told := e.told(); strings.Count(told, "\n") != 0 || !strings.Contains(told, url) || !strings.Contains(told, c.findout) {
				t.Errorf("told:\n%s", told)
			}
		})
	}
}

// What does not fit the queue is dropped, not waited for: with a receiver that takes
// nothing for now, so many and no more are kept, and come later.
func TestQueueIsBounded(t *testing.T) {
	receiver := &otlptest.Receiver{}
	hold, reached := make(chan struct{}), make(chan struct{}, 100)
	e := open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		<-hold
		receiver.ServeHTTP(w, r)
	})))
	s := e.Start(events.Clock{})
	found := outputtest.Stuck()
	const most, room = 5000, 2048
	for range most {
		check(t, s.Stuck(found))
	}
	<-reached // nothing has been taken, so all is still held
	dropped(t, e, most-room, 0)
	close(hold)
	check(t, s.Close())
	dropped(t, e, most-room, 0)
	if n := len(receiver.Logs()); n != room {
		t.Errorf("%d records came, want %d", n, room)
	}
}

// What the receiver takes only in part is counted as not taken.
func TestTakenInPart(t *testing.T) {
	answer, err := proto.Marshal(&collectlogs.ExportLogsServiceResponse{
		PartialSuccess: &collectlogs.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "too old"},
	})
	check(t, err)
	e := open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-protobuf")
		if strings.HasSuffix(r.URL.Path, "/logs") {
			_, _ = w.Write(answer)
		}
	})))
	s := e.Start(events.Clock{})
	check(t, s.Stuck(outputtest.Stuck()))
	check(t, s.Stuck(outputtest.Stuck()))
	check(t, s.Close())
	dropped(t, e, 2, 0)
	if told := e.told(); !strings.Contains(told, "too old") {
		t.Errorf("told: %s", told)
	}
}

// The standard environment holds: TLS, headers, attributes of the resource.
func TestEnvironment(t *testing.T) {
	receiver := &otlptest.Receiver{}
	server := httptest.NewTLSServer(receiver)
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=me,place=here")
	e := open(t, server.URL, prometheus.NewGauge(prometheus.GaugeOpts{Name: "g"}))
	s := e.Start(events.Clock{})
	check(t, s.Stuck(outputtest.Stuck()))
	check(t, s.Close())
	dropped(t, e, 0, 0)
	headers := receiver.Headers()
	if len(headers) != 2 {
		t.Fatalf("%d requests, want 2: %s", len(headers), e.told())
	}
	for _, h := range headers {
		if got := h.Get("Authorization"); got != "Bearer x" {
			t.Errorf("Authorization: %q", got)
		}
	}
	resource := receiver.Resource()
	for name, want := range map[string]string{"service.name": "tcptrace", "service.version": "test", "service.instance.id": "me", "place": "here"} {
		if resource[name] != want {
			t.Errorf("%s is %q, want %q", name, resource[name], want)
		}
	}
}

// Histograms have the classic buckets, or, if the environment asks for them, exponential
// ones.
func TestHistograms(t *testing.T) {
	for _, kind := range []string{"", "explicit_bucket_histogram", "base2_exponential_bucket_histogram"} {
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", kind)
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: []float64{1, 2}, NativeHistogramBucketFactor: 1.1})
		for _, v := range []float64{0.5, 1.5, 1.5, 4} {
			h.Observe(v)
		}
		receiver := &otlptest.Receiver{}
		e := open(t, serve(t, receiver), h)
		check(t, e.Start(events.Clock{}).Close())
		list := receiver.Metrics()
		if len(list) != 1 {
			t.Fatalf("%d metrics: %s", len(list), e.told())
		}
		if kind == "base2_exponential_bucket_histogram" {
			p := list[0].GetExponentialHistogram().GetDataPoints()
			if len(p) != 1 || p[0].GetCount() != 4 || p[0].GetSum() != 7.5 || p[0].GetScale() != 3 {
				t.Errorf("got %v", list[0])
			}
			continue
		}
		p := list[0].GetHistogram().GetDataPoints()
		if len(p) != 1 || p[0].GetCount() != 4 || p[0].GetSum() != 7.5 || fmt.Sprint(p[0].GetBucketCounts(), p[0].GetExplicitBounds()) != "[1 2 1] [1 2]" {
			t.Errorf("%q: got %v", kind, list[0])
		}
	}
}

func TestNameIsWell(t *testing.T) {
	problems, err := testutil.CollectAndLint(open(t, "http://127.0.0.1:1"))
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
