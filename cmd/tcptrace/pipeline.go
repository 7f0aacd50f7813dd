package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// pipeline is the way of a record from its source to the results.
//
// The filter stands behind the tracker: an owner is learnt in the middle of a
// socket's life, and a tracker that sees only what is shown would take the rest
// for lost.
type pipeline struct {
	source    source
	recording *recording // nil: none
	tracker   *lifecycle.Tracker
	view      view
	log       *slog.Logger
	unseen    string // by a walk, told already
	*results

	transition lifecycle.Transition // the present one
}

// view chooses what of the tracker's findings is shown.
type view interface {
	// take is called with each transition and each snapshot, in order.
	take(*lifecycle.Transition) error
	// walkEnded is called when the snapshots of a walk have been taken.
	walkEnded(*events.Walked) error
	// finish shows what is left when tracing has ended, at the given time.
	finish(end uint64, tracker *lifecycle.Tracker) error
}

// idler is a view that shows something when time has passed, though nothing came.
type idler interface {
	// idle is called when everything before the given time has been taken.
	idle(until uint64) error
}

// remarker is a source of which, when it has ended, there is more to say.
type remarker interface{ remarks() []output.Notice }

// results is what the views have in common.
type results struct {
	filter  *filter
	sink    output.Sink
	clock   events.Clock
	limit   uint64 // of rows; 0: none
	rows    uint64
	names   nameTable
	unnamed uint64 // transitions left out, because the name of a cgroup is not known
	summary output.Summary
	live    bool // the source is the kernel, not a file
	packets bool // the source is a capture, which shows neither owners nor the end of TIME_WAIT
}

// shown counts a row, and ends the reading after the last one wanted.
func (r *results) shown() error {
	r.rows++
	if r.full() {
		return errEnough
	}
	return nil
}

// full reports whether no more rows are wanted.
func (r *results) full() bool { return r.limit > 0 && r.rows >= r.limit }

// reasonUnnamed is of a notice.
const reasonUnnamed = "the name of the cgroup is not known"

// errEnough ends the reading.
var errEnough = errors.New("enough is shown")

func (p *pipeline) run() error {
	err := p.read()
	if errors.Is(err, io.EOF) || errors.Is(err, errEnough) {
		err = nil
	}
	// What is there is brought to its end, whatever happened; the first error
	// is the cause of the others.
	for _, step := range []func() error{p.finishRecording, p.finishResults, p.sink.Close} {
		if stepErr := step(); err == nil {
			err = stepErr
		}
	}
	return err
}

func (p *pipeline) read() error {
	for _, reason := range p.source.Unmeasured() {
		if err := p.sink.Notice(&output.Notice{Kind: output.NoticeUnmeasured, Reason: reason}); err != nil {
			return err
		}
	}
	var r events.Record
	for {
		if err := p.source.Next(&r); err != nil {
			return err
		}
		if p.recording != nil {
			if err := p.recording.write(&r); err != nil {
				return err
			}
		}
		if err := p.take(&r); err != nil {
			return err
		}
	}
}

func (p *pipeline) take(r *events.Record) error {
	switch r.Kind {
	case events.KindTransition:
		p.tracker.Observe(&r.Event, &p.transition)
		p.transition.Place = p.names.place(r.Event.Cgroup)
		if !p.wantsPlace(&p.transition) {
			return nil
		}
		return p.view.take(&p.transition)
	case events.KindName:
		p.names.take(&r.Name)
		return nil
	case events.KindWalked:
		return p.walkEnded(&r.Walked)
	case events.KindGone:
		p.tracker.Forget(r.Event.Cookie, r.Event.Generation)
		return nil
	case events.KindClock:
		return p.sink.Notice(&output.Notice{
			Kind: output.NoticeClock, Reason: clockWords(p.clock.Step(r.Clock)), Time: p.clock.Time(r.Clock.Time),
		})
	case events.KindLoss:
		if r.Loss.Reason.Records() {
			p.summary.Lost += r.Loss.Count
		}
		return p.sink.Notice(&output.Notice{
			Time:   p.source.Clock().Time(r.Loss.Time),
			Kind:   output.NoticeLost,
			Reason: r.Loss.Reason.String(),
			Count:  r.Loss.Count,
		})
	}
	if v, ok := p.view.(idler); ok {
		if err := v.idle(r.Until); err != nil {
			return err
		}
	}
	return p.sink.Flush()
}

// proves reports whether a walk that has not found a socket of the network namespace
// proves that it is gone.
func proves(w *events.Walked, netns uint32) bool {
	return !w.Failed && !slices.Contains(w.Skipped, netns)
}

// walkEnded says once what a walk could not see.
func (p *pipeline) walkEnded(w *events.Walked) error {
	p.log.Info("walked the sockets", "time", time.Duration(w.Time-w.Start), "unseen", w.Unseen)
	defer p.names.walked()
	if w.Unseen != "" && w.Unseen != p.unseen {
		p.unseen = w.Unseen
		n := &output.Notice{Time: p.clock.Time(w.Time), Kind: output.NoticeUnseen, Reason: w.Unseen}
		if err := p.sink.Notice(n); err != nil {
			return err
		}
	}
	return p.view.walkEnded(w)
}

// clockWords says by how much the wall clock was set forward.
func clockWords(by time.Duration) string {
	by = by.Round(time.Millisecond) // it is known no better
	if by < 0 {
		return fmt.Sprintf("the wall clock was set back by %v", -by)
	}
	return fmt.Sprintf("the wall clock was set forward by %v", by)
}

// wantsPlace reports whether the filter wants a socket for its cgroup. Where the
// name of that is not known, it counts what is left out for this alone.
func (r *results) wantsPlace(t *lifecycle.Transition) bool {
	if r.filter.wantsPlace(t.Place) {
		return true
	}
	if t.Place.Path == "" && r.filter.events.Match(t.Event) == events.Accept {
		r.unnamed++
	}
	return false
}

func (p *pipeline) finishRecording() error {
	if p.recording == nil {
		return nil
	}
	return p.recording.finish(p.source.End())
}

func (p *pipeline) finishResults() error {
	if err := p.view.finish(p.source.End(), p.tracker); err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if p.unnamed > 0 {
		if err := p.sink.Notice(&output.Notice{Kind: output.NoticeUndecided, Reason: reasonUnnamed, Count: p.unnamed}); err != nil {
			return err
		}
	}
	if s, ok := p.source.(remarker); ok {
		for _, n := range s.remarks() {
			if err := p.sink.Notice(&n); err != nil {
				return err
			}
		}
	}
	if n := p.tracker.Evicted(); n > 0 {
		if err := p.sink.Notice(&output.Notice{Kind: output.NoticeForgotten, Count: n}); err != nil {
			return err
		}
	}
	if end, start := p.source.End(), p.source.Start(); end > start {
		p.summary.Duration = time.Duration(end - start)
	}
	if err := p.sink.Flush(); err != nil {
		return err
	}
	return p.sink.Summary(&p.summary)
}
