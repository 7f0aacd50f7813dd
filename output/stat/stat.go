// Package stat counts what a window of time held: which transitions there were, how
// long the states lasted, how connections ended; of all sockets, and of groups of
// them. Its memory is bounded by the states and by the number of groups.
package stat

import (
	"maps"
	"slices"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// Options choose what is counted. Nil means the zero value.
type Options struct {
	// Interval is the length of a window; 0: one for the whole run.
	Interval time.Duration
	// By is what sockets are grouped by.
	By By
	// MaxGroups is how many groups are told apart at once, 0 meaning
	// DefaultMaxGroups.
	MaxGroups int
	// Hist are the states of which the distribution is kept.
	Hist []fsm.State
	// Ports returns how full the local ports are at a time, the fullest first. It is
	// asked at the end of each window; nil: that is not wanted.
	Ports func(at uint64) []Ports
	// Packets: all of it is inferred from packets, and times are those at the point of
	// capture, be they bounds of those at the ends or not.
	Packets bool
	// Counted returns what the kernel side has counted by [Bounds]. It is asked at the
	// end of each window; nil: everything comes as a transition.
	Counted output.Counter
}

// Printer shows a window, which is valid during the call only.
type Printer interface {
	Window(*Window) error
}

// PrinterFunc is a function as a Printer.
type PrinterFunc func(*Window) error

// Window implements [Printer].
func (f PrinterFunc) Window(w *Window) error { return f(w) }

// Sink counts transitions and has each window shown when it is over, by the time of
// the events. Notices and the summary go on to another sink.
type Sink struct {
	output.Sink
	printer Printer
	clock   events.Clock
	options Options
	window  *Window
	shown   bool             // a window was
	losses  []loss           // noticed before what else there is of their windows
	counted []output.Counted // by the end of the last window
}

type loss struct {
	at     uint64
	reason string
	count  uint64
}

// NewSink returns a sink whose first window begins at the start, as
// events.Event.Time.
func NewSink(next output.Sink, p Printer, clock events.Clock, start uint64, o *Options) *Sink {
	s := &Sink{Sink: next, printer: p, clock: clock}
	if o != nil {
		s.options = *o
	}
	if s.options.MaxGroups <= 0 {
		s.options.MaxGroups = DefaultMaxGroups
	}
	s.window = newWindow(start, &s.options)
	return s
}

var _ output.Sink = (*Sink)(nil)

// Transition implements [output.Sink]. One that was held back and is older than the
// window counts in it all the same.
func (s *Sink) Transition(t *lifecycle.Transition) error {
	if err := s.Advance(t.Time); err != nil {
		return err
	}
	s.window.add(t)
	return nil
}

// Lifecycle implements [output.Sink]: it is not counted, as its transitions are.
func (s *Sink) Lifecycle(*lifecycle.Lifecycle) error { return nil }

// Notice implements [output.Sink]. It counts losses.
func (s *Sink) Notice(n *output.Notice) error {
	if n.Kind == output.NoticeLost {
		s.losses = append(s.losses, loss{s.clock.Boot(n.Time), n.Reason, n.Count})
	}
	return s.Sink.Notice(n)
}

// maxSilence bounds the windows that are shown of a time in which nothing came, as when
// the host slept, or in a recording that says that it did for ages.
const maxSilence = 1000

// Advance shows the windows that are over by the given time, but no more than maxSilence.
func (s *Sink) Advance(now uint64) error {
	interval := uint64(s.options.Interval)
	if interval == 0 {
		return nil
	}
	for shown := 0; now >= s.window.Start && now-s.window.Start >= interval; shown++ {
		if shown == maxSilence {
			s.window.Start = now - (now-s.window.Start)%interval
			break
		}
		if err := s.show(s.window.Start+interval, false); err != nil {
			return err
		}
	}
	return nil
}

// Finish shows what is left when tracing has ended, at the given time.
func (s *Sink) Finish(end uint64) error {
	if err := s.Advance(end); err != nil {
		return err
	}
	s.takeCounted()
	if s.shown && s.window.Transitions == 0 && len(s.losses) == 0 && end <= s.window.Start {
		return nil
	}
	return s.show(end, true)
}

// show shows the window up to the end, and begins the next. The last one has all that
// is left.
func (s *Sink) show(end uint64, last bool) error {
	w := s.window
	w.End = max(end, w.Start)
	s.takeLosses(last)
	s.takeCounted()
	if s.options.Ports != nil {
		w.ports = s.options.Ports(w.End)
	}
	s.window, s.shown = newWindow(w.End, &s.options), true
	return s.printer.Window(w)
}

// takeLosses adds to the window what was lost in it, or all that is left.
func (s *Sink) takeLosses(all bool) {
	s.losses = slices.DeleteFunc(s.losses, func(l loss) bool {
		if all || l.at < s.window.End {
			s.window.lose(l)
			return true
		}
		return false
	})
}

// Now returns the window that goes on, as it is at the given time, for who shows it
// before it is over. It is valid until the next call.
func (s *Sink) Now(now uint64) *Window {
	w := s.window
	w.End = max(now, w.Start)
	s.takeLosses(s.options.Interval == 0)
	s.takeCounted()
	return w
}

// Regroup forgets the groups of the window that goes on, and groups by something else
// from now on.
func (s *Sink) Regroup(by By) {
	s.options.By = by
	s.window.groups = groups{}
}

// takeCounted adds to the window what the kernel side has counted since the last one.
func (s *Sink) takeCounted() {
	if s.options.Counted == nil {
		return
	}
	now := s.options.Counted()
	for i := range now {
		more := now[i]
		if s.counted != nil {
			more = now[i].Since(&s.counted[i])
		}
		if more.Steps > 0 {
			s.window.addCounted(&more)
		}
	}
	s.counted = now
}

// Edge is a transition as such.
type Edge struct{ From, To fsm.State }

// Count is of an edge.
type Count struct {
	All uint64
	// Illegal of them were judged so.
	Illegal uint64
	// Dwell is of the state that the edge leaves, see [Window.Dwell].
	Dwell Dwell
}

// Window is what there was from Start to End, as events.Event.Time.
type Window struct {
	Start, End uint64
	Tally
	Edges map[Edge]*Count
	// TimeWaitEnds has what ended TIME_WAIT, by its name; "skipped" is of those that
	// never came to be in it.
	TimeWaitEnds map[string]uint64
	// Lost counts what is missing, by the name of an events.LossReason.
	Lost map[string]uint64

	options *Options
	hists   map[fsm.State]*Histogram
	groups  groups
	ports   []Ports
}

func newWindow(start uint64, o *Options) *Window {
	w := &Window{
		Start: start, Edges: make(map[Edge]*Count), TimeWaitEnds: make(map[string]uint64),
		options: o, hists: make(map[fsm.State]*Histogram),
	}
	for _, s := range o.Hist {
		w.hists[s] = &Histogram{}
	}
	return w
}

// Duration of the window.
func (w *Window) Duration() time.Duration { return time.Duration(w.End - w.Start) }

// Rate returns the transitions per second, if the window has a length.
func (w *Window) Rate() (perSecond float64, known bool) {
	d := w.Duration()
	if d <= 0 {
		return 0, false
	}
	return float64(w.Transitions) / d.Seconds(), true
}

// Dwell returns what is known of the time that sockets were in the state, over all
// edges that leave it.
func (w *Window) Dwell(s fsm.State) Dwell {
	var all Dwell
	for edge, c := range w.Edges {
		if edge.From == s {
			all.merge(&c.Dwell)
		}
	}
	return all
}

// Histogram returns the distribution of the times in a state, nil if it is not one of
// Options.Hist.
func (w *Window) Histogram(s fsm.State) *Histogram { return w.hists[s] }

// states returns those ends of edges of which f holds; those without a name come last.
func (w *Window) states(f func(e Edge, s fsm.State) bool) []fsm.State {
	in := make(map[fsm.State]bool)
	for e := range w.Edges {
		for _, s := range [...]fsm.State{e.From, e.To} {
			in[s] = in[s] || f(e, s)
		}
	}
	list := slices.DeleteFunc(fsm.States(), func(s fsm.State) bool { return !in[s] })
	for _, s := range slices.Sorted(maps.Keys(in)) {
		if in[s] && !s.Known() {
			list = append(list, s)
		}
	}
	return list
}

// Groups returns the groups, the one of most transitions first, and what else there was
// for which there was no room.
func (w *Window) Groups() (list []*Group, other *Group) { return w.groups.sorted(), &w.groups.other }

func (w *Window) lose(l loss) {
	if w.Lost == nil {
		w.Lost = make(map[string]uint64)
	}
	w.Lost[l.reason] += l.count
}

// add counts a transition. It does not allocate once the edge and the group are
// there.
func (w *Window) add(t *lifecycle.Transition) {
	c := w.edge(t.From, t.To)
	c.All++
	if t.Verdict == fsm.Illegal {
		c.Illegal++
	}
	w.Tally.add(t)
	if timed(t) {
		c.Dwell.observe(t)
		if h := w.hists[t.From]; h != nil && t.HasDwell && !atLeast(t) {
			h.add(t.Dwell, 1)
		}
	}
	if end := timeWaitEnd(t); end != "" {
		w.TimeWaitEnds[end]++
	}
	if w.options.By != ByNone {
		g := w.groups.of(KeyOf(w.options.By, t), w.options.MaxGroups)
		g.add(t)
		if timed(t) {
			g.dwell(t.From).observe(t)
		}
	}
}

func (w *Window) edge(from, to fsm.State) *Count {
	edge := Edge{from, to}
	c := w.Edges[edge]
	if c == nil {
		c = &Count{}
		w.Edges[edge] = c
	}
	return c
}

// addCounted counts what the kernel side has counted.
func (w *Window) addCounted(counted *output.Counted) {
	c := w.edge(counted.From, counted.To)
	c.All += counted.Steps
	w.Transitions += counted.Steps
	w.Verdicts[fsm.Legal] += counted.Steps
	if !counted.HasDwell {
		return
	}
	c.Dwell.addCounted(counted)
	if h := w.hists[counted.From]; h != nil {
		for bin, n := range counted.Bins {
			h.add(counted.Least(bin), n)
		}
	}
}

// timed reports whether the transition ends a time in a state that is worth
// measuring: a socket that is closed is nobody's, a child is no listener that ends,
// and what leads a state back to itself does not end it.
func timed(t *lifecycle.Transition) bool {
	born := t.From == fsm.Listen && t.To == fsm.SynRcvd
	return t.From != t.To && t.From != fsm.Closed && t.From.Known() && !born
}

// atLeast reports whether the time that the transition ends is a lower bound. Packets
// tell the time between two of them exactly.
func atLeast(t *lifecycle.Transition) bool { return t.AtLeast && t.Wire == nil }

// Inferred reports whether the window is inferred from packets.
func (w *Window) Inferred() bool { return w.options.Packets }

// observe adds the time that the transition ends.
func (d *Dwell) observe(t *lifecycle.Transition) {
	switch {
	case !t.HasDwell:
		d.Unknown++
	case atLeast(t):
		d.AtLeast++
	default:
		d.add(t.Dwell)
		if t.Flags&events.FlagEstimated != 0 {
			d.Estimated++
		}
	}
}

// timeWaitEnd names what ended TIME_WAIT, "" for any other transition.
func timeWaitEnd(t *lifecycle.Transition) string {
	switch {
	case t.Verdict == fsm.Illegal && t.Flags&events.FlagSkipped != 0:
		return "skipped"
	case t.From != fsm.TimeWait || t.To != fsm.Closed:
		return ""
	case t.End == fsm.EndNone:
		return "unknown"
	}
	return t.End.OfTimeWait().String()
}

// Tally is what is counted of all, and of each group.
type Tally struct {
	Transitions uint64
	// Verdicts and Closed are by fsm.Verdict and, of connections that came to their
	// end, by fsm.Cause.
	Verdicts [fsm.Illegal + 1]uint64
	Closed   [fsm.CauseUnknown + 1]uint64
}

func (c *Tally) add(t *lifecycle.Transition) {
	c.Transitions++
	c.Verdicts[t.Verdict]++
	if t.Ended && t.Life.IsConnection() {
		c.Closed[t.Cause]++
	}
}

func (c *Tally) merge(o *Tally) {
	c.Transitions += o.Transitions
	for i, n := range o.Verdicts {
		c.Verdicts[i] += n
	}
	for i, n := range o.Closed {
		c.Closed[i] += n
	}
}

// Ended returns how many connections came to their end.
func (c *Tally) Ended() (n uint64) {
	for _, of := range c.Closed {
		n += of
	}
	return n
}
