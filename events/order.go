package events

// Order puts events into the order of their times. The records of several CPUs
// lie in the ring nearly in that order: each CPU takes the time a moment before
// its place in the ring. Events of one socket are in order from the start, and
// stay so.
//
// The zero Order is empty and ready.
type Order struct {
	waiting []Event // waiting[first:], sorted by time
	first   int
}

// Push takes a copy of the event.
func (o *Order) Push(e *Event) {
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

// Pop stores the oldest event in e and removes it, if it is not younger than
// the given time. It reports whether it did.
func (o *Order) Pop(until uint64, e *Event) bool {
	if o.first == len(o.waiting) || o.waiting[o.first].Time > until {
		return false
	}
	*e = o.waiting[o.first]
	o.first++
	return true
}
