package main

import (
	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output/stat"
)

// statView counts the transitions that a traceView would show.
type statView struct {
	*traceView
	stat  *stat.Sink
	ports *ports // nil: not wanted
	last  uint64 // time of the last transition

	counts *kernelCounts // nil: each transition was sent
}

func (v *statView) take(t *lifecycle.Transition) error {
	v.last = t.Time
	return v.traceView.take(t)
}

func (v *statView) walkEnded(w *events.Walked) error {
	if v.ports != nil {
		v.ports.walkEnded(w)
	}
	return nil
}

// idle implements [idler].
func (v *statView) idle(until uint64) error { return v.stat.Advance(until) }

func (v *statView) finish(end uint64, tracker *lifecycle.Tracker) error {
	if err := v.traceView.finish(end, tracker); err != nil {
		return err
	}
	if v.full() { // no more was wanted
		end = v.last
	}
	steps, begun := v.counts.total()
	v.summary.Transitions += steps
	v.summary.Connections += begun
	return v.stat.Finish(end)
}
