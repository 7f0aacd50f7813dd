package main

import (
	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// traceView shows every transition that the filter accepts. One of which the
// filter cannot know yet is held back until the socket's next.
type traceView struct {
	*results
	held held
}

func (v *traceView) take(t *lifecycle.Transition) error {
	if t.Source == events.SourceSnapshot { // no transition
		return nil
	}
	if earlier := v.held.take(t); earlier != nil && v.filter.events.Match(earlier.Event) == events.Accept {
		if err := v.show(earlier); err != nil {
			return err
		}
	}
	if !v.filter.wantsVerdict(t.Verdict) {
		return nil
	}
	switch v.filter.events.Match(t.Event) {
	case events.Accept:
		return v.show(t)
	case events.Undecided:
		v.held.put(t)
	}
	return nil
}

func (v *traceView) show(t *lifecycle.Transition) error {
	v.summary.Transitions++
	switch t.Verdict {
	case fsm.Illegal:
		v.summary.Illegal++
	case fsm.Gap:
		v.summary.Gaps++
	}
	if t.Life.IsConnection() && !t.Life.Marked {
		t.Life.Marked = true
		v.summary.Connections++
	}
	if err := v.sink.Transition(t); err != nil {
		return err
	}
	return v.shown()
}

func (v *traceView) walkEnded(*events.Walked) error { return nil }

func (v *traceView) finish(uint64, *lifecycle.Tracker) error {
	n := v.held.undecided()
	if n == 0 {
		return nil
	}
	return v.sink.Notice(&output.Notice{Kind: output.NoticeUndecided, Count: n})
}

// held keeps transitions that the filter cannot decide yet, one for a socket.
type held struct {
	byID    map[socketID]*lifecycle.Transition
	dropped uint64
}

// socketID names one life of a socket. The minisock of one may end while the next
// is held.
type socketID struct {
	cookie     uint64
	generation uint32
}

func idOf(t *lifecycle.Transition) socketID { return socketID{t.Cookie, t.Generation} }

// maxHeld bounds the connections that wait for an answer at once.
const maxHeld = 1 << 16

// undecided returns how many transitions no later one has decided.
func (h *held) undecided() uint64 { return uint64(len(h.byID)) + h.dropped }

// put keeps a copy.
func (h *held) put(t *lifecycle.Transition) {
	if len(h.byID) >= maxHeld { // of most the next record was lost
		h.dropped += uint64(len(h.byID))
		clear(h.byID)
	}
	if h.byID == nil {
		h.byID = make(map[socketID]*lifecycle.Transition)
	}
	event, kept := *t.Event, *t
	kept.Event = &event
	h.byID[idOf(t)] = &kept
}

// take gives back what was kept of the socket of the next transition, with the
// ends that the kernel has assigned since, or nil.
func (h *held) take(next *lifecycle.Transition) *lifecycle.Transition {
	id := idOf(next)
	t := h.byID[id]
	if t == nil {
		return nil
	}
	delete(h.byID, id)
	t.Local, t.Remote, t.Life = next.Local, next.Remote, next.Life
	return t
}
