// Package lifecycle follows sockets from record to record: it knows what a
// single transition cannot show, whether it continues the last one.
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

// DefaultMaxSockets is how many sockets a Tracker follows at once, at about
// 100 bytes each.
const DefaultMaxSockets = 1 << 18

// Transition is an event with what is known about it from its socket's
// history.
type Transition struct {
	*events.Event
	fsm.Judgement
	// Dwell is the time spent in From, if HasDwell. For a transition from a
	// state to itself it is the time spent there so far, which goes on.
	Dwell    time.Duration
	HasDwell bool
	// Life is the socket's history, this event included. It is valid until the
	// next call of Observe and may be marked by its users.
	Life *Life
}

// Life is one generation of a socket.
type Life struct {
	cookie     uint64
	generation uint32
	seq        uint32 // of the last record
	newer      int32  // neighbours by last use
	older      int32
	prev       fsm.State // before last
	last       fsm.State
	listener   bool
	// Counted is for the user: see Summary of package output.
	Counted bool
}

// IsConnection reports whether it is, or was to become, a connection: it is no
// listener.
func (l *Life) IsConnection() bool { return !l.listener }

// Tracker follows sockets. It may be used from one goroutine at a time.
type Tracker struct {
	max     int
	byID    map[uint64]int32 // cookie to index in lives
	lives   []Life           // lives[0] is the end of the list by last use
	free    int32            // first of the unused, chained by newer; 0: none
	evicted uint64
}

// NewTracker returns a tracker that follows up to maxSockets sockets, 0 meaning
// DefaultMaxSockets. Beyond that the one that has been still for longest is
// forgotten and counted.
func NewTracker(maxSockets int) *Tracker {
	if maxSockets <= 0 {
		maxSockets = DefaultMaxSockets
	}
	return &Tracker{
		max:   maxSockets,
		byID:  make(map[uint64]int32),
		lives: make([]Life, 1),
	}
}

// Evicted returns how many sockets have been forgotten for want of room.
func (t *Tracker) Evicted() uint64 { return t.evicted }

// Observe judges the next event and stores what is known of it in out, which
// refers to the event.
func (t *Tracker) Observe(e *events.Event, out *Transition) {
	*out = Transition{Event: e, Judgement: fsm.Check(e.From, e.To, e.Evidence())}
	if e.Entered != 0 && e.Entered <= e.Time {
		out.Dwell, out.HasDwell = time.Duration(e.Time-e.Entered), true
	}

	if e.Cookie == 0 { // the kernel names every socket: this one cannot be followed
		out.Life = &Life{}
		return
	}
	i, found := t.byID[e.Cookie]
	if !found {
		i = t.add(e.Cookie)
	}
	l := &t.lives[i]
	out.Life = l
	t.judgeContinuity(l, found, out)
	if out.Verdict == fsm.Illegal && found && l.prev != 0 {
		out.Reason += fmt.Sprintf(" (before: %v -> %v)", l.prev, l.last)
	}

	if !found || l.generation != e.Generation {
		l.prev, l.listener, l.Counted = 0, false, false
	}
	born := e.From == fsm.Listen && e.To == fsm.SynRcvd
	l.listener = l.listener || e.To == fsm.Listen || e.From == fsm.Listen && !born
	l.generation, l.seq = e.Generation, e.Seq
	l.prev, l.last = e.From, e.To
	if e.To == fsm.Closed {
		t.remove(i)
	} else {
		t.unlink(i)
		t.link(i)
	}
}

// judgeContinuity overrules the judgement where the event does not continue
// the socket's last one. An edge that is illegal by itself stays so: both its
// ends are in the record.
func (t *Tracker) judgeContinuity(l *Life, found bool, out *Transition) {
	e := out.Event
	switch {
	case out.Verdict == fsm.Illegal:
	case !found && (t.evicted > 0 || e.From == fsm.Closed && e.To == fsm.Closed):
		// Forgotten, for want of room or at its first step to CLOSED: what is
		// missing is not known to be lost.
	case !found || l.generation != e.Generation:
		if e.Seq > 1 {
			out.gap(lostRecords(e.Seq - 1))
		}
	case e.Seq == 0 || l.seq == 0:
		if e.From != l.last {
			out.gap("its records are not numbered, and one is missing")
		}
	case e.Seq > l.seq+1:
		out.gap(lostRecords(e.Seq - l.seq - 1))
	case e.Seq <= l.seq:
		out.gap(fmt.Sprintf("record %d of this socket after its record %d", e.Seq, l.seq))
	case e.From != l.last:
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

// add makes room for a socket and returns its place.
func (t *Tracker) add(cookie uint64) int32 {
	if len(t.byID) >= t.max {
		t.evicted++
		t.remove(t.lives[0].newer) // around the end: the one unused for longest
	}
	i := t.free
	if i != 0 {
		t.free = t.lives[i].newer
	} else {
		t.lives = append(t.lives, Life{})
		i = int32(len(t.lives) - 1)
	}
	t.lives[i] = Life{cookie: cookie}
	t.byID[cookie] = i
	t.link(i)
	return i
}

// remove forgets a socket. Its Life stays readable until its place is used
// again.
func (t *Tracker) remove(i int32) {
	delete(t.byID, t.lives[i].cookie)
	t.unlink(i)
	t.lives[i].newer = t.free
	t.free = i
}

// link makes i the one used last: older than the end of the ring.
func (t *Tracker) link(i int32) {
	newest := t.lives[0].older
	t.lives[i].older, t.lives[i].newer = newest, 0
	t.lives[newest].newer, t.lives[0].older = i, i
}

func (t *Tracker) unlink(i int32) {
	l := &t.lives[i]
	t.lives[l.older].newer, t.lives[l.newer].older = l.newer, l.older
}
