package main

import (
	"testing"

	"tcptrace/events"
	"tcptrace/fsm/lifecycle"
)

// What is held waits for its own life's next step, not for the end of the
// minisock of the life before.
func TestHeldKnowsTheGeneration(t *testing.T) {
	of := func(generation uint32) *lifecycle.Transition {
		return &lifecycle.Transition{Event: &events.Event{Cookie: 1, Generation: generation}}
	}
	var h held
	h.put(of(1))
	if got := h.take(of(0)); got != nil || h.undecided() != 1 {
		t.Errorf("the life before took %v, %d undecided, want 1", got, h.undecided())
	}
	if got := h.take(of(1)); got == nil || h.undecided() != 0 {
		t.Errorf("its own life took %v, %d undecided, want 0", got, h.undecided())
	}
}
