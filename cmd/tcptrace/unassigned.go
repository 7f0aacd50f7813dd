package main

import (
	"cmp"
	"maps"
	"slices"

	"tcptrace/events"
	"tcptrace/fsm"
)

// unassigned holds back, under a filter for ports, connects and listeners to which the
// kernel had not assigned a local port yet: the kernel side sends them all, each with the
// socket's next record, which shows the port. What is not wanted goes no further, so that
// nobody follows it, and no recording has it.
type unassigned struct {
	wants func(local, remote uint16) bool // nil: all ports are wanted
	held  map[socketID]events.Event
	ready []events.Event
}

// take reports whether it keeps the event, to be given out by next, or not at all.
func (u *unassigned) take(e *events.Event) bool {
	if u.wants == nil {
		return false
	}
	id := socketID{e.Cookie, e.Generation}
	if e.From == fsm.Closed && (e.To == fsm.SynSent || e.To == fsm.Listen) && e.Local.Port() == 0 {
		if len(u.held) >= maxHeld { // of most the next record was lost
			u.end()
		}
		if u.held == nil {
			u.held = make(map[socketID]events.Event)
		}
		u.held[id] = *e
		return true
	}
	earlier, held := u.held[id]
	if !held {
		return false
	}
	delete(u.held, id)
	if u.wants(e.Local.Port(), e.Remote.Port()) {
		earlier.Local, earlier.Remote = e.Local, e.Remote
		u.ready = append(u.ready, earlier, *e)
	}
	return true
}

// next gives out an event that was kept.
func (u *unassigned) next(e *events.Event) bool {
	if len(u.ready) == 0 {
		return false
	}
	*e = u.ready[0]
	if u.ready = u.ready[1:]; len(u.ready) == 0 {
		u.ready = nil
	}
	return true
}

// end has all that is left given out, undecided, and reports whether there is any.
func (u *unassigned) end() bool {
	first := len(u.ready)
	u.ready = slices.AppendSeq(u.ready, maps.Values(u.held))
	slices.SortFunc(u.ready[first:], func(a, b events.Event) int { return cmp.Compare(a.Time, b.Time) })
	clear(u.held)
	return len(u.ready) > 0
}
