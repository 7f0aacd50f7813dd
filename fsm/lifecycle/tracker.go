// Package lifecycle follows sockets from record to record: it knows what a
// single transition cannot show, whether it continues the last one, and what the
// whole connection was.
//
// It lives by the time of the events, never by the wall clock, so that a
// recording gives the same as the live run did.
package lifecycle

import (
	"fmt"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
)

// DefaultMaxConnections is how many sockets a Tracker follows at once, at less
// than 300 bytes each.
const DefaultMaxConnections = 1 << 19

// Transition is an event with what is known about it from its socket's
// history.
type Transition struct {
	*events.Event
	fsm.Judgement
	// Dwell is the time spent in From, if HasDwell. For a transition from a
	// state to itself, and for a snapshot, it is the time spent there so far, which
	// goes on. AtLeast: it is a lower bound, the beginning was not seen.
	Dwell    time.Duration
	HasDwell bool
	AtLeast  bool
	// AtMost: it is an upper bound. Packets alone have it.
	AtMost bool
	// Place is what the socket's cgroup is for.
	Place events.Place
	// Life is the socket's history, this event included. It is valid until the
	// next call of Observe and may be marked by its users.
	Life *Life
	// Ended: with this event the kernel forgot the connection.
	Ended bool
	// Unended is, mostly nil, the earlier generation of the socket, of whose
	// end there was no record.
	Unended *Life
}

// Tracker follows sockets. It may be used from one goroutine at a time.
type Tracker struct {
	max     int
	index   index
	lives   slab  // the first is the end of the list by last use
	free    int32 // first of the unused, chained by newer; 0: none
	evicted uint64
	counts  [1 << 8]int // sockets followed, by state
	single  Life        // of an event that is all of its connection
	unended Life
}

// socketID names one generation of a socket. While the minisock of one lives, the
// next may have begun.
type socketID struct {
	cookie     uint64
	generation uint32
}

// slot is the place of a Life, with its neighbours by last use.
type slot struct {
	Life
	newer, older int32
}

func (s *slot) id() socketID { return socketID{s.cookie, s.generation} }

// slab grows by a chunk at a time and never moves: of millions of slots, no
// second copy is needed to make room for one more.
type slab [][]slot

const chunk = 1 << 10

func (s slab) at(i int32) *slot { return &s[i/chunk][i%chunk] }

func (s slab) len() int { return (len(s)-1)*chunk + len(s[len(s)-1]) }

// add returns the index of a new slot.
func (s *slab) add() int32 {
	last := &(*s)[len(*s)-1]
	if len(*last) == chunk {
		*s = append(*s, make([]slot, 0, chunk))
		last = &(*s)[len(*s)-1]
	}
	*last = append(*last, slot{})
	return int32(s.len() - 1)
}

// NewTracker returns a tracker that follows up to maxConnections sockets, 0
// meaning DefaultMaxConnections. Beyond that the one that has been still for
// longest is forgotten and counted.
func NewTracker(maxConnections int) *Tracker {
	if maxConnections <= 0 {
		maxConnections = DefaultMaxConnections
	}
	return &Tracker{
		max:   maxConnections,
		index: newIndex(),
		lives: slab{make([]slot, 1, chunk)},
	}
}

// Evicted returns how many sockets have been forgotten for want of room.
func (t *Tracker) Evicted() uint64 { return t.evicted }

// Count returns how many sockets are followed that are in the state: listeners and
// minisocks are among them, handshakes not.
func (t *Tracker) Count(s fsm.State) int { return t.counts[s] }

// Find returns the socket, nil if it is not followed. It is valid until the next call of
// Observe.
func (t *Tracker) Find(cookie uint64, generation uint32) *Life {
	i, found := t.find(socketID{cookie, generation})
	if !found {
		return nil
	}
	return &t.lives.at(i).Life
}

// Observe judges the next event and stores what is known of it in out, which
// refers to the event. A snapshot is no transition and gets no verdict.
func (t *Tracker) Observe(e *events.Event, out *Transition) {
	*out = Transition{Event: e}
	if e.Entered != 0 && e.Entered <= e.Time {
		out.Dwell, out.HasDwell = time.Duration(e.Time-e.Entered), true
		out.AtLeast = e.Flags&events.FlagAtLeast != 0
		out.AtMost = e.Wire != nil && e.Wire.AtMost
	}
	if e.Source == events.SourceSnapshot {
		t.snapshot(out)
		return
	}
	out.Judgement = fsm.Check(e.From, e.To, e.Evidence())
	out.Ended = e.From != fsm.Closed && e.To == fsm.Closed

	if e.Cookie == 0 { // a handshake that came to nothing: this is all of it
		t.single = Life{}
		t.single.observe(out)
		out.Life = &t.single
		return
	}
	id := socketID{e.Cookie, e.Generation}
	i, found := t.find(id)
	switch {
	case found && t.lives.at(i).InMinisock() && e.Source == events.SourceTracepoint:
		// The socket is closed again, which is no step of what its minisock keeps.
		out.Life, out.Ended = &t.lives.at(i).Life, false
		return
	case !found:
		out.Unended = t.endEarlier(e)
		i = t.add(id)
	}
	l := &t.lives.at(i).Life
	out.Life = l
	t.judgeContinuity(l, found, out)
	if out.Verdict == fsm.Illegal && found && l.prev != 0 {
		out.Reason += fmt.Sprintf(" (before: %v -> %v)", l.prev, l.last)
	}

	before := l.last
	l.observe(out)
	t.moved(before, l)
	if e.To == fsm.Closed {
		t.remove(i)
	} else {
		t.unlink(i)
		t.link(i)
	}
}

// snapshot takes in where a walk found a socket. A handshake is not kept: its cookie
// is to be its child's, and the record of its own end has none.
func (t *Tracker) snapshot(out *Transition) {
	e := out.Event
	if e.Cookie == 0 || e.Flags&events.FlagRequest != 0 || e.To == fsm.Closed {
		t.single = Life{}
		t.single.found(out, false)
		out.Life = &t.single
		return
	}
	id := socketID{e.Cookie, e.Generation}
	i, found := t.find(id)
	if !found {
		out.Unended = t.endEarlier(e)
		i = t.add(id)
	}
	// It stays where it is in the order by last use: being looked at is no use.
	l := &t.lives.at(i).Life
	before := l.last
	l.found(out, t.evicted > 0)
	t.moved(before, l)
	out.Life = l
}

// moved keeps account of a socket that is followed and was in the state before.
func (t *Tracker) moved(before fsm.State, l *Life) {
	t.counts[before]--
	t.counts[l.last]++
	l.flags |= lifeMet
}

// Sweep forgets the sockets of which neither a record nor a walk has told since the last
// Sweep but one, and calls f with each, which says as little of its end as is known. It
// is for when a walk over the sockets is over: what two of them have not found is gone,
// though the record of its end was lost. One alone may pass a socket over, on kernels
// before 6.17. The walk reports by the inode in which network namespaces it was; sockets
// of others stay.
func (t *Tracker) Sweep(walked func(netns uint32) bool, f func(*Life) error) error {
	for i := t.lives.at(0).newer; i != 0; {
		l := t.lives.at(i)
		next := l.newer
		if !walked(l.netns) {
			i = next
			continue
		}
		switch {
		case l.flags&lifeMet != 0:
			l.flags &^= lifeMet | lifeMissed
		case l.flags&lifeMissed == 0:
			l.flags |= lifeMissed
		default:
			t.unended = l.Life
			t.unended.entered = 0
			t.unended.miss()
			t.remove(i)
			if err := f(&t.unended); err != nil {
				return err
			}
		}
		i = next
	}
	return nil
}

// Forget forgets a socket whose end nothing will tell of, and returns what was known of
// it, or nil. The Life is valid until the next call of another method.
func (t *Tracker) Forget(cookie uint64, generation uint32) *Life {
	i, found := t.find(socketID{cookie, generation})
	if !found {
		return nil
	}
	t.unended = t.lives.at(i).Life
	t.remove(i)
	return &t.unended
}

// endEarlier forgets the generation before the event's, of whose end there was no
// record, and returns it. One in a minisock goes on.
func (t *Tracker) endEarlier(e *events.Event) *Life {
	if e.Generation == 0 {
		return nil
	}
	i, found := t.find(socketID{e.Cookie, e.Generation - 1})
	if !found || t.lives.at(i).InMinisock() {
		return nil
	}
	t.unended = t.lives.at(i).Life
	// It is not known how long it stayed where it was seen last.
	t.unended.entered = 0
	t.unended.miss()
	t.remove(i)
	return &t.unended
}

// Each calls f with what has not ended, the one that has been still for longest
// first.
func (t *Tracker) Each(f func(*Life) error) error {
	for i := t.lives.at(0).newer; i != 0; i = t.lives.at(i).newer {
		if err := f(&t.lives.at(i).Life); err != nil {
			return err
		}
	}
	return nil
}

// judgeContinuity overrules the judgement where the event does not continue
// the socket's last one. An edge that is illegal by itself stays so: both its
// ends are in the record.
func (t *Tracker) judgeContinuity(l *Life, found bool, out *Transition) {
	e := out.Event
	continues := e.From == l.last || l.finReached(e) || e.Flags&events.FlagCountedBefore != 0
	switch {
	case e.Wire != nil:
		// There are no records to miss: what was not captured the packets themselves tell.
		if j := &e.Wire.Judgement; j.Verdict != 0 {
			out.Verdict, out.Rule, out.Reason = j.Verdict, j.Rule, j.Reason
		}
	case out.Verdict == fsm.Illegal:
	case !found && (t.evicted > 0 || e.From == fsm.Closed && e.To == fsm.Closed):
		// Forgotten, for want of room or at its first step to CLOSED: what is
		// missing is not known to be lost.
	case !found:
		if e.Seq > 1 {
			out.gap(lostRecords(e.Seq - 1))
		}
	case e.Seq == 0 || l.next == 0:
		if !continues {
			out.gap("its records are not numbered, and one is missing")
		}
	case e.Seq > l.next:
		out.gap(lostRecords(e.Seq - l.next))
	case e.Seq < l.next:
		out.gap(fmt.Sprintf("record %d of this socket after its record %d", e.Seq, l.next-1))
	case !continues && l.flags&lifeFound != 0:
		// The walk may have come just when it moved on.
		out.gap(fmt.Sprintf("the socket was found in %v, and how it came from there was not seen", l.last))
	case !continues:
		out.Verdict = fsm.Illegal
		out.Rule = "RFC 9293 3.3.2 state machine"
		out.Reason = fmt.Sprintf("the socket was in %v, but this leaves %v, and no record was lost between", l.last, e.From)
	}
}

// gap says that what came before is missing. The cause stays: it is of this
// step alone.
func (t *Transition) gap(reason string) {
	t.Verdict, t.Rule, t.Reason = fsm.Gap, "", reason
}

func lostRecords(n uint32) string {
	if n == 1 {
		return "1 record of this socket was lost before this one"
	}
	return fmt.Sprintf("%d records of this socket were lost before this one", n)
}

func (t *Tracker) find(id socketID) (place int32, found bool) {
	place = t.index.entries[t.index.find(t.lives, id)].place
	return place, place != 0
}

// add makes room for a socket and returns its place.
func (t *Tracker) add(id socketID) int32 {
	if t.index.used >= t.max {
		t.evicted++
		t.remove(t.lives.at(0).newer) // around the end: the one unused for longest
	}
	i := t.free
	if i != 0 {
		t.free = t.lives.at(i).newer
	} else {
		i = t.lives.add()
	}
	*t.lives.at(i) = slot{Life: Life{cookie: id.cookie, generation: id.generation}}
	t.counts[0]++ // until it is known
	t.index.put(t.lives, i)
	t.link(i)
	return i
}

// remove forgets a socket. Its Life stays readable until its place is used
// again.
func (t *Tracker) remove(i int32) {
	t.counts[t.lives.at(i).last]--
	t.index.remove(t.lives, t.lives.at(i).id())
	t.unlink(i)
	t.lives.at(i).newer = t.free
	t.free = i
}

// link makes i the one used last: older than the end of the ring.
func (t *Tracker) link(i int32) {
	newest := t.lives.at(0).older
	t.lives.at(i).older, t.lives.at(i).newer = newest, 0
	t.lives.at(newest).newer, t.lives.at(0).older = i, i
}

func (t *Tracker) unlink(i int32) {
	l := t.lives.at(i)
	t.lives.at(l.older).newer, t.lives.at(l.newer).older = l.newer, l.older
}
