package stat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/output"
)

// JSON writes windows as objects of the type stat, one a line, beside what
// [output.JSON] writes.
type JSON struct {
	*output.JSON
	w     io.Writer
	clock events.Clock
	top   int
}

// NewJSON returns a printer, and sink of all else, that writes to w. It shows so many
// groups.
func NewJSON(w io.Writer, clock events.Clock, top int) *JSON {
	return &JSON{JSON: output.NewJSON(w, clock), w: w, clock: clock, top: top}
}

// object is a window in JSON: see docs/json.md. A pointer is absent where the value
// is not known.
type object struct {
	Type          string           `json:"type"`
	Start         string           `json:"start"`
	End           string           `json:"end"`
	Duration      int64            `json:"duration_ns"`
	Transitions   uint64           `json:"transitions"`
	Rate          *float64         `json:"transitions_per_second,omitempty"`
	Matrix        []matrixCell     `json:"matrix"`
	QuantileError float64          `json:"quantile_error"`
	Dwell         counts[*dwell]   `json:"dwell"`
	Histograms    counts[[]bucket] `json:"histograms,omitzero"`
	Closed        counts[uint64]   `json:"closed"`
	TimeWaitEnds  counts[uint64]   `json:"time_wait_ends"`
	Verdicts      counts[uint64]   `json:"verdicts"`
	Lost          counts[uint64]   `json:"lost"`
	By            By               `json:"by,omitempty"`
	Groups        []group          `json:"groups,omitzero"`
	Other         *group           `json:"other,omitempty"`
	Ports         []portsObject    `json:"ports,omitzero"`
	Source        string           `json:"source,omitempty"`
}

type matrixCell struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Count   uint64 `json:"count"`
	Illegal uint64 `json:"illegal"`
}

type dwell struct {
	Count     uint64 `json:"count"`
	Min       *int64 `json:"min_ns,omitempty"`
	P50       *int64 `json:"p50_ns,omitempty"`
	P90       *int64 `json:"p90_ns,omitempty"`
	P99       *int64 `json:"p99_ns,omitempty"`
	Max       *int64 `json:"max_ns,omitempty"`
	Estimated uint64 `json:"estimated"`
	AtLeast   uint64 `json:"at_least"`
	Unknown   uint64 `json:"unknown"`
}

type bucket struct {
	From  int64  `json:"from_ns"`
	To    int64  `json:"to_ns"`
	Count uint64 `json:"count"`
}

// group begins with what it has in common, by its name.
type group struct {
	key         Key
	by          By
	AtLeast     bool           `json:"at_least,omitempty"`
	Transitions uint64         `json:"transitions"`
	Closed      counts[uint64] `json:"closed"`
	Verdicts    counts[uint64] `json:"verdicts"`
	Dwell       counts[*dwell] `json:"dwell"`
}

// counts is an object whose names are in an order that is ours.
type counts[T any] []count[T]

type count[T any] struct {
	name  string
	value T
}

// MarshalJSON implements [json.Marshaler].
func (c counts[T]) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, of := range c {
		if i > 0 {
			b = append(b, ',')
		}
		value, err := json.Marshal(of.value)
		if err != nil {
			return nil, err
		}
		b = append(output.AppendJSONString(b, of.name), ':')
		b = append(b, value...)
	}
	return append(b, '}'), nil
}

// MarshalJSON implements [json.Marshaler].
func (g group) MarshalJSON() ([]byte, error) {
	type plain group
	rest, err := json.Marshal(plain(g))
	if err != nil {
		return nil, err
	}
	b := g.key.AppendJSON([]byte{'{'}, g.by)
	return append(b, rest[1:]...), nil
}

// AppendJSON appends the key as fields, each with a comma behind it; nothing, if it
// is not known.
func (k Key) AppendJSON(b []byte, by By) []byte {
	if !k.known() {
		return b
	}
	b = fmt.Appendf(b, "%q:", string(by))
	switch {
	case by == ByComm:
		b = output.AppendJSONString(b, k.comm.Bytes())
	case by == ByPID:
		b = fmt.Appendf(b, "%d,%q:", k.number, string(ByComm))
		b = output.AppendJSONString(b, k.comm.Bytes())
	case by == ByState:
		b = output.AppendJSONString(b, fsm.State(k.number).String())
	case k.addr.IsValid():
		b = output.AppendJSONString(b, k.addr.String())
	case k.text != "":
		b = output.AppendJSONString(b, k.text)
	default:
		b = fmt.Appendf(b, "%d", k.number)
	}
	return append(b, ',')
}

// Window implements [Printer].
func (j *JSON) Window(w *Window) error {
	o := object{
		Type: "stat", Start: j.time(w.Start), End: j.time(w.End), Duration: int64(w.Duration()),
		Transitions: w.Transitions, Matrix: []matrixCell{}, QuantileError: QuantileError,
		Closed: of(w.closed()), TimeWaitEnds: of(sortedCounts(w.TimeWaitEnds)),
		Verdicts: of(w.verdicts()), Lost: of(sortedCounts(w.Lost)),
	}
	if rate, known := w.Rate(); known {
		o.Rate = &rate
	}
	if w.Inferred() {
		o.Source = events.SourcePackets.String()
	}
	from := w.states(func(e Edge, s fsm.State) bool { return s == e.From })
	to := w.states(func(e Edge, s fsm.State) bool { return s == e.To })
	for _, f := range from {
		for _, t := range to {
			if c := w.Edges[Edge{f, t}]; c != nil {
				o.Matrix = append(o.Matrix, matrixCell{f.String(), t.String(), c.All, c.Illegal})
			}
		}
	}
	for _, s := range fsm.States() {
		if d := w.Dwell(s); d.Count+d.AtLeast+d.Unknown > 0 {
			o.Dwell = append(o.Dwell, count[*dwell]{s.String(), dwellOf(&d)})
		}
	}
	for _, s := range w.options.Hist {
		_, list := w.hists[s].Buckets()
		buckets := []bucket{}
		for _, b := range list {
			if b.Count > 0 {
				buckets = append(buckets, bucket{int64(b.From), int64(b.To), b.Count})
			}
		}
		o.Histograms = append(o.Histograms, count[[]bucket]{s.String(), buckets})
	}
	if o.By = w.options.By; o.By != ByNone {
		list, other := w.groups.top(j.top)
		o.Groups = []group{}
		for _, g := range list {
			o.Groups = append(o.Groups, groupOf(g, o.By))
		}
		if other.Transitions > 0 {
			rest := groupOf(other, o.By)
			o.Other = &rest
		}
	}
	if w.options.Ports != nil {
		o.Ports = []portsObject{}
		for i := range w.ports[:min(len(w.ports), j.top)] {
			o.Ports = append(o.Ports, portsOf(&w.ports[i]))
		}
	}
	return j.write(&o)
}

// write writes the object on a line of its own, after what is there already.
func (j *JSON) write(o *object) error {
	if err := j.Flush(); err != nil {
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		return err
	}
	if _, err := j.w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

func (j *JSON) time(at uint64) string {
	return j.clock.Time(at).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

func of(list []named) counts[uint64] {
	c := counts[uint64]{}
	for _, n := range list {
		c = append(c, count[uint64]{n.name, n.count})
	}
	return c
}

func dwellOf(d *Dwell) *dwell {
	o := &dwell{Count: d.Count, Estimated: d.Estimated, AtLeast: d.AtLeast, Unknown: d.Unknown}
	if d.Count == 0 {
		return o
	}
	ns := func(t time.Duration) *int64 { n := int64(t); return &n }
	o.Min, o.Max = ns(d.Min), ns(d.Max)
	o.P50, o.P90, o.P99 = ns(d.Quantile(0.5)), ns(d.Quantile(0.9)), ns(d.Quantile(0.99))
	return o
}

func groupOf(g *Group, by By) group {
	o := group{
		key: g.Key, by: by, AtLeast: g.AtLeast,
		Transitions: g.Transitions, Closed: of(g.closed()), Verdicts: of(g.verdicts()),
	}
	for _, s := range fsm.States() {
		if d := g.dwells[s]; d != nil {
			o.Dwell = append(o.Dwell, count[*dwell]{s.String(), dwellOf(d)})
		}
	}
	return o
}
