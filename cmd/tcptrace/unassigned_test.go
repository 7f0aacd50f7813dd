package main

import (
	"net/netip"
	"testing"

	"tcptrace/events"
	"tcptrace/fsm"
)

// Under a filter for ports a connect is given out, with the port that the next record
// shows, if that is wanted, and else neither of them.
func TestUnassigned(t *testing.T) {
	host := netip.MustParseAddr("10.0.0.1")
	step := func(cookie, at uint64, from, to fsm.State, lport uint16) events.Event {
		return events.Event{Cookie: cookie, Time: at, From: from, To: to, Local: netip.AddrPortFrom(host, lport), Remote: netip.AddrPortFrom(host, 80)}
	}
	u := unassigned{wants: func(local, _ uint16) bool { return local == 4000 }}
	var got []events.Event
	give := func(e events.Event) {
		if !u.take(&e) {
			got = append(got, e)
		}
		for u.next(&e) {
			got = append(got, e)
		}
	}
	give(step(1, 10, fsm.Closed, fsm.SynSent, 0))
	give(step(2, 11, fsm.Closed, fsm.SynSent, 0))
	give(step(3, 12, fsm.Closed, fsm.SynSent, 0)) // nobody answers
	give(step(4, 13, fsm.Closed, fsm.SynSent, 4000))
	give(step(2, 14, fsm.SynSent, fsm.Established, 5000))
	give(step(1, 15, fsm.SynSent, fsm.Established, 4000))
	give(step(1, 16, fsm.Established, fsm.FinWait1, 4000))
	for u.end() {
		give(step(4, 17, fsm.SynSent, fsm.Closed, 4000))
	}
	want := []events.Event{
		step(4, 13, fsm.Closed, fsm.SynSent, 4000),
		step(1, 10, fsm.Closed, fsm.SynSent, 4000), step(1, 15, fsm.SynSent, fsm.Established, 4000),
		step(1, 16, fsm.Established, fsm.FinWait1, 4000),
		step(4, 17, fsm.SynSent, fsm.Closed, 4000), step(3, 12, fsm.Closed, fsm.SynSent, 0),
	}
	if len(got) != len(want) {
		t.Fatalf("given out were %d, want %d: %+v", len(got), len(want), got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

// Those of which no next record comes are given out at last, the oldest first.
func TestUnassignedBounded(t *testing.T) {
	u := unassigned{wants: func(uint16, uint16) bool { return false }}
	for i := range uint64(maxHeld + 1) {
		e := events.Event{Cookie: i + 1, Time: i, From: fsm.Closed, To: fsm.SynSent}
		if !u.take(&e) {
			t.Fatalf("%d is given out", i)
		}
	}
	var e events.Event
	for i := range uint64(maxHeld) {
		if !u.next(&e) || e.Time != i {
			t.Fatalf("%d is %+v", i, e)
		}
	}
	if u.next(&e) || len(u.held) != 1 {
		t.Errorf("%d are held, want the last", len(u.held))
	}
	if none := (unassigned{}); none.take(&e) {
		t.Error("kept without a filter")
	}
}
