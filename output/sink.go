// Package output shows what was found: as text for people, as JSON Lines for
// programs, as messages on the side. All of it goes through [Sink].
package output

import (
	"errors"
	"time"

	"tcptrace/fsm/lifecycle"
)

// Sink takes the results of one run, in the order of the events: transitions,
// lifecycles, what is stuck, by the view.
//
// What is passed belongs to the caller and is valid during the call only. The
// calls come from one goroutine; after an error only Close may follow. Results
// may be held back until Flush, which is called whenever nothing more waits,
// and by Close. Summary comes once at the end, before Close.
type Sink interface {
	Transition(*lifecycle.Transition) error
	Lifecycle(*lifecycle.Lifecycle) error
	Stuck(*lifecycle.Stuck) error
	Notice(*Notice) error
	Summary(*Summary) error
	Flush() error
	Close() error
}

// NoticeKind says what a notice is about.
type NoticeKind string

// The kinds.
const (
	// NoticeLost: records are missing; Reason is an events.LossReason.
	NoticeLost NoticeKind = "lost"
	// NoticeUndecided: transitions were left out, because the filter asked for an end of
	// the socket that was not known when tracing ended.
	NoticeUndecided NoticeKind = "undecided"
	// NoticeForgotten: more sockets than the tracker follows.
	NoticeForgotten NoticeKind = "forgotten"
	// NoticeUnmeasured: TIME_WAIT or the time of handshakes is not measured;
	// Reason says which and why. Count is 0.
	NoticeUnmeasured NoticeKind = "unmeasured"
	// NoticeGrowing: of what is stuck there is more and more; Reason says where, and
	// may hold names that a process chose. Count is by how many.
	NoticeGrowing NoticeKind = "growing"
	// NoticeUnseen: sockets from before the start cannot be looked at; Reason says
	// which and why. Count is of network namespaces, 0 where that says nothing.
	NoticeUnseen NoticeKind = "unseen"
	// NoticeDisagree: Reason says of which socket a recording and a capture do not tell the
	// same, and what they tell. Time is when it began.
	NoticeDisagree NoticeKind = "disagree"
	// NoticeJoined: Reason says of what, in a recording and a capture, there are Count.
	NoticeJoined NoticeKind = "joined"
	// NoticePackets: Reason says of what a capture has Count.
	NoticePackets NoticeKind = "packets"
	// NoticeSuppressed: Count findings were not shown, as there were too many.
	NoticeSuppressed NoticeKind = "suppressed"
	// NoticeClock: the wall clock of the host was set; Reason says by how much. What
	// came before has the dates of the clock before. Count is 0.
	NoticeClock NoticeKind = "clock"
)

// Notice is something that the reader of the results must know to trust them.
type Notice struct {
	Time   time.Time // zero: of the whole run
	Kind   NoticeKind
	Reason string // "" where the kind says all
	Count  uint64
}

// Summary is the sum of what was shown in a run.
type Summary struct {
	// Transitions, by themselves or in lifecycles.
	Transitions uint64
	// Connections of which something was shown, listeners not included.
	Connections uint64
	Illegal     uint64 // transitions
	// Gaps are transitions before which records were lost, or lifecycles that
	// lack some.
	Gaps uint64
	// Lost records, of all sockets, shown or not.
	Lost     uint64
	Duration time.Duration
	// Sockets is the most that a walk looked at, and Stuck how many were told of that
	// were over their limit, if HasStuck.
	Sockets, Stuck uint64
	// Partial: the last walk could not look at all.
	HasStuck, Partial bool
}

// Discard is a sink that does nothing.
type Discard struct{}

// Transition does nothing.
func (Discard) Transition(*lifecycle.Transition) error { return nil }

// Lifecycle does nothing.
func (Discard) Lifecycle(*lifecycle.Lifecycle) error { return nil }

// Stuck does nothing.
func (Discard) Stuck(*lifecycle.Stuck) error { return nil }

// Notice does nothing.
func (Discard) Notice(*Notice) error { return nil }

// Summary does nothing.
func (Discard) Summary(*Summary) error { return nil }

// Flush does nothing.
func (Discard) Flush() error { return nil }

// Close does nothing.
func (Discard) Close() error { return nil }

// Multi passes everything on to each sink in turn. All sinks are closed,
// whatever the others say; other calls end at the first error.
type Multi []Sink

func (m Multi) each(call func(Sink) error) error {
	for _, s := range m {
		if err := call(s); err != nil {
			return err
		}
	}
	return nil
}

// Transition implements [Sink].
func (m Multi) Transition(t *lifecycle.Transition) error {
	for _, s := range m { // no closure: once for every event
		if err := s.Transition(t); err != nil {
			return err
		}
	}
	return nil
}

// Lifecycle implements [Sink].
func (m Multi) Lifecycle(c *lifecycle.Lifecycle) error {
	return m.each(func(s Sink) error { return s.Lifecycle(c) })
}

// Stuck implements [Sink].
func (m Multi) Stuck(s *lifecycle.Stuck) error {
	for _, sink := range m { // there may be very many at once
		if err := sink.Stuck(s); err != nil {
			return err
		}
	}
	return nil
}

// Notice implements [Sink].
func (m Multi) Notice(n *Notice) error { return m.each(func(s Sink) error { return s.Notice(n) }) }

// Summary implements [Sink].
func (m Multi) Summary(sum *Summary) error {
	return m.each(func(s Sink) error { return s.Summary(sum) })
}

// Flush implements [Sink].
func (m Multi) Flush() error { return m.each(Sink.Flush) }

// Close implements [Sink].
func (m Multi) Close() error {
	errs := make([]error, len(m))
	for i, s := range m {
		errs[i] = s.Close()
	}
	return errors.Join(errs...)
}
