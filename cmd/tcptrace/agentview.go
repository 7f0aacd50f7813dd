package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
	"tcptrace/output/prom"
	"tcptrace/output/stat"
)

// agentView counts what happens. Transitions and the ends of connections go to the
// metrics; what was found goes further.
type agentView struct {
	chosen
	tracker  *lifecycle.Tracker
	metrics  *prom.Sink
	pulse    *pulse
	findings *findings
	ports    *portShares
	counts   *kernelCounts // nil: each transition is sent
	pictures *pictures
	ready    func() // called once, when the sockets from before have been walked; or nil

	flushAt   uint64 // when to flush though there is more to read, as events.Event.Time
	lifecycle lifecycle.Lifecycle
}

// agentDelay is how far the metrics and findings may be behind while there is always
// more to read.
const agentDelay = uint64(100 * time.Millisecond)

// newAgentView lets the pipeline go to metrics and findings, and its reading be watched.
func newAgentView(p *pipeline, metrics *prom.Sink, pulse *pulse, findings *findings) *agentView {
	v := &agentView{chosen: chosen{results: p.results}, tracker: p.tracker, metrics: metrics, pulse: pulse, findings: findings}
	v.ports = newPortShares(p)
	v.pictures = newPictures(p, &stat.Options{Hist: timedStates()})
	v.pictures.restart(p.source.Start())
	p.source = watched{p.source, pulse}
	p.sink = output.Multi{metrics, socketCount{agentView: v}, findings, pictureSink{pictures: v.pictures}}
	v.pass = p.sink.Transition
	return v
}

// timedStates are those of which the times say something.
func timedStates() []fsm.State {
	return slices.DeleteFunc(fsm.States(), func(s fsm.State) bool { return s == fsm.Closed })
}

// countInKernel has what the kernel side counts in the pictures, too; nil: nothing.
func (v *agentView) countInKernel(k *kernelCounts) {
	if v.counts = k; k == nil {
		return
	}
	v.pictures.counts, v.pictures.options.Counted = k, k.read
	v.pictures.restart(v.pictures.since)
}

func (v *agentView) take(t *lifecycle.Transition) error {
	if err := v.observe(t); err != nil {
		return err
	}
	if err := v.pictures.took(t); err != nil || t.Time < v.flushAt {
		return err
	}
	v.flushAt = t.Time + agentDelay
	return v.sink.Flush()
}

// idle implements [idler].
func (v *agentView) idle(until uint64) error { return v.pictures.passed(until) }

func (v *agentView) observe(t *lifecycle.Transition) error {
	if t.Unended != nil {
		if err := v.closed(t.Unended, t.Time); err != nil {
			return err
		}
	}
	if t.Source == events.SourceSnapshot {
		v.metrics.Found(t)
		if t.To == fsm.TimeWait { // a FIN may have come unseen
			return v.closed(t.Life, t.Time)
		}
		return nil
	}
	if err := v.chosen.take(t); err != nil {
		return err
	}
	// In TIME_WAIT both sides have closed; what a minisock keeps in FIN_WAIT_2 has not
	// ended yet.
	if t.To == fsm.TimeWait || t.Ended {
		return v.closed(t.Life, t.Time)
	}
	return nil
}

// closed counts a connection, once.
func (v *agentView) closed(l *lifecycle.Life, at uint64) error {
	if l.Marked || !l.IsConnection() {
		return nil
	}
	l.Marked = true
	c := &v.lifecycle
	l.Lifecycle(at, c)
	c.Place = v.names.place(c.Cgroup)
	if c.Path[0] == fsm.TimeWait { // it was closed before it was followed
		return nil
	}
	if !v.filter.wantsVerdict(c.Verdict) || !v.filter.wantsLifecycle(c) {
		return nil
	}
	v.summary.Connections++
	return v.sink.Lifecycle(c)
}

// walkEnded forgets what walks would have found if it were still there: the record of its
// end was lost.
func (v *agentView) walkEnded(w *events.Walked) error {
	walked := func(netns uint32) bool { return proves(w, netns) }
	if err := v.tracker.Sweep(walked, func(l *lifecycle.Life) error { return v.closed(l, w.Time) }); err != nil {
		return err
	}
	if !w.Failed && !v.pulse.walked.Swap(true) && v.ready != nil {
		v.ready()
	}
	if v.pulse.walked.Load() {
		v.metrics.Ports(v.ports.ratios(w))
		v.metrics.Sockets(v.tracker.Count, v.tracker.Evicted())
		v.pictures.found(w.Time)
	}
	if err := v.findings.minute(w.Time); err != nil {
		return err
	}
	return v.sink.Flush()
}

func (v *agentView) finish(uint64, *lifecycle.Tracker) error {
	close(v.pictures.over)
	steps, _ := v.counts.total()
	v.summary.Transitions += steps
	return nil
}

// socketCount takes over how many sockets there are whenever nothing waits.
type socketCount struct {
	output.Discard
	*agentView
}

// Flush implements [output.Sink].
func (s socketCount) Flush() error {
	// What is counted in the kernel moves sockets that only the next walk looks at.
	if s.pulse.walked.Load() && s.counts == nil {
		s.metrics.Sockets(s.tracker.Count, s.tracker.Evicted())
	}
	return nil
}

// findings shows what is illegal and what is stuck, so many a minute at most, and tells
// how many there were more; and all notices.
type findings struct {
	output.Sink
	clock events.Clock
	most  uint64 // a minute; 0: none, and nobody wants to know how many

	since      uint64 // beginning of the minute, as events.Event.Time
	shown      uint64
	suppressed uint64
}

// admit reports whether there is room for one more.
func (f *findings) admit(now uint64) (bool, error) {
	if f.most == 0 { // none are wanted
		return false, nil
	}
	if now >= f.since+uint64(time.Minute) {
		if err := f.tell(now); err != nil {
			return false, err
		}
		f.since, f.shown = now, 0
	}
	if f.shown >= f.most {
		f.suppressed++
		return false, nil
	}
	f.shown++
	return true, nil
}

// minute tells what was left out, if the minute is over.
func (f *findings) minute(now uint64) error {
	if now < f.since+uint64(time.Minute) {
		return nil
	}
	return f.tell(now)
}

// tell tells what was left out.
func (f *findings) tell(now uint64) error {
	n := f.suppressed
	if n == 0 {
		return nil
	}
	f.suppressed = 0
	return f.Notice(&output.Notice{Time: f.clock.Time(now), Kind: output.NoticeSuppressed, Count: n})
}

// Transition implements [output.Sink].
func (f *findings) Transition(t *lifecycle.Transition) error {
	if t.Verdict != fsm.Illegal {
		return nil
	}
	if ok, err := f.admit(t.Time); !ok {
		return err
	}
	return f.Sink.Transition(t)
}

// Lifecycle implements [output.Sink]: it is no finding.
func (f *findings) Lifecycle(*lifecycle.Lifecycle) error { return nil }

// Stuck implements [output.Sink].
func (f *findings) Stuck(s *lifecycle.Stuck) error {
	if ok, err := f.admit(s.Time); !ok {
		return err
	}
	return f.Sink.Stuck(s)
}

// Summary implements [output.Sink].
func (f *findings) Summary(s *output.Summary) error {
	if n := f.suppressed; n > 0 {
		f.suppressed = 0
		if err := f.Notice(&output.Notice{Kind: output.NoticeSuppressed, Count: n}); err != nil {
			return err
		}
	}
	return f.Sink.Summary(s)
}

// enduring is a writer that goes on where the other fails: a full disk is no reason to
// stop counting. It says so once on the other writer, and when it is over.
type enduring struct {
	w, complaints io.Writer
	name          string
	mu            sync.Mutex // of Write
	failing       bool
}

// Write implements [io.Writer]. It always writes all.
func (e *enduring) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, err := e.w.Write(b)
	switch {
	case err != nil && !e.failing:
		e.complain("%v: findings are lost until it takes them again", err)
	case err == nil && e.failing:
		e.complain("takes findings again")
	}
	e.failing = err != nil
	return len(b), nil
}

func (e *enduring) complain(format string, args ...any) {
	// Where that cannot be told either, nothing is left to do.
	_, _ = fmt.Fprintf(e.complaints, "tcptrace: "+e.name+": "+format+"\n", args...)
}

// outlet writes in the background, so that nobody waits for a reader that does not
// read. Its Write is for one goroutine.
type outlet struct {
	w       *enduring
	queue   chan []byte
	done    chan struct{}
	dropped int
}

func newOutlet(w *enduring) *outlet {
	o := &outlet{w: w, queue: make(chan []byte, 8), done: make(chan struct{})}
	go func() {
		defer close(o.done)
		for b := range o.queue {
			_, _ = o.w.Write(b) // tells of its errors
		}
	}()
	return o
}

// Write implements [io.Writer]. It always takes all; what finds no room is lost, and
// that is told.
func (o *outlet) Write(b []byte) (int, error) {
	select {
	case o.queue <- bytes.Clone(b):
		if o.dropped > 0 {
			o.w.complain("was not read: lost %d times what was found in the meantime", o.dropped)
			o.dropped = 0
		}
	default:
		if o.dropped++; o.dropped == 1 {
			o.w.complain("is not read: findings are lost until it is")
		}
	}
	return len(b), nil
}

// outletPatience is how long the end waits for a reader.
const outletPatience = time.Second

// close waits until all is written, or for a second.
func (o *outlet) close() {
	close(o.queue)
	select {
	case <-o.done:
	case <-time.After(outletPatience):
	}
}

// pulse shows how the reading goes, to other goroutines.
type pulse struct {
	begun  time.Time
	events atomic.Uint64
	last   atomic.Int64 // when something, or that there is nothing, was read: time since begun
	walked atomic.Bool
}

func (p *pulse) beat() { p.last.Store(int64(time.Since(p.begun))) }

// age returns the time since the last beat.
func (p *pulse) age() time.Duration { return time.Since(p.begun) - time.Duration(p.last.Load()) }

// watched is a source whose reading is watched.
type watched struct {
	source
	*pulse
}

// Next implements [source].
func (w watched) Next(r *events.Record) error {
	if err := w.source.Next(r); err != nil {
		return err
	}
	const often = 1 << 10
	switch {
	case r.Kind == events.KindTransition && r.Event.Source != events.SourceSnapshot:
		if w.events.Add(1)%often == 0 {
			w.beat()
		}
	case r.Kind != events.KindTransition:
		w.beat()
	}
	return nil
}
