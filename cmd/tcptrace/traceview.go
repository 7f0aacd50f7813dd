package main

import (
	"tcptrace/events"
	"tcptrace/fsm"
	"tcptrace/fsm/lifecycle"
	"tcptrace/output"
)

// chosen passes on the transitions that the filter accepts. One of which the filter
// cannot know yet is held back until the socket's next.
type chosen struct {
	*results
	held held
	pass func(*lifecycle.Transition) error
}

func (c *chosen) take(t *lifecycle.Transition) error {
	if earlier := c.held.take(t); earlier != nil && c.filter.events.Match(earlier.Event) == events.Accept {
		if err := c.count(earlier); err != nil {
			return err
		}
	}
	if !c.filter.wantsVerdict(t.Verdict) {
		return nil
	}
	switch c.filter.events.Match(t.Event) {
	case events.Accept:
		return c.count(t)
	case events.Undecided:
		c.held.put(t)
	}
	return nil
}

// count passes a transition on, and has it in the summary.
func (c *chosen) count(t *lifecycle.Transition) error {
	c.summary.Transitions++
	switch t.Verdict {
	case fsm.Illegal:
		c.summary.Illegal++
	case fsm.Gap:
		c.summary.Gaps++
	}
	return c.pass(t)
}

// traceView shows every transition that the filter accepts.
type traceView struct{ chosen }

func newTraceView(r *results) *traceView {
	v := &traceView{chosen{results: r}}
	v.pass = v.show
	return v
}

func (v *traceView) take(t *lifecycle.Transition) error {
	if t.Source == events.SourceSnapshot { // no transition
		return nil
	}
	return v.chosen.take(t)
}

func (v *traceView) show(t *lifecycle.Transition) error {
	if t.Life.IsConnection() && !t.Life.Marked {
		t.Life.Marked = true
		if !begunInKernel(t) {
			v.summary.Connections++
		}
	}
	if err := v.sink.Transition(t); err != nil {
		return err
	}
	return v.shown()
}

// begunInKernel reports whether the beginning of the connection was counted by the
// kernel side, before anything was told of it.
func begunInKernel(t *lifecycle.Transition) bool {
	return t.Flags&events.FlagCountedBefore != 0 && t.Role != events.RoleUnknown
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
