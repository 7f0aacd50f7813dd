package main

import (
	"tcptrace/fsm/lifecycle"
	"tcptrace/output/stat"
)

// statView counts the transitions that a traceView would show.
type statView struct {
	traceView
	stat *stat.Sink
	last uint64 // time of the last transition
}

func (v *statView) take(t *lifecycle.Transition) error {
	v.last = t.Time
	return v.traceView.take(t)
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
	return v.stat.Finish(end)
}
