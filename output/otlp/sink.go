package otlp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// sink makes log records of findings and notices. Their attributes are the fields of
// the JSON object, and made from it: so there is one place that knows what is unknown.
type sink struct {
	output.Discard
	e      *Exporter
	clock  events.Clock
	logger log.Logger
	close  func()

	line bytes.Buffer
	json *output.JSON // writes line
}

func newSink(e *Exporter, clock events.Clock, logger log.Logger, closing func()) *sink {
	s := &sink{e: e, clock: clock, logger: logger, close: closing}
	s.json = output.NewJSON(&s.line, clock)
	return s
}

// Transition implements [output.Sink].
func (s *sink) Transition(t *lifecycle.Transition) error {
	severity := log.SeverityInfo
	if t.Verdict == fsm.Illegal {
		severity = log.SeverityError
	}
	return s.emit(s.clock.Time(t.Time), severity, func() error { return s.json.Transition(t) })
}

// Stuck implements [output.Sink].
func (s *sink) Stuck(found *lifecycle.Stuck) error {
	severity := log.SeverityWarn
	if found.Resolved {
		severity = log.SeverityInfo
	}
	return s.emit(s.clock.Time(found.Time), severity, func() error { return s.json.Stuck(found) })
}

// Notice implements [output.Sink].
func (s *sink) Notice(n *output.Notice) error {
	return s.emit(n.Time, log.SeverityWarn, func() error { return s.json.Notice(n) })
}

// Close implements [output.Sink]: it waits a moment for what is left.
func (s *sink) Close() error {
	s.close()
	return nil
}

// emit sends what is written as JSON, if there is room.
func (s *sink) emit(at time.Time, severity log.Severity, write func() error) error {
	if s.e.pending.Load() >= maxPending { // nobody else makes it more
		s.e.droppedLogs.Add(1)
		return nil
	}
	object, err := s.object(write)
	if err != nil {
		return err
	}
	s.e.pending.Add(1)
	var r log.Record
	r.SetTimestamp(at)
	r.SetObservedTimestamp(time.Now())
	r.SetSeverity(severity)
	r.SetSeverityText(severity.String())
	r.SetEventName(fmt.Sprint("tcptrace.", object["type"]))
	r.SetBody(attribute.StringValue(body(object)))
	delete(object, "time") // it is the record's
	r.AddAttributes(attributes(nil, "", object)...)
	s.logger.Emit(context.Background(), r)
	return nil
}

// object returns what is written as JSON.
func (s *sink) object(write func() error) (object map[string]any, err error) {
	defer s.line.Reset()
	if err := write(); err != nil {
		return nil, err
	}
	if err := s.json.Flush(); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(&s.line)
	decoder.UseNumber()
	err = decoder.Decode(&object)
	return object, err
}

// attributes appends the fields of an object; those of objects in it with both names.
func attributes(list []attribute.KeyValue, prefix string, object map[string]any) []attribute.KeyValue {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		key := prefix + name
		switch v := object[name].(type) {
		case map[string]any:
			list = attributes(list, key+".", v)
		case bool:
			list = append(list, attribute.Bool(key, v))
		case json.Number:
			if n, err := v.Int64(); err == nil {
				list = append(list, attribute.Int64(key, n))
			} else { // there is no attribute for so large a number
				list = append(list, attribute.String(key, v.String()))
			}
		default:
			list = append(list, attribute.String(key, fmt.Sprint(v)))
		}
	}
	return list
}

// body says it in words.
func body(object map[string]any) string {
	text := func(name string) string {
		if v, ok := object[name]; ok {
			return fmt.Sprint(v)
		}
		return ""
	}
	var b strings.Builder
	switch text("type") {
	case "transition":
		fmt.Fprintf(&b, "%s: %s -> %s", text("verdict"), text("from"), text("to"))
	case "stuck":
		fmt.Fprintf(&b, "stuck in %s for %s%s", text("state"), atLeast(object["age_exact"]), seconds(object["age_ns"]))
	case "resolved":
		fmt.Fprintf(&b, "no longer stuck in %s after %s%s", text("state"), atLeast(object["age_exact"]), seconds(object["age_ns"]))
	default:
		b.WriteString(text("kind"))
		if n := text("count"); n != "" {
			b.WriteString(" " + n)
		}
	}
	if ends := joined(" and ", address(object["local"]), address(object["remote"])); ends != "" {
		b.WriteString(", between " + ends)
	}
	if pid := text("pid"); pid != "" {
		fmt.Fprintf(&b, ", of %s (%s)", escaped(text("comm")), pid)
	}
	if why := joined("; ", text("reason"), text("hint")); why != "" {
		b.WriteString(": " + escaped(why))
	}
	return b.String()
}

func escaped(text string) string { return string(output.AppendEscaped(nil, []byte(text))) }

// joined joins what is not empty.
func joined(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), separator)
}

func atLeast(exact any) string {
	if exact == false {
		return "at least "
	}
	return ""
}

func seconds(ns any) string {
	n, _ := ns.(json.Number)
	d, _ := n.Int64()
	return time.Duration(d).Round(time.Millisecond).String()
}

// address writes an end as far as it is known.
func address(end any) string {
	object, _ := end.(map[string]any)
	addr, _ := object["addr"].(string)
	port, _ := object["port"].(json.Number)
	if port == "" {
		return addr
	}
	return net.JoinHostPort(addr, port.String())
}
