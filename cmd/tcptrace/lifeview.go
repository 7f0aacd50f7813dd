package main

import (
	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// lifeView shows every connection once, when it is over.
type lifeView struct {
	*results
	untilGone bool // else until a minisock takes over
	open      bool // also those that are not over when tracing ends
	// each takes every connection, whatever the filter says, instead of the sink.
	each func(*lifecycle.Lifecycle) error

	lifecycle lifecycle.Lifecycle // reused
}

func (v *lifeView) take(t *lifecycle.Transition) error {
	if t.Unended != nil && !t.Unended.Marked {
		if err := v.show(t.Unended, t.Time); err != nil {
			return err
		}
	}
	if t.Source == events.SourceSnapshot { // no end, and what was closed before is not closed now
		t.Life.Marked = t.Life.Marked || !v.untilGone && t.Life.InMinisock()
		return nil
	}
	over := t.Ended || !v.untilGone && t.Flags&events.FlagMinisock != 0
	if !over || t.Life.Marked {
		return nil
	}
	return v.show(t.Life, t.Time)
}

func (v *lifeView) walkEnded(*events.Walked) error { return nil }

// finish shows what has come to TIME_WAIT, or all that is open.
func (v *lifeView) finish(end uint64, tracker *lifecycle.Tracker) error {
	if v.full() {
		return nil
	}
	return tracker.Each(func(l *lifecycle.Life) error {
		if l.Marked || !v.open && (!l.InMinisock() || !l.Moved()) {
			return nil
		}
		return v.show(l, end)
	})
}

func (v *lifeView) show(l *lifecycle.Life, at uint64) error {
	l.Marked = true
	if !l.IsConnection() {
		return nil
	}
	c := &v.lifecycle
	l.Lifecycle(at, c)
	c.Place = v.names.place(c.Cgroup)
	if v.each != nil {
		return v.each(c)
	}
	if !v.filter.wantsVerdict(c.Verdict) || !v.filter.wantsLifecycle(c) {
		return nil
	}
	v.countLife(c)
	if err := v.sink.Lifecycle(c); err != nil {
		return err
	}
	return v.shown()
}

// countLife has a connection in the summary.
func (r *results) countLife(c *lifecycle.Lifecycle) {
	r.summary.Connections++
	r.summary.Transitions += uint64(len(c.Path) - 1)
	r.summary.Illegal += uint64(len(c.Violations))
	if c.Verdict == fsm.Gap {
		r.summary.Gaps++
	}
}

// wantsLifecycle holds the filter against a connection: its states are all that
// it was in.
func (f *filter) wantsLifecycle(c *lifecycle.Lifecycle) bool {
	return f.wantsPlace(c.Place) && f.events.MatchStates(c.Path...) && f.events.MatchSocket(&events.Event{
		Cookie: c.Cookie, Local: c.Local, Remote: c.Remote, Family: c.Family, Owner: c.Owner, NetNS: c.NetNS, Cgroup: c.Cgroup,
	}) == events.Accept
}
