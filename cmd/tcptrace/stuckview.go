package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// stuckView speaks of sockets that are in a state for longer than its limit, by
// itself or beside another view, whose rows come first.
type stuckView struct {
	*results
	limits lifecycle.Limits
	inner  view // nil: none
	once   bool // speaks of what is stuck at the end; else when it happens

	over     map[socketID]*overdue
	beyond   uint64 // found, with no room in over
	walks    uint64 // ended so far
	walkedAt uint64 // when the last did
	traced   bool   // there were transitions
	looked   uint64 // at sockets, by the present walk
	leaks    leaks
	scratch  lifecycle.Stuck
}

// maxOver bounds what is stuck at once.
const maxOver = 1 << 17

// overdue is a socket that is over its limit.
type overdue struct {
	lifecycle.Stuck
	walk uint64 // that saw it last
}

// grow makes it as old as it is at a time, if nothing was heard of it.
func (o *overdue) grow(now uint64) {
	if now > o.Time {
		o.Age += time.Duration(now - o.Time)
		o.Snapshot.Left -= min(o.Snapshot.Left, now-o.Time)
		o.Time = now
	}
}

func (v *stuckView) take(t *lifecycle.Transition) error {
	if v.inner != nil {
		if err := v.inner.take(t); err != nil {
			return err
		}
	}
	if t.Source == events.SourceSnapshot {
		return v.meet(t)
	}
	v.traced = true
	if len(v.over) == 0 {
		return nil
	}
	id := idOf(t)
	if o := v.over[id]; o != nil && t.To != o.State {
		return v.resolve(id, t.Time, t.To)
	}
	return nil
}

// idle implements [idler].
func (v *stuckView) idle(until uint64) error {
	if inner, ok := v.inner.(idler); ok {
		return inner.idle(until)
	}
	return nil
}

// meet holds what a walk has found against its limit.
func (v *stuckView) meet(t *lifecycle.Transition) error {
	if v.filter.events.Match(t.Event) != events.Accept {
		return nil
	}
	v.looked++
	id := idOf(t)
	if err := v.meetElsewhere(id, t); err != nil {
		return err
	}
	s := &v.scratch
	if !v.limits.Check(t, s) {
		return nil
	}
	if s.Owner.Known() {
		s.Exe = v.names.exe(s.Owner.PID)
	}
	if o := v.over[id]; o != nil { // as it is by now
		if s.Exe == "" && s.Owner.PID == o.Owner.PID {
			s.Exe = o.Exe
		}
		*o = overdue{*s, v.walks}
		return nil
	}
	return v.add(id)
}

// meetElsewhere ends what a walk finds in another state: the step was not seen.
func (v *stuckView) meetElsewhere(id socketID, t *lifecycle.Transition) error {
	o := v.over[id]
	if o == nil || o.State == t.To {
		return nil
	}
	if t.HasDwell && !t.AtLeast && t.Entered >= o.Time {
		o.Resolve(t.Entered, t.To)
	} else {
		o.Resolve(t.Time, 0)
		o.To = t.To
	}
	return v.ended(id, t.Time)
}

// add takes what was found stuck, in scratch, and tells of it.
func (v *stuckView) add(id socketID) error {
	if v.over == nil {
		v.over = make(map[socketID]*overdue)
	}
	if len(v.over) >= maxOver {
		v.beyond++
		return nil
	}
	v.over[id] = &overdue{v.scratch, v.walks}
	if v.once {
		return nil
	}
	v.summary.Stuck++
	return v.tell(&v.scratch)
}

func (v *stuckView) tell(s *lifecycle.Stuck) error {
	if err := v.sink.Stuck(s); err != nil {
		return err
	}
	return v.shown()
}

// resolve ends what is stuck no more: it went on to the state, 0 if that is not
// known.
func (v *stuckView) resolve(id socketID, at uint64, to fsm.State) error {
	v.over[id].Resolve(at, to)
	return v.ended(id, at)
}

// ended forgets what is resolved, and tells of it.
func (v *stuckView) ended(id socketID, at uint64) error {
	o := v.over[id]
	delete(v.over, id)
	if v.once {
		return nil
	}
	o.Time = at
	return v.tell(&o.Stuck)
}

// walkEnded takes stock after each walk: what two in a row have not seen any more is gone,
// see [lifecycle.Tracker.Sweep].
func (v *stuckView) walkEnded(w *events.Walked) error {
	if v.inner != nil {
		if err := v.inner.walkEnded(w); err != nil {
			return err
		}
	}
	for _, id := range v.sorted() {
		o := v.over[id]
		if !proves(w, o.NetNS) || o.walk+1 >= v.walks || o.Time >= w.Start {
			continue
		}
		if err := v.resolve(id, w.Time, 0); err != nil {
			return err
		}
	}
	v.summary.Sockets = max(v.summary.Sockets, v.looked)
	v.summary.Partial = w.Unseen != ""
	v.looked = 0
	v.walks++
	v.walkedAt = w.Time
	switch {
	case !v.once:
		return v.tellLeaks(w.Time)
	case w.Failed: // what was found is shown, but is no answer
		return fmt.Errorf("walk the sockets: %s", w.Unseen)
	}
	return nil
}

// finish tells what is stuck at the end.
func (v *stuckView) finish(end uint64, tracker *lifecycle.Tracker) error {
	if v.inner != nil {
		if err := v.inner.finish(end, tracker); err != nil {
			return err
		}
	}
	if v.packets {
		v.looked = 0
		_ = tracker.Each(func(*lifecycle.Life) error { v.looked++; return nil })
		v.summary.Sockets = v.looked
	} else if v.walks == 0 {
		v.summary.Sockets, v.summary.Partial = v.looked, true
		err := v.sink.Notice(&output.Notice{Kind: output.NoticeUnseen, Reason: "no walk over the sockets came to its end"})
		if err != nil {
			return err
		}
	}
	if v.once {
		if v.traced || end-min(end, v.walkedAt) > walkIsFresh {
			v.grow(end, tracker)
		}
		v.summary.Stuck = uint64(len(v.over)) + v.beyond
	}
	if v.beyond > 0 {
		if err := v.sink.Notice(&output.Notice{Kind: output.NoticeForgotten, Reason: "more are stuck than are told apart", Count: v.beyond}); err != nil {
			return err
		}
	}
	if !v.once || v.full() {
		return nil
	}
	for _, id := range v.sorted() {
		if err := v.tell(&v.over[id].Stuck); err != nil {
			return err
		}
	}
	if v.live && v.walks == 0 {
		return errors.New("the walk over the sockets was broken off: what is shown is not all")
	}
	return nil
}

// walkIsFresh is how long after a walk, if nothing is traced, nothing else is asked.
const walkIsFresh = uint64(time.Second)

// grow makes what is stuck as old as it is at the end of a recording, and adds what
// came to be stuck since the last walk.
func (v *stuckView) grow(end uint64, tracker *lifecycle.Tracker) {
	for _, o := range v.over {
		o.grow(end)
	}
	_ = tracker.Each(func(l *lifecycle.Life) error {
		s := &v.scratch
		if !v.limits.CheckLife(l, end, s) {
			return nil
		}
		s.Place = v.names.place(s.Cgroup)
		id := socketID{s.Cookie, s.Generation}
		if v.over[id] == nil && v.wantsStuck(s) {
			return v.add(id)
		}
		return nil
	})
}

func (v *stuckView) wantsStuck(s *lifecycle.Stuck) bool {
	return v.filter.wantsPlace(s.Place) && v.filter.events.Match(&events.Event{
		Cookie: s.Cookie, From: s.State, To: s.State, Local: s.Local, Remote: s.Remote, Family: s.Family,
		Owner: s.Owner, NetNS: s.NetNS, Cgroup: s.Cgroup,
	}) == events.Accept
}

// drop forgets what the filter, which has changed, no longer wants.
func (v *stuckView) drop() {
	maps.DeleteFunc(v.over, func(_ socketID, o *overdue) bool { return !v.wantsStuck(&o.Stuck) })
}

// reset forgets all, as nothing was read yet.
func (v *stuckView) reset() {
	*v = stuckView{results: v.results, limits: v.limits, inner: v.inner, once: v.once}
}

// sorted returns what is stuck, the oldest first.
func (v *stuckView) sorted() []socketID {
	return slices.SortedFunc(maps.Keys(v.over), func(a, b socketID) int {
		return cmp.Or(cmp.Compare(v.over[b].Age, v.over[a].Age), cmp.Compare(a.cookie, b.cookie), cmp.Compare(a.generation, b.generation))
	})
}

// leaks counts, once a minute, the connections that processes have not closed.
type leaks struct {
	at     uint64 // when that was; 0: not yet
	counts map[uint32]uint64
}

// tellLeaks tells of processes that have more connections stuck in CLOSE_WAIT than
// a minute ago.
func (v *stuckView) tellLeaks(now uint64) error {
	const minute = uint64(time.Minute)
	if v.leaks.at != 0 && now-v.leaks.at < minute {
		return nil
	}
	counts, names := make(map[uint32]uint64), make(map[uint32]events.Comm)
	for _, o := range v.over {
		if o.State == fsm.CloseWait && o.Owner.Known() {
			counts[o.Owner.PID]++
			names[o.Owner.PID] = o.Owner.Comm
		}
	}
	before := v.leaks
	v.leaks = leaks{now, counts}
	if before.at == 0 {
		return nil
	}
	for _, pid := range slices.Sorted(maps.Keys(counts)) {
		n, then := counts[pid], before.counts[pid]
		if n <= then {
			continue
		}
		comm := names[pid]
		err := v.sink.Notice(&output.Notice{
			Time: v.clock.Time(now), Kind: output.NoticeGrowing, Count: n - then,
			Reason: fmt.Sprintf("%v of %s (%d): %d stuck, %d more than a minute ago", fsm.CloseWait, comm.Bytes(), pid, n, n-then),
		})
		if err != nil {
			return err
		}
	}
	return nil
}
