// Package otlptest has a receiver of OTLP, for tests.
package otlptest

import (
	"fmt"
	"io"
	"net/http"
	"sync"

	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
)

// Receiver is an HTTP handler that keeps what it is sent.
type Receiver struct {
	mu      sync.Mutex
	metrics []*metrics.ResourceMetrics
	logs    []*logs.ResourceLogs
	headers []http.Header
}

// ServeHTTP implements [http.Handler].
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err == nil {
		err = r.take(request, body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (r *Receiver) take(request *http.Request, body []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = append(r.headers, request.Header)
	switch request.Method + " " + request.URL.Path {
	case "POST /v1/metrics":
		var m collectmetrics.ExportMetricsServiceRequest
		if err := proto.Unmarshal(body, &m); err != nil {
			return err
		}
		r.metrics = m.GetResourceMetrics() // cumulative: the last say all
	case "POST /v1/logs":
		var l collectlogs.ExportLogsServiceRequest
		if err := proto.Unmarshal(body, &l); err != nil {
			return err
		}
		r.logs = append(r.logs, l.GetResourceLogs()...)
	default:
		return fmt.Errorf("%s %s is not of OTLP", request.Method, request.URL.Path)
	}
	return nil
}

// Metrics returns those that came last.
func (r *Receiver) Metrics() (list []*metrics.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range r.metrics {
		for _, scope := range resource.GetScopeMetrics() {
			list = append(list, scope.GetMetrics()...)
		}
	}
	return list
}

// Logs returns all log records.
func (r *Receiver) Logs() (list []*logs.LogRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range r.logs {
		for _, scope := range resource.GetScopeLogs() {
			list = append(list, scope.GetLogRecords()...)
		}
	}
	return list
}

// Resource returns the attributes of the resource that metrics were last of.
func (r *Receiver) Resource() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make(map[string]string)
	for _, resource := range r.metrics {
		for _, a := range resource.GetResource().GetAttributes() {
			list[a.GetKey()] = a.GetValue().GetStringValue()
		}
	}
	return list
}

// Headers returns those of all requests.
func (r *Receiver) Headers() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]http.Header(nil), r.headers...)
}
