// Package otlp sends to an OpenTelemetry receiver, by OTLP over HTTP, what the agent
// has: metrics as it serves them for Prometheus, and findings as log records. It never
// holds up whoever finds: what cannot be sent is dropped and counted.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"tcptrace/events"
	"tcptrace/output"
)

// Bounds.
const (
	// maxPending is how many log records may wait.
	maxPending = 2048
	// sendTimeout is for one request with its repetitions.
	sendTimeout = 10 * time.Second
	// closeTimeout is for what is left at the end.
	closeTimeout = 5 * time.Second
	// complainEvery is how often trouble is told.
	complainEvery = time.Minute
	// maxComplaint bounds what a receiver says of it, in bytes.
	maxComplaint = 300
)

// ParseEndpoint returns the URL of a receiver, below which are v1/metrics and v1/logs.
func ParseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, fmt.Errorf("%q: want http://HOST:PORT or https://HOST:PORT", u.Redacted())
	case u.Port() != "" && (portErr != nil || port == 0):
		return nil, fmt.Errorf("%q: %q is no port", u.Redacted(), u.Port())
	case u.User != nil:
		return nil, fmt.Errorf("%q: no password in it: set OTEL_EXPORTER_OTLP_HEADERS", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q: neither a query nor a fragment is sent", u.Redacted())
	}
	return u, nil
}

// Options of an Exporter.
type Options struct {
	Endpoint *url.URL // see [ParseEndpoint]
	Interval time.Duration
	Version  string // of the program
	Metrics  prometheus.Gatherer
	// Complain is told in words what goes wrong, once a minute at most, by any goroutine.
	Complain func(string)
}

// Exporter sends metrics at an interval, and the findings that its sink is given. As a
// [prometheus.Collector] it has how much was dropped.
type Exporter struct {
	o        Options
	resource *resource.Resource
	metrics  sdkmetric.Exporter
	logs     sdklog.Exporter
	desc     *prometheus.Desc

	pending     atomic.Int64  // log records that were neither taken by the receiver nor dropped
	droppedLogs atomic.Uint64 // log records
	failed      atomic.Uint64 // rounds of metrics

	mu   sync.Mutex
	told time.Time // when something was
}

var _ prometheus.Collector = (*Exporter)(nil)

// New returns an exporter that sends nothing yet. The standard environment variables
// OTEL_EXPORTER_OTLP_… and OTEL_RESOURCE_ATTRIBUTES hold, but for the endpoint.
func New(o *Options) (*Exporter, error) {
	e := &Exporter{o: *o, desc: prometheus.NewDesc("tcptrace_otlp_dropped_total",
		"What the OTLP endpoint did not take: log records, or rounds of metrics.", []string{"signal"}, nil)}
	attributes := []attribute.KeyValue{
		attribute.String("service.name", "tcptrace"), attribute.String("service.version", o.Version),
	}
	// Without an instance the receiver would take all hosts' series for the same.
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, attribute.String("service.instance.id", host), attribute.String("host.name", host))
	}
	ctx := context.Background()
	var err error
	if e.resource, err = resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(attributes...), resource.WithFromEnv()); err != nil {
		return nil, err
	}
	if e.metrics, err = otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(o.Endpoint.JoinPath("v1", "metrics").String())); err != nil {
		return nil, err
	}
	if e.logs, err = otlploghttp.New(ctx, otlploghttp.WithEndpointURL(o.Endpoint.JoinPath("v1", "logs").String())); err != nil {
		return nil, err
	}
	return e, nil
}

// Describe implements [prometheus.Collector].
func (e *Exporter) Describe(ch chan<- *prometheus.Desc) { ch <- e.desc }

// Collect implements [prometheus.Collector].
func (e *Exporter) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(e.desc, prometheus.CounterValue, float64(e.droppedLogs.Load()), "logs")
	ch <- prometheus.MustNewConstMetric(e.desc, prometheus.CounterValue, float64(e.failed.Load()), "metrics")
}

// Start begins to send. It returns the sink for findings, which is to be closed once:
// that sends what is left. The clock dates the events.
func (e *Exporter) Start(clock events.Clock) output.Sink {
	// The libraries have one handler for all of the program.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(e.complain))
	classic := true // unless the environment asks for exponential ones
	if _, exponential := e.metrics.Aggregation(sdkmetric.InstrumentKindHistogram).(sdkmetric.AggregationBase2ExponentialHistogram); exponential {
		classic = false
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithResource(e.resource), sdkmetric.WithReader(
		sdkmetric.NewPeriodicReader(metricExporter{e.metrics, e},
			sdkmetric.WithInterval(e.o.Interval), sdkmetric.WithTimeout(sendTimeout),
			sdkmetric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(gatherer{e.o.Metrics, classic}))))))
	loggers := sdklog.NewLoggerProvider(sdklog.WithResource(e.resource), sdklog.WithProcessor(
		sdklog.NewBatchProcessor(logExporter{e.logs, e},
			sdklog.WithMaxQueueSize(maxPending), sdklog.WithExportInterval(time.Second),
			sdklog.WithExportMaxBatchSize(maxPending/4), sdklog.WithExportTimeout(sendTimeout))))
	return newSink(e, clock, loggers.Logger("tcptrace"), func() { e.close(loggers.Shutdown, meters.Shutdown) })
}

// close sends what is left, for as long as that may take. The log records go first, so
// that the last metrics tell what was dropped of them.
func (e *Exporter) close(logs, metrics func(context.Context) error) {
	end := time.Now().Add(closeTimeout)
	half, cancel := context.WithDeadline(context.Background(), end.Add(-closeTimeout/2))
	defer cancel()
	err := logs(half)
	e.droppedLogs.Add(uint64(max(0, e.pending.Swap(0))))
	all, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	if err = errors.Join(err, metrics(all)); err != nil {
		e.complain(err)
	}
}

// complain tells of an error, if there was no other for a while.
func (e *Exporter) complain(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.told.IsZero() && time.Since(e.told) < complainEvery {
		return
	}
	e.told = time.Now()
	text := err.Error()
	e.o.Complain(fmt.Sprintf("%s: %s (so far %d log records and %d rounds of metrics were not taken)", e.o.Endpoint,
		output.AppendEscaped(nil, []byte(text[:min(len(text), maxComplaint)])), e.droppedLogs.Load(), e.failed.Load()))
}

// logExporter counts what is taken.
type logExporter struct {
	sdklog.Exporter
	e *Exporter
}

// Export implements [sdklog.Exporter]. Errors end here.
func (l logExporter) Export(ctx context.Context, records []sdklog.Record) error {
	err := l.Exporter.Export(ctx, records)
	if left := l.e.pending.Add(-int64(len(records))); left < 0 {
		// The end did not wait for this, and has counted it.
		l.e.pending.Add(-left)
		return nil
	}
	if err != nil {
		l.e.droppedLogs.Add(uint64(len(records)))
		l.e.complain(err)
	}
	return nil
}

// metricExporter counts what is not taken.
type metricExporter struct {
	sdkmetric.Exporter
	e *Exporter
}

// Export implements [sdkmetric.Exporter]. Errors end here.
func (m metricExporter) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	if err := m.Exporter.Export(ctx, data); err != nil {
		m.e.failed.Add(1)
		m.e.complain(err)
	}
	return nil
}
