package events

import "tcptrace/fsm"

// Order puts events into the order of their times. The records of several CPUs
// lie in the ring nearly in that order: each CPU takes the time a moment before
// its place in the ring. Events of one socket are in order from the start, and
// stay so.
//
// It also makes one event of records that the kernel side can only write one
// after the other: a timer that is cancelled and, microseconds later, set again
// or expired (FlagSupersedes takes the event with FlagProvisional back), and the
// reset that is sent just after a socket went to CLOSED (SourceReset).
//
// The zero Order is empty and ready.
type Order struct {
	waiting []Event // waiting[first:], sorted by time
	first   int
}

// Push takes a copy of the event.
func (o *Order) Push(e *Event) {
	if e.Source == SourceReset {
		if i := o.find(func(w *Event) bool { return w.Cookie == e.Cookie && w.To == fsm.Closed }); i >= 0 {
			o.waiting[i].Reset = e.Reset
		}
		return
	}
	if e.Flags&FlagSupersedes != 0 {
		if i := o.find(e.supersedes); i >= 0 {
			o.waiting = append(o.waiting[:i], o.waiting[i+1:]...)
		}
		if e.From == e.To { // nothing more to say
			return
		}
	}
	if o.first == len(o.waiting) {
		o.waiting, o.first = o.waiting[:0], 0
	} else if len(o.waiting) == cap(o.waiting) && o.first > len(o.waiting)/2 {
		// Moving the rest is worth it only when it makes much room.
		n := copy(o.waiting, o.waiting[o.first:])
		o.waiting, o.first = o.waiting[:n], 0
	}
	o.waiting = append(o.waiting, *e)
	for i := len(o.waiting) - 1; i > o.first && o.waiting[i-1].Time > e.Time; i-- {
		o.waiting[i], o.waiting[i-1] = o.waiting[i-1], o.waiting[i]
	}
}

// find returns the place of the youngest event that is meant, or -1.
func (o *Order) find(meant func(*Event) bool) int {
	for i := len(o.waiting) - 1; i >= o.first; i-- {
		if w := &o.waiting[i]; meant(w) {
			return i
		}
	}
	return -1
}

// supersedes reports whether e takes w back.
func (e *Event) supersedes(w *Event) bool {
	return w.Flags&FlagProvisional != 0 && w.Source == e.Source && w.Cookie == e.Cookie &&
		w.Local == e.Local && w.Remote == e.Remote && w.NetNS == e.NetNS
}

// Waits reports whether an event not younger than the given time has not been given
// away.
func (o *Order) Waits(until uint64) bool {
	return o.first < len(o.waiting) && o.waiting[o.first].Time <= until
}

// patience is how long a provisional event is kept for what may take it back, in
// nanoseconds. That follows within microseconds, unless the CPU is taken away
// between the two, as a hypervisor may do.
const patience = 100_000_000

// Pop stores the oldest event in e and removes it, if it is not younger than
// the given time, a provisional one not by 100 ms. It reports whether it did.
func (o *Order) Pop(until uint64, e *Event) bool {
	if o.first == len(o.waiting) {
		return false
	}
	oldest := &o.waiting[o.first]
	if oldest.Flags&FlagProvisional != 0 {
		until -= min(until, patience)
	}
	if oldest.Time > until {
		return false
	}
	*e = *oldest
	o.first++
	return true
}
