// Package ladder draws connections as textbooks do: both ends side by side, time
// going down, their states with the time in each, and arrows between them where a
// change of one end answers the other's.
//
// A [Ladder] is what is to be drawn, [New] makes one of the lifecycles of the two
// ends, [Pairs] finds out which lifecycles belong together, [Text] and [SVG] draw.
// The triggers of all steps come from [fsm.Machine]; who has seen the segments
// themselves puts other arrows in the place of those that follow from the states.
package ladder

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
)

// Ladder is one connection.
type Ladder struct {
	// Ends by [Side]. One that is not known is nil: its peer is elsewhere, or was not
	// seen, or its addresses are changed on the way.
	Ends [2]*End
	// Self: the socket is connected to itself, and both ends are that socket.
	Self bool
	// Arrows in any order.
	Arrows []Arrow
	// Notes are what the reader must know beside, in words. Names that a process can
	// choose must be escaped in them.
	Notes []string
}

// Side is where an end is drawn, and its place in Ladder.Ends.
type Side int

// The sides. Who opens the connection is left.
const (
	Left Side = iota
	Right
)

// Other returns the other side.
func (s Side) Other() Side { return 1 - s }

// End is a socket, one column of the drawing.
type End struct {
	lifecycle.Lifecycle
	// Steps are the states of its path, in order.
	Steps []Step
}

// Step is a state that an end went through, and how it got there.
type Step struct {
	State fsm.State
	// Entered is when, as events.Event.Time; 0: not known, or it is what the end began
	// in.
	Entered uint64
	// Dwell is the time spent in it, if HasDwell. AtLeast: it is a lower bound, as the
	// beginning was not seen or it goes on. Estimated: it is exact to a tick of the
	// kernel's timers.
	Dwell              time.Duration
	HasDwell           bool
	AtLeast, Estimated bool
	// Event is what led here and Action what TCP did about it, as in [fsm.Edge]; "":
	// not known, or nothing.
	Event, Action string
	// Verdict is Gap if records are missing just before, Illegal if no rule leads
	// here, else 0.
	Verdict fsm.Verdict

	notBefore uint64 // where it is put if it is not known when it was entered
}

// NoStep is in the place of a step that an arrow does not have.
const NoStep = -1

// Arrow is a segment on its way from one end to the other, or several.
type Arrow struct {
	From Side
	// Label is what is sent: the flags, joined by commas, and what else is known.
	Label string
	// Sent and Received are when the ends sent and got it, as events.Event.Time; 0: not
	// seen. One of them is not 0, or there is one of the steps.
	Sent, Received uint64
	// SentBy and ReceivedBy are the steps that go with that, as indices of the Steps of
	// its ends, or NoStep.
	SentBy, ReceivedBy int
	// Captured: the segment was captured on its way, which Sent is the time of; when it
	// arrived nothing has shown.
	Captured bool
	// Inferred: nobody has seen the segment. A change of one end, to SentBy, is what
	// the change of the other, to ReceivedBy, answers.
	Inferred bool
}

// New makes a ladder of the two ends of a connection, or of one if the other is nil,
// with the arrows that follow from their states. It keeps copies.
func New(a, b *lifecycle.Lifecycle) *Ladder {
	l := &Ladder{}
	left, right := arrange(a, b)
	for side, c := range [...]*lifecycle.Lifecycle{left, right} {
		if c != nil {
			l.Ends[side] = newEnd(c)
		}
	}
	l.amendHandshake()
	l.Arrows = l.infer()
	return l
}

// amendHandshake takes back what cannot be. A server's SYN_RCVD is measured from its
// SYN-ACK on where the kernel's timers are traced; else it seems to begin with the
// final ACK, when the client is in ESTABLISHED already.
func (l *Ladder) amendHandshake() {
	client, server := l.Ends[Left], l.Ends[Right]
	if client == nil || server == nil || server.Role != lifecycle.RolePassive {
		return
	}
	sent, open := client.step(fsm.SynSent), client.step(fsm.Established)
	received := server.step(fsm.SynRcvd)
	if sent == nil || received == nil {
		return
	}
	if open != nil && open.Entered != 0 && received.Entered > open.Entered {
		received.Entered = 0
		received.AtLeast = received.HasDwell
	}
	received.notBefore = sent.Entered
}

// step returns the first step in the state, nil if there is none.
func (e *End) step(s fsm.State) *Step {
	if i := slices.Index(e.Path, s); i >= 0 {
		return &e.Steps[i]
	}
	return nil
}

// NewSelf makes a ladder of a socket that is connected to itself.
func NewSelf(c *lifecycle.Lifecycle) *Ladder {
	end := newEnd(c)
	l := &Ladder{Ends: [2]*End{end, end}, Self: true}
	l.Arrows = l.infer()
	return l
}

// arrange puts who opened the connection left. Where that is not known, the higher
// port is: it is only a place.
func arrange(a, b *lifecycle.Lifecycle) (left, right *lifecycle.Lifecycle) {
	if a == nil {
		a, b = b, a
	}
	swap := a.Role == lifecycle.RolePassive
	if b != nil && a.Role == b.Role {
		swap = a.Local.Port() < b.Local.Port()
	} else if b != nil && a.Role == lifecycle.RoleUnknown {
		swap = b.Role == lifecycle.RoleActive
	}
	if swap {
		return b, a
	}
	return a, b
}

func newEnd(c *lifecycle.Lifecycle) *End {
	e := &End{Lifecycle: *c}
	e.Path = slices.Clone(c.Path)
	e.Violations = slices.Clone(c.Violations)
	e.Steps = make([]Step, len(e.Path))
	for i, s := range e.Path {
		step := &e.Steps[i]
		step.State = s
		last := i == len(e.Path)-1
		if d, known := c.Dwell(s); known && !e.repeated(s) && (c.Open || !last) {
			step.Dwell, step.HasDwell = d, true
			step.AtLeast = c.AtLeast && i == 0 || c.Open && last
			step.Estimated = c.Estimated && (s == fsm.TimeWait || s == fsm.FinWait2)
		}
		if i > 0 {
			e.explain(e.Path[i-1], i)
		} else if s == fsm.SynRcvd && c.Role == lifecycle.RolePassive && c.Start != 0 {
			e.explain(fsm.Listen, i) // a handshake that came to nothing
		}
	}
	e.date()
	return e
}

// repeated reports whether the state is in the path more than once, so that its time
// is of several steps.
func (e *End) repeated(s fsm.State) bool {
	i := slices.Index(e.Path, s)
	return slices.Contains(e.Path[i+1:], s)
}

// date finds out when the states were entered: from the end backward, and from the
// start on, as far as the time in each state between is known.
func (e *End) date() {
	steps := e.Steps
	at := e.End
	if !e.Open && len(steps) > 0 && steps[len(steps)-1].State != fsm.Closed {
		at = 0 // the path had no room for its end
	}
	for i := len(steps) - 1; i >= 0; i-- {
		s := &steps[i]
		if i < len(steps)-1 || e.Open {
			if !s.HasDwell || i == 0 && e.AtLeast || uint64(s.Dwell) > at {
				break
			}
			at -= uint64(s.Dwell)
		}
		s.Entered = at
	}
	first := 0
	if len(steps) > 1 && isInitial(steps[0].State) {
		first = 1
		steps[0].Entered = 0
	}
	if at = e.Start; at == 0 || e.Role == lifecycle.RolePassive && !e.HasHandshake {
		return // it is not known, or of a later moment
	}
	for i := first; i < len(steps) && steps[i].Entered == 0; i++ {
		steps[i].Entered = at
		if !steps[i].HasDwell || steps[i].AtLeast {
			return
		}
		at += uint64(steps[i].Dwell)
	}
}

// isInitial reports whether a connection is in the state before it begins.
func isInitial(s fsm.State) bool { return s == fsm.Closed || s == fsm.Listen }

// explain says how the end came from a state to a step.
func (e *End) explain(from fsm.State, i int) {
	to, step := e.Path[i], &e.Steps[i]
	for _, v := range e.Violations {
		if v.From == from && v.To == to {
			step.Verdict = fsm.Illegal
		}
	}
	if from == fsm.TimeWait && to == fsm.Closed && e.TimeWaitEnd > fsm.EndExpired {
		step.Event = e.TimeWaitEnd.OfTimeWait().String()
		return
	}
	if to == fsm.Closed && e.Cause > fsm.CauseFinished {
		step.Event, step.Action = ofCause(e.Cause)
		return
	}
	for i := range machine { // the legal ones come first
		edge := &machine[i]
		if edge.From == from && edge.To == to && edge.Class != fsm.Abort {
			step.Event, step.Action = edge.Event, edge.Action
			return
		}
	}
	if step.Verdict == 0 {
		step.Verdict = fsm.Gap
	}
}

// machine is what triggers are taken from. It is not changed.
var machine = fsm.Machine()

// ofCause says which of "RST, ABORT or timeout" an abort was.
func ofCause(c fsm.Cause) (event, action string) {
	switch c {
	case fsm.CauseRefused, fsm.CauseResetReceived:
		return "rcv RST", ""
	case fsm.CauseResetSent:
		return "ABORT", "snd RST"
	case fsm.CauseCancelled:
		return "CLOSE", ""
	}
	return strings.ReplaceAll(c.String(), "_", " "), ""
}

// segment is what a step receives or sends: its flags, and of an ACK what it is of.
type segment struct{ flags, of string }

func (s segment) has(flag string) bool { return slices.Contains(strings.Split(s.flags, ","), flag) }

func parseSegment(text, verb string) segment {
	flags, ok := strings.CutPrefix(text, verb)
	if !ok {
		return segment{}
	}
	flags, of, _ := strings.Cut(flags, " of ")
	return segment{flags, of}
}

func (s *Step) received() segment { return parseSegment(s.Event, "rcv ") }
func (s *Step) sent() segment     { return parseSegment(s.Action, "snd ") }

// answers reports whether what the step receives may be what the other sent.
func (s *Step) answers(other *Step) bool {
	got, sent := s.received(), other.sent()
	switch {
	case got.flags == "" || sent.flags == "":
		return false
	case got.of == "":
		return got.flags == sent.flags
	case got.flags == "ACK":
		return sent.has("ACK") && other.received().has(got.of)
	}
	return sent.has(got.of) // FIN,ACK of FIN: the FIN is what it waits for
}

// infer returns the arrows that follow from the states. What one end received, or
// sent in a call, and the other does not show, has an arrow with one step.
func (l *Ladder) infer() []Arrow {
	var arrows []Arrow
	var used [2][]bool
	for side, e := range l.Ends {
		if e != nil {
			used[side] = make([]bool, len(e.Steps))
		}
	}
	for side, e := range l.Ends {
		if e == nil {
			continue
		}
		from := Side(side).Other()
		for i := range e.Steps {
			got := e.Steps[i].received()
			if got.flags == "" {
				continue
			}
			a := Arrow{From: from, Label: got.flags, Inferred: true, Received: e.Steps[i].Entered, ReceivedBy: i, SentBy: NoStep}
			if other := l.Ends[from]; other != nil {
				for j := range other.Steps {
					if !used[from][j] && e.Steps[i].answers(&other.Steps[j]) {
						used[from][j] = true
						a.SentBy, a.Sent = j, other.Steps[j].Entered
						if sent := other.Steps[j].sent().flags; len(sent) > len(a.Label) { // SYN,ACK, of which the ACK led on
							a.Label = sent
						}
						break
					}
				}
			}
			arrows = append(arrows, a)
		}
	}
	for side, e := range l.Ends {
		if e == nil {
			continue
		}
		for i := range e.Steps {
			s := &e.Steps[i]
			if sent := s.sent(); sent.flags != "" && s.received().flags == "" && !used[side][i] {
				arrows = append(arrows, Arrow{From: Side(side), Label: sent.flags, Inferred: true, Sent: s.Entered, SentBy: i, ReceivedBy: NoStep})
			}
		}
	}
	return arrows
}

// start returns the first time that is known of the ladder.
func (l *Ladder) start() uint64 {
	first := ^uint64(0)
	note := func(at uint64) {
		if at != 0 {
			first = min(first, at)
		}
	}
	for _, e := range l.Ends {
		if e == nil {
			continue
		}
		for i := range e.Steps {
			note(e.Steps[i].Entered)
		}
	}
	for i := range l.Arrows {
		note(l.Arrows[i].Sent)
		note(l.Arrows[i].Received)
	}
	if first == ^uint64(0) {
		return 0
	}
	return first
}

// row is a moment: what of the drawing is at the same height.
type row struct {
	steps  [2]int // of each side, or NoStep
	arrows []int  // that arrive here, or where that is not seen, leave here
	sent   []int  // that leave here, of those that belong to no step
}

// track is a sequence of things of which each is after the one before.
type track struct {
	times []uint64 // never 0: what is not known is put where it can have been
	put   func(r *row, i int)
	next  int
}

// rows puts everything in order. The first row has what both ends began in.
func (l *Ladder) rows(sentRows bool) []row {
	rows := []row{{steps: [2]int{NoStep, NoStep}}}
	var tracks []*track
	for side, e := range l.Ends {
		if e == nil || len(e.Steps) == 0 {
			continue
		}
		first := 0
		if isInitial(e.Steps[0].State) || e.Steps[0].Entered == 0 {
			rows[0].steps[side] = 0
			first = 1
		}
		tracks = append(tracks, &track{times: e.places(first), put: func(r *row, i int) { r.steps[side] = first + i }})
	}
	tracks = append(tracks, l.loose(sentRows)...)
	for {
		var next *track
		for _, t := range tracks {
			if t.next < len(t.times) && (next == nil || t.times[t.next] < next.times[next.next]) {
				next = t
			}
		}
		if next == nil {
			break
		}
		r, at := row{steps: [2]int{NoStep, NoStep}}, next.times[next.next]
		next.put(&r, next.next)
		next.next++
		if l.Self { // both ends do everything at once
			for _, t := range tracks {
				if t.next < len(t.times) && t.times[t.next] == at && t.next == next.next-1 && t != next {
					t.put(&r, t.next)
					t.next++
				}
			}
		}
		rows = append(rows, r)
	}
	if rows[0].steps == [2]int{NoStep, NoStep} {
		rows = rows[1:]
	}
	l.attach(rows)
	return rows
}

// loose returns the tracks of the arrows that belong to no step.
func (l *Ladder) loose(sentRows bool) []*track {
	type moment struct {
		at    uint64
		arrow int
		sent  bool
	}
	var moments []moment
	for i := range l.Arrows {
		a := &l.Arrows[i]
		if a.ReceivedBy == NoStep && a.Received != 0 {
			moments = append(moments, moment{a.Received, i, false})
		}
		switch {
		case a.SentBy != NoStep || a.Sent == 0:
		case a.Received == 0 && a.ReceivedBy == NoStep:
			moments = append(moments, moment{a.Sent, i, false})
		case sentRows:
			moments = append(moments, moment{a.Sent, i, true})
		}
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	t := &track{put: func(r *row, i int) {
		if m := moments[i]; m.sent {
			r.sent = append(r.sent, m.arrow)
		} else {
			r.arrows = append(r.arrows, m.arrow)
		}
	}}
	for _, m := range moments {
		t.times = append(t.times, m.at)
	}
	return []*track{t}
}

// attach puts the arrows that belong to a step in the row of that.
func (l *Ladder) attach(rows []row) {
	for i := range l.Arrows {
		a := &l.Arrows[i]
		side, step := a.From.Other(), a.ReceivedBy
		if step == NoStep {
			if a.Received != 0 || a.SentBy == NoStep {
				continue
			}
			side, step = a.From, a.SentBy
		}
		for j := range rows {
			if rows[j].steps[side] == step {
				rows[j].arrows = append(rows[j].arrows, i)
			}
		}
	}
}

// places returns the times of the steps from the first on; what is not known is where
// the step before is, or the one after.
func (e *End) places(first int) []uint64 {
	times := make([]uint64, 0, len(e.Steps))
	at := uint64(1)
	for i := first; i < len(e.Steps); i++ {
		at = max(at, cmp.Or(e.Steps[i].Entered, e.Steps[i].notBefore))
		times = append(times, at)
	}
	for i := len(times) - 2; i >= 0; i-- {
		if times[i] == 1 {
			times[i] = times[i+1]
		}
	}
	return times
}

// roleName names an end.
func roleName(r lifecycle.Role) string {
	switch r {
	case events.RoleActive:
		return "client"
	case events.RolePassive:
		return "server"
	}
	return "end"
}
